"""What seeds tell: spread, the smallest difference that can be told apart, and ratios with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of the differences of two arms over ``count`` paired seeds, their deviation, and the smallest mean that
    would have been told apart from 0."""

    mean: float
    deviation: float
    smallest: float
    count: int

    @property
    def told_apart(self) -> bool:
        """Whether the mean is larger than the smallest difference that can be told apart."""
        return abs(self.mean) > self.smallest


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval."""

    value: float
    low: float
    high: float


def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = ``level`` for Student's T with ``freedom`` degrees of freedom.

    With theta = atan(t / sqrt(freedom)) that probability is a finite sum of powers of cos theta (Abramowitz and
    Stegun 26.7.3 and 26.7.4); t is found by bisection over theta. Raises ValueError unless 0 < level < 1 and
    freedom >= 1.

    >>> round(t_quantile(0.95, 2), 4), round(t_quantile(0.95, 16), 4)
    (4.3027, 2.1199)
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"level = {level}, freedom = {freedom}: must be 0 < level < 1 and freedom >= 1")
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(theta: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan theta)."""
    odd, cosine = freedom % 2, math.cos(theta)
    term = total = 0.0 if freedom == 1 else cosine if odd else 1.0
    for n in range(2 + odd, freedom, 2):
        term *= cosine**2 * (n - 1) / n
        total += term
    return (theta + math.sin(theta) * total) * 2 / math.pi if odd else math.sin(theta) * total


def paired(arm: dict[int, float], base: dict[int, float], level: float = LEVEL) -> Difference:
    """The difference of two arms over the seeds that both have, arm minus base.

    With d_i the difference at seed i and n seeds: mean d, deviation s = sqrt(sum (d_i - d)^2 / (n - 1)), and
    smallest = t(level, n - 1) s / sqrt(n), half the width of the t interval of d. Raises ValueError for
    fewer than two common seeds.

    >>> found = paired({0: 4.1, 1: 4.3, 2: 4.2}, {0: 4.0, 1: 4.2, 2: 4.1})
    >>> round(found.mean, 3), found.told_apart
    (0.1, True)
    """
    seeds = sorted(set(arm) & set(base))
    if len(seeds) < 2:
        raise ValueError(f"seeds {seeds}: a spread needs at least two seeds that both arms have")
    d = [arm[seed] - base[seed] for seed in seeds]
    deviation = float(np.std(d, ddof=1))
    smallest = t_quantile(level, len(d) - 1) * deviation / math.sqrt(len(d))
    return Difference(float(np.mean(d)), deviation, smallest, len(d))


def smallest_difference(losses: dict[str, dict[int, float]], level: float = LEVEL) -> float:
    """The smallest difference of two arms' means that can be told apart, from the scatter of all arms.

    Every seed is a block in which each of the a arms occurs once. With the residuals e_ij = x_ij - (mean of arm i) -
    (mean of seed j) + (mean of all), s^2 = sum e_ij^2 / ((a - 1)(n - 1)) and the result is
    t(level, (a - 1)(n - 1)) sqrt(2 s^2 / n): Fisher's least significant difference of randomised blocks. It takes all
    arms to scatter alike, and in return has far more degrees of freedom than :func:`paired`. It is for one
    comparison named beforehand; among k comparisons k (1 - level) are larger by chance alone.

    Raises ValueError unless there are two arms or more that all have the same two seeds or more.

    >>> round(smallest_difference({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.4}, "c": {0: 1.1, 1: 2.2}}), 4)
    0.3042
    """
    seeds = {tuple(sorted(found)) for found in losses.values()}
    if len(losses) < 2 or len(seeds) != 1 or len(min(seeds)) < 2:
        raise ValueError(f"seeds {sorted(seeds)} of {len(losses)} arms: must be two arms or more with the same seeds, "
                         "two or more")
    x = np.array([[found[seed] for seed in min(seeds)] for found in losses.values()])
    residuals = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
    freedom = (x.shape[0] - 1) * (x.shape[1] - 1)
    return float(t_quantile(level, freedom) * math.sqrt(2 * (residuals**2).sum() / freedom / x.shape[1]))


def ratio_interval(ratios: dict[int, float], level: float = LEVEL) -> Ratio:
    """The geometric mean of one ratio a seed, with the t interval of its logarithm over seeds.

    With m and s the mean and deviation of the n values log r_i: exp(m) and exp(m +- t(level, n - 1) s / sqrt(n)), as in
    :func:`paired`. Raises ValueError for a ratio that is not above 0, and for fewer than two.

    >>> found = ratio_interval({0: 1.1, 1: 1.1 * 1.02, 2: 1.1 / 1.02})
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (1.1, 1.047, 1.155)
    """
    if not all(ratio > 0 for ratio in ratios.values()):
        raise ValueError(f"ratios = {ratios}: must all be above 0")
    found = paired({seed: math.log(ratio) for seed, ratio in ratios.items()}, dict.fromkeys(ratios, 0.0), level)
    return Ratio(*(math.exp(found.mean + side * found.smallest) for side in (0, -1, 1)))
