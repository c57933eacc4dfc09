"""Gauges: changes of the factors that leave the function of a layer as it is, and the projection that fixes them.

| gauge | L_k, R_k, D_k of hidden unit k | T | S and f |
| --- | --- | --- | --- |
| permute | units in another order | same | same |
| rescale | a_k L_k, b_k R_k, D_k / (a_k b_k), signs included | same | same |
| swap | R_k, L_k, D_k | transposed | same |

Mixing hidden units by a general invertible matrix is a gauge of a Tucker form, not of this one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorlm.checks import require_finite, require_instance, require_same_kind
from tensorlm.scaling import balanced, length, restored
from tensorlm.tensors.cp import CPTensor, require_finite_cp
from tensorlm.ties import TIE, peak, ranks


def swap(cp: CPTensor) -> CPTensor:
    """(D, R, L): the encoders exchanged. T_oij becomes T_oji; S and f stay.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> torch.equal(swap(cp).dense(), cp.dense().mT)
    True
    """
    require_instance("cp", cp, CPTensor)
    return CPTensor(cp.D, cp.R, cp.L)


def permute(cp: CPTensor, order: Tensor | Sequence[int]) -> CPTensor:
    """The hidden units in another order: unit k of the result is unit order[k]. T, S and f stay.

    Raises TypeError unless `order` holds whole numbers, ValueError unless it is a permutation of 0 .. hidden - 1.

    >>> cp = CPTensor(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.eye(2))
    >>> permute(cp, [1, 0]).D
    tensor([[2., 1.]])
    """
    require_instance("cp", cp, CPTensor)
    try:
        index = torch.as_tensor(order, device=cp.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"order must hold whole numbers, got {order!r}") from error
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"order must hold whole numbers, got {index.dtype}")
    if index.shape != (cp.hidden,) or not torch.equal(index.long().sort().values, torch.arange(cp.hidden, device=cp.device)):
        raise ValueError(f"order must be a permutation of 0 .. {cp.hidden - 1}, got {index.tolist()}")
    return CPTensor(cp.D[:, index], cp.L[index], cp.R[index])


def rescale(cp: CPTensor, left: Tensor, right: Tensor) -> CPTensor:
    """L_k times left_k, R_k times right_k, D_k divided by both; left, right (hidden,). T, S and f stay.

    Raises ValueError unless left and right have shape (hidden,) and are finite and not zero, and where a factor leaves the
    number range by them; TypeError for another dtype.

    >>> cp = CPTensor(torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 2))
    >>> rescale(cp, torch.tensor([2.0]), torch.tensor([-1.0])).factors()
    {'D': tensor([[-0.5000]]), 'L': tensor([[2., 2.]]), 'R': tensor([[-1., -1.]])}
    """
    require_instance("cp", cp, CPTensor)
    require_same_kind(D=cp.D, left=left, right=right)
    for name, scale in (("left", left), ("right", right)):
        if scale.shape != (cp.hidden,):
            raise ValueError(f"{name} must have shape ({cp.hidden},), one number a hidden unit, got {tuple(scale.shape)}")
        require_finite(name, scale)
        if (scale == 0).any():
            raise ValueError(f"{name} must not be zero, got 0 for unit {int((scale == 0).int().argmax())}")
    scaled = CPTensor(cp.D / left / right, left.unsqueeze(1) * cp.L, right.unsqueeze(1) * cp.R)
    for name in "DLR":
        before, after = getattr(cp, name), getattr(scaled, name)
        if not torch.equal(before.isfinite() & (before != 0), after.isfinite() & (after != 0)):
            sizes = " and ".join(f"{float(scale.abs().min()):.3g} to {float(scale.abs().max()):.3g}" for scale in (left, right))
            raise ValueError(f"left and right must leave {name} within the range of {cp.dtype}, got sizes of {sizes}")
    return scaled


def canonical(cp: CPTensor) -> CPTensor:
    """The one set of factors that stands for all that `swap`, `permute` and `rescale` reach; swaps unit by unit too.

    L_k and R_k have norm 1 and a positive largest entry (the first of equals), D_k carries size and sign; of L_k and R_k
    the lexicographically greater one is L_k; units are sorted by falling norm of D_k, equal ones lexicographically. A unit that
    contributes nothing becomes zero and comes last. Equality is meant to rounding. The function is the same.
    Other CP forms of one function, which no gauge connects, stay different: compare functions by `same_function`.
    Raises ValueError for NaN or infinity, and where D leaves the number range.
    Source: the normalisation is that of Kolda & Bader (2009), section 3.

    >>> cp = CPTensor(torch.tensor([[1.0, 6.0]]), torch.eye(2), -2 * torch.eye(2))
    >>> canonical(cp).factors()
    {'D': tensor([[-12.,  -2.]]), 'L': tensor([[0., 1.], [1., 0.]]), 'R': tensor([[0., 1.], [1., 0.]])}
    """
    require_finite_cp("cp", cp)
    D, L, R, exponent = balanced(cp.D, cp.L, cp.R)
    (L, left), (R, right) = _directions(L), _directions(R)
    D = D * left * right
    L, R = _greater_first(L, R)
    alive = D.any(dim=0)
    D, L, R = D * alive, L * alive.unsqueeze(1), R * alive.unsqueeze(1)
    return permute(CPTensor(restored(D, exponent, "cp", "factors of norm 1 beside D"), L, R), _falling_order(D, L, R))


def _directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of norm 1 with a positive largest entry, and the signed norms they had; zero rows stay zero."""
    norms = rows.gather(1, peak(rows)).sign() * length(rows, 1).unsqueeze(1)
    return rows / torch.where(norms == 0, 1, norms), norms.squeeze(1)


def _greater_first(L: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair of rows exchanged where the first entry that differs is the greater one in R."""
    first = ((L - R).abs() > TIE * torch.finfo(L.dtype).eps).int().argmax(dim=1, keepdim=True)
    behind = L.gather(1, first) < R.gather(1, first)
    return torch.where(behind, R, L), torch.where(behind, L, R)


def _falling_order(D: Tensor, L: Tensor, R: Tensor) -> Tensor:
    """Units by falling norm of D_k, then by L_k, R_k, D_k, what ties being equal."""
    sizes = length(D, 0).unsqueeze(1)
    keys = torch.cat([sizes, L, R, D.mT / sizes.max().clamp_min(torch.finfo(D.dtype).tiny)], dim=1)
    keys = torch.where(keys.abs() > TIE * torch.finfo(D.dtype).eps, keys, 0)
    return torch.unique(ranks(keys.mT).mT, dim=0, return_inverse=True)[1].argsort(stable=True)
