"""Curves read: what a loss cost, what a cost bought, and how many more steps one arm needs than another.

All functions take the rows of a table (`compare` returns them, `tensorlm.released.results` reads them) or plain points
(x, loss). There are two kinds of points. A *curve* is what one run passes on its way down. Its learning rate has not
come down yet, so it tells when an arm passes a loss on a fixed schedule, and nothing about runs that were planned to
be shorter. A *ladder* holds the final losses of several runs, each with a whole schedule: what more steps really buy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Points = Sequence[tuple[float, float]]
MEASURES = ("step", "tokens", "seconds", "cpu_seconds")
CLOCKS = ("seconds", "cpu_seconds")
SCALES = ("linear", "log")


def crossing(points: Points, loss: float, scale: str = "linear") -> float | None:
    """The x at which points (x, loss), in the order of x, first come down to ``loss``; None where they never do.

    Between neighbours (x0, l0) and (x1, l1) with l0 > loss >= l1: x = x0 + (x1 - x0) (l0 - loss) / (l0 - l1); "log"
    does the same with log x. Raises ValueError where the first point lies below ``loss`` already: the crossing is
    not among the points.

    >>> crossing([(10, 5.0), (20, 4.0), (30, 3.6)], 4.5)
    15.0
    """
    forth, back = _axis(scale)
    if points and points[0][1] < loss:
        raise ValueError(f"loss {loss}: the first point, at {points[0][0]:g}, is at {points[0][1]:.4f} already")
    if points and points[0][1] == loss:
        return float(points[0][0])
    for (x0, l0), (x1, l1) in zip(points, points[1:]):
        if l0 > loss >= l1:
            return back(forth(x0) + (forth(x1) - forth(x0)) * (l0 - loss) / (l0 - l1))
    return None


def loss_at(points: Points, x: float, scale: str = "linear") -> float:
    """The loss at ``x``, interpolated between the points around it; ValueError outside of them.

    >>> loss_at([(10, 5.0), (20, 4.0)], 12.5)
    4.75
    """
    forth, _ = _axis(scale)
    if not points or not points[0][0] <= x <= points[-1][0]:
        raise ValueError(f"x = {x:g}: must lie within the points" +
                         (f", {points[0][0]:g} to {points[-1][0]:g}" if points else "; there are none"))
    for (x0, l0), (x1, l1) in zip(points, points[1:]):
        if x0 <= x <= x1:
            return l0 + (l1 - l0) * (forth(x) - forth(x0)) / (forth(x1) - forth(x0))
    return points[0][1]


def steps_ratio(points: Points, base: Points, scale: str = "log") -> float:
    """How many times the steps of ``base`` an arm needs for equal loss.

    The loss is the higher one of their two last points: the worse of the two needs all of its x for it, the better
    one the x of its :func:`crossing`. The ratio is (x of the arm) / (x of the base). Raises ValueError where
    that loss lies above the better one's first point.

    >>> base = [(50, 4.2), (100, 4.0), (200, 3.8)]
    >>> round(steps_ratio([(100, 4.1), (200, 3.9)], base), 3)        # 200 steps for what the base has after 141
    1.414
    """
    if not points or not base:
        raise ValueError("there are no points of one of the two")
    loss = max(points[-1][1], base[-1][1])
    mine, other = (crossing(side, loss, scale) for side in (points, base))
    if mine is None or other is None:
        raise ValueError(f"loss {loss}: one of the two never reaches it")
    return mine / other


def curve(rows: Sequence[Row], arm: str, seed: int, by: str = "step") -> list[tuple[float, float]]:
    """The points (x, loss) of the curve of one run, the longest of this arm and seed; ``by`` is one of MEASURES."""
    _require(by, MEASURES)
    mine = [row for row in _of(rows, arm, seed) if row["row"] == "curve"]
    longest = max((row["steps"] for row in mine), default=0)
    return [(row[by], row["loss"]) for row in mine if row["steps"] == longest]


def ladder(rows: Sequence[Row], arm: str, seed: int, by: str = "step") -> list[tuple[float, float]]:
    """The points (x, final loss) of one arm and seed over its budgets; runs that failed are left out.

    Seconds are steps times :func:`step_seconds`, which is far steadier than the clock of a single run.
    """
    _require(by, MEASURES)
    unit = step_seconds(rows, arm, by) if by in CLOCKS else None
    mine = [row for row in _of(rows, arm, seed) if row["row"] == "final"]
    return sorted((row["step"] * unit if unit else row[by], row["loss"]) for row in mine)


def step_seconds(rows: Sequence[Row], arm: str, clock: str = "cpu_seconds") -> float:
    """Seconds a step of an arm: the median over all pieces of all its runs between two points of a curve.

    Other work on the machine disturbs some pieces; the median of all does not follow them.
    """
    _require(clock, CLOCKS)
    mine = [row for row in rows if row["arm"] == arm and row["row"] == "curve"]
    pieces = [(after[clock] - before[clock]) / (after["step"] - before["step"]) for before, after in zip(mine, mine[1:])
              if (before["seed"], before["steps"]) == (after["seed"], after["steps"])]
    if not pieces:
        raise ValueError(f"arm {arm!r}: no run with two points on its curve")
    return statistics.median(pieces)


def paces(rows: Sequence[Row], arm: str, clock: str = "cpu_seconds") -> dict[tuple[int, int], float]:
    """log(seconds a step) of every whole run of an arm: {(seed, steps): log(seconds / steps)}.

    `spread.paired` of two arms' paces tells how well the ratio of their step times is known.
    """
    _require(clock, CLOCKS)
    return {(row["seed"], row["steps"]): math.log(row[clock] / row["step"])
            for row in rows if row["arm"] == arm and row["row"] == "final"}


def to_target(rows: Sequence[Row], arm: str, loss: float, by: str = "step") -> dict[int, float | None]:
    """What every seed's longest run had spent when its curve came down to ``loss``: {seed: x or None}."""
    return {seed: crossing(curve(rows, arm, seed, by), loss) for seed in _seeds(rows, arm)}


