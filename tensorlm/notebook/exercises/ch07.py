"""Exercises of chapter 07: counting legs, composing tensors, symmetrising, a norm from the factors, the values of a wire."""

from __future__ import annotations

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


def _check_composed(answer: Any) -> None:
    T1, T2, x = _random(3, 2, 2, seed=1), _random(4, 3, 3, seed=2), _random(4, 2, seed=3)
    got = _as_tensor(answer(T1, T2))
    assert got.shape == (4, 2, 2, 2, 2), f"One output leg (4) and four input legs (2 each): expected (4, 2, 2, 2, 2), got {tuple(got.shape)}."
    middle = torch.einsum("mij,i,j->m", T1, x[0], x[0])
    value = torch.einsum("omn,m,n->o", T2, middle, middle)
    at_x = torch.einsum("oijkl,i,j,k,l->o", got, *[x[0]] * 4)
    assert _near(at_x, value), "Contracted with one vector four times, your tensor does not give the output of the two layers."
    assert _near(got, _composed(T1, T2)), ("The function is right, but the legs are in another order: i and j belong to the left copy of the first layer "
                                           "(index m), k and l to the right one (index n).")


# 07.3 -----------------------------------------------------------------------------------------------------------------


def _average(T: Tensor, orders: list[tuple[int, ...]]) -> Tensor:
    return sum(T.permute(order) for order in orders) / len(orders)


TREE = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 1, 0), (3, 2, 1, 0)]
CYCLES = [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]


def _equal_after(orders: list[tuple[int, ...]]):
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


def _squared_size(lower: tuple, upper: tuple) -> float:
    D, L, R = lower
    G = D @ ((L @ L.mT) * (R @ R.mT)) @ D.mT
    D, L, R = upper
    return float((D @ ((L @ G @ L.mT) * (R @ G @ R.mT)) @ D.mT).trace())


def _check_squared_size(answer: Any) -> None:
    for seed in (10, 20):
        lower = _random(3, 5, seed=seed), _random(5, 4, seed=seed + 1), _random(5, 4, seed=seed + 2)
        upper = _random(2, 6, seed=seed + 3), _random(6, 3, seed=seed + 4), _random(6, 3, seed=seed + 5)
        T = _composed(*(torch.einsum("ok,ki,kj->oij", *factors) for factors in (lower, upper)))
        got, expected = float(answer(lower, upper)), float(T.square().sum())
        assert not _near(got, expected**0.5), "That is the root: the sum of squares itself is wanted."
        assert _near(got, expected), (f"Got {got:.2f}, expected {expected:.2f}. Carry the Gram matrix of the first layer's outputs upwards: "
                                      "it stands between L and its transpose, and between R and its transpose.")


def _squared_size_without_middle(lower: tuple, upper: tuple) -> float:
    identity = torch.eye(lower[0].shape[0], dtype=DTYPE)
    D, L, R = upper
    return float((D @ ((L @ identity @ L.mT) * (R @ identity @ R.mT)) @ D.mT).trace())


def _squared_size_one_side(lower: tuple, upper: tuple) -> float:
    D, L, R = lower
    G = D @ ((L @ L.mT) * (R @ R.mT)) @ D.mT
    D, L, R = upper
    return float((D @ ((L @ G @ L.mT) * (R @ R.mT)) @ D.mT).trace())


# 07.5 -----------------------------------------------------------------------------------------------------------------


def _wire_values(below: Tensor, above: Tensor) -> Tensor:
    return torch.linalg.eigvals(below @ above).real.clamp(min=0).sqrt().sort(descending=True).values


def _check_wire_values(answer: Any) -> None:
    lower, upper = _random(3, 7, seed=30), _random(5, 3, seed=31)
    got = _as_tensor(answer(lower @ lower.mT, upper.mT @ upper)).flatten()
    expected = torch.linalg.svdvals(upper @ lower)[:3]
    assert got.shape == expected.shape, f"A wire of size 3 has 3 singular values, got {tuple(got.shape)}."
    assert not _near(got, expected.square()), "These are the squares of the singular values."
    assert _near(got, expected), ("Checked on two matrices, upper @ lower, whose singular values are known: yours differ. Neither Gram matrix alone "
                                  "knows them. Largest first, please.")


def _roots(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().flip(0)


EXERCISES = (
    Exercise("07.1", "How many legs?", _check_legs,
             mutants=(lambda layers, encoders: 2 * layers + 1,
                      lambda layers, encoders: 2**layers + 1,
                      lambda layers, encoders: encoders * layers + 1,
                      lambda layers, encoders: encoders**layers)),
    Exercise("07.2", "Compose two tensors", _check_composed,
             mutants=(lambda T1, T2: torch.einsum("omn,mij,nkl->oikjl", T2, T1, T1),
                      lambda T1, T2: torch.einsum("omn,mij,mkl->oijkl", T2, T1, T1),
                      lambda T1, T2: torch.einsum("omn,mij->oijn", T2, T1))),
    Exercise("07.3", "The same function?", _check_same,
             mutants=(_equal_after(TREE), _equal_after(CYCLES), _equal_after([(0, 1, 2, 3)]), _same_size_somewhere, lambda T, U: True)),
    Exercise("07.4", "A size without the tensor", _check_squared_size,
             mutants=(_squared_size_without_middle, _squared_size_one_side, lambda lower, upper: _squared_size(lower, upper) ** 0.5)),
    Exercise("07.5", "The singular values of a wire", _check_wire_values,
             mutants=(lambda below, above: _roots(below), lambda below, above: _roots(above),
                      lambda below, above: _roots(below) * _roots(above),
                      lambda below, above: _wire_values(below, above).square())),
)

