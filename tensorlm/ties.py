"""One rule for order, sign and basis where rounding would decide: what sorts or chooses by size does it here.

Numbers that agree to `TIE` rounding errors of the largest are equal: among equal sizes positive comes before negative, and
what then still is equal stays in its order.
"""

import torch
from torch import Tensor

TIE = 256  # rounding errors of the largest number, by which two equal ones may differ


def ranks(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Whole numbers in place of real ones along the last axis: 0 for the largest, and equal ones for numbers that tie.

    Neighbours in size tie where they differ by at most `tolerance`, by default `TIE` eps, times the largest size.
    """
    ordered, order = values.detach().sort(dim=-1, descending=True, stable=True)
    if not values.shape[-1]:
        return order
    parted = ordered[..., :-1] - ordered[..., 1:] > _margin(values, tolerance)
    numbers = torch.nn.functional.pad(parted.long().cumsum(-1), (1, 0))
    return torch.empty_like(order).scatter_(-1, order, numbers)


def by_value(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Order of falling value along the last axis, ties by index."""
    return ranks(values, tolerance).argsort(dim=-1, stable=True)


def by_size(values: Tensor, tolerance: float | None = None) -> Tensor:
    """Order of falling size along the last axis; among equal sizes positive before negative, then by index."""
    return (2 * ranks(values.abs(), tolerance) + (values.detach() < 0)).argsort(dim=-1, stable=True)


def peak(vectors: Tensor) -> Tensor:
    """Index of the first entry along the last axis whose size is the largest, to the root of eps, keeping the axis."""
    sizes = vectors.detach().abs()
    return (sizes >= sizes.amax(-1, keepdim=True) * (1 - torch.finfo(vectors.dtype).eps ** 0.5)).int().argmax(-1, keepdim=True)


def upward(vectors: Tensor) -> Tensor:
    """Vectors along the last axis with the sign that makes the entry at `peak` positive."""
    fixed = vectors.detach()
    high = fixed.amax(-1, keepdim=True)
    balance = fixed.amin(-1, keepdim=True) + high
    signs = balance.sign()
    if (balance.abs() <= high * torch.finfo(vectors.dtype).eps ** 0.5).any():  # entries of both signs tie
        signs = fixed.gather(-1, peak(fixed)).sign()
        signs = torch.where(signs == 0, 1, signs)
    return vectors * signs


def settled(values: Tensor, vectors: Tensor) -> Tensor:
    """Orthonormal rows (..., n, width) that belong to sorted values (..., n), with signs and bases that the subspaces fix.

    Equal values, zero apart, have only a subspace in common. Its basis is that of a Cholesky decomposition of its projector
    P with pivoting: the axis i with the largest P_ii, the first among equals, gives the row P_i / sqrt(P_ii); then what is
    left of P. For one vector that is the sign of `upward`. Gradients are those of the rows, turned.
    """
    signed = upward(vectors.detach())
    tied = _ties(values)
    if tied.any() and (tied := tied & (values[..., 1:].detach().abs() > _margin(values))).any():  # of zeros no basis is fixed
        parts = zip(signed.reshape(-1, *signed.shape[-2:]), tied.reshape(-1, tied.shape[-1]).tolist())
        signed = torch.stack([_blockwise(rows, ties) for rows, ties in parts]).view_as(vectors)
    return (signed @ vectors.detach().mT) @ vectors if vectors.requires_grad else signed


def eigh(matrices: Tensor, order: str = "value", basis: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n) of symmetric matrices, falling by "value" or "size", and `settled` eigenvectors as rows (..., n, n).

    With an orthonormal `basis` (width, n), in which the matrices are written, the vectors are (..., n, width).
    Eigenvectors of equal eigenvalues have no gradient of their own: ValueError, not the NaN of a division by zero.
    """
    values, vectors = torch.linalg.eigh(matrices)
    if order == "value":
        values, vectors = values.flip(-1), vectors.flip(-1).mT
    else:
        index = by_size(values)
        values, vectors = values.gather(-1, index), vectors.mT.gather(-2, index.unsqueeze(-1).expand_as(vectors))
    vectors = settled(values, vectors if basis is None else vectors @ basis.mT)
    if vectors.requires_grad and _ties(values).any():
        vectors.register_hook(_refuse)
    return values, vectors


def _refuse(gradient: Tensor) -> None:
    raise ValueError("eigenvectors of equal eigenvalues have no gradient of their own, got a spectrum with equal ones; move a factor a "
                     "little, or take the gradient through the tensor itself")


def _ties(values: Tensor) -> Tensor:
    """Whether each of the sorted values (..., n) ties with the next: (..., n - 1)."""
    fixed = values.detach()
    return (fixed[..., :-1] - fixed[..., 1:]).abs() <= _margin(values)


def _margin(values: Tensor, tolerance: float | None = None) -> Tensor:
    """By how much values along the last axis may differ and tie, keeping the axis."""
    return values.detach().abs().amax(-1, keepdim=True) * (TIE * torch.finfo(values.dtype).eps if tolerance is None else tolerance)


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
