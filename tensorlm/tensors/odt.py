"""ODT: orthogonalise, diagonalise and truncate the wires of stacked layers (Dooms et al. arXiv 2504.02667).

1. Orthogonalise, from the inputs up: the layer below a wire is (square matrix) x (orthonormal rows); the matrix goes into both
   branches of the layer above. Then everything below a wire is an isometry.
2. Diagonalise: the singular values of a wire, one copy of it against all else, are now those of what is above it. 3. Truncate: turn each
wire into these singular vectors and drop the small values. All for the tensor of the layers' symmetric parts, where the copies of a wire
share one basis. QR decompositions, not Gram matrices, keep small values accurate.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensorlm.scaling import length, restored
from tensorlm.tensors.composition import ComposedTensor, as_composed, branch_grams, tree_distance
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.hosvd import ranks_for
from tensorlm.ties import settled


@dataclass(frozen=True, eq=False)
class ODT:
    """A network with truncated wires. Wire 0 is the input, wire n the output of layer n; it has 2^(N - n) copies, n < N.

    `values[n]` are the singular values of one copy of wire n, descending; their squares sum to |S|^2. `orthogonal` is the
    network after steps 1 and 2, equal to the original; in `stack` wire n keeps `ranks[n]` directions, of full-width inputs.
    """

    orthogonal: ComposedTensor
    stack: ComposedTensor
    values: tuple[Tensor, ...]
    ranks: tuple[int, ...]

    @property
    def error_bound(self) -> Tensor:
        """|S - S_truncated| is at most the root of the sum over the wires of copies x dropped values^2."""
        wires = zip(range(len(self.values), 0, -1), self.values, self.ranks)
        return length(torch.cat([2 ** (layers_above / 2) * values[rank:] for layers_above, values, rank in wires]))

    @cached_property
    def error(self) -> Tensor:
        """|S - S_truncated|, exact to rounding, from the factors."""
        return tree_distance(self.orthogonal.symmetrised().tree(), self.stack.symmetrised().tree())


def odt(tensor: CPTensor | ComposedTensor, ranks: int | tuple[int, ...] | None = None) -> ODT:
    """Truncate the wires of a network, or the input of one layer, by their singular values in the whole network's tensor.

    `ranks` holds one number for each of the N wires, the input first; an int stands for min(ranks, possible) in every wire,
    None for every direction with a value above rounding. Costs O(hidden width^2 out) a layer. Raises ValueError for ranks
    that do not fit, NaN or infinity, or a layer whose tensor takes more than `checks.DENSE_LIMIT` bytes.

    >>> small = odt(CPTensor(torch.tensor([[1.0, 0.1]]), torch.eye(2), torch.eye(2)), ranks=1)  # x1^2 + x2^2 / 10
    >>> small.values[0], small.stack(torch.tensor([2.0, 2.0]))
    (tensor([1.0000, 0.1000]), tensor([4.]))
    """
    found = branch_grams(as_composed(tensor).layers)
    layers = _orthogonalised(list(found.layers))
    values, bases = zip(*_wire_spectra(layers))
    wanted = ranks_for("wire", ranks, tuple(layer.width for layer in found.layers))
    kept = tuple(min(rank, len(value)) for rank, value in zip(wanted, values))
    if found.exponent:
        values = tuple(restored(value, found.exponent, "tensor", "singular values") for value in values)
        layers[-1] = CPTensor(restored(layers[-1].D, found.exponent, "tensor", "factors"), layers[-1].L, layers[-1].R)
    orthogonal = _turned(layers, [None, *bases[1:]])
    whole = [basis[:, :rank] for basis, rank in zip(bases, kept)]
    stack = _turned(layers, [whole[0] @ whole[0].mT if kept[0] < len(bases[0]) else None, *whole[1:]])
    return ODT(orthogonal, stack, values, kept)


def _orthogonalised(layers: list[CPTensor]) -> list[CPTensor]:
    """Step 1. The singular directions of a layer's unfolding that are zero to rounding are dropped, one is always kept."""
    for index, (layer, above) in enumerate(zip(layers, layers[1:])):
        triangle = torch.linalg.qr(layer.symmetric().flatten(1).mT, mode="r").R.mT
        vectors, values, _ = torch.linalg.svd(triangle, full_matrices=False)
        rank = max(1, int((values > torch.finfo(values.dtype).eps * max(triangle.shape) * values[0]).sum()))
        vectors, values = settled(values, vectors.mT)[:rank].mT, values[:rank]
        inverse = torch.where(values > 0, 1 / values, 0.0)
        layers[index] = CPTensor(inverse.unsqueeze(1) * (vectors.mT @ layer.D), layer.L, layer.R)
        layers[index + 1] = CPTensor(above.D, above.L @ (vectors * values), above.R @ (vectors * values))
    return layers


def _wire_spectra(layers: list[CPTensor]) -> list[tuple[Tensor, Tensor]]:
    """Step 2, from the output down: for each wire its values, descending, and its basis, as columns. Above a wire is S of
    the layer with R_above, the triangle of all above, on its output; by symmetry both branches are alike."""
    found: list[tuple[Tensor, Tensor]] = []
    above = None
    for layer in reversed(layers):
        D = layer.D if above is None else above @ layer.D
        stacked = CPTensor(D, layer.L, layer.R).symmetric().reshape(-1, layer.width)
        _, sizes, directions = torch.linalg.svd(torch.linalg.qr(stacked, mode="r").R)
        directions = settled(sizes, directions)
        above = sizes.unsqueeze(1) * directions
        found.insert(0, (sizes, directions.mT))
    return found


def _turned(layers: list[CPTensor], bases: list[Tensor | None]) -> ComposedTensor:
    """The network with wire n seen in bases[n], whose columns are directions; None leaves a wire as it is."""
    turned = []
    for layer, below, above in zip(layers, bases, [*bases[1:], None]):
        D = layer.D if above is None else above.mT @ layer.D
        turned.append(CPTensor(D, *(matrix if below is None else matrix @ below for matrix in (layer.L, layer.R))))
    return ComposedTensor(tuple(turned))
