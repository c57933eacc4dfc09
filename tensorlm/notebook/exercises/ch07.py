"""Exercises of chapter 07: counting legs, contracting, symmetrising, an inner product from the factors, the values of a wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random


def _as_tensor(answer: Any) -> Tensor:
    return torch.as_tensor(answer, dtype=DTYPE)


# 07.1 -----------------------------------------------------------------------------------------------------------------


def _check_legs(answer: Any) -> None:
    hints = {
        (1, 2): "One bilinear layer has one output leg and two input legs.",
        (2, 2): "Four inputs and an output.",
        (3, 2): "Every layer doubles the input legs; they do not just grow by two.",
        (2, 3): "With three encoders a layer reads its input three times, and so on downwards.",
        (4, 1): "One encoder makes a linear layer: however many there are, the result is a matrix.",
    }
    for (layers, encoders), hint in hints.items():
        got, expected = answer(layers, encoders), encoders**layers + 1
        assert got == expected, f"layers = {layers}, encoders = {encoders}: got {got}, expected {expected}. {hint}"


# 07.2 -----------------------------------------------------------------------------------------------------------------


def _composed(T1: Tensor, T2: Tensor) -> Tensor:
    return torch.einsum("omn,mij,nkl->oijkl", T2, T1, T1)


def _contracted(T1: Tensor, T2: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    left, right = torch.einsum("mij,i,j->m", T1, a, b), torch.einsum("mij,i,j->m", T1, c, d)
    return torch.einsum("omn,m,n->o", T2, left, right)


def _check_contracted(answer: Any) -> None:
    T1, T2, vectors = _random(3, 2, 2, seed=1), _random(4, 3, 3, seed=2), _random(4, 2, seed=3)
    got, expected = _as_tensor(answer(T1, T2, *vectors)), torch.einsum("oijkl,i,j,k,l->o", _composed(T1, T2), *vectors)
    assert got.shape == (4,), f"One number for each output, here 4: got shape {tuple(got.shape)}."
    assert not _near(got, torch.einsum("oijkl,i,j,k,l->o", _composed(T1, T2), *vectors[[0, 2, 1, 3]])), (
        "Legs i and j belong to one copy of the first layer, so a and b go into the same T1.")
    assert _near(got, expected), ("Another value: each copy of T1 takes two vectors, the first into leg i and the second into leg j, "
                                  "and T2 takes both results.")


def _first_twice(T1, T2, a, b, c, d):
    return _contracted(T1, T2, a, b, a, b)


# 07.3 -----------------------------------------------------------------------------------------------------------------


def _average(T: Tensor, orders: Sequence[tuple[int, ...]]) -> Tensor:
    return sum((T.permute(order) for order in orders), start=torch.zeros_like(T)) / len(orders)


TREE = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 1, 0), (3, 2, 1, 0)]
CYCLES = [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]


def _equal_after(orders: Sequence[tuple[int, ...]]):
    return lambda T, U: _near(_average(T, orders), _average(U, orders))


def _check_same(answer: Any) -> None:
    pairs, crossed = torch.zeros(2, 4, 4, 4, 4, dtype=DTYPE)
    pairs[0, 1, 2, 3] = crossed[0, 2, 1, 3] = 1
    T = _random(2, 2, 2, 2, seed=4)
    U, V = T.permute(3, 1, 0, 2), T.permute(1, 0, 2, 3) + 0.5 * _random(2, 2, 2, 2, seed=5)
    cases = [
        (pairs, crossed, True, "(x1 x2)(x3 x4) and (x1 x3)(x2 x4) are one function."),
        (T, U, True, "These differ only in the order of the legs."),
        (T, V, False, "These two are unrelated."),
        (T, -T, False, "These have opposite signs."),
    ]
    for first, second, expected, hint in cases:
        got = answer(first, second)
        assert bool(got) == expected, f"You said {bool(got)}, and it is {expected}. {hint}"


def _same_size_somewhere(T: Tensor, U: Tensor) -> bool:
    x = _random(T.shape[0], seed=6)
    return _near(*(torch.einsum("ijkl,i,j,k,l->", each, x, x, x, x).abs() for each in (T, U)))


# 07.4 -----------------------------------------------------------------------------------------------------------------


def _inner(first: tuple, second: tuple) -> float:
    G = torch.eye(first[0][1].shape[1], dtype=DTYPE)
    for (D, L, R), (D2, L2, R2) in zip(first, second):
        G = D @ ((L @ G @ L2.mT) * (R @ G @ R2.mT)) @ D2.mT
    return float(G.trace())


def _network(seed: int, units: int) -> tuple:
    """Factors of two layers, 4 -> 3 -> 2."""
    lower = _random(3, units, seed=seed), _random(units, 4, seed=seed + 1), _random(units, 4, seed=seed + 2)
    return lower, (_random(2, 6, seed=seed + 3), _random(6, 3, seed=seed + 4), _random(6, 3, seed=seed + 5))


def _check_inner(answer: Any) -> None:
    for first, second in ((_network(10, 5), _network(20, 7)), (_network(30, 5), _network(30, 5))):
        T, U = (_composed(*(torch.einsum("ok,ki,kj->oij", *factors) for factors in network)) for network in (first, second))
        got, expected = float(answer(first, second)), float((T * U).sum())
        assert not _near(got, expected / float(T.norm() * U.norm())), "That is the cosine: the plain sum of products is wanted."
        assert _near(got, expected), (
            f"Got {got:.2f}, expected {expected:.2f}. Carry the inner products of the first layers' outputs upwards, one row for "
            "each output of the first network and one column for each of the second, through L on one side and R on the other.")


def _inner_without_middle(first: tuple, second: tuple) -> float:
    (D, L, R), (D2, L2, R2) = first[1], second[1]
    return float((D @ ((L @ L2.mT) * (R @ R2.mT)) @ D2.mT).trace())


def _inner_one_side(first: tuple, second: tuple) -> float:
    (D, L, R), (D2, L2, R2) = first[0], second[0]
    G = D @ ((L @ L2.mT) * (R @ R2.mT)) @ D2.mT
    (D, L, R), (D2, L2, R2) = first[1], second[1]
    return float((D @ ((L @ G @ L2.mT) * (R @ R2.mT)) @ D2.mT).trace())


# 07.5 -----------------------------------------------------------------------------------------------------------------


def _wire_values(below: Tensor, above: Tensor) -> Tensor:
    return torch.linalg.eigvals(below @ above).real.clamp(min=0).sqrt().sort(descending=True).values


def _check_wire_values(answer: Any) -> None:
    lower, upper = _random(3, 7, seed=30), _random(5, 3, seed=31)
    got = _as_tensor(answer(lower @ lower.mT, upper.mT @ upper)).flatten()
    expected = torch.linalg.svdvals(upper @ lower)[:3]
    assert got.shape == expected.shape, f"A wire of size 3 has 3 singular values, got {tuple(got.shape)}."
    assert not _near(got, expected.square()), "These are the squares of the singular values."
    assert _near(got, expected) or not _near(got.sort(descending=True).values, expected), (
        "The right values, in another order: the largest first, please.")
    assert _near(got, expected), ("Checked on two matrices, upper @ lower, whose singular values are known: yours differ. "
                                  "Neither Gram matrix alone knows them.")


def _roots(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().flip(0)


EXERCISES = (
    Exercise("07.1", "How many legs?", _check_legs,
             mutants=(lambda layers, encoders: 2 * layers + 1,
                      lambda layers, encoders: 2**layers + 1,
                      lambda layers, encoders: encoders * layers + 1,
                      lambda layers, encoders: encoders**layers)),
    Exercise("07.2", "Four different inputs", _check_contracted,
             mutants=(lambda T1, T2, a, b, c, d: _contracted(T1, T2, a, c, b, d), _first_twice,
                      lambda T1, T2, a, b, c, d: _contracted(T1, T2, b, a, d, c))),
    Exercise("07.3", "The same function?", _check_same,
             mutants=(_equal_after(TREE), _equal_after(CYCLES), _equal_after([(0, 1, 2, 3)]), _same_size_somewhere, lambda T, U: True)),
    Exercise("07.4", "An inner product without the tensors", _check_inner,
             mutants=(_inner_without_middle, _inner_one_side, lambda first, second: _inner(first, first),
                      lambda first, second: _inner(first, second) / (_inner(first, first) * _inner(second, second)) ** 0.5)),
    Exercise("07.5", "The singular values of a wire", _check_wire_values,
             mutants=(lambda below, above: _roots(below), lambda below, above: _roots(above),
                      lambda below, above: _roots(below) * _roots(above),
                      lambda below, above: _wire_values(below, above).square(),
                      lambda below, above: _wire_values(below, above).flip(0))),
)

