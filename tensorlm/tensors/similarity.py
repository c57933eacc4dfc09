"""How alike two layers are as functions, from their factors: inner products of symmetric tensors and under Gaussian inputs.

All see only S, so no gauge changes them. (The inner product of the tensors T is not such: exchanging L and R changes it.)
"""

import torch
from torch import Tensor

from tensorlm.checks import require_finite, require_instance, require_number, require_same_kind
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.tensors.cp import CPTensor, require_finite_cp

CHUNK = 2**26  # bytes of the dense slices that `distance` works through


def inner(a: CPTensor, b: CPTensor) -> Tensor:
    """<S_a, S_b> = sum_kl (D_a^T D_b)_kl [(L_a L_b^T)(R_a R_b^T) + (L_a R_b^T)(R_a L_b^T)]_kl / 2, products elementwise.

    A number, shape (), in O(h_a h_b (out + width)) without forming S. Raises ValueError where a and b have different out,
    width or device, NaN or infinity, or a result outside the number range; TypeError for different dtypes.
    Source: Kolda & Bader (2009), section 2.6, for the Gram matrices of Khatri-Rao products.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> inner(xy, xy)
    tensor(0.5000)
    """
    return restored(*scaled_inner(a, b), "a and b", "<S_a, S_b>")


def norm(a: CPTensor) -> Tensor:
    """|S_a|, the square root of inner(a, a). Where units cancel, to about 1e-8 of their size; `distance` has no such loss.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> norm(xy)
    tensor(1.4142)
    """
    _require_pair(a, a)
    a, exponent = scaled(a)
    return restored(_norm(a), exponent, "a", "|S_a|")


def cosine(a: CPTensor, b: CPTensor) -> Tensor:
    """<S_a, S_b> / (|S_a| |S_b|): 1 where b is a times a positive number, as functions.

    Raises as `inner` does, and ValueError where a or b is the zero function.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> xx = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    >>> cosine(xy, xx)
    tensor(0.)
    """
    _require_pair(a, b)
    a, b = scaled(a)[0], scaled(b)[0]
    sizes = {"a": _norm(a), "b": _norm(b)}
    for name, size in sizes.items():
        if size == 0:
            raise ValueError(f"{name} must not be the zero function, for which no cosine is defined")
    return _inner(a, b, b.L, b.R) / sizes["a"] / sizes["b"]


