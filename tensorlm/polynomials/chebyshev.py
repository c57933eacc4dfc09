"""Functions of a strength on a bounded interval as Chebyshev series, in one piece or several."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_instance, require_interval

ROUNDING = 2.0**-50  # coefficients below this share of the largest one are rounding
SPREAD = 1e3  # between the largest and the smallest size of a function within one piece
DEPTH = 10  # halvings of an interval
NODES = (17, 33, 65)  # of a piece whose degree is not known


@dataclass(frozen=True, eq=False)
class ChebyshevSeries:
    """p(alpha) = sum_k c_k T_k(t), t in [-1, 1] standing for alpha in [low, high]; `coefficients` (degree + 1, ...).

    On its interval a series has no cancellation between high powers: the error of a value is rounding times the largest
    value on the interval. Outside of it nothing is promised (Trefethen, Approximation Theory and Approximation Practice).

    >>> series = ChebyshevSeries.of(lambda alphas: alphas**3, 0.0, 2.0, degree=3)
    >>> series(torch.tensor([0.5, 2.0])), series.derivative()(torch.tensor([1.0]))
    (tensor([0.1250, 8.0000], dtype=torch.float64), tensor([3.0000], dtype=torch.float64))
    """

    coefficients: Tensor
    low: float
    high: float

    def __post_init__(self):
        require_instance("coefficients", self.coefficients, Tensor)
        if self.coefficients.ndim == 0 or len(self.coefficients) == 0 or not self.coefficients.is_floating_point():
            raise ValueError(f"coefficients must have shape (degree + 1, ...) and be floating point numbers, got "
                             f"{self.coefficients.dtype} {tuple(self.coefficients.shape)}")
        require_interval((self.low, self.high))

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], low: float, high: float, degree: int) -> "ChebyshevSeries":
        """The interpolant of `function` (n,) -> (n, ...) in degree + 1 nodes: the function itself if it is such a polynomial."""
        return cls.through(function(nodes(degree + 1, low, high)), low, high)

    @classmethod
    def through(cls, values: Tensor, low: float, high: float) -> "ChebyshevSeries":
        """The interpolant of values (n, ...) at `nodes(n, low, high)`."""
        count = len(values)
        weights = _node_table(count).to(values) * (2 / count)
        weights[0] /= 2
        return cls((weights @ values.reshape(count, -1)).reshape(values.shape), low, high)

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def __call__(self, alphas: Tensor) -> Tensor:
        """(...) -> (..., *shape), by the recurrence T_k+1 = 2 t T_k - T_k-1."""
        points = (2 * alphas.to(self.coefficients) - (self.low + self.high)) / (self.high - self.low)
        rows = [torch.ones_like(points), points]
        for _ in range(self.degree - 1):
            rows.append(2 * points * rows[-1] - rows[-2])
        table = torch.stack(rows[: self.degree + 1], -1)
        values = table.reshape(-1, self.degree + 1) @ self.coefficients.reshape(self.degree + 1, -1)
        return values.reshape((*points.shape, *self.coefficients.shape[1:]))

    def derivative(self, order: int = 1) -> "ChebyshevSeries":
        """c'_(k-1) = c'_(k+1) + 2 k c_k, from the top down."""
        series = self
        for _ in range(order):
            series = replace(series, coefficients=_differentiated(series.coefficients) * (2 / (series.high - series.low)))
        return series

    def tail(self) -> float:
        """Size of the last three coefficients, relative to the largest one: what the next ones may come to."""
        sizes = self._sizes()
        return float(sizes[-3:].max() / sizes.max()) if sizes.max() > 0 else 0.0

    def chopped(self, share: float = ROUNDING) -> "ChebyshevSeries":
        """Without the last coefficients that are below `share` of the largest."""
        sizes = self._sizes()
        kept = torch.nonzero(sizes > share * sizes.max())
        return replace(self, coefficients=self.coefficients[: int(kept.max()) + 1 if len(kept) else 1])

    def restricted(self, low: float, high: float) -> "ChebyshevSeries":
        """The same polynomial as a series on a smaller interval."""
        return ChebyshevSeries.of(self, low, high, self.degree).chopped()

    def _sizes(self) -> Tensor:
        return self.coefficients.reshape(len(self.coefficients), -1).abs().amax(-1)


@dataclass(frozen=True, eq=False)
class PiecewiseSeries:
    """Chebyshev series on neighbouring intervals, from left to right; strengths outside raise ValueError.

    >>> series, tail = resolve(lambda alphas: alphas.exp(), -1.0, 1.0)
    >>> len(series.pieces), series(torch.tensor([1.0], dtype=torch.float64)), tail < 1e-13
    (1, tensor([2.7183], dtype=torch.float64), True)
    """

    pieces: tuple[ChebyshevSeries, ...]

    @property
    def low(self) -> float:
        return self.pieces[0].low

    @property
    def high(self) -> float:
        return self.pieces[-1].high

    def __call__(self, alphas: Tensor) -> Tensor:
        """(n,) -> (n, ...)."""
        if len(alphas) and (alphas.min() < self.low or alphas.max() > self.high):
            raise ValueError(f"strengths must lie in the interval ({self.low:g}, {self.high:g}) on which this response was computed, got "
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


def resolve(function: Callable[[Tensor], Tensor], low: float, high: float, degree: int | None = None,
            tolerance: float = 1e-13, most: int = 64) -> tuple[PiecewiseSeries, float]:
    """`function` (n,) -> (n, values) on [low, high] as a piecewise series, and the largest tail that was left.

    With a `degree`, each piece takes degree + 1 nodes and is the function itself; without, 17 to 65 nodes. The worst
    piece is halved as long as its tail is above the tolerance, or the largest and the smallest |values| in it are more
    than 1000 times apart (its error is relative to the largest), and there are fewer than `most` pieces.
    Raises ValueError where a value is not finite.
    """
    waiting = [_piece(function, low, high, degree, tolerance, 0)]
    while len(waiting) < most:
        worst = max(waiting, key=lambda piece: piece.need)
        if worst.need <= 1:
            break
        waiting.remove(worst)
        middle = (worst.series.low + worst.series.high) / 2
        for ends in ((worst.series.low, middle), (middle, worst.series.high)):
            waiting.append(_piece(function, *ends, degree, tolerance, worst.depth + 1))
    waiting.sort(key=lambda piece: piece.series.low)
    return PiecewiseSeries(tuple(piece.series.chopped() for piece in waiting)), max(piece.tail for piece in waiting)


class _Piece(NamedTuple):
    series: ChebyshevSeries
    tail: float
    need: float  # of halving it: above 1 if so
    depth: int


def _piece(function, low: float, high: float, degree: int | None, tolerance: float, depth: int) -> _Piece:
    for count in NODES if degree is None else (degree + 1,):
        values = function(nodes(count, low, high))
        if not torch.isfinite(values).all():
            raise ValueError(f"values are not finite for some strengths in ({low:g}, {high:g}); choose a smaller interval")
        series = ChebyshevSeries.through(values, low, high)
        tail = 0.0 if degree is not None else series.tail()
        if tail <= tolerance:
            break
    sizes = values.reshape(count, -1).abs().amax(-1)
    spread = float(sizes.max() / sizes.min().clamp(min=1e-300)) if sizes.max() > 0 else 1.0
    return _Piece(series, tail, 0.0 if depth == DEPTH else max(spread / SPREAD, tail / tolerance), depth)


def _node_table(count: int) -> Tensor:
    """T_k at the nodes, (degrees, nodes); the angle is reduced in whole numbers, so that no digits are lost."""
    k, j = torch.arange(count)[:, None], count - 1 - torch.arange(count)
    return torch.cos(math.pi / (2 * count) * (k * (2 * j + 1) % (4 * count)).double())


def _differentiated(coefficients: Tensor) -> Tensor:
    count = len(coefficients)
    if count == 1:
        return torch.zeros_like(coefficients)
    result = coefficients.new_zeros(count + 1, *coefficients.shape[1:])
    for k in range(count - 1, 0, -1):
        result[k - 1] = result[k + 1] + 2 * k * coefficients[k]
    result[0] /= 2
    return result[: count - 1]


NEAR = 1e-4  # distance from the real axis, in half intervals, within which a root marks a place to look at
FEW = 4  # contenders whose pairs are all solved
HALVINGS = 12
NOISE = 2.0**-50  # differences below this share of both sides are rounding


class TippingPoint(NamedTuple):
    """A strength at which one token takes over from another: below it `before` is ahead, above it `after`."""

    strength: float
    before: int
    after: int


def colleague_roots(series: ChebyshevSeries) -> Tensor:
    """Real parts of the roots near the interval of a series with one value, in float64, sorted.

    Eigenvalues of the colleague matrix (Good 1961; Trefethen, Approximation Theory and Approximation Practice, ch. 18).
    Pairs of close roots may come out a little off the real axis: those within 1e-4 half intervals are kept, as places
    between which the sign is looked at.

    >>> colleague_roots(ChebyshevSeries.of(lambda a: (a - 0.5) * (a + 3) * (a**2 + 1), -1.0, 1.0, degree=4))
    tensor([0.5000], dtype=torch.float64)
    """
    coefficients = series.chopped().coefficients.double()
    degree, middle, half = len(coefficients) - 1, (series.low + series.high) / 2, (series.high - series.low) / 2
    if degree == 0 or coefficients[0].abs() > coefficients[1:].abs().sum() * (1 + NEAR):
        return coefficients.new_zeros(0)
    if degree == 1:
        found = -coefficients[:1] / coefficients[1:]
    else:
        eigenvalues = torch.linalg.eigvals(_colleague(coefficients))
        found = eigenvalues.real[eigenvalues.imag.abs() < NEAR]
    return middle + half * found[found.abs() <= 1 + NEAR].sort().values


def bisect(stays: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The last place in each bracket (n,) where `stays`, (n,) -> (n,) of booleans, holds: by halving, down to neighbouring numbers.

    >>> bisect(lambda alphas: alphas**2 < 2, torch.tensor([0.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64))
    tensor([1.4142], dtype=torch.float64)
    """
    while bool(((low < (middle := (low + high) / 2)) & (middle < high)).any()):
        held = stays(middle)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    return (low + high) / 2


