"""Spectra of one layer: interaction matrices, their eigenvectors, truncation, and the HOSVD.

For an output direction u the function is one quadratic form, u . f(x) = x^T Q_u x, and Q_u = sum_r lambda_r v_r v_r^T
makes it a signed sum of squares, u . f(x) = sum_r lambda_r (v_r . x)^2 (Pearce et al. arXiv 2410.08417, section 3).
An eigenvector's sign means nothing and equal eigenvalues have only a common subspace: order, sign and basis are those of
`ties`, the same for all factors of one function. |lambda| is the importance of an eigenvector only for inputs that favour
no direction: see `Spectrum.importance`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tensorlm.checks import require_affordable, require_finite, require_instance, require_last_axis, require_same_kind, require_whole
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.tensors.cp import CPTensor
from tensorlm.ties import by_size, eigh, guarded, margin, settled, truncated

EIGEN_METHODS = ("auto", "dense", "reduced")


def interaction(cp: CPTensor, directions: Tensor | None = None) -> Tensor:
    """Q_u = sum_o u_o S_o = sym(L^T diag(D^T u) R), so that u . f(x) = x^T Q_u x.

    `directions` (m, out) gives (m, width, width), one direction (out,) gives (width, width), None every output.
    Raises ValueError where they do not fit, the result takes more than `checks.DENSE_LIMIT` bytes or leaves the number
    range. Source: Pearce et al. arXiv 2410.08417, section 3.2.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # f = x1 x2
    >>> interaction(cp, torch.tensor([2.0]))
    tensor([[0., 1.],
            [1., 0.]])
    """
    weights = _unit_weights(cp, directions)
    require_affordable((len(weights), cp.width, cp.width), cp.dtype, "fewer directions, or eigen with 2 hidden < width")
    left, right, weights, exponent = _scaled(cp, weights)
    matrices = restored(_symmetric_products(left, right, weights), exponent.unsqueeze(-1), "cp", "interaction matrices")
    return matrices[0] if directions is not None and directions.ndim == 1 else matrices


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues (m, r) by descending size and orthonormal eigenvectors (m, r, width), as rows, of m interaction matrices.

    Of equal sizes positive ones come first. The gradients of `matrix` and `evaluate` are those of the matrices themselves,
    `form` being the layer they belong to, so that equal eigenvalues do no harm; ValueError where k cuts through them. The
    gradient of what needs single eigenvectors, as `contributions`, is a ValueError at equal eigenvalues.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # f = x1 x2
    >>> spectrum = eigen(cp)
    >>> spectrum.values, spectrum.error(1)
    (tensor([[ 0.5000, -0.5000]]), tensor([0.5000]))
    >>> x = torch.tensor([3.0, 2.0])
    >>> torch.allclose(spectrum.contributions(x).sum(-1), cp(x))
    True
    """

    values: Tensor
    vectors: Tensor
    form: CPTensor | None = field(default=None, repr=False)

    def matrix(self, k: int | None = None) -> Tensor:
        """sum of lambda v v^T over the k largest |lambda|: the best rank-k approximation of each Q_u, (m, width, width)."""
        values, vectors = self._leading(k)
        if self.form is None:
            return (vectors.mT * values.unsqueeze(-2)) @ vectors
        matrices = interaction(self.form)
        whole = values.shape == self.values.shape
        return matrices if whole else truncated(matrices, self.values, self.vectors, values.shape[-1])

    def error(self, k: int) -> Tensor:
        """Frobenius error of `matrix(k)`, the root of the sum of the dropped lambda^2 (Eckart & Young): (m,)."""
        require_whole("k", k, 1, self.values.shape[-1])
        return length(self.values[:, k:])

    def contributions(self, x: Tensor) -> Tensor:
        """lambda (v . x)^2 of every eigenvector, which sum to u . f(x): x (..., width) -> (..., m, r).

        Deleting v from the input, x - (v . x) v, changes u . f(x) by exactly minus its contribution.
        """
        return self.values * self._projections(x, self.vectors).square()

    def evaluate(self, x: Tensor, k: int | None = None) -> Tensor:
        """u . f(x) from the k largest |lambda|, all by default: x (..., width) -> (..., m)."""
        values, vectors = self._leading(k)
        if self.form is None:
            return (values * self._projections(x, vectors).square()).sum(-1)
        if values.shape == self.values.shape:
            return self.form(x)
        return (self._projections(x, self.matrix(k)) * x.unsqueeze(-2)).sum(-1)

    def importance(self, inputs: Tensor | None = None, *, second_moment: Tensor | None = None) -> Tensor:
        """lambda E[(v . x)^2], what each eigenvector adds to u . f(x) on average: (m, r).

        The mean is over the rows of `inputs` (n, width), or taken from `second_moment` = E[x x^T] (width, width): give one
        of them. Unlike |lambda| it knows which inputs occur; it still adds up contributions of both signs.
        """
        if inputs is not None and second_moment is None:
            self._require_points("inputs", inputs)
            return self.contributions(inputs).flatten(0, -3).mean(0)
        if second_moment is None or inputs is not None:
            raise ValueError("give either inputs (n, width) or second_moment (width, width)")
        self._require_points("second_moment", second_moment)
        if second_moment.shape != (self.vectors.shape[-1],) * 2:
            raise ValueError(f"second_moment must be {(self.vectors.shape[-1],) * 2}, got {tuple(second_moment.shape)}")
        return self.values * ((self.vectors @ second_moment) * self.vectors).sum(-1)

    def _leading(self, k: int | None) -> tuple[Tensor, Tensor]:
        if k is None:
            return self.values, self.vectors
        require_whole("k", k, 1, self.values.shape[-1])
        return self.values[:, :k], self.vectors[:, :k]

    def _projections(self, x: Tensor, vectors: Tensor) -> Tensor:
        require_same_kind(vectors=self.vectors, x=x)
        require_last_axis("x", x, vectors.shape[-1])
        return (x @ vectors.flatten(0, 1).mT).unflatten(-1, vectors.shape[:2])

    def _require_points(self, name: str, value: Tensor) -> None:
        require_same_kind(vectors=self.vectors, **{name: value})
        require_last_axis(name, value, self.vectors.shape[-1])
        require_finite(name, value)
        if value.ndim < 2 or value.numel() == 0:
            raise ValueError(f"{name} must have at least 1 row, got shape {tuple(value.shape)}")


