"""One rule for order, sign and basis where rounding would decide: what sorts or chooses by size does it here.

Products of orthogonal vectors have exact pairs of eigenvalues +-lambda, symmetric functions equal ones. Which of them a solver
puts first, which sign it gives a vector and which basis a common subspace, hangs on the last digit, so on the gauge, the
method and the processor. Here numbers that agree to `TIE` rounding errors of the largest are equal: among equal sizes
positive comes before negative, and what then still is equal stays in its order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TIE = 256  # rounding errors of the largest number, by which two equal ones may differ


def ranks(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Whole numbers in place of real ones along the last axis: 0 for the largest, and equal ones for numbers that tie.

    Neighbours in size tie where they differ by at most `tolerance`, by default `TIE` eps, times the largest size.

    >>> ranks(torch.tensor([1.0, 3.0, 1.0 + 1e-7, -2.0]))
    tensor([1, 0, 1, 2])
    """
    ordered, order = values.detach().sort(dim=-1, descending=True, stable=True)
    if not values.shape[-1]:
        return order
    parted = ordered[..., :-1] - ordered[..., 1:] > margin(values, tolerance)
    numbers = torch.nn.functional.pad(parted.long().cumsum(-1), (1, 0))
    return torch.empty_like(order).scatter_(-1, order, numbers)


def by_value(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Order of falling value along the last axis, ties by index.

    >>> by_value(torch.tensor([1.0, 3.0, 3.0 + 2e-7]))
    tensor([1, 2, 0])
    """
    return ranks(values, tolerance).argsort(dim=-1, stable=True)


def by_size(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Order of falling size along the last axis; among equal sizes positive before negative, then by index.

    >>> by_size(torch.tensor([1.0, -3.0 - 2e-7, 3.0]))
    tensor([2, 1, 0])
    """
    return (2 * ranks(values.abs(), tolerance) + (values.detach() < 0)).argsort(dim=-1, stable=True)


def peak(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Index of the first entry along the last axis whose size ties with the largest, keeping the axis.

    Entries of computed vectors are less exact than their sizes: the tolerance is by default the root of eps.

    >>> peak(torch.tensor([0.5, -3.0, 3.0 + 2e-7]))
    tensor([1])
    """
    sizes = values.detach().abs()
    tolerance = torch.finfo(values.dtype).eps ** 0.5 if tolerance is None else tolerance
    return (sizes >= sizes.amax(-1, keepdim=True) * (1 - tolerance)).int().argmax(-1, keepdim=True)


def upward(vectors: Tensor) -> Tensor:
    """Vectors along the last axis with the sign that makes the entry at `peak` positive.

    >>> upward(torch.tensor([[0.5, -3.0], [-1.0, 1.0]]))
    tensor([[-0.5000,  3.0000],
            [ 1.0000, -1.0000]])
    """
    low, high = vectors.detach().amin(-1, keepdim=True), vectors.detach().amax(-1, keepdim=True)  # faster than aminmax
    down = -low > high
    near = (low + high).abs() <= torch.finfo(vectors.dtype).eps ** 0.5 * high
    if near.any():  # entries of both signs tie
        down = torch.where(near, vectors.detach().gather(-1, peak(vectors)) < 0, down)
    return vectors * (1 - 2 * down.to(vectors.dtype))


def settled(values: Tensor, vectors: Tensor) -> Tensor:
    """Orthonormal rows (..., n, width) that belong to sorted values (..., n), with signs and bases that the subspaces fix.

    Equal values, zero apart, have only a subspace in common. Its basis is that of a Cholesky decomposition of its projector
    P with pivoting: the axis i with the largest P_ii, the first among equals, gives the row P_i / sqrt(P_ii); then what is
    left of P. For one vector that is the sign of `upward`. Gradients are those of the rows, turned.

    >>> turned = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    >>> settled(torch.tensor([2.0, 1.0]), turned), settled(torch.tensor([2.0, 2.0]), turned).abs()
    (tensor([[ 0.6000,  0.8000],
            [ 0.8000, -0.6000]]), tensor([[1., 0.],
            [0., 1.]]))
    """
    signed = upward(vectors.detach())
    tied = equal(values)
    if tied.any() and (tied := tied & (values[..., 1:].detach().abs() > margin(values))).any():
        parts = zip(signed.flatten(0, -3) if signed.ndim > 2 else signed.unsqueeze(0), tied.reshape(-1, tied.shape[-1]).tolist())
        signed = torch.stack([_blockwise(rows, ties) for rows, ties in parts]).view_as(vectors)
    return (signed @ vectors.detach().mT) @ vectors if vectors.requires_grad else signed


def margin(values: Tensor, tolerance: float | None = None) -> Tensor:
    """By how much values along the last axis may differ and tie, keeping the axis."""
    tolerance = TIE * torch.finfo(values.dtype).eps if tolerance is None else tolerance
    return tolerance * values.detach().abs().amax(-1, keepdim=True)


def _blockwise(rows: Tensor, ties: list[bool]) -> Tensor:
    """`rows` (n, width) with each run of ties, `ties[i]` joining rows i and i + 1, in the basis of its projector."""
    blocks, start = [], 0
    for end in [index + 1 for index, tie in enumerate([*ties, False]) if not tie]:
        blocks.append(rows[start:end] if end - start == 1 else _pivoted(rows[start:end]))
        start = end
    return torch.cat(blocks)


def _pivoted(rows: Tensor) -> Tensor:
    """The rows turned into those of pivoted Cholesky of P = rows^T rows, by one Householder reflection a pivot."""
    rows = rows.clone()
    for index in range(len(rows)):
        left = rows[index:]
        pivot = peak(torch.linalg.vector_norm(left, dim=0))
        normal = left[:, pivot].squeeze(1).clone()
        normal[0] += torch.copysign(torch.linalg.vector_norm(normal), normal[0])
        left -= normal.unsqueeze(1) * (2 / (normal @ normal) * (normal @ left))
        left[0] *= torch.sign(left[0, pivot])
    return rows


def eigh(matrices: Tensor, order: Callable[[Tensor], Tensor] | None = None, spans: bool = False,
         settle: bool = True) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n) of symmetric matrices, falling or in the order of `order`, and `settled` eigenvectors as rows (..., n, n).

    Eigenvectors of equal eigenvalues have no gradient of their own: ValueError, not the NaN of a division by the zero between
    them. With `spans` they are taken for what spans a subspace, and what depends on nothing else gets the right gradient.
    `settle` False leaves signs and bases as they come, for those who turn the vectors further.

    >>> values, vectors = eigh(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), by_size)
    >>> values, vectors.round(decimals=4)
    (tensor([ 1., -1.]), tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]]))
    """
    values, vectors = _Eigh.apply(matrices, order, settle)
    return values, vectors if spans or not vectors.requires_grad else guarded(vectors, equal(values))


def equal(values: Tensor) -> Tensor:
    """Whether each of the sorted values (..., n) ties with the next: (..., n - 1)."""
    return (values[..., :-1] - values[..., 1:]).detach().abs() <= margin(values)


def guarded(vectors: Tensor, ties: Tensor) -> Tensor:
    """The same vectors, whose gradient is a ValueError if there are ties."""
    if vectors.requires_grad and ties.any():
        vectors = vectors.view_as(vectors)
        vectors.register_hook(_refuse)
    return vectors


def _refuse(gradient: Tensor) -> None:
    raise ValueError("eigenvectors of equal eigenvalues have no gradient of their own; take it through a value that depends on whole "
                     "subspaces only, as Spectrum.matrix, Spectrum.evaluate and Tucker.error do, with no equal ones parted")


def truncated(matrices: Tensor, values: Tensor, vectors: Tensor, k: int) -> Tensor:
    """sum lambda v v^T over the first k of the eigenpairs (m, r), (m, r, width) of `matrices`, whose gradient is taken instead of theirs.

    It exists once, where no equal sizes are parted; ValueError in the backward pass otherwise.
    """
    return _Truncated.apply(matrices, values.detach(), vectors.detach(), k)


class _Eigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, order: Callable[[Tensor], Tensor] | None, settle: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrices)
        if order is None:
            values, vectors = values.flip(-1), vectors.mT.flip(-2)
        else:
            index = order(values)
            values, vectors = values.gather(-1, index), vectors.mT.gather(-2, index.unsqueeze(-1).expand_as(vectors))
        vectors = settled(values, vectors) if settle else vectors.contiguous()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, by_values: Tensor | None, by_vectors: Tensor | None) -> tuple[Tensor, None, None]:
        """With rows v_i, gradients g_i: sum_ij v_i [(v_i.g_j - v_j.g_i) / 2 (lambda_j - lambda_i)] v_j^T, and g v v^T for the values."""
        values, vectors = ctx.saved_tensors
        inner = torch.zeros_like(vectors) if by_values is None else torch.diag_embed(by_values)
        if by_vectors is not None:
            turns = vectors @ by_vectors.mT
            turns, gaps = turns - turns.mT, values.unsqueeze(-2) - values.unsqueeze(-1)
            tied = gaps.abs() <= margin(values).unsqueeze(-1)
            if (tied & (turns.abs() > torch.finfo(values.dtype).eps ** 0.5 * by_vectors.abs().amax())).any():
                _refuse(by_vectors)
            inner = inner + turns / (2 * torch.where(tied, torch.inf, gaps))
        return vectors.mT @ inner @ vectors, None, None