def finals(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Final losses of each arm's longest runs: {arm: {seed: loss}}, NaN for a run that failed."""
    found: dict[str, dict[int, float]] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        ends = [row for row in rows if row["arm"] == arm and row["row"] in ("final", "failed")]
        longest = max((row["steps"] for row in ends), default=0)
        found[arm] = {row["seed"]: math.nan if row["row"] == "failed" else row["loss"]
                      for row in ends if row["steps"] == longest}
    return found


def probed(rows: Sequence[Row], probe: str) -> dict[str, dict[int, float]]:
    """What a probe found on each arm's longest runs, from the rows of ``NAME_probes.csv``: {arm: {seed: value}}.

    Raises ValueError, naming those there are, for a probe that is not in the rows.
    """
    names = list(dict.fromkeys(row["probe"] for row in rows))
    _require(probe, tuple(names))
    longest: dict[str, int] = {}
    for row in rows:
        longest[row["arm"]] = max(row["steps"], longest.get(row["arm"], 0))
    found: dict[str, dict[int, float]] = {arm: {} for arm in longest}
    for row in rows:
        if row["probe"] == probe and row["steps"] == longest[row["arm"]]:
            found[row["arm"]][row["seed"]] = row["value"]
    return found


def equal_seconds(rows: Sequence[Row], clock: str = "cpu_seconds") -> tuple[float, dict[str, dict[int, float]]]:
    """(seconds, {arm: {seed: loss}}): final losses of runs planned to take the same time, read off the ladders.

    The seconds are the longest that all ladders reach; the loss there is interpolated in log seconds. Raises
    ValueError where a ladder does not cover them, such as that of an arm with one budget.
    """
    ladders = {arm: {seed: ladder(rows, arm, seed, clock) for seed in _seeds(rows, arm)}
               for arm in dict.fromkeys(row["arm"] for row in rows)}
    bare = [arm for arm, found in ladders.items() if any(len(points) < 2 for points in found.values())]
    if bare or not ladders:
        raise ValueError(f"arms {bare}: need runs at two budgets or more for a loss at equal seconds")
    seconds = min(points[-1][0] for found in ladders.values() for points in found.values())
    return seconds, {arm: {seed: loss_at(points, seconds, "log") for seed, points in found.items()}
                     for arm, found in ladders.items()}


def steps_ratios(rows: Sequence[Row], arm: str, base: str, by: str = "step") -> dict[int, float]:
    """:func:`steps_ratio` of two arms' ladders for every seed that both have, for `spread.ratio_interval`.

    ``by`` "cpu_seconds" gives the ratio of the seconds instead; its scatter over seeds holds no error of the clock, since
    all seeds share one :func:`step_seconds`: that is in :func:`paces`.
    """
    return {seed: steps_ratio(ladder(rows, arm, seed, by), ladder(rows, base, seed, by))
            for seed in _seeds(rows, arm) if seed in _seeds(rows, base)}


def _axis(scale: str):
    _require(scale, SCALES)
    return (math.log, math.exp) if scale == "log" else (float, float)


def _of(rows: Sequence[Row], arm: str, seed: int) -> list[Row]:
    return [row for row in rows if row["arm"] == arm and row["seed"] == seed]


def _seeds(rows: Sequence[Row], arm: str) -> list[int]:
    return sorted({row["seed"] for row in rows if row["arm"] == arm})


def _require(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{value!r}: must be one of {', '.join(allowed)}")
