"""Where the lead changes among functions of a strength: by roots, never by sweeping."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.steering.chebyshev import ROUNDING, ChebyshevSeries, PiecewiseSeries

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