def gaussian_inner(a: CPTensor, b: CPTensor, mean: Tensor | None = None, covariance: Tensor | None = None) -> Tensor:
    """E[f_a(x) . f_b(x)] for x ~ N(mean, covariance), exactly; mean (width,), covariance (width, width), by default N(0, I).

    With m, C for mean and covariance and t_o = f(m)_o + tr(S_o C), the expectation of f (Isserlis 1918):
        sum_o  t_a t_b  +  4 m^T S_a C S_b m  +  2 tr(S_a C S_b C).
    A lifted input (1, x) is not centred: give it mean (1, 0, .., 0) and covariance diag(0, 1, .., 1). The default would
    take the constant for a Gaussian and so its fourth moment for 3.
    Raises as `inner` does, and ValueError where the covariance is not symmetric and positive semi-definite.

    >>> square = CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    >>> gaussian_inner(square, square), gaussian_inner(square, square, mean=torch.ones(1))  # E z^4, E (1 + z)^4
    (tensor(3.), tensor(10.))
    """
    _require_pair(a, b)
    mean = torch.zeros(a.width, dtype=a.dtype, device=a.device) if mean is None else mean
    covariance = torch.eye(a.width, dtype=a.dtype, device=a.device) if covariance is None else covariance
    _require_moments(a, mean, covariance)
    (a, first), (b, second) = scaled(a), scaled(b)
    power = max(int(exponents(mean, 0)), int(exponents(covariance, (0, 1))) // 2) if mean.any() or covariance.any() else 0
    mean, covariance = shifted(mean, -power), shifted(covariance, -2 * power)
    constant = _expectation(a, mean, covariance) @ _expectation(b, mean, covariance)
    linear = ((a.jacobian(mean) @ covariance) * b.jacobian(mean)).sum()
    total = constant + linear + 2 * _inner(a, b, b.L @ covariance, b.R @ covariance)
    return restored(total, first + second + 4 * power, "a and b", "E[f_a(x) . f_b(x)]")


def distance(a: CPTensor, b: CPTensor) -> Tensor:
    """|S_a - S_b| from the entries of the difference, so that nothing cancels: to a few eps * sum_k |D_k||L_k||R_k| of both.

    The difference is one CP tensor of h_a + h_b units; it is brought to bases of its inputs and outputs (QR) where those
    are smaller and squared slice by slice: never more than 64 MiB dense at once, or one slice. Cost O(h out width^2) at most.
    Raises as `inner` does.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> yx = CPTensor(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    >>> distance(xy, yx)
    tensor(0.)
    """
    _require_pair(a, b)
    a, b, exponent = _scaled_alike(a, b)
    return restored(_distance(a, b), exponent, "a and b", "|S_a - S_b|", reference=1.0)


def _distance(a: CPTensor, b: CPTensor) -> Tensor:
    D, L, R = torch.cat([a.D, -b.D], dim=1), torch.cat([a.L, b.L]), torch.cat([a.R, b.R])
    hidden = D.shape[1]
    if 2 * hidden < a.width:
        L, R = torch.linalg.qr(torch.cat([L, R]).mT).R.mT.split(hidden)
    if hidden < a.out:
        D = torch.linalg.qr(D).R
    rows = max(1, CHUNK // (L.shape[1] ** 2 * D.dtype.itemsize))
    parts = [torch.linalg.vector_norm(CPTensor(chunk, L, R).symmetric(float("inf"))) for chunk in D.split(rows)]
    return torch.linalg.vector_norm(torch.stack(parts))


def same_function(a: CPTensor, b: CPTensor, tolerance: float = 1e-10) -> bool:
    """Whether a and b are one function: |S_a - S_b| <= tolerance * max(|S_a|, |S_b|), or within the rounding of the factors.

    Two layers are one function exactly when their S are equal, whatever their factors are. The rounding is taken as 8 eps *
    sum_k |D_k||L_k||R_k| of both: in float64 that is about 1e-15 of their size, in float32 about 1e-6, so there the tolerance
    has little to say. Raises as `inner` does, and ValueError for a negative tolerance.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> yx = CPTensor(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    >>> same_function(xy, yx), torch.equal(xy.dense(), yx.dense())
    (True, False)
    """
    require_number("tolerance", tolerance, least=0)
    _require_pair(a, b)
    a, b, _ = _scaled_alike(a, b)
    rounding = 8 * torch.finfo(a.dtype).eps * (_unit_sizes(a) + _unit_sizes(b))
    return bool(_distance(a, b) <= torch.maximum(tolerance * torch.maximum(_norm(a), _norm(b)), rounding))


def scaled(cp: CPTensor) -> tuple[CPTensor, int]:
    """The layer with factors near 1 that is 2^-e times `cp`, and e."""
    *factors, exponent = balanced(cp.D, cp.L, cp.R)
    return CPTensor(*factors), exponent


def scaled_inner(a: CPTensor, b: CPTensor) -> tuple[Tensor, int]:
    """inner(a, b) as a number near 1 and the exponent of a power of two."""
    _require_pair(a, b)
    (a, first), (b, second) = scaled(a), scaled(b)
    return _inner(a, b, b.L, b.R), first + second


def _scaled_alike(a: CPTensor, b: CPTensor) -> tuple[CPTensor, CPTensor, int]:
    """Both layers divided by one power of two, so that the larger is near 1, and its exponent."""
    (a, first), (b, second) = scaled(a), scaled(b)
    if first != second:
        a, b = (CPTensor(shifted(cp.D, power - max(first, second)), cp.L, cp.R) for cp, power in ((a, first), (b, second)))
    return a, b, max(first, second)


def _norm(a: CPTensor) -> Tensor:
    return _inner(a, a, a.L, a.R).clamp(min=0).sqrt()


def _inner(a: CPTensor, b: CPTensor, left: Tensor, right: Tensor) -> Tensor:
    """The inner product of `inner`, with `left` and `right` (h_b, width) for the encoders of b."""
    pairs = (a.L @ left.mT) * (a.R @ right.mT) + (a.L @ right.mT) * (a.R @ left.mT)
    return ((a.D.mT @ b.D) * pairs).sum() / 2


def _expectation(cp: CPTensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """E f(x) = f(mean) + D [sum_ij L_ki C_ij R_kj], shape (out,)."""
    return cp(mean) + cp.D @ ((cp.L @ covariance) * cp.R).sum(dim=1)


def _unit_sizes(cp: CPTensor) -> Tensor:
    """sum_k |D_k| |L_k| |R_k|, which bounds |S|."""
    return (length(cp.D, 0) * length(cp.L, 1) * length(cp.R, 1)).sum()


def _require_pair(a: CPTensor, b: CPTensor) -> None:
    require_instance("a", a, CPTensor)
    require_instance("b", b, CPTensor)
    require_same_kind(**{"D of a": a.D, "D of b": b.D})
    if a.shape != b.shape:
        raise ValueError(f"b must have out={a.out} and width={a.width} like a, got out={b.out} and width={b.width}")
    require_finite_cp("a", a)
    require_finite_cp("b", b)


def _require_moments(cp: CPTensor, mean: Tensor, covariance: Tensor) -> None:
    require_same_kind(D=cp.D, mean=mean, covariance=covariance)
    for name, value, shape in (("mean", mean, (cp.width,)), ("covariance", covariance, (cp.width, cp.width))):
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
        require_finite(name, value)
    rounding = 1e3 * torch.finfo(cp.dtype).eps * covariance.abs().max()
    if (covariance - covariance.mT).abs().max() > rounding:
        raise ValueError("covariance must be symmetric, got a matrix that differs from its transpose")
    least = torch.linalg.eigvalsh(covariance).min()
    if least < -rounding:
        raise ValueError(f"covariance must be positive semi-definite, got least eigenvalue {least:.3g}")
