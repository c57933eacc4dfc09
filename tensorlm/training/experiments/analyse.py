"""What a table tells: what a loss cost, what a cost bought, and which differences the seeds can tell from chance.

A *curve* is what one run passes on its way down, before its learning rate has come down: nothing about shorter runs. A
*ladder* holds the final losses of several runs, each with a whole schedule: what more steps really buy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from tensorlm.checks import require, require_one_of, require_whole

Points = Sequence[tuple[float, float]]
CLOCKS = ("seconds", "cpu_seconds")
MEASURES = ("step", "tokens", *CLOCKS)
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean and deviation of the differences of two arms over `count` seeds, and the smallest significant mean."""

    mean: float
    deviation: float
    smallest: float
    count: int

    @property
    def significant(self) -> bool:
        return abs(self.mean) > self.smallest


class Ratio(NamedTuple):
    value: float
    low: float
    high: float


def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = `level` for Student's T with `freedom` degrees of freedom: 4.30 for 0.95 and 2."""
    require(0 < level < 1, "level", level, "above 0 and below 1")
    return float(stdtrit(require_whole("freedom", freedom, 1), (1 + level) / 2))


def paired(arm: Mapping, base: Mapping, level: float = LEVEL) -> Difference:
    """The difference arm minus base over the seeds for which both have a number: {seed: loss}, or columns of `finals`.

    With d_i the difference at seed i and n seeds: mean d, deviation s = sqrt(sum (d_i - d)^2 / (n - 1)), and smallest =
    t(level, n - 1) s / sqrt(n), half the t interval of d. Raises ValueError for fewer than two common seeds.

    >>> found = paired({0: 4.1, 1: 4.3, 2: 4.2}, {0: 4.0, 1: 4.2, 2: 4.1})
    >>> round(found.mean, 3), found.significant
    (0.1, True)
    """
    d = (pd.Series(arm, dtype=float) - pd.Series(base, dtype=float)).dropna()
    require(len(d) > 1, "seeds", list(d.index), "at least two that both arms have")
    deviation = float(d.std())
    return Difference(float(d.mean()), deviation, t_quantile(level, len(d) - 1) * deviation / math.sqrt(len(d)), len(d))


def smallest_difference(losses: Any, level: float = LEVEL) -> float:
    """The smallest significant difference of two arms' means, from the scatter of all arms: a column an arm, a row a seed.

    With a arms, n seeds and e_ij = x_ij - (mean of arm i) - (mean of seed j) + (mean of all), s^2 = sum e_ij^2 / ((a - 1)
    (n - 1)) and the result is t(level, (a - 1)(n - 1)) sqrt(2 s^2 / n): Fisher's least significant difference of randomised
    blocks. Raises ValueError unless two arms or more have the same two seeds or more.

    >>> round(smallest_difference({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.4}, "c": {0: 1.1, 1: 2.2}}), 4)
    0.3042
    """
    x = pd.DataFrame(losses).to_numpy(dtype=float)
    require(min(x.shape) > 1 and not np.isnan(x).any(), "losses", x, "of two arms or more with the same seeds, two or more")
    residuals = x - x.mean(0, keepdims=True) - x.mean(1, keepdims=True) + x.mean()
    freedom = (x.shape[0] - 1) * (x.shape[1] - 1)
    return t_quantile(level, freedom) * math.sqrt(2 * (residuals**2).sum() / freedom / len(x))


def crossing(points: Points, loss: float, scale: str = "linear") -> float | None:
    """The x at which points (x, loss), in the order of x, first come down to `loss`; None where they never do.

    Between neighbours (x0, l0) and (x1, l1) with l0 > loss >= l1: x = x0 + (x1 - x0) (l0 - loss) / (l0 - l1); "log"
    does the same with log x. Raises ValueError where the first point lies below `loss` already.

    >>> crossing([(10, 5.0), (20, 4.0), (30, 3.6)], 4.5)
    15.0
    """
    require_one_of("scale", scale, ("linear", "log"))
    if points:
        require(loss <= points[0][1], "loss", loss, f"at most that of the first point, {points[0][1]:.4f}")
        if points[0][1] == loss:
            return float(points[0][0])
    for (x0, l0), (x1, l1) in zip(points, points[1:]):
        if l0 > loss >= l1:
            share = (l0 - loss) / (l0 - l1)
            return x0 * (x1 / x0) ** share if scale == "log" else x0 + (x1 - x0) * share
    return None


def ladder_ratio(points: Points, base: Points) -> float:
    """How many times the x of ladder `base` another one needs for equal loss: the higher one of their two last, in log x.

    Raises ValueError where that loss lies above the better one's first point.
    """
    require(points and base, "points", [points, base], "two ladders of at least one each")
    loss = max(points[-1][1], base[-1][1])
    mine, other = (crossing(side, loss, "log") for side in (points, base))
    assert mine is not None and other is not None  # each begins at or above that loss and ends at or below it
    return mine / other