def eigen(cp: CPTensor, directions: Tensor | None = None, method: str = "auto") -> Spectrum:
    """Eigenvalues and eigenvectors of `interaction(cp, directions)`, all directions in one batch.

    method="reduced" never forms a width x width matrix: with [L^T R^T] = B [A_L A_R] (QR, 2 hidden columns) every Q_u is
    B sym(A_L diag(D^T u) A_R^T) B^T, so a 2 hidden x 2 hidden problem is left, and r = 2 hidden of the eigenvalues are
    returned (the others are zero). method="dense" decomposes the matrices themselves, r = width. "auto" takes the reduced
    one where 2 hidden < width. Raises ValueError for another method, a reduced one without 2 hidden < width, or NaN and
    infinity in a factor or direction, and where eigenvalues leave the number range.

    >>> cp = CPTensor(torch.ones(1, 2), torch.eye(2, 9), torch.eye(2, 9))  # x1^2 + x2^2 of nine inputs
    >>> eigen(cp).values, eigen(cp, method="dense").vectors.shape
    (tensor([[1., 1., 0., 0.]]), torch.Size([1, 9, 9]))
    """
    weights = _unit_weights(cp, directions)
    _require_finite(cp, directions)
    if method not in EIGEN_METHODS:
        raise ValueError(f"method must be one of {EIGEN_METHODS}, got {method!r}")
    fits = 2 * cp.hidden < cp.width
    if method == "reduced" and not fits:
        raise ValueError(f"method 'reduced' needs 2 hidden < width, got hidden {cp.hidden} and width {cp.width}")
    form = CPTensor(weights, cp.L, cp.R)
    left, right, weights, exponent = _scaled(cp, weights)
    if method == "dense" or not fits:
        require_affordable((len(weights), cp.width, cp.width), cp.dtype, "fewer directions at a time")
        values, vectors = eigh(_symmetric_products(left, right, weights), by_size)
    else:
        values, vectors = _reduced(left, right, weights)
    return Spectrum(restored(values, exponent, "cp", "eigenvalues"), vectors, form if values.requires_grad else None)


@dataclass(frozen=True, eq=False)
class LayerHOSVD:
    """Output directions x interaction matrices, S = sum_r sigma_r u_r (x) Q_r with orthonormal u_r and orthonormal Q_r.

    directions (r, out), values sigma (r,) descending, of the layer `cp`; r is the most that can differ from
    zero, min(out, hidden, width (width + 1) / 2).
    """

    cp: CPTensor
    directions: Tensor
    values: Tensor

    def interaction(self, index: int) -> Tensor:
        """sigma_r Q_r = interaction matrix of direction r (width, width), of Frobenius norm sigma_r."""
        require_whole("index + 1", index + 1, 1, len(self.values))
        return interaction(self.cp, self.directions[index])

    def spectrum(self, method: str = "auto") -> Spectrum:
        """Eigenvectors of the interaction matrix of every direction."""
        return eigen(self.cp, self.directions, method)


