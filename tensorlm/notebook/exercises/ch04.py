"""Exercises of chapter 04: how many seeds a difference takes, how many more batches a loss, how many products a form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, TOLERANCE, random as _random

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


# 04.3 -----------------------------------------------------------------------------------------------------------------


def _fewest_products(Q: Tensor) -> int:
    values = torch.linalg.eigvalsh((Q + Q.mT) / 2)
    most = float(values.abs().max()) or 1.0
    return max(int((values > 1e-9 * most).sum()), int((values < -1e-9 * most).sum()))


def _form(*eigenvalues: float) -> Tensor:
    basis = torch.linalg.qr(_random(len(eigenvalues), len(eigenvalues), seed=70)).Q
    Q = basis @ torch.diag(torch.tensor(eigenvalues, dtype=DTYPE)) @ basis.mT
    return (Q + Q.mT) / 2


def _check_fewest(answer: Any) -> None:
    cases = (
        (_form(2.0, -1.0, 0.0, 0.0), "One positive and one negative eigenvalue: a^2 - b^2 = (a + b)(a - b) is one product."),
        (_form(2.0, 1.0, 0.0, 0.0), "Two positive eigenvalues: a sum of two squares is no product of two real readings."),
        (_form(3.0, 2.0, -1.0, -4.0), "Two of each sign make two products."),
        (_form(-1.0, -2.0, -3.0, 5.0), "Three negative and one positive: the positive one can join only one of them."),
        (_form(0.0, 0.0, 0.0, 0.0), "Nothing needs no product."),
        (_form(1e3, -1e-2, 1e-13, 0.0), "Compare with the largest eigenvalue: what is smaller by 1e-9 is rounding."),
    )
    for Q, hint in cases:
        got, expected = answer(Q.clone()), _fewest_products(Q)
        assert int(got) == expected, f"Got {got}, expected {expected}. {hint}"


def _rank(Q: Tensor) -> int:
    return int(torch.linalg.matrix_rank(Q))


def _half_rank(Q: Tensor) -> int:
    return -(-_rank(Q) // 2)


def _positive_only(Q: Tensor) -> int:
    return int((torch.linalg.eigvalsh(Q) > 1e-9 * float(Q.abs().max() or 1)).sum())


EXERCISES = (
    Exercise("04.1", "How many seeds?", _check_seeds, (_two_sigma, _no_root, _one_more, _all_free, _from_three)),
    Exercise("04.2", "How many more batches?", _check_more,
             (_linear, lambda base, steps, loss: 1 / _more(base, steps, loss), _from_the_end,
              lambda base, steps, loss: steps / base[1][0], lambda base, steps, loss: _more(base, steps, loss) - 1)),
    Exercise("04.3", "How many products does a quadratic form need?", _check_fewest, (_rank, _half_rank, _positive_only)),
)
