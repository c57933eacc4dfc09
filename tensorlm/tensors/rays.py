"""Ratios of polynomials along a ray: exact coefficients of a normed stack, and a test of whether a function is such a ratio."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.tensors.checks import require_finite, require_instance, require_rank, require_same_kind
from tensorlm.tensors.rational import RationalBlock, RationalStack


@dataclass(frozen=True, eq=False)
class RationalRay:
    """A vector of rational functions of one number with a common denominator: N(t) / q(t) at t = alpha / unit.

    Coefficients in rising order: `numerator` (degree + 1, out), `denominator` (degree + 1,). Multiplying both by the
    same number changes nothing. A well chosen `unit` keeps coefficients of high degree within the number range.
    Raises TypeError or ValueError where shapes or dtypes do not fit.

    >>> ray = RationalRay(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 0.0, 1.0]))  # alpha / (1 + alpha^2)
    >>> ray(torch.tensor([1.0, 2.0]))
    tensor([[0.5000],
            [0.4000]])
    """

    numerator: Tensor
    denominator: Tensor
    unit: float = 1.0

    def __post_init__(self):
        require_same_kind(numerator=self.numerator, denominator=self.denominator)
        if self.numerator.ndim != 2 or self.denominator.ndim != 1 or 0 in self.numerator.shape + self.denominator.shape:
            raise ValueError(f"expected numerator (degree + 1, out) and denominator (degree + 1,), none empty, got "
                             f"{tuple(self.numerator.shape)} and {tuple(self.denominator.shape)}")
        if not 0 < self.unit < math.inf:
            raise ValueError(f"unit must be a finite number above 0, got {self.unit!r}")

    @property
    def degrees(self) -> tuple[int, int]:
        return self.numerator.shape[0] - 1, self.denominator.shape[0] - 1

    def __call__(self, alphas: Tensor) -> Tensor:
        """N / q at every alpha: (...) -> (..., out). Beyond one unit in powers of 1 / alpha, so that none overflows."""
        numerator, denominator = self._values(self.numerator, self.denominator, alphas)
        excess = self.degrees[0] - self.degrees[1]
        return numerator / denominator[..., None] * (alphas / self.unit).abs().clamp(min=1).pow(excess)[..., None]

    def cancellation(self, alphas: Tensor) -> Tensor:
        """How much larger the terms of N and q are than their sums: (...) -> (...), at least 1.

        The relative error of a value is about the dtype's rounding error times this. It grows with the degree, where
        x + alpha s is much shorter than |x| + |alpha| |s|: a steering vector that cancels what it is added to.

        >>> RationalRay(torch.ones(1, 1), torch.tensor([1.0, -0.99])).cancellation(torch.tensor([0.0, 1.0])).round()
        tensor([  1., 199.])
        """
        numerator, denominator = self._values(self.numerator, self.denominator, alphas)
        largest = self._values(self.numerator.abs(), self.denominator.abs(), alphas.abs())
        return torch.maximum(largest[0].amax(-1) / numerator.abs().amax(-1), largest[1] / denominator.abs())

    def _values(self, numerator: Tensor, denominator: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """N and q at every t = alpha / unit, each divided by |t|^degree beyond |t| = 1."""
        require_same_kind(numerator=numerator, alphas=alphas)
        points = alphas / self.unit
        far = points.abs() > 1
        inverse, inside = 1 / torch.where(far, points, torch.ones_like(points)), torch.where(far, torch.zeros_like(points), points)
        values = []
        for coefficients in (numerator, denominator[:, None]):
            outer = _horner(coefficients.flip(0), inverse) * inverse.sign().pow(len(coefficients) - 1)[..., None]
            values.append(torch.where(far[..., None], outer, _horner(coefficients, inside)))
        return values[0], values[1][..., 0]


def along(stack: RationalStack | RationalBlock, x: Tensor, s: Tensor) -> RationalRay:
    """The stack on the ray x + alpha s, exactly: coefficient arrays of the stack's degrees. Shapes: x and s (width,).

    A layer's product is a convolution of coefficients, done directly: an FFT's error is relative to the largest
    coefficient and would drown the small ones. Numerator and denominator are divided by one number after each block, and
    the unit of alpha is |x| / |s|, which balances low and high powers.
    How many digits the values keep is what `RationalRay.cancellation` says.
    Raises TypeError or ValueError naming the argument where it does not fit or is not finite.

    >>> from tensorlm.tensors.cp import CPTensor
    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)))
    >>> x, s = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    >>> ray = along(block, x, s)
    >>> ray.degrees, torch.allclose(ray(torch.tensor(0.7)), block(x + 0.7 * s))
    ((3, 2), True)
    """
    if isinstance(stack, RationalBlock):
        stack = RationalStack((stack,))
    require_instance("stack", stack, RationalStack)
    blocks = stack.blocks
    for name, vector in (("x", x), ("s", s)):
        require_same_kind(**{"stack": blocks[0].cp.D, name: vector})
        if tuple(vector.shape) != (blocks[0].cp.width,):
            raise ValueError(f"{name} must have shape {(blocks[0].cp.width,)}, got {tuple(vector.shape)}")
        require_finite(name, vector)
    unit = (x.norm() / s.norm()).item()
    unit = unit if 0 < unit < math.inf else 1.0
    numerator, denominator = torch.stack([x, unit * s]), x.new_ones(1)
    for block in blocks:
        numerator, denominator = advance_along(block, numerator, denominator)
    return RationalRay(numerator, denominator, unit)


def convolve(a: Tensor, b: Tensor) -> Tensor:
    """Coefficients of the product of two polynomials, along the first axis: (n, ...), (m, ...) -> (n + m - 1, ...).

    >>> convolve(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))  # (1 + t)(1 + t)^2
    tensor([1., 3., 3., 1.])
    """
    if a.shape[0] > b.shape[0]:
        a, b = b, a
    product = b.new_zeros(a.shape[0] + b.shape[0] - 1, *torch.broadcast_shapes(a.shape[1:], b.shape[1:]))
    for power, coefficient in enumerate(a):
        product[power : power + b.shape[0]] += coefficient * b
    return product


def rational_misfit(function: Callable[[Tensor], Tensor], degrees: tuple[int, int], reach: float = 1.0) -> float:
    """How far a function of one number is from a ratio of polynomials of these degrees, on [-reach, reach].

    Fits N(a) / q(a) to `function` (alphas (n,) -> values (n,)) in twice as many points as it has coefficients, and returns
    the largest error at points between them, relative to the largest value. Rounding error for a function that is such a
    ratio (about 1e-12 in float64); for one with a square root left, far above it.

    >>> ratio, root = (lambda a: a / (1 + a**2)), (lambda a: a / torch.sqrt(1 + a**2))
    >>> rational_misfit(ratio, (1, 2)) < 1e-12, rational_misfit(root, (1, 2)) > 1e-3
    (True, True)
    """
    if not 0 < reach < math.inf:
        raise ValueError(f"reach must be a finite number above 0, got {reach}")
    numerator, denominator = (degree + 1 for degree in degrees)
    for name, count in (("the numerator's degree", numerator), ("the denominator's degree", denominator)):
        require_rank(count, 200, f"1 + {name}")
    points = _nodes(4 * (numerator + denominator) + 1)
    fitted, between = points[::2], points[1::2]
    values, truth = function(reach * fitted), function(reach * between)
    require_same_kind(values=values, alphas=points)
    require_finite("values", values)
    if values.shape != fitted.shape or not values.any():
        raise ValueError(f"function must return a number for each of {len(fitted)} alphas, not all 0, got shape {tuple(values.shape)}")
    coefficients = _null_vector(fitted, values, numerator, denominator)
    ratio = _chebyshev(between, numerator) @ coefficients[:numerator] / (_chebyshev(between, denominator) @ coefficients[numerator:])
    return ((ratio - truth).abs().max() / truth.abs().max()).item()


def advance_along(block: RationalBlock, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """`RationalBlock.advance` on coefficients: (n, width) and (m,) to those after the block, both divided by one number.

    Raises ValueError where coefficients leave the number range or the denominator vanishes.
    """
    numerator, denominator = _advance(block, numerator, denominator)
    size = denominator.abs().max()
    if not 0 < size < math.inf or not torch.isfinite(numerator).all():
        raise ValueError(f"x and s must leave coefficients within the number range and a denominator other than 0, got {size.item()} "
                         "for the largest coefficient of the denominator: vectors of ordinary size, or eps above 0, will do")
    return numerator / size, denominator / size


def _advance(block: RationalBlock, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    cp = block.cp
    layer = convolve(numerator @ cp.L.mT, numerator @ cp.R.mT) @ cp.D.mT
    square = convolve(numerator, numerator).mean(-1)
    square = square + block.eps * _to_length(convolve(denominator, denominator), len(square))
    if block.residual == "none":
        return layer, square
    cubic = convolve(numerator, square[:, None])
    return cubic + _to_length(convolve(layer, denominator[:, None]), len(cubic)), convolve(denominator, square)


def _to_length(coefficients: Tensor, length: int) -> Tensor:
    return F.pad(coefficients, (0, 0) * (coefficients.ndim - 1) + (0, length - len(coefficients)))


def _horner(coefficients: Tensor, points: Tensor) -> Tensor:
    """Values at points (...) of polynomials (degree + 1, ...): (..., ...)."""
    points = points.reshape(points.shape + (1,) * (coefficients.ndim - 1))
    value = coefficients[-1] * torch.ones_like(points)
    for coefficient in coefficients.flip(0)[1:]:
        value = value * points + coefficient
    return value


def _nodes(count: int) -> Tensor:
    return -torch.cos(torch.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count)


def _chebyshev(points: Tensor, count: int) -> Tensor:
    return torch.cos(torch.arange(count, dtype=torch.float64) * torch.arccos(points)[:, None])


def _null_vector(points: Tensor, values: Tensor, numerator: int, denominator: int) -> Tensor:
    """Chebyshev coefficients of N and q with N(a) - f(a) q(a) as small as can be at the points."""
    scale = values.abs().max()
    system = torch.cat([_chebyshev(points, numerator) * scale, -values[:, None] * _chebyshev(points, denominator)], dim=1)
    vector = torch.linalg.svd(system / scale).Vh[-1]
    return torch.cat([vector[:numerator] * scale, vector[numerator:]])
