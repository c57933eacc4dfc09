"""Exercises of chapter 07: counting legs, contracting, symmetrising, an inner product from the factors, the values of a wire."""

import torch
from einops import einsum
from torch import Tensor

from tensorlm.notebook.checks import DTYPE, Exercise, as_tensor, cases, compare, exercise, near, random, random_layer, third_order

legs = Exercise("07.1", "How many legs?", cases(
    "layers = {0}, encoders = {1}: got {got}, expected {expected}. {hint}", lambda layers, encoders: encoders**layers + 1, [
        ((1, 2), "One bilinear layer has one output leg and two input legs."),
        ((2, 2), "Four inputs and an output."),
        ((3, 2), "Every layer doubles the input legs; they do not just grow by two."),
        ((2, 3), "With three encoders a layer reads its input three times, and so on downwards."),
        ((4, 1), "One encoder makes a linear layer: however many there are, the result is a matrix."),
    ]),
    (lambda layers, encoders: 2 * layers + 1, lambda layers, encoders: 2**layers + 1, lambda layers, encoders: encoders * layers + 1,
     lambda layers, encoders: encoders**layers))


_contracted = lambda T1, T2, *vectors: einsum(T2, T1, T1, *vectors, "out m n, m i j, n k l, i, j, k, l -> out")  # type: ignore[call-overload]


@exercise("07.2", "Four different inputs",
          lambda T1, T2, a, b, c, d: _contracted(T1, T2, a, c, b, d), lambda T1, T2, a, b, c, d: _contracted(T1, T2, a, b, a, b),
          lambda T1, T2, a, b, c, d: _contracted(T1, T2, b, a, d, c))
def four_inputs(answer):
    T1, T2, vectors = random(3, 2, 2, seed=1), random(4, 3, 3, seed=2), random(4, 2, seed=3)
    got = as_tensor(answer(T1, T2, *vectors))
    assert got.shape == (4,), f"One number for each output, here 4: got shape {tuple(got.shape)}."
    compare(got, _contracted(T1, T2, *vectors), "Another value: each copy of T1 takes two vectors, the first into leg i and the second "
                                                "into leg j, and T2 takes both results.",
            {"Legs i and j belong to one copy of the first layer, so a and b go into the same T1.":
             _contracted(T1, T2, *vectors[[0, 2, 1, 3]])})


TREE = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 1, 0), (3, 2, 1, 0)]
CYCLES = [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]


def _equal_after(orders):
    average = lambda T: sum((T.permute(order) for order in orders), start=torch.zeros_like(T)) / len(orders)
    return lambda T, U: near(average(T), average(U))


def _same_size_somewhere(T: Tensor, U: Tensor) -> bool:
    x = random(T.shape[0], seed=6)
    return near(*(einsum(each, x, x, x, x, "i j k l, i, j, k, l ->").abs() for each in (T, U)))  # type: ignore[call-overload]


@exercise("07.3", "The same function?", _equal_after(TREE), _equal_after(CYCLES), _equal_after([(0, 1, 2, 3)]), _same_size_somewhere,
          lambda T, U: True)
def same_function(answer):
    pairs, crossed = torch.zeros(2, 4, 4, 4, 4, dtype=DTYPE)
    pairs[0, 1, 2, 3] = crossed[0, 2, 1, 3] = 1
    T = random(2, 2, 2, 2, seed=4)
    for first, second, expected, hint in (
            (pairs, crossed, True, "(x1 x2)(x3 x4) and (x1 x3)(x2 x4) are one function."),
            (T, T.permute(3, 1, 0, 2), True, "These differ only in the order of the legs."),
            (T, T.permute(1, 0, 2, 3) + 0.5 * random(2, 2, 2, 2, seed=5), False, "These two are unrelated."),
            (T, -T, False, "These have opposite signs.")):
        got = answer(first, second)
        assert bool(got) == expected, f"You said {bool(got)}, and it is {expected}. {hint}"


def _inner(first, second, both_sides: bool = True) -> float:
    """From the factors; a wrong version goes on with the first layers on one side only."""
    G = torch.eye(first[0][1].shape[1], dtype=DTYPE)
    for (D, L, R), (D2, L2, R2) in zip(first, second):
        G = D @ ((L @ G @ L2.mT) * (R @ G @ R2.mT if both_sides else R @ R2.mT)) @ D2.mT
    return float(G.trace())


# Factors of two layers, 4 -> 3 -> 2.
_network = lambda seed, units: (random_layer(seed, 3, units, 4), random_layer(seed + 3, 2, 6, 3))


@exercise("07.4", "An inner product without the tensors",
          lambda first, second: _inner(first[1:], second[1:]), lambda first, second: _inner(first, second, both_sides=False),
          lambda first, second: _inner(first, first),
          lambda first, second: _inner(first, second) / (_inner(first, first) * _inner(second, second)) ** 0.5)
def inner_product(answer):
    for first, second in ((_network(10, 5), _network(20, 7)), (_network(30, 5), _network(30, 5))):
        tensors = ([third_order(*factors) for factors in network] for network in (first, second))
        T, U = (einsum(upper, lower, lower, "out m n, m i j, n k l -> out i j k l") for lower, upper in tensors)
        got, expected = float(answer(first, second)), float((T * U).sum())
        assert not near(got, expected / float(T.norm() * U.norm())), "That is the cosine: the plain sum of products is wanted."
        assert near(got, expected), (
            f"Got {got:.2f}, expected {expected:.2f}. Carry the inner products of the first layers' outputs upwards, one row for "
            "each output of the first network and one column for each of the second, through L on one side and R on the other.")


_wire_values = lambda below, above: torch.linalg.eigvals(below @ above).real.clamp(min=0).sqrt().sort(descending=True).values
_roots = lambda matrix: torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().flip(0)


@exercise("07.5", "The singular values of a wire",
          lambda below, above: _roots(below), lambda below, above: _roots(above), lambda below, above: _roots(below) * _roots(above),
          lambda below, above: _wire_values(below, above).square(), lambda below, above: _wire_values(below, above).flip(0))
def wire_values(answer):
    lower, upper = random(3, 7, seed=30), random(5, 3, seed=31)
    got, expected = as_tensor(answer(lower @ lower.mT, upper.mT @ upper)).flatten(), torch.linalg.svdvals(upper @ lower)[:3]
    assert got.shape == expected.shape, f"A wire of size 3 has 3 singular values, got {tuple(got.shape)}."
    assert not near(got, expected.square()), "These are the squares of the singular values."
    assert near(got, expected) or not near(got.sort(descending=True).values, expected), (
        "The right values, in another order: the largest first, please.")
    compare(got, expected, "Checked on two matrices, upper @ lower, whose singular values are known: yours differ. "
                           "Neither Gram matrix alone knows them.")
