"""Polynomials in powers of one variable or several, and ratios of them, as arrays of coefficients in rising order."""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.checks import DTYPES, require, require_instance, require_number, require_whole

CHUNK_SIZE = 1 << 20  # numbers that a product keeps at a time before it sums them by degree
FEW_NUMBERS = 1 << 16  # of which a product adds up a table of all pairs, as a call for each row would cost more


@dataclass(frozen=True)
class Monomials:
    """The monomials in `variables` strengths up to total degree `order` (None: no limit), sorted by total degree.

    A polynomial of degree n is an array with `rows(n)` = C(n + variables, variables) entries in its first axis, a coefficient
    (of any shape) for each monomial, lower degrees first. What lies above `order` is dropped: the array is a jet.

    >>> Monomials(1).multiply(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))  # (1 + t)(1 + t)^2
    tensor([1., 3., 3., 1.])
    """

    variables: int = 1
    order: int | None = None

    def __post_init__(self):
        require_whole("variables", self.variables, 1)
        require(self.variables == 1 or self.order is not None, "order", self.order, f"given for {self.variables} strengths")
        if self.order is not None:
            require_whole("order", self.order)

    def rows(self, degree: int) -> int:
        """Coefficients of a polynomial of this degree, none above the order."""
        degree = degree if self.order is None else min(degree, self.order)
        return math.comb(degree + self.variables, self.variables)

    @cached_property
    def exponents(self) -> tuple[tuple[int, ...], ...]:
        """The powers of each strength in every monomial, in the order of the rows: (0, 0), (1, 0), (0, 1), (2, 0), ..."""
        order = require_whole("order", self.order)
        if self.variables == 1:
            return tuple((degree,) for degree in range(order + 1))
        shorter = Monomials(self.variables - 1, order).exponents
        return tuple((degree - sum(rest), *rest) for degree in range(order + 1) for rest in shorter if sum(rest) <= degree)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum of two arrays of possibly different degrees."""
        short, long = (a, b) if a.shape[0] <= b.shape[0] else (b, a)
        if short.shape[0] == long.shape[0]:
            return short + long
        total = long.clone()
        total[: short.shape[0]].add_(short)
        return total

    def multiply(self, a: Tensor, b: Tensor, equation: str = "") -> Tensor:
        """The product of two polynomials: (n, ...), (m, ...) -> (rows of both degrees, ...), by direct convolution.

        Coefficients are multiplied number by number, or as `equation` says, an einsum of two coefficients without their first
        axis ("qe,ke->qk"). There is no FFT: its error is relative to the largest coefficient and would drown the small ones.
        """
        if self.variables > 1:
            return self._multiply_by_table(a, b, _by_equation(equation))
        limit = self.rows(a.shape[0] + b.shape[0] - 2)
        return _convolve_matrices(a, b, limit, _by_equation(equation)) if equation else _convolve(a, b, limit)

    def _multiply_by_table(self, a: Tensor, b: Tensor, product) -> Tensor:
        table = _products(self)[: len(a), : len(b)].to(a.device)
        rows = (table[:, row] >= 0 for row in range(len(b)))
        parts = ((table[kept, row], product(a[kept], b[row : row + 1])[:, 0]) for row, kept in enumerate(rows))
        where, first = next(parts)
        total = first.new_zeros(1 + int(table.max()), *first.shape[1:]).index_add_(0, where, first)
        for where, part in parts:
            total.index_add_(0, where, part)
        return total


def _convolve(a: Tensor, b: Tensor, limit: int) -> Tensor:
    if a.shape[0] > b.shape[0]:
        a, b = b, a
    n, m, shape = a.shape[0], b.shape[0], b.shape[1:]
    if a.shape[1:] != shape:
        shape = torch.broadcast_shapes(a.shape[1:], shape)
    if n * (n + m - 1) * shape.numel() <= FEW_NUMBERS:
        pairs = b.new_zeros(n, n + m - 1, *shape)  # row n begins at degree n
        step, *strides = pairs.stride()
        pairs.as_strided((n, m, *shape), (step + strides[0], *strides)).addcmul_(a.unsqueeze(1), b)
        total = pairs.sum(0)
    else:
        total = b.new_zeros(n + m - 1, *shape)
        windows = total.as_strided((n, m, *shape), (total.stride(0), *total.stride()))
        for window, coefficient in zip(windows[:limit].unbind(), a.unbind()):
            window.addcmul_(coefficient, b)
    return total if limit >= n + m - 1 else total[:limit]


def _convolve_matrices(a: Tensor, b: Tensor, limit: int, product) -> Tensor:
    """All pairs of coefficients in few big products, summed by degree."""
    pair = product(a[:1], b[:1])
    step = max(1, CHUNK_SIZE // (len(a) * max(1, pair.numel())))
    if len(b) <= step:
        return _by_degree(product(a, b))[:limit]
    total = pair.new_zeros(limit, *pair.shape[2:])
    for start in range(0, min(len(b), limit), step):
        part = _by_degree(product(a[: limit - start], b[start : start + step]))[: limit - start]
        total[start : start + len(part)] += part
    return total


def _by_equation(equation: str):
    """The function that multiplies all pairs of coefficients: (n, ...), (m, ...) -> (n, m, ...)."""
    if not equation:
        return lambda a, b: a[:, None] * b[None]
    terms, result = equation.split("->")
    one, other = terms.split(",")
    return lambda a, b: torch.einsum(f"A{one},B{other}->AB{result}", a, b)


def _by_degree(pairs: Tensor) -> Tensor:
    """Sums of pairs (n, m, ...) of one degree: rows of length n + m, read as n + m - 1 long, each begin one step further on."""
    n, m, *rest = pairs.shape
    if min(n, m) == 1:
        return pairs.flatten(0, 1)
    padded = F.pad(pairs.reshape(n, m, -1), (0, 0, 0, n)).reshape(n * (n + m), -1)
    return padded[: n * (n + m - 1)].view(n, n + m - 1, -1).sum(0).view(n + m - 1, *rest)


@lru_cache
def _products(algebra: Monomials) -> Tensor:
    """The row of the product of two monomials, -1 above the order."""
    row = {powers: index for index, powers in enumerate(algebra.exponents)}
    with torch.inference_mode(False):  # so that what has a gradient may use it later
        return torch.tensor([[row.get(tuple(map(sum, zip(one, other))), -1) for other in row] for one in row])


POWERS = Monomials()


@dataclass(frozen=True, eq=False)
class Polynomial:
    """p(alpha) = sum_k c_k t^k with t = (alpha - centre) / unit and coefficients c_k of any shape.

    `coefficients` (degree + 1, ...) in rising order, float32 or float64. `exact` False says that terms above are missing (a
    jet, the truncated Taylor series at `centre`). A unit of the size of the strengths keeps coefficients in the number range.

    >>> p = Polynomial(torch.tensor([1.0, 2.0, 3.0]))  # 1 + 2 alpha + 3 alpha^2
    >>> p(torch.tensor([0.0, 1.0, -2.0])), p.derivative()(torch.tensor(1.0))
    (tensor([1., 6., 9.]), tensor(8.))
    """

    coefficients: Tensor
    unit: float = 1.0
    centre: float = 0.0
    exact: bool = True

    def __post_init__(self):
        require_instance("coefficients", self.coefficients, Tensor)
        require(self.coefficients.dtype in DTYPES, "dtype of coefficients", self.coefficients.dtype, "torch.float32 or torch.float64")
        require(self.coefficients.ndim and len(self.coefficients), "coefficients", self.coefficients, "of shape (degree + 1, ...)")
        require_number("unit", self.unit, above=0)
        require_number("centre", self.centre)

    @property
    def degree(self) -> int:
        return self.coefficients.shape[0] - 1

    @property
    def shape(self) -> torch.Size:
        return self.coefficients.shape[1:]

    def __call__(self, alphas: Tensor) -> Tensor:
        """Values at every strength: (...) -> (..., *shape)."""
        points, coefficients = self.points(alphas), self.coefficients
        if not _reaches_out(points):
            powers = _powers(points, self.degree)
            return powers @ coefficients if coefficients.ndim <= 2 else torch.tensordot(powers, coefficients, dims=1)
        values, growth = self.reduced(alphas)
        return values * _for_all(growth, self.shape)

    def reduced(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """(v, g) with p = v g and g = max(1, |t|)^degree: v in powers of t, or of 1 / t beyond |t| = 1, never overflows."""
        points = self.points(alphas)
        values = torch.tensordot(_scaled_powers(points, self.degree), self.coefficients, dims=1)
        return values, points.abs().clamp(min=1).pow(self.degree)

    def points(self, alphas: Tensor) -> Tensor:
        """t = (alpha - centre) / unit, in the dtype of the coefficients."""
        points = torch.as_tensor(alphas).to(self.coefficients)
        return (points - self.centre if self.centre else points) / self.unit

    def cancellation(self, alphas: Tensor) -> Tensor:
        """By how much more than rounding values may err: max sum_k |c_k t^k| / max |p|, (...) -> (...), at least 1."""
        powers, coefficients = _scaled_powers(self.points(alphas), self.degree), self.coefficients.reshape(self.degree + 1, -1)
        largest, values = (powers.abs() @ coefficients.abs()).amax(-1), torch.linalg.vector_norm(powers @ coefficients, math.inf, -1)
        return (largest / values).masked_fill_(largest == 0, 1.0)

    def derivative(self, order: int = 1) -> "Polynomial":
        """The derivative in alpha; that of a jet is known to one order less each time."""
        coefficients = self.coefficients
        for _ in range(require_whole("order", order)):
            powers = torch.arange(1, len(coefficients)).to(coefficients)
            coefficients = coefficients[1:] * _for_all(powers, self.shape) / self.unit if len(powers) else torch.zeros_like(coefficients)
        return replace(self, coefficients=coefficients)

    def mapped(self, linear) -> "Polynomial":
        """The polynomial of linearly mapped values; `linear` takes the coefficients as a batch."""
        return replace(self, coefficients=linear(self.coefficients))

    def rescaled(self, unit: float) -> "Polynomial":
        """The same function in powers of (alpha - centre) / unit."""
        powers = torch.arange(self.degree + 1).to(self.coefficients)
        return replace(self, coefficients=self.coefficients * _for_all((unit / self.unit) ** powers, self.shape), unit=unit)


@dataclass(frozen=True, eq=False)
class Ratio:
    """numerator / denominator^power, of one unit and centre: functions with one denominator; power 1/2 leaves a norm's root.

    >>> ratio = Ratio(Polynomial(torch.tensor([0.0, 1.0])), Polynomial(torch.tensor([1.0, 0.0, 1.0])))  # a / (1 + a^2)
    >>> ratio(torch.tensor([1.0, 2.0])), ratio.derivative(torch.tensor([1.0, 2.0]), 1)
    (tensor([0.5000, 0.4000]), tensor([ 0.0000, -0.1200]))
    """

    numerator: Polynomial
    denominator: Polynomial
    power: float = 1.0

    @property
    def degrees(self) -> tuple[int, int]:
        return self.numerator.degree, self.denominator.degree

    def __call__(self, alphas: Tensor) -> Tensor:
        return self.derivative(alphas, 0)

    def derivative(self, alphas: Tensor, order: int) -> Tensor:
        """From the Taylor coefficients of both sides at each strength, f_k of d^-p by k d_0 f_k = sum_j (-p j - k + j) d_j f_(k-j)."""
        tops, bottoms = ([side.derivative(k).reduced(alphas)[0] / math.factorial(k) for k in range(order + 1)]
                         for side in (self.numerator, self.denominator))  # p^(k) / k! divided by max(1, |t|)^(degree - k)
        inverse = [bottoms[0].pow(-self.power)]
        for k in range(1, order + 1):
            terms = [(-self.power * j - k + j) * bottoms[j] * inverse[k - j] for j in range(1, k + 1)]
            inverse.append(sum(terms) / (k * bottoms[0]))
        total = sum(tops[j] * _for_all(inverse[order - j], self.numerator.shape) for j in range(order + 1))
        growth = self.numerator.points(alphas).abs().clamp(min=1)
        excess = self.numerator.degree - self.power * self.denominator.degree - order
        return math.factorial(order) * total * _for_all(growth.pow(excess), self.numerator.shape)

    def cancellation(self, alphas: Tensor) -> Tensor:
        """The larger one of both sides': (...) -> (...), at least 1; see `Polynomial.cancellation`."""
        return torch.maximum(self.numerator.cancellation(alphas), self.denominator.cancellation(alphas))


