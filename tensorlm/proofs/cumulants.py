"""Exact covariance of two bilinear layers under a Gaussian, hence the exact mean of three, by joint cumulants.

With x = mu + K g, what enters a unit of the second layer is a quadratic form in g, u = g^T U g + 2 p^T g + c. The joint
cumulant of k such forms is 2^(k-1) times a sum over orders: tr(U_1 U_2 ... U_k) over the (k-1)! cyclic ones, and p_1^T U_2
... U_(k-1) p_k over all k! (Mathai and Provost, Quadratic Forms in Random Variables, 1992, chapter 3). Two units (u v) and
(u' v') covary by the partitions of these four forms in which some block holds forms of both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_affordable
from tensorlm.proofs.distributions import Moments
from tensorlm.tensors.cp import CPTensor, cp_unfolding


class Forms(NamedTuple):
    """g^T A g + 2 slope^T g + constant, one a unit: A (hidden, r, r) symmetric, slope (hidden, r), constant (hidden,)."""

    A: Tensor
    slope: Tensor
    constant: Tensor

    @property
    def mean(self) -> Tensor:
        return self.constant + self.A.diagonal(dim1=1, dim2=2).sum(1)

    def covariance(self, other: "Forms") -> Tensor:
        """Of every form of this with every one of the other, 2 tr(A B) + 4 slope . slope': (hidden, hidden)."""
        return 2 * self.A.flatten(1) @ other.A.flatten(1).mT + 4 * self.slope @ other.slope.mT


def two_layer_moments(lower: CPTensor, upper: CPTensor, mean: Tensor, root: Tensor) -> Moments:
    """Mean and covariance of upper(lower(x)), x = mean + root g, in O(hidden^2 width^3); ValueError beyond the memory limit."""
    require_affordable((2, upper.hidden, root.shape[1], root.shape[1]), upper.dtype, "method='closure'")
    left, right = (entering(lower, weights @ lower.D, mean, root) for weights in (upper.L, upper.R))
    between = left.covariance(right)
    hidden = left.mean * right.mean + between.diagonal()
    return Moments(upper.D @ hidden, upper.D @ product_covariance(left, right, between) @ upper.D.mT)


def entering(lower: CPTensor, weights: Tensor, mean: Tensor, root: Tensor) -> Forms:
    """`weights` (forms, hidden of the layer below) times its hidden units, as forms in g."""
    a, b, left, right = lower.L @ mean, lower.R @ mean, lower.L @ root, lower.R @ root
    half = cp_unfolding(weights, left, right).view(len(weights), root.shape[1], root.shape[1]) / 2
    return Forms(half + half.mT, (weights * a @ right + weights * b @ left) / 2, weights @ (a * b))


def product_covariance(u: Forms, v: Forms, between: Tensor) -> Tensor:
    """Covariance of the products u_m v_m and u_n v_n, all pairs: (hidden, hidden). `between` is that of u and v."""
    first = u.mean, v.mean
    pairs = u.covariance(u) * v.covariance(v) + between * between.mT
    for one, other, covariance in ((0, 0, v.covariance(v)), (1, 1, u.covariance(u)), (0, 1, between.mT), (1, 0, between)):
        pairs = pairs + torch.outer(first[one], first[other]) * covariance
    product = u.A @ v.A
    within = (product + product.mT) / 2
    crossed = torch.einsum("mij,mj->mi", u.A, v.slope) + torch.einsum("mij,mj->mi", v.A, u.slope)
    third = u.mean.unsqueeze(1) * triples(v, u, v, within, crossed)
    third = third + v.mean.unsqueeze(1) * triples(u, u, v, within, crossed)
    inside = 2 * within.flatten(1) @ within.flatten(1).mT + crossed @ crossed.mT
    return pairs + third + third.mT + 16 * (inside + interlaced(u, v))


def triples(one: Forms, u: Forms, v: Forms, within: Tensor, crossed: Tensor) -> Tensor:
    """Joint cumulant of one_m, u_n and v_n: 8 [tr(A_m A_un A_vn) + the three orders with slopes], (hidden, hidden)."""
    outer = u.slope.unsqueeze(2) * v.slope.unsqueeze(1)
    return 8 * (one.A.flatten(1) @ (within + outer).flatten(1).mT + one.slope @ crossed.mT)


def interlaced(u: Forms, v: Forms) -> Tensor:
    """What of the fourth cumulant / 16 has u_m, v_m not side by side: tr(U_m U_n V_m V_n) and the slopes', (hidden, hidden)."""
    hidden, rank = u.slope.shape
    found = u.A.new_zeros(hidden, hidden)
    for m in range(hidden):
        # with n from m on: U_n U_m and V_n V_m, two products of (n rank, rank) with (rank, rank)
        first = (u.A[m:].flatten(0, 1) @ u.A[m]).view(-1, rank, rank)
        second = (v.A[m:].flatten(0, 1) @ v.A[m]).view(-1, rank, rank)
        cycle = (first * second.mT).sum((1, 2))
        same = (at(u, m, u) * at(v, m, v)).sum(1)
        other = (at(u, m, v) * at(v, m, u)).sum(1)
        found[m, m:] = cycle + same + other
    return found + found.triu(1).mT


def at(one: Forms, m: int, other: Forms) -> Tensor:
    """A_m slope_n + A_n slope_m for n from m on, A_m of `one` and n of `other`: (n, r)."""
    return other.slope[m:] @ one.A[m] + other.A[m:] @ one.slope[m]