def lead_changes(curve: PiecewiseSeries, values: Callable[[Tensor], Tensor]) -> list[TippingPoint]:
    """Every strength at which another token has the largest value, from left to right, and each `after` is the next `before`.

    Of equal values the first token leads, as argmax has it. `curve` (values in its last axis) finds the contenders: on an
    interval, a token whose series cannot reach that of the best one is out; where more than four are left the interval is
    halved. Crossings of the rest are roots of differences. `values` (n,) -> (n, tokens) is what is compared in the end: who
    leads between those roots, and at the ends. Values that differ by rounding alone change no lead in between, so that a
    square which touches zero is none; a place is found by halving, and where a third token leads there, both sides are halved.

    >>> parabola = lambda alphas: torch.stack([alphas**2, 0 * alphas + 0.25], -1)
    >>> series = PiecewiseSeries((ChebyshevSeries.of(parabola, -1.0, 1.0, degree=2),))
    >>> [(round(strength, 6), before, after) for strength, before, after in lead_changes(series, parabola)]
    [(-0.5, 0, 1), (0.5, 1, 0)]
    """
    candidates = [root for piece in curve.pieces for root in _crossings(piece, 0)]
    between = _between(torch.tensor(candidates, dtype=torch.float64), curve.low, curve.high)
    leaders = torch.tensor(_leaders(values(between)))
    change = leaders[:-1] != leaders[1:]
    found = _takeovers(values, between[:-1][change], between[1:][change], leaders[:-1][change], leaders[1:][change])
    return [point for bracket in found for point in bracket]