class Table:
    """The rows of `run_experiment`, `released.results(NAME)` or its `NAME_probes`.

    Losses come as data frames with a column an arm and a row a seed, NaN where a run failed or is missing.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = pd.DataFrame(rows)
        self.arms = list(dict.fromkeys(self.rows["arm"]))

    def finals(self) -> pd.DataFrame:
        """Final losses of each arm's longest runs."""
        return self._longest(self.rows[self.rows["row"] != "curve"], "loss")

    def probed(self, probe: str) -> pd.DataFrame:
        """What a probe found on each arm's longest runs; ValueError names those there are."""
        require_one_of("probe", probe, self.rows["probe"].unique())
        return self._longest(self.rows[self.rows["probe"] == probe], "value")

    def _longest(self, rows: pd.DataFrame, column: str) -> pd.DataFrame:
        longest = rows[rows["steps"] == rows.groupby("arm")["steps"].transform("max")]
        return longest.pivot(index="seed", columns="arm", values=column).astype(float)[list(dict.fromkeys(rows["arm"]))]

    def _of(self, arm: str, kind: str) -> pd.DataFrame:
        return self.rows[(self.rows["arm"] == arm) & (self.rows["row"] == kind)]

    def ladder(self, arm: str, seed: int, by: str = "step") -> list[tuple[float, float]]:
        """The points (x, final loss) of one arm and seed over its budgets, without failed runs; seconds by `step_seconds`."""
        require_one_of("by", by, MEASURES)
        ends = self._of(arm, "final")
        ends = ends[ends["seed"] == seed]
        x = ends["step"] * self.step_seconds(arm, by) if by in CLOCKS else ends[by]
        return sorted(zip(x.tolist(), ends["loss"].tolist()))

    def step_seconds(self, arm: str, clock: str = "cpu_seconds") -> float:
        """Seconds a step: the median over all pieces between two points of a curve."""
        require_one_of("clock", clock, CLOCKS)
        pieces = self._of(arm, "curve").groupby(["seed", "steps"])[[clock, "step"]].diff().dropna()
        require(len(pieces), "arm", arm, "one with two points on a curve")
        return float((pieces[clock] / pieces["step"]).median())

    def paces(self, arm: str, clock: str = "cpu_seconds") -> pd.Series:
        """log(seconds a step) of every whole run by (seed, steps), for `paired`."""
        require_one_of("clock", clock, CLOCKS)
        ends = self._of(arm, "final").set_index(["seed", "steps"])
        return np.log(ends[clock] / ends["step"])

    def to_target(self, arm: str, loss: float, by: str = "step") -> pd.Series:
        """What each seed's longest run had spent when its curve came down to `loss`; NaN where it never did."""
        require_one_of("by", by, MEASURES)
        longest = {seed: runs[runs["steps"] == runs["steps"].max()] for seed, runs in self._of(arm, "curve").groupby("seed")}
        return pd.Series({seed: crossing(list(zip(run[by], run["loss"])), loss) for seed, run in longest.items()}, dtype=float)

    def equal_seconds(self, clock: str = "cpu_seconds") -> tuple[float, pd.DataFrame]:
        """(seconds, losses): the longest time that all ladders reach, and the losses there, interpolated in log seconds.

        Raises ValueError where a ladder does not cover that time, such as that of an arm with one budget.
        """
        ladders = {(arm, seed): self.ladder(arm, seed, clock) for arm, seed in self.rows.groupby(["arm", "seed"]).groups}
        bare = [arm for (arm, _), points in ladders.items() if len(points) < 2]
        require(ladders and not bare, "arms", bare, "with runs at two budgets or more")
        seconds = min(points[-1][0] for points in ladders.values())
        shortest = max(points[0][0] for points in ladders.values())
        require(seconds >= shortest, "seconds", seconds, "at least those of every arm's shortest run")
        losses = {key: np.interp(math.log(seconds), np.log([x for x, _ in points]), [loss for _, loss in points])
                  for key, points in ladders.items()}
        return seconds, pd.Series(losses).unstack(0)[self.arms]

    def steps_ratio(self, arm: str, base: str, by: str = "step", level: float = LEVEL) -> Ratio:
        """How many times the steps of `base` an arm needs for equal loss: geometric mean over seeds, and its t interval.

        With m and s the mean and deviation of n values log `ladder_ratio`: exp(m) and exp(m +- t(level, n - 1) s / sqrt(n)).
        `by` "cpu_seconds" gives the ratio of the seconds, without the clock's error, which is in `paces`.
        """
        seeds = set.intersection(*(set(self.rows.loc[self.rows["arm"] == name, "seed"]) for name in (arm, base)))
        logs = {seed: math.log(ladder_ratio(self.ladder(arm, seed, by), self.ladder(base, seed, by))) for seed in sorted(seeds)}
        found = paired(logs, dict.fromkeys(logs, 0.0), level)
        return Ratio(*(math.exp(found.mean + side * found.smallest) for side in (0, -1, 1)))

    def summary(self, baseline: str) -> pd.DataFrame:
        """A row an arm: parameters, final loss, failed runs, difference from the baseline, smallest significant one."""
        losses, by_arm = self.finals(), self.rows.groupby("arm", sort=False)
        d = losses.sub(losses.get(baseline, pd.Series(dtype=float)), axis=0)
        least = stdtrit(d.count() - 1, (1 + LEVEL) / 2) * d.std() / d.count() ** 0.5
        failed = by_arm["row"].agg(lambda kinds: (kinds == "failed").sum())
        return pd.DataFrame({"parameters": by_arm["parameters"].first(), "loss": losses.mean(), "deviation": losses.std(),
                             "failed": failed, f"minus {baseline}": d.mean(), "least": least}).loc[self.arms]
