"""Exercises of chapter 04: how many seeds a difference takes, and how many more batches a loss takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import TOLERANCE

# 04.1 -----------------------------------------------------------------------------------------------------------------

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
             2.120, 2.110, 2.101, 2.093, 2.086)  # of Student's t, 95 %, for 1, 2, ... degrees of freedom


def _quantile(freedom: int) -> float:
    return QUANTILES[freedom - 1] if freedom <= len(QUANTILES) else 1.96 + 2.51 / freedom


def _seeds(s: float, d: float) -> int:
    n = 2
    while _quantile(n - 1) * s / math.sqrt(n) >= d:
        n += 1
    return n


def _check_seeds(answer: Any) -> None:
    cases = (
        (0.01, 0.01, "With d = s the formula needs t / sqrt(n) below 1: 6 seeds give 2.571 / sqrt(6) = 1.05, 7 give 0.92."),
        (0.01, 0.005, "Half the difference takes more than twice the seeds, since the root of n is in the formula."),
        (0.02, 0.01, "Only the ratio s / d counts: twice the scatter is as bad as half the difference."),
        (0.001, 0.05, "Two seeds are the least: one difference has no scatter."),
        (0.01, 0.013, "t has n - 1 degrees of freedom, and n is the number of seeds."),
    )
    for s, d, hint in cases:
        got, expected = answer(s, d), _seeds(s, d)
        assert got == expected, f"s = {s}, d = {d}: got {got}, expected {expected} seeds. {hint}"


def _two_sigma(s: float, d: float) -> int:
    return max(2, math.ceil((1.96 * s / d) ** 2))


def _no_root(s: float, d: float) -> int:
    n = 2
    while _quantile(n - 1) * s / n >= d:
        n += 1
    return n


def _one_more(s: float, d: float) -> int:
    return _seeds(s, d) + 1


def _all_free(s: float, d: float) -> int:
    n = 2
    while _quantile(n) * s / math.sqrt(n) >= d:
        n += 1
    return n


def _from_three(s: float, d: float) -> int:
    return max(3, _seeds(s, d))


# 04.2 -----------------------------------------------------------------------------------------------------------------

Base = Sequence[tuple[float, float]]


def _more(base: Base, steps: float, loss: float) -> float:
    (s0, l0), (s1, l1) = base
    part = (l0 - loss) / (l0 - l1)
    return steps / math.exp(math.log(s0) + part * math.log(s1 / s0))


def _check_more(answer: Any) -> None:
    base = [(100, 4.0), (400, 3.6)]
    got, expected = answer(base, 300, 3.8), 1.5
    likely = {
        300 / 250: "That takes the steps half way between 100 and 400; half way between their logarithms is 200.",
        1 / expected: "Upside down: an arm that needs more batches has a ratio above 1.",
        300 / 400: "That divides by all steps of the base arm; it reached this loss earlier.",
        300 / 100: "That divides by the steps of the shorter run, whose loss is higher.",
    }
    for value, hint in likely.items():
        assert abs(got - value) > 1e-6, f"Got {got:.3f}. {hint}"
    assert abs(got - expected) < TOLERANCE, f"Got {got:.3f}, expected {expected}: the base arm has this loss after 200 steps."
    for loss, steps, hint in ((4.0, 100, "At the loss of the shorter run the base arm needs its 100 steps."),
                              (3.6, 500, "At the loss of the longer run the base arm needs its 400 steps."),
                              (3.7, 300, "Three quarters of the way down in loss are three quarters of the way in log steps.")):
        got, expected = answer(base, steps, loss), _more(base, steps, loss)
        assert abs(got - expected) < TOLERANCE, f"loss {loss}, steps {steps}: got {got:.3f}, expected {expected:.3f}. {hint}"


def _linear(base: Base, steps: float, loss: float) -> float:
    (s0, l0), (s1, l1) = base
    return steps / (s0 + (l0 - loss) / (l0 - l1) * (s1 - s0))


def _from_the_end(base: Base, steps: float, loss: float) -> float:
    (s0, l0), (s1, l1) = base
    part = (loss - l1) / (l0 - l1)
    return steps / math.exp(math.log(s0) + part * math.log(s1 / s0))


EXERCISES = (
    Exercise("04.1", "How many seeds?", _check_seeds, (_two_sigma, _no_root, _one_more, _all_free, _from_three)),
    Exercise("04.2", "How many more batches?", _check_more,
             (_linear, lambda base, steps, loss: 1 / _more(base, steps, loss), _from_the_end,
              lambda base, steps, loss: steps / base[1][0], lambda base, steps, loss: _more(base, steps, loss) - 1)),
)