def _takeovers(values: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, before: Tensor, after: Tensor) -> list[list[TippingPoint]]:
    """In each bracket (n,), the changes from the one that leads at its left end to the one at its right end, others between them too."""
    strengths = bisect(lambda alphas: _ahead(values(alphas), before, after), low, high)
    found = [[TippingPoint(*point)] for point in zip(strengths.tolist(), before.tolist(), after.tolist())]
    third, other = _third(values(strengths), before, after)
    if bool(other.any()):
        left = _takeovers(values, low[other], strengths[other], before[other], third[other])
        right = _takeovers(values, strengths[other], high[other], third[other], after[other])
        for bracket, one, two in zip(torch.nonzero(other)[:, 0].tolist(), left, right):
            found[bracket] = one + two
    return found


def _leaders(table: Tensor) -> list[int]:
    """Who leads at each strength, (n, tokens) -> n tokens: inside, the one before as long as no other is ahead by more than rounding."""
    best, first = table.max(-1, keepdim=True).values, table.argmax(-1).tolist()
    level = best - table <= NOISE * (best.abs() + table.abs())
    found = first[:1]
    for row, token in zip(level[1:-1], first[1:-1]):
        found.append(found[-1] if row[found[-1]] else token)
    return found + first[-1:]


def _ahead(table: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Whether argmax, asked of these two tokens alone, takes `before`: (n, tokens) and (n,) twice -> (n,)."""
    one, other = table.gather(1, torch.stack([before, after], -1)).unbind(-1)
    return (one > other) | ((one == other) & (before < after))


def _third(table: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The token with the largest value, and whether it is ahead of both by more than rounding: (n,) twice."""
    best, token = table.max(-1)
    most = table.gather(1, torch.stack([before, after], -1)).amax(-1)
    return token, best - most > NOISE * (best.abs() + most.abs())


def _crossings(series: ChebyshevSeries, depth: int) -> list[float]:
    """Places between which the leading value of a series may change."""
    coefficients = series.coefficients
    best = coefficients[0].argmax()
    gaps = coefficients - coefficients[:, best, None]
    reach = gaps[1:].abs().sum(0)
    sizes = coefficients.abs().sum(0)
    open_ = torch.nonzero((gaps[0] + reach >= 0) & (reach + gaps[0].abs() > ROUNDING * (sizes + sizes[best])))[:, 0].tolist()
    if not open_:
        return []
    contenders = [int(best), *open_]
    if len(contenders) <= FEW:
        pairs = torch.combinations(torch.tensor(contenders), 2)
        found = [colleague_roots(ChebyshevSeries(coefficients[:, a] - coefficients[:, b], series.low, series.high)) for a, b in pairs]
        return torch.cat(found).tolist()
    if depth == HALVINGS:  # many cross in nearly one place
        return [series.low, series.high]
    middle = (series.low + series.high) / 2
    halves = series.restricted(series.low, middle), series.restricted(middle, series.high)
    return [root for half in halves for root in _crossings(half, depth + 1)]


def _between(candidates: Tensor, low: float, high: float) -> Tensor:
    """Points that separate the candidates, with both ends of the interval."""
    inside = candidates[(candidates > low) & (candidates < high)].unique()
    edges = torch.cat([inside.new_tensor([low]), inside, inside.new_tensor([high])])
    return torch.cat([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]]).unique()


def _colleague(coefficients: Tensor) -> Tensor:
    """The matrix whose eigenvalues are the roots of sum_k c_k T_k, for at least three coefficients."""
    degree = len(coefficients) - 1
    matrix = torch.zeros(degree, degree, dtype=coefficients.dtype)
    index = torch.arange(degree - 1)
    matrix[index, index + 1] = matrix[index + 1, index] = 0.5
    matrix[0, 1] = 1.0
    matrix[-1] -= coefficients[:-1] / (2 * coefficients[-1])
    return matrix
