"""HOSVD: a Tucker decomposition of stacked layers from their factors, never by way of the dense tensor.

The factor of a mode holds the leading eigenvectors of its Gram matrix, the core is the tensor restricted to them: within a
factor sqrt(order) of the best error (De Lathauwer, De Moor & Vandewalle 2000; Kolda & Bader 2009, section 4.2).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensorlm.checks import require, require_affordable, require_whole
from tensorlm.scaling import restored, shifted
from tensorlm.tensors.composition import ComposedTensor, as_composed, branch_grams, mode_products, tree_distance
from tensorlm.tensors.cp import CPTensor, require_inputs
from tensorlm.ties import eigh


@dataclass(frozen=True, eq=False)
class Tucker:
    """T ~ core x_0 U_0 x_1 U_1 ...: core (r_0, r_1, ...), orthonormal factors U_0 (out, r_0), U_n (width, r_n).

    `values[n]` are all singular values of mode n of the `source`, descending: error^2 is at most the sum over the modes of
    the dropped squares. Being roots, those below about 1e-8 of the largest (3e-4 in float32) are noise; `error` is not.
    """

    core: Tensor
    factors: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    source: ComposedTensor

    def __call__(self, x: Tensor) -> Tensor:
        """The approximated function: x (..., width) -> (..., out)."""
        require_inputs(self.source.width, core=self.core, x=x)
        points = x.reshape(-1, x.shape[-1])
        left = self.core.unsqueeze(0)  # (points or 1, r_0, r_1, ...)
        for factor in reversed(self.factors[1:]):
            left = (left.flatten(1, -2) @ (points @ factor).unsqueeze(-1)).view(len(points), *left.shape[1:-1])
        return (left @ self.factors[0].mT).view(*x.shape[:-1], -1)

    def dense(self) -> Tensor:
        """The approximation as a dense tensor (out, width, ...); ValueError beyond `checks.DENSE_LIMIT` bytes."""
        require_affordable(self.source.shape, self.core.dtype, "the core and its factors")
        dense = self.core
        for factor in self.factors:  # the axis in front is expanded and goes to the back, so the order is kept in the end
            dense = torch.tensordot(dense, factor, dims=([0], [1]))
        return dense

    @cached_property
    def error(self) -> Tensor:
        """|T - approximation|, exact to rounding, from the factors: not the root of |T|^2 - |core|^2, which cancels."""
        return tree_distance(self.source.tree(), self.source.tree(self.factors))


def hosvd(tensor: CPTensor | ComposedTensor, ranks: int | tuple[int, ...] | None = None) -> Tucker:
    """Truncated HOSVD of T, of one layer or of a network, at the given ranks (r_0 for the output, then one for each leaf).

    An int stands for min(ranks, size) in every mode, None for full ranks. The copies of a wire share a basis if the network
    is `symmetrised()` first. Raises ValueError for ranks that do not fit or a core too large, and for NaN or infinity.

    >>> layer = CPTensor(torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    >>> hosvd(layer).values[0], hosvd(layer, ranks=1).error < 1e-6  # x1 x2 and 2 x1 x2: all modes have rank 1
    (tensor([2.2361, 0.0000]), tensor(True))
    """
    network = as_composed(tensor)
    wanted = ranks_for("mode", ranks, network.shape)
    require_affordable(wanted, network.dtype, "lower ranks")
    with torch.inference_mode(not any(matrix.requires_grad for cp in network.layers for matrix in (cp.D, cp.L, cp.R))):
        found = branch_grams(network.layers)
        grams = found.of_modes()
        batches = [grams] if network.out == network.width else [grams[:1], grams[1:]]
        spectra = [eigh(torch.stack(batch)) for batch in batches]
    values = [value for squares, _ in spectra for value in squares.clamp_min(0).sqrt()]  # out of inference mode
    vectors = [columns for _, rows in spectra for columns in rows.clone().mT]
    factors = tuple(columns[:, :rank] for columns, rank in zip(vectors, wanted))
    core = mode_products(found.layers, factors).view(wanted)
    if found.exponent:
        core, values = restored(core, found.exponent, "tensor", "|T|"), [shifted(value, found.exponent) for value in values]
    return Tucker(core, factors, tuple(values), network)


def ranks_for(place: str, ranks: int | tuple[int, ...] | None, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """One rank for each size: an int for min(ranks, size), None for the sizes; ValueError, naming the kind of place, else."""
    if ranks is None:
        return sizes
    if not isinstance(ranks, tuple | list):
        rank = require_whole("ranks", ranks, 1, max(sizes))
        return tuple(min(rank, size) for size in sizes)
    require(len(ranks) == len(sizes), "ranks", ranks, f"an int or {len(sizes)} of them, one for each {place}")
    return tuple(require_whole(f"ranks[{number}]", rank, 1, size) for number, (rank, size) in enumerate(zip(ranks, sizes)))