class _Truncated(torch.autograd.Function):
    """sum lambda v v^T over the first k pairs, with the gradient of a function of a symmetric matrix (Daleckii & Krein 1965).

    With P on what is kept, dF = P dQ + dQ P - P dQ P + sum_ij lambda_j / (lambda_i - lambda_j) (v_i v_i^T dQ v_j v_j^T + transposed)
    over kept i and dropped j, which needs no gap between two that are kept.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, values: Tensor, vectors: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(values, vectors)
        ctx.k = k
        return (vectors[:, :k].mT * values[:, None, :k]) @ vectors[:, :k]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (values, vectors), k = ctx.saved_tensors, ctx.k
        if ((values[:, k - 1].abs() - values[:, k].abs()).abs() <= margin(values).squeeze(-1)).any():
            raise ValueError(f"k must not cut through eigenvalues of equal size, where the truncation has no gradient; got k = {k}")
        kept, dropped = vectors[:, :k], vectors[:, k:]
        symmetric = (gradient + gradient.mT) / 2
        across = kept @ symmetric
        weights = values[:, None, k:] / (values[:, :k, None] - values[:, None, k:])
        half = across - across @ kept.mT @ kept / 2 + (weights * (across @ dropped.mT)) @ dropped
        whole = kept.mT @ half
        return whole + whole.mT, None, None, None