def _scaled_powers(points: Tensor, degree: int) -> Tensor:
    """t^k for k = 0 .. degree, divided by |t|^degree beyond |t| = 1: (...) -> (..., degree + 1)."""
    if not _reaches_out(points):
        return _powers(points, degree)
    far = points.abs() > 1
    inside = _powers(torch.where(far, torch.zeros_like(points), points), degree)
    inverse = torch.where(far, points, torch.ones_like(points)).reciprocal()
    outside = _powers(inverse, degree).flip(-1) * inverse.sign().pow(degree)[..., None]
    return torch.where(far[..., None], outside, inside)


def _powers(points: Tensor, degree: int) -> Tensor:
    """1, t, t^2, ...: (...) -> (..., degree + 1)."""
    powers = points.new_ones(*points.shape, degree + 1)
    powers[..., 1:] = points[..., None]
    return powers.cumprod_(-1)


def _reaches_out(points: Tensor) -> bool:
    """Whether a point does not lie in -1 .. 1, which NaN does not."""
    return points.numel() > 0 and not all(abs(end.item()) <= 1 for end in points.detach().aminmax())


def _for_all(factors: Tensor, shape: torch.Size) -> Tensor:
    """Factors (...) that multiply values (..., *shape)."""
    return factors.reshape(factors.shape + (1,) * len(shape))
