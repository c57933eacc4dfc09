"""Where functions of a strength change their sign, and where the lead changes among many: by roots, never by sweeping."""

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


def sign_changes(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], candidates: Tensor, low: float, high: float) -> Tensor:
    """Where one(alphas) - other(alphas), both (n,) -> (n,), changes its sign: (changes,), rising.

    `candidates` only say between which points to look; the place itself is found by halving, to the last bit. A point
    where the two differ by rounding alone tells nothing, so that a root at which they touch and part again is none.

    >>> sign_changes(torch.square, lambda alphas: 0 * alphas + 2.0, torch.tensor([-1.4, 0.0, 1.4], dtype=torch.float64), -2.0, 2.0)
    tensor([-1.4142,  1.4142], dtype=torch.float64)
    """
    between = _between(candidates, low, high)
    first, second = one(between), other(between)
    clear = (first - second).abs() > NOISE * (first.abs() + second.abs())
    between, signs = between[clear], (first - second)[clear].sign()
    flips = signs[:-1] * signs[1:] < 0
    return bisect(lambda alphas: one(alphas) - other(alphas), between[:-1][flips], between[1:][flips])


def bisect(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The sign change in each bracket (n,), by halving all of them until neighbouring numbers are reached."""
    if len(low) == 0:
        return low
    sign = function(low).sign()
    for _ in range(80):
        middle = (low + high) / 2
        below = function(middle).sign() == sign
        moved = torch.where(below, middle - low, high - middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        if not bool((moved > 0).any()):
            break
    return (low + high) / 2


def lead_changes(curve: PiecewiseSeries, values: Callable[[Tensor], Tensor]) -> list[TippingPoint]:
    """Every strength at which another token has the largest value, from left to right.

    `curve` (values in its last axis) finds the contenders: on an interval, a token whose series cannot reach that of the
    best one is out; where more than four are left the interval is halved. Crossings of the rest are roots of differences.
    `values` (n,) -> (n, tokens) is what is compared in the end, and what the crossings are refined on.

    >>> parabola = lambda alphas: torch.stack([alphas**2, 0 * alphas + 0.25], -1)
    >>> series = PiecewiseSeries((ChebyshevSeries.of(parabola, -1.0, 1.0, degree=2),))
    >>> [(round(strength, 6), before, after) for strength, before, after in lead_changes(series, parabola)]
    [(-0.5, 0, 1), (0.5, 1, 0)]
    """
    candidates = [root for piece in curve.pieces for root in _crossings(piece, 0)]
    between = _between(torch.tensor(candidates, dtype=torch.float64), curve.low, curve.high)
    best = values(between).topk(min(2, curve.pieces[0].coefficients.shape[-1]), dim=-1)
    clear = best.values[:, 0] - best.values[:, -1] > NOISE * best.values.abs().sum(-1)
    between, leaders = between[clear], best.indices[clear, 0]
    places = leaders[:-1] != leaders[1:]
    pairs = torch.stack([leaders[:-1], leaders[1:]], -1)[places]

    def gaps(alphas: Tensor) -> Tensor:
        before, after = values(alphas).gather(1, pairs).unbind(-1)
        return before - after

    strengths = bisect(gaps, between[:-1][places], between[1:][places])
    return [TippingPoint(strength, *pair) for strength, pair in zip(strengths.tolist(), pairs.tolist())]


def _crossings(series: ChebyshevSeries, depth: int) -> list[float]:
    """Places where the leading value of a series may change."""
    coefficients = series.coefficients
    best = coefficients[0].argmax()
    gaps = coefficients - coefficients[:, best, None]
    reach = gaps[1:].abs().sum(0)
    noise = 8 * ROUNDING * coefficients.abs().sum(0).max()
    open_ = torch.nonzero((gaps[0] + reach >= 0) & (reach + gaps[0].abs() > noise))[:, 0].tolist()
    if not open_:
        return []
    contenders = [int(best), *open_]
    if len(contenders) > FEW and depth < HALVINGS:
        middle = (series.low + series.high) / 2
        halves = series.restricted(series.low, middle), series.restricted(middle, series.high)
        return [root for half in halves for root in _crossings(half, depth + 1)]
    pairs = torch.combinations(torch.tensor(contenders), 2)
    found = [colleague_roots(ChebyshevSeries(coefficients[:, a] - coefficients[:, b], series.low, series.high)) for a, b in pairs]
    return torch.cat(found).tolist()


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
