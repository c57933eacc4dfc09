"""Exercises of chapter 07: legs, contracting, symmetrising, an inner product from the factors, wires, pairings."""

from itertools import permutations

import torch
from einops import einsum
from torch import Tensor

from tensorlm.notebook.checks import (
    DTYPE,
    Exercise,
    answered,
    as_factors,
    as_tensor,
    cases,
    compare,
    exercise,
    near,
    random,
    random_layer,
    third_order,
)

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


def _sizes(first, second, symmetric: bool = True) -> Tensor:
    """Singular values of one copy of the wire: what is below it, symmetrised, against all else."""
    lower, upper = (third_order(*factors) for factors in (first, second))
    if symmetric:
        lower, upper = ((each + each.mT) / 2 for each in (lower, upper))
    dense = einsum(upper, lower, lower, "out m n, m i j, n k l -> i j out k l")
    return torch.linalg.svdvals(dense.flatten(2).flatten(0, 1))


_carried = lambda sizes: int((sizes > 1e-9 * sizes[0]).sum()) if sizes[0] > 0 else 0
_rank = lambda matrix: int(torch.linalg.matrix_rank(matrix))


@exercise("07.6", "What a wire carries",
          lambda first, second: first[0].shape[0], lambda first, second: _rank(first[0]),
          lambda first, second: _rank(torch.cat([second[1], second[2]])),
          lambda first, second: _carried(_sizes(first, second, symmetric=False)))
def wire_carries(answer):
    (D, L, R), upper = random_layer(40, 5, 8, 4), random_layer(43, 2, 6, 5)
    reads = torch.diag(as_tensor([0, 1, 1, 1, 1]))
    twins = torch.cat([L[:1], R[:1], L[2:]]), torch.cat([R[:1], L[:1], R[2:]])
    silent = torch.cat([as_tensor([[1, -1, *[0] * 6]]), D[1:]])
    for first, second, hint in (
            ((D, L, R), upper, "Nothing is idle here."),
            ((random(5, 2, seed=46) @ random(2, 8, seed=47), L, R), upper, "The first layer writes in two directions only."),
            ((D, L, R), (upper[0], upper[1] @ reads, upper[2] @ reads), "The second layer does not read the first number."),
            ((silent, *twins), upper, "The first number is the difference of two units that always agree, so it is 0.")):
        got, expected = int(answer(first, second)), _carried(_sizes(first, second))
        assert got == expected, f"Got {got}, expected {expected}. {hint}"


def _symmetrised(T: Tensor, orders) -> Tensor:
    return sum((T.permute(0, *(1 + place for place in order)) for order in orders), start=torch.zeros_like(T)) / len(orders)


def _own(below, above) -> Tensor:
    """The composed tensor of a learner's network, or an AssertionError that says what does not fit."""
    first, second = as_factors(below), as_factors(above)
    (m, h), d, (o, k) = first[0].shape, first[1].shape[1], second[0].shape
    shapes = [tuple(factor.shape) for factor in (*first, *second)]
    assert shapes == [(m, h), (h, d), (h, d), (o, k), (k, m), (k, m)], f"The shapes {shapes} do not fit together as two layers."
    lower, upper = third_order(*first), third_order(*second)
    return einsum(upper, lower, lower, "out m n, m i j, n k l -> out i j k l")


_TIMES = ([[1]], [[1, 0]], [[0, 1]])
_two = lambda a, b, c, d: (([[1, 0], [0, 1]], [a, c], [b, d]), _TIMES)  # (a.x b.x)(c.x d.x)
_X = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@exercise("07.7", "Open: one function, two networks",
          (_two(_X[0], _X[1], _X[2], _X[3]), _two(_X[0], _X[2], _X[1], _X[3])),                   # the example of the text
          (_two([1, 0], [0, 1], [1, 0], [0, 1]), _two([1, 0], [0, 1], [0, 1], [1, 0])),           # one network, written twice
          (_two([1, 0], [1, 0], [1, 0], [0, 1]), _two([1, 0], [1, 0], [0, 1], [0, 1])),           # other functions
          (_two([0, 0], [0, 0], [0, 0], [0, 0]), _two([0, 0], [1, 0], [0, 0], [0, 1])))           # zero
def own_pair(answer):
    dense = [_own(*network) for network in answered(answer)]
    assert len(dense) == 2 and dense[0].shape == dense[1].shape, "Give two networks with equal numbers of inputs and outputs."
    (a, b), (f, g) = ([_symmetrised(T, orders) for T in dense] for orders in (TREE, list(permutations(range(4)))))
    assert f.norm() > 0 and g.norm() > 0, "One of your networks is zero at every input."
    assert near(f, g), "Your two networks are not the same function: multiply both out."
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    assert abs(cosine) < 1e-9, (
        f"The same function, but their averages over 8 orders have a cosine of {cosine:.2f}: pair the inputs in another way.")
    used = (f.abs().sum((0, 2, 3, 4)) > 1e-9).sum()
    assert used < 4, "That is right, and it is the kind of the text: can you do it with fewer than four inputs?"
