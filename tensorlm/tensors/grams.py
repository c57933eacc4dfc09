"""Gram matrices of a stack of bilinear layers, from the factors: up from the inputs, and down from the output.

Up, a wire's Gram matrix is G = D [(L G' L^T) * (R G' R^T)] D^T with that of the layer below, G', the identity for the
input. Down, what surrounds a branch is E_L = L^T [(D^T E D) * (R G' R^T)] L, and E_R with L and R exchanged. Both follow
from (A (.) B)^T (A (.) B) = (A^T A) * (B^T B) for Khatri-Rao products (Kolda & Bader 2009, section 2.6).

Plain products of matrices, one copy of a layer at a time: batching the copies costs more than it saves.
"""

from torch import Tensor

from tensorlm.tensors.cp import CPTensor

Pair = tuple[Tensor, Tensor]


def branch_grams(layers: tuple[CPTensor, ...]) -> tuple[list[Pair], list[Tensor]]:
    """For each layer the pair (L G' L^T, R G' R^T), each (hidden, hidden), and the Gram matrix G (out, out) of its output."""
    pairs: list[Pair] = []
    wires: list[Tensor] = []
    for layer in layers:
        L, R = layer.L, layer.R
        left, right = (L @ wires[-1], R @ wires[-1]) if wires else (L, R)
        pairs.append((left @ L.mT, right @ R.mT))
        wires.append(layer.D @ (pairs[-1][0] * pairs[-1][1]) @ layer.D.mT)
    return pairs, wires


def environments(layers: tuple[CPTensor, ...], pairs: list[Pair]) -> list[Tensor]:
    """The Gram matrix (width, width) of the network around every leaf, in the order of the leaves."""
    above: list[Tensor | None] = [None]
    for layer, pair in zip(reversed(layers), reversed(pairs)):
        above = [around for whole in above for around in _around_inputs(layer, pair, whole)]
    return above


def _around_inputs(layer: CPTensor, pair: Pair, above: Tensor | None) -> Pair:
    """(E_L, E_R) of one copy of a layer, given E above it, None at the output."""
    D, L, R = layer.D, layer.L, layer.R
    units = D.mT @ D if above is None else D.mT @ above @ D
    return L.mT @ (units * pair[1]) @ L, R.mT @ (units * pair[0]) @ R
