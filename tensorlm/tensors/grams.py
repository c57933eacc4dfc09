"""Gram matrices of a stack of bilinear layers, from the factors: up from the inputs, and down from the output.

Up, a wire's Gram matrix is G = D [(L G' L^T) * (R G' R^T)] D^T with that of the layer below, G', the identity for the
input. Down, what surrounds a branch is E_L = L^T [(D^T E D) * (R G' R^T)] L, and E_R with L and R exchanged. Both follow
from (A (.) B)^T (A (.) B) = (A^T A) * (B^T B) for Khatri-Rao products (Kolda & Bader 2009, section 2.6).

Plain products of matrices, one copy of a layer at a time: batching the copies costs more than it saves.
"""

import math
from typing import NamedTuple

from torch import Tensor

from tensorlm.tensors.checks import require_finite
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.scaling import balanced, ordinary, shifted

Pair = tuple[Tensor, Tensor]


class Grams(NamedTuple):
    """For each of `layers` the pair (L G' L^T, R G' R^T), each (hidden, hidden), and the Gram matrix G (out, out) of its output.

    The network's own output n is 2^exponents[n] times that of `layers`: these are the network's own, and the exponents 0,
    unless squares would leave the number range.
    """

    layers: tuple[CPTensor, ...]
    pairs: list[Pair]
    wires: list[Tensor]
    exponents: list[int]


def branch_grams(layers: tuple[CPTensor, ...]) -> Grams:
    """Gram matrices up from the inputs; ValueError, naming layer and factor, for NaN or infinity."""
    found = _branch_grams(layers, scaled=False)
    if all(ordinary(wire.detach().trace().item(), wire.dtype) for wire in found.wires):
        return found
    require_finite_layers(layers)
    return _branch_grams(layers, scaled=True)


def environments(layers: tuple[CPTensor, ...], pairs: list[Pair]) -> list[Tensor]:
    """The Gram matrix (width, width) of the network around every leaf, in the order of the leaves."""
    *lower, (layer, pair) = zip(layers, pairs)
    above = list(_around_inputs(layer, pair, None))
    for layer, pair in reversed(lower):
        above = [around for whole in above for around in _around_inputs(layer, pair, whole)]
    return above


def require_finite_layers(layers: tuple[CPTensor, ...]) -> None:
    """Raise ValueError, naming layer and factor, if an entry is NaN or infinite."""
    for number, layer in enumerate(layers):
        for name in "DLR":
            require_finite(f"layers[{number}].{name}", getattr(layer, name))


def _branch_grams(layers: tuple[CPTensor, ...], scaled: bool) -> Grams:
    """`scaled`: every layer is balanced, and divided by a power of two, so that the trace of its output's Gram matrix is near 1."""
    made: list[CPTensor] = []
    pairs: list[Pair] = []
    wires: list[Tensor] = []
    exponents = [0]
    for layer in layers:
        D, L, R, exponent = balanced(layer.D, layer.L, layer.R) if scaled else (layer.D, layer.L, layer.R, 0)
        left, right = (L @ wires[-1], R @ wires[-1]) if wires else (L, R)
        pairs.append((left @ L.mT, right @ R.mT))
        wire = D @ (pairs[-1][0] * pairs[-1][1]) @ D.mT
        power = math.frexp(wire.detach().trace().item())[1] // 2 if scaled else 0
        wires.append(shifted(wire, -2 * power) if scaled else wire)
        exponents.append(2 * exponents[-1] + exponent + power)
        made.append(CPTensor(shifted(D, -power), L, R) if scaled else layer)
    return Grams(tuple(made), pairs, wires, exponents[1:])


def _around_inputs(layer: CPTensor, pair: Pair, above: Tensor | None) -> Pair:
    """(E_L, E_R) of one copy of a layer, given E above it, None at the output."""
    D, L, R = layer.D, layer.L, layer.R
    units = D.mT @ D if above is None else D.mT @ above @ D
    return L.mT @ (units * pair[1]) @ L, R.mT @ (units * pair[0]) @ R
