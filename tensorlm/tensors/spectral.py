"""Spectra of one layer: interaction matrices, their eigenvectors, truncation, and the HOSVD.

For an output direction u the function is one quadratic form, u . f(x) = x^T Q_u x, and Q_u = sum_r lambda_r v_r v_r^T
makes it a signed sum of squares, u . f(x) = sum_r lambda_r (v_r . x)^2 (Pearce et al. arXiv 2410.08417, section 3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_affordable, require_finite, require_instance, require_whole
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.tensors.cp import CPTensor, require_finite_cp, require_inputs
from tensorlm.ties import eigh


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues (m, r) by descending size and orthonormal eigenvectors (m, r, width), as rows, of m interaction matrices.

    Of equal sizes positive ones come first; sign and basis are those of `ties`, and equal eigenvalues have no gradient.

    >>> spectrum = eigen(CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])))  # f = x1 x2
    >>> spectrum.values, spectrum.error(1), spectrum.evaluate(torch.tensor([3.0, 2.0]), k=2)
    (tensor([[ 0.5000, -0.5000]]), tensor([0.5000]), tensor([6.]))
    """

    values: Tensor
    vectors: Tensor

    def error(self, k: int) -> Tensor:
        """Frobenius error of the k largest |lambda|, the root of the sum of the dropped lambda^2 (Eckart & Young): (m,)."""
        return length(self.values[:, require_whole("k", k, 1, self.values.shape[-1]) :])

    def contributions(self, x: Tensor) -> Tensor:
        """lambda (v . x)^2 of every eigenvector, which sum to u . f(x): x (..., width) -> (..., m, r)."""
        require_inputs(self.vectors.shape[-1], vectors=self.vectors, x=x)
        return self.values * einsum(x, self.vectors, "... width, m r width -> ... m r").square()

    def evaluate(self, x: Tensor, k: int) -> Tensor:
        """u . f(x) from the k largest |lambda|: x (..., width) -> (..., m)."""
        require_whole("k", k, 1, self.values.shape[-1])
        return Spectrum(self.values[:, :k], self.vectors[:, :k]).contributions(x).sum(-1)

    def importance(self, inputs: Tensor) -> Tensor:
        """lambda E[(v . x)^2], what each eigenvector adds to u . f(x) on average over `inputs` (n, width): (m, r)."""
        require_finite("inputs", inputs)
        require(inputs.ndim > 1 and inputs.numel(), "inputs", inputs, "(n, width) with at least 1 row")
        return self.contributions(inputs).flatten(0, -3).mean(0)


def interaction(cp: CPTensor, directions: Tensor | None = None) -> Tensor:
    """Q_u = sum_o u_o S_o = sym(L^T diag(D^T u) R), so that u . f(x) = x^T Q_u x.

    `directions` (m, out) gives (m, width, width), one direction (out,) gives (width, width), None every output. Raises
    ValueError where they do not fit, the result takes more than `checks.DENSE_LIMIT` bytes or leaves the number range.

    >>> interaction(CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1)), torch.tensor([2.0]))  # of x^2
    tensor([[2.]])
    """
    L, R, weights, exponent = _weighted(cp, directions)
    require_affordable((len(weights), cp.width, cp.width), cp.dtype, "fewer directions, or eigen with 2 hidden < width")
    matrices = restored(CPTensor(weights, L, R).symmetric(), exponent.unsqueeze(-1), "cp", "interaction matrices")
    return matrices[0] if directions is not None and directions.ndim == 1 else matrices


def eigen(cp: CPTensor, directions: Tensor | None = None) -> Spectrum:
    """Eigenvalues and eigenvectors of `interaction(cp, directions)`, all directions in one batch.

    Where 2 hidden < width no width x width matrix is formed: with [L^T R^T] = B [A_L A_R] (QR, 2 hidden columns) every Q_u is
    B sym(A_L diag(D^T u) A_R^T) B^T, so a 2 hidden x 2 hidden problem is left, and r = min(2 hidden, width) eigenvalues are
    returned (the others are zero). Raises ValueError for NaN and infinity, and where eigenvalues leave the number range.

    >>> eigen(CPTensor(torch.ones(1, 2), torch.eye(2, 9), torch.eye(2, 9))).values  # x1^2 + x2^2 of nine inputs
    tensor([[1., 1., 0., 0.]])
    """
    L, R, weights, exponent = _weighted(cp, directions)
    require_finite_cp("cp", cp)
    require_finite("directions", weights if directions is None else directions)
    basis, kept = None, 2 * cp.hidden
    if kept < cp.width and not weights.requires_grad and not L.requires_grad and not R.requires_grad:
        basis, both = torch.linalg.qr(torch.cat([L, R]).mT)
        L, R = both.mT.split(cp.hidden)
    require_affordable((len(weights), L.shape[1], L.shape[1]), cp.dtype, "fewer directions at a time")
    values, vectors = eigh(CPTensor(weights, L, R).symmetric(), "size", basis)
    return Spectrum(restored(values[:, :kept], exponent, "cp", "eigenvalues"), vectors[:, :kept])


class LayerHOSVD(NamedTuple):
    """S = sum_r sigma_r u_r (x) Q_r, orthonormal u_r and Q_r = interaction(cp, u_r) / sigma_r: u (r, out), sigma (r,)."""

    directions: Tensor
    values: Tensor


def layer_hosvd(cp: CPTensor) -> LayerHOSVD:
    """HOSVD of a layer when no output directions are given: the singular value decomposition of S as out x width^2.

    S S^T = D H D^T, H = [(L L^T) * (R R^T) + (L R^T) * (R L^T)] / 2, has the eigenvalues sigma^2: those below about 1e-8 of
    the largest sigma (3e-4 in float32) are noise. Raises ValueError for NaN or infinity, and where sigma leaves the range.
    Source: Pearce et al. arXiv 2410.08417, section 3.3.

    >>> layer_hosvd(CPTensor(torch.ones(2, 1), torch.tensor([[2.0]]), torch.tensor([[3.0]]))).values.round(decimals=4)
    tensor([8.4853])
    """
    require_finite_cp("cp", cp)
    D, L, R, exponent = balanced(cp.D, cp.L, cp.R)
    crossed = L @ R.mT
    pairs = ((L @ L.mT) * (R @ R.mT) + crossed * crossed.mT) / 2
    values, vectors = eigh(D @ pairs @ D.mT)
    most = min(cp.out, cp.hidden, cp.width * (cp.width + 1) // 2)
    return LayerHOSVD(vectors[:most], restored(values[:most].clamp_min(0).sqrt(), exponent, "cp", "singular values"))


def _weighted(cp: CPTensor, directions: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L, R and the weights D^T u (m, hidden) of every direction, near 1, and the exponents (m, 1) of what they were divided by."""
    require_instance("cp", cp, CPTensor)
    weights = cp.D
    if directions is not None:
        require_inputs(cp.out, D=cp.D, directions=directions)
        require(directions.ndim < 3 and directions.numel(), "directions", directions, f"(m, {cp.out}) with m >= 1, or ({cp.out},)")
        weights = directions.reshape(-1, cp.out) @ cp.D
    weights, L, R, exponent = balanced(weights, cp.L, cp.R)
    sizes = exponents(weights, 1) if exponent else torch.zeros_like(weights[:, :1], dtype=torch.int32)
    return L, R, shifted(weights, -sizes) if exponent else weights, sizes + exponent
