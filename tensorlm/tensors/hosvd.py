"""HOSVD: a Tucker decomposition of stacked layers from their factors, never by way of the dense tensor.

The factor of a mode holds the leading eigenvectors of its Gram matrix, and the core is the tensor restricted to them. It is
one sweep and no iteration: within a factor sqrt(order) of the best error at these ranks (De Lathauwer, De Moor &
Vandewalle 2000; Kolda & Bader 2009, section 4.2).
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tensorlm.checks import DENSE_LIMIT, require_affordable, require_last_axis, require_same_kind, require_whole
from tensorlm.scaling import restored, shifted, squared
from tensorlm.tensors.composition import ComposedTensor, as_composed, branch_grams, environments, restrict, tree_distance
from tensorlm.tensors.cp import CPTensor
from tensorlm.ties import eigh, equal, guarded


@dataclass(frozen=True, eq=False)
class Tucker:
    """T ~ core x_0 U_0 x_1 U_1 ...: core (r_0, r_1, ...), orthonormal factors U_0 (out, r_0), U_n (width, r_n).

    `values[n]` are all singular values of mode n, descending: their squares sum to |T|^2, and the error^2 is at most the sum
    over the modes of the dropped squares. Being roots of eigenvalues, those below about 1e-8 of the largest (3e-4 in
    float32) are noise; `error` is not. `source` is the network that was decomposed, `spans` are the factors as `error` reads
    them: its gradient exists where no equal values are parted, that of the factors and the core where none are equal.
    """

    core: Tensor
    factors: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    source: ComposedTensor
    spans: tuple[Tensor, ...] = field(repr=False)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(self.core.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """The approximated function: x (..., width) -> (..., out)."""
        require_same_kind(core=self.core, x=x)
        require_last_axis("x", x, self.source.width)
        points = x.reshape(-1, x.shape[-1])
        left = self.core.unsqueeze(0)  # (points or 1, r_0, r_1, ...)
        for factor in reversed(self.factors[1:]):
            left = (left.flatten(1, -2) @ (points @ factor).unsqueeze(-1)).view(len(points), *left.shape[1:-1])
        return (left @ self.factors[0].mT).view(*x.shape[:-1], -1)

    def dense(self, limit: float = DENSE_LIMIT) -> Tensor:
        """The approximation as a dense tensor (out, width, ...); raises ValueError where it takes more than `limit` bytes."""
        require_affordable(self.source.shape, self.core.dtype, "the core and its factors", limit)
        dense = self.core
        for factor in self.factors:  # the axis in front is expanded and goes to the back, so the order is kept in the end
            dense = torch.tensordot(dense, factor, dims=([0], [1]))
        return dense

    def squared_norm(self) -> Tensor:
        """|core|^2, which is also the squared norm of the approximation."""
        return squared(self.core, "core", "|core|^2")

    @cached_property
    def error(self) -> Tensor:
        """|T - approximation|, exact to rounding, from the factors: not the root of |T|^2 - |core|^2, which cancels.

        Costs as much as a few dense third-order tensors; see `trees.tree_norm`.
        """
        return tree_distance(self.source.tree(), self.source.projected(list(self.spans)))


def hosvd(tensor: CPTensor | ComposedTensor, ranks: int | tuple[int, ...] | None = None) -> Tucker:
    """Truncated HOSVD of T, of one layer or of a network, at the given ranks (r_0 for the output, then one for each leaf).

    An int stands for min(ranks, size) in every mode, None for full ranks. The copies of a wire share a basis if the network
    is `symmetrised()` first. Raises ValueError for ranks that do not fit or a core too large, and for NaN or infinity.

    >>> layer = CPTensor(torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    >>> tucker = hosvd(layer)  # x1 x2 in both outputs: all of its modes have rank 1
    >>> torch.stack(tucker.values)
    tensor([[2.2361, 0.0000],
            [2.2361, 0.0000],
            [2.2361, 0.0000]])
    >>> round(hosvd(layer, ranks=1).error.item(), 4)
    0.0
    """
    network = as_composed(tensor)
    wanted = _ranks(ranks, network.shape)
    require_affordable(wanted, network.dtype, "lower ranks")
    found = branch_grams(network.layers)
    spectra = _spectra([found.wires[-1], *environments(found.layers, found.pairs)])
    spans = factors = tuple(basis[:, :rank] for (_, basis), rank in zip(spectra, wanted))
    if any(basis.requires_grad for basis in spans):
        ties = [equal(values.square()) for values, _ in spectra]
        factors = tuple(map(guarded, spans, ties))
        spans = tuple(guarded(basis, tied[rank - 1 : rank]) for basis, tied, rank in zip(spans, ties, wanted))
    core = restrict(found.layers, factors[0], factors[1:]).view(wanted)
    if exponent := found.exponents[-1]:
        core = restored(core, exponent, "tensor", "|T|")
    return Tucker(core, factors, tuple(shifted(values, exponent) if exponent else values for values, _ in spectra), network, spans)


def _ranks(ranks: int | tuple[int, ...] | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    if ranks is None:
        return shape
    if isinstance(ranks, int):
        require_whole("ranks", ranks, 1, max(shape))
        return tuple(min(ranks, size) for size in shape)
    if len(ranks) != len(shape):
        raise ValueError(f"ranks must be an int or hold {len(shape)} of them, one for each mode, got {len(ranks)}")
    for number, (rank, size) in enumerate(zip(ranks, shape)):
        require_whole(f"ranks[{number}]", rank, 1, size)
    return tuple(ranks)


def _spectra(grams: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For each mode, its singular values (roots of the eigenvalues), descending, and eigenvectors as columns; batched."""
    batches = [grams] if len(grams[0]) == len(grams[1]) else [grams[:1], grams[1:]]
    pairs: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        values, vectors = eigh(torch.stack(batch), spans=True)
        pairs += zip(values.clamp_min(0).sqrt(), vectors.mT)
    return pairs
