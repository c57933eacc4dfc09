"""Functions of a strength on a bounded interval as Chebyshev series, in one piece or several, and where the largest value changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from tensorlm.checks import require, require_instance, require_interval

Values = Callable[[Tensor], Tensor]  # strengths (n,) -> (n, ...)
ROUNDING = 2.0**-50  # what is below this share of the sizes it comes from is rounding
MAX_SPREAD = 1e3  # between the largest and the smallest size of a function within one piece
MAX_HALVINGS = 10  # of an interval, for a piece
MAX_PIECES = 64
NODE_COUNTS = (17, 33, 65)  # of a piece whose degree is not known
AXIS_DISTANCE = 1e-4  # from the real axis, in half intervals, within which a root marks a place to look at
MAX_PAIRED = 4  # contenders whose pairs are all solved
MAX_CONTEST_HALVINGS = 12


@dataclass(frozen=True, eq=False)
class ChebyshevSeries:
    """p(alpha) = sum_k c_k T_k(t), t in [-1, 1] standing for alpha in [low, high]; `coefficients` (degree + 1, ...).

    On its interval the error of a value is rounding times the largest value there; outside of it nothing is promised.
    Source: Trefethen, Approximation Theory and Approximation Practice.

    >>> ChebyshevSeries.of(lambda alphas: alphas**3, 0.0, 2.0, degree=3).derivative()(torch.tensor([1.0]))
    tensor([3.0000], dtype=torch.float64)
    """

    coefficients: Tensor
    low: float
    high: float

    def __post_init__(self):
        require_instance("coefficients", self.coefficients, Tensor)
        fits = self.coefficients.ndim and len(self.coefficients) and self.coefficients.is_floating_point()
        require(fits, "coefficients", self.coefficients, "floating point numbers of shape (degree + 1, ...)")
        require_interval((self.low, self.high))

    @classmethod
    def of(cls, function: Values, low: float, high: float, degree: int) -> "ChebyshevSeries":
        """The interpolant of `function` in degree + 1 nodes: the function itself if it is such a polynomial."""
        return cls.through(function(nodes(degree + 1, low, high)), low, high)

    @classmethod
    def through(cls, values: Tensor, low: float, high: float) -> "ChebyshevSeries":
        """The interpolant of values (n, ...) at `nodes(n, low, high)`."""
        count = len(values)
        k, j = torch.arange(count)[:, None], count - 1 - torch.arange(count)
        weights = torch.cos(math.pi / (2 * count) * (k * (2 * j + 1) % (4 * count)).double()).to(values) * (2 / count)
        weights[0] /= 2
        return cls(torch.tensordot(weights, values, dims=1), low, high)

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def __call__(self, alphas: Tensor) -> Tensor:
        """(...) -> (..., *shape), by the recurrence T_k+1 = 2 t T_k - T_k-1."""
        points = (2 * alphas.to(self.coefficients) - (self.low + self.high)) / (self.high - self.low)
        rows = [torch.ones_like(points), points]
        for _ in range(self.degree - 1):
            rows.append(2 * points * rows[-1] - rows[-2])
        return torch.tensordot(torch.stack(rows[: self.degree + 1], -1), self.coefficients, dims=1)

    def derivative(self, order: int = 1) -> "ChebyshevSeries":
        """The derivative in alpha, of this order."""
        found = chebyshev.chebder(self.coefficients.numpy(force=True), order, 2 / (self.high - self.low))
        return replace(self, coefficients=torch.from_numpy(found).to(self.coefficients))

    def sizes(self) -> Tensor:
        """The largest coefficient of every degree: (degree + 1,)."""
        return self.coefficients.reshape(len(self.coefficients), -1).abs().amax(-1)

    def chopped(self) -> "ChebyshevSeries":
        """Without the last coefficients that are rounding beside the largest."""
        kept = torch.nonzero(self.sizes() > ROUNDING * self.sizes().max())
        return replace(self, coefficients=self.coefficients[: int(kept.max()) + 1 if len(kept) else 1])


@dataclass(frozen=True, eq=False)
class PiecewiseSeries:
    """Chebyshev series on neighbouring intervals, from left to right; strengths outside raise ValueError."""

    pieces: tuple[ChebyshevSeries, ...]

    def __call__(self, alphas: Tensor) -> Tensor:
        """(n,) -> (n, ...)."""
        low, high = self.pieces[0].low, self.pieces[-1].high
        if len(alphas) and (alphas.min() < low or alphas.max() > high):
            raise ValueError(f"strengths must lie in the interval ({low:g}, {high:g}) on which this response was computed, got "
                             f"{alphas.min():g} to {alphas.max():g}; give another interval")
        inner = torch.tensor([piece.low for piece in self.pieces[1:]], dtype=alphas.dtype)
        where = torch.bucketize(alphas, inner, right=True)
        values = alphas.new_zeros(len(alphas), *self.pieces[0].coefficients.shape[1:])
        for index in where.unique().tolist():
            values[where == index] = self.pieces[index](alphas[where == index])
        return values

    def derivative(self, order: int = 1) -> "PiecewiseSeries":
        return PiecewiseSeries(tuple(piece.derivative(order) for piece in self.pieces))


def nodes(count: int, low: float, high: float) -> Tensor:
    """The Chebyshev points of the first kind on [low, high]: (count,), float64, rising."""
    points = -torch.cos(math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return (low + high) / 2 + (high - low) / 2 * points


class _Piece(NamedTuple):
    series: ChebyshevSeries
    tail: float  # the last three coefficients, relative to the largest one: what the next ones may come to
    need: float  # of halving it: above 1 if so
    depth: int


def resolve(function: Values, low: float, high: float, degree: int | None = None,
            tolerance: float = 1e-13) -> tuple[PiecewiseSeries, float]:
    """`function` (n,) -> (n, values) on [low, high] as a piecewise series, and the largest tail that was left.

    With a `degree`, each piece takes degree + 1 nodes and is the function itself; without, 17 to 65 nodes. The worst piece is
    halved while its tail is above the tolerance, or its |values|, whose error is relative to the largest, are more than
    `MAX_SPREAD` apart, and there are fewer than `MAX_PIECES`. Raises ValueError where a value is not finite.
    """
    pieces = [_piece(function, low, high, degree, tolerance, 0)]
    while len(pieces) < MAX_PIECES and (worst := max(pieces, key=lambda piece: piece.need)).need > 1:
        pieces.remove(worst)
        middle = (worst.series.low + worst.series.high) / 2
        for ends in ((worst.series.low, middle), (middle, worst.series.high)):
            pieces.append(_piece(function, *ends, degree, tolerance, worst.depth + 1))
    pieces.sort(key=lambda piece: piece.series.low)
    return PiecewiseSeries(tuple(piece.series.chopped() for piece in pieces)), max(piece.tail for piece in pieces)


def _piece(function: Values, low: float, high: float, degree: int | None, tolerance: float, depth: int) -> _Piece:
    for count in NODE_COUNTS if degree is None else (degree + 1,):
        values = function(nodes(count, low, high))
        if not torch.isfinite(values).all():
            raise ValueError(f"values must be finite, got some that are not in ({low:g}, {high:g}); choose a smaller interval")
        series = ChebyshevSeries.through(values, low, high)
        sizes = series.sizes()
        tail = float(sizes[-3:].max() / sizes.max()) if degree is None and sizes.max() > 0 else 0.0
        if tail <= tolerance:
            break
    reach = values.reshape(count, -1).abs().amax(-1)
    spread = float(reach.max() / reach.min().clamp(min=1e-300)) if reach.max() > 0 else 1.0
    return _Piece(series, tail, 0.0 if depth == MAX_HALVINGS else max(spread / MAX_SPREAD, tail / tolerance), depth)


class TippingPoint(NamedTuple):
    """A strength at which the largest value becomes another one: below it `before` is ahead, above it `after`."""

    strength: float
    before: int
    after: int


def lead_changes(curve: PiecewiseSeries, values: Values) -> list[TippingPoint]:
    """Every strength at which another token has the largest value, from left to right, and each `after` is the next `before`.

    Of equal values the first token leads, as argmax has it. `curve` (values in its last axis) finds the contenders: on an
    interval, a token whose series cannot reach that of the best one is out; where more than four are left the interval is
    halved. Crossings of the rest are roots of differences. `values` (n,) -> (n, tokens) is what is compared in the end,
    between those roots and at the ends; what differs by rounding alone changes no lead. A place is found by halving.
    """
    low, high = curve.pieces[0].low, curve.pieces[-1].high
    crossings = [root for piece in curve.pieces for root in _crossings(piece, 0)]
    edges = torch.tensor([low, *crossings, high], dtype=torch.float64).clamp(low, high).unique()
    between = torch.cat([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]]).unique()
    table = values(between)
    best, first = table.max(-1, keepdim=True).values, table.argmax(-1)
    level, leaders = best - table <= ROUNDING * (best.abs() + table.abs()), first.clone()
    for place in range(1, len(first) - 1):  # inside, the one before leads as long as no other is ahead by more than rounding
        if level[place, leaders[place - 1]]:
            leaders[place] = leaders[place - 1]
    change = leaders[:-1] != leaders[1:]
    found = _changes(values, between[:-1][change], between[1:][change], leaders[:-1][change], leaders[1:][change])
    return [point for bracket in found for point in bracket]


def real_roots(series: ChebyshevSeries) -> Tensor:
    """Real parts of the roots near the interval of a series with one value, in float64, sorted: places to look between, as
    close pairs may come out a little off the real axis."""
    coefficients = series.chopped().coefficients.double()
    if coefficients[0].abs() > coefficients[1:].abs().sum() * (1 + AXIS_DISTANCE):
        return coefficients.new_zeros(0)
    found = torch.from_numpy(chebyshev.chebroots(coefficients.numpy(force=True))).to(torch.complex128)
    near = (found.imag.abs() < AXIS_DISTANCE) & (found.real.abs() <= 1 + AXIS_DISTANCE)
    return (series.low + series.high) / 2 + (series.high - series.low) / 2 * found.real[near].sort().values


def _crossings(series: ChebyshevSeries, depth: int) -> list[float]:
    """Places between which the leading value of a series may change."""
    coefficients = series.coefficients
    best = int(coefficients[0].argmax())
    gaps, sizes = coefficients - coefficients[:, best, None], coefficients.abs().sum(0)
    reach = gaps[1:].abs().sum(0)
    near = (gaps[0] + reach >= 0) & (reach + gaps[0].abs() > ROUNDING * (sizes + sizes[best]))
    contenders = [best, *torch.nonzero(near)[:, 0].tolist()]
    if len(contenders) <= MAX_PAIRED:
        first, second = torch.combinations(torch.tensor(contenders), 2).unbind(1)
        differences = (coefficients[:, first] - coefficients[:, second]).unbind(1)
        return [root for each in differences for root in real_roots(replace(series, coefficients=each)).tolist()]
    if depth == MAX_CONTEST_HALVINGS:  # many cross in nearly one place
        return [series.low, series.high]
    middle = (series.low + series.high) / 2
    halves = (ChebyshevSeries.of(series, *ends, series.degree).chopped() for ends in ((series.low, middle), (middle, series.high)))
    return [root for half in halves for root in _crossings(half, depth + 1)]


def _changes(values: Values, low: Tensor, high: Tensor, before: Tensor, after: Tensor) -> list[list[TippingPoint]]:
    """In each bracket (n,), the changes from the one that leads at its left end to the one at its right end, others between them too."""
    pair = torch.stack([before, after], -1)
    left, right = low, high
    while bool(((left < (middle := (left + right) / 2)) & (middle < right)).any()):  # down to neighbouring numbers
        one, other = values(middle).gather(1, pair).unbind(-1)
        held = (one > other) | ((one == other) & (before < after))  # argmax, asked of these two alone, takes `before`
        left, right = torch.where(held, middle, left), torch.where(held, right, middle)
    strengths = (left + right) / 2
    found = [[TippingPoint(*point)] for point in zip(strengths.tolist(), before.tolist(), after.tolist())]
    table = values(strengths)
    (best, third), most = table.max(-1), table.gather(1, pair).amax(-1)
    other = best - most > ROUNDING * (best.abs() + most.abs())  # a third one is ahead of both by more than rounding
    if bool(other.any()):
        lower = _changes(values, low[other], strengths[other], before[other], third[other])
        upper = _changes(values, strengths[other], high[other], third[other], after[other])
        for bracket, below, above in zip(torch.nonzero(other)[:, 0].tolist(), lower, upper):
            found[bracket] = below + above
    return found