def layer_hosvd(cp: CPTensor) -> LayerHOSVD:
    """HOSVD of a layer when no output directions are given: the singular value decomposition of S as out x width^2.

    From the factors: S S^T = D H D^T, H = [(L L^T) * (R R^T) + (L R^T) * (R L^T)] / 2, and sigma^2 are its eigenvalues, so
    that sum sigma^2 = |S|^2. Being roots, sigma below about 1e-8 of the largest (3e-4 in float32) are noise. Raises
    ValueError for NaN or infinity in a factor, and where sigma leaves the number range.
    Source: Pearce et al. arXiv 2410.08417, section 3.3.

    >>> layer_hosvd(CPTensor(torch.ones(2, 1), torch.tensor([[2.0]]), torch.tensor([[3.0]]))).values.round(decimals=4)
    tensor([8.4853])
    """
    require_instance("cp", cp, CPTensor)
    _require_finite(cp)
    D, L, R, exponent = balanced(cp.D, cp.L, cp.R)
    crossed = L @ R.mT
    pairs = ((L @ L.mT) * (R @ R.mT) + crossed * crossed.mT) / 2
    values, vectors = eigh(D @ pairs @ D.mT)
    most = min(cp.out, cp.hidden, cp.width * (cp.width + 1) // 2)
    return LayerHOSVD(cp, vectors[:most], restored(values[:most].clamp_min(0).sqrt(), exponent, "cp", "singular values"))


def _unit_weights(cp: CPTensor, directions: Tensor | None) -> Tensor:
    """(D^T u)^T for every direction: (m, hidden)."""
    require_instance("cp", cp, CPTensor)
    if directions is None:
        return cp.D
    require_same_kind(D=cp.D, directions=directions)
    require_last_axis("directions", directions, cp.out)
    if directions.ndim > 2 or directions.numel() == 0:
        raise ValueError(f"directions must be (m, {cp.out}) with m >= 1, or ({cp.out},), got shape {tuple(directions.shape)}")
    return directions.reshape(-1, cp.out) @ cp.D


def _require_finite(cp: CPTensor, directions: Tensor | None = None) -> None:
    for name in "DLR":
        require_finite(name, getattr(cp, name))
    if directions is not None:
        require_finite("directions", directions)


def _symmetric_products(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """sym(left^T diag(w) right) for every row w: left, right (hidden, n), weights (m, hidden) -> (m, n, n)."""
    matrices = ((weights.unsqueeze(1) * left.mT).flatten(0, 1) @ right).view(len(weights), left.shape[1], -1)
    return (matrices + matrices.mT) / 2


def _reduced(L: Tensor, R: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenpairs by way of an orthonormal basis B of the rows of L and R, which is taken as constant.

    So eigenvalues have their own gradient; that of v with lambda other than 0 leaves B by (1 - B B^T) dQ v / lambda.
    """
    basis, both = torch.linalg.qr(torch.cat([L, R]).mT.detach())
    alive = L.requires_grad or R.requires_grad or weights.requires_grad
    left, right = (L @ basis, R @ basis) if alive else both.mT.split(len(L))
    values, vectors = eigh(_symmetric_products(left, right, weights), by_size, settle=False)
    vectors = (vectors.flatten(0, 1) @ basis.mT).view(*values.shape, -1)
    if alive:
        fixed, weights = vectors.detach(), weights.unsqueeze(1)
        moved = ((fixed @ R.mT * weights) @ L + (fixed @ L.mT * weights) @ R) / 2
        zero = values.detach().abs() <= margin(values)
        vectors = vectors + (moved - moved @ basis @ basis.mT) / torch.where(zero, torch.inf, values.detach()).unsqueeze(-1)
        vectors = guarded(vectors, zero)
    return values, settled(values, vectors)


def _scaled(cp: CPTensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L, R and the weights (m, hidden) of every direction, near 1, and the exponents (m, 1) of what they were divided by."""
    D, L, R, exponent = balanced(weights, cp.L, cp.R)
    sizes = exponents(D, 1) if exponent else torch.zeros_like(D[:, :1], dtype=torch.int32)
    return L, R, shifted(D, -sizes) if exponent else D, sizes + exponent
