"""Exercises of chapter 04: what is significant, how many seeds and batches, how many products a form, a misleading quotient."""

import math
from itertools import count

import torch

from tensorlm.notebook.checks import TOLERANCE, Exercise, answered, cases, exercise, random_form

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
             2.120, 2.110, 2.101, 2.093, 2.086)  # of Student's t, 95 %, for 1, 2, ... degrees of freedom


LEAST = 4.3 * 0.01 / math.sqrt(3)


@exercise("04.0", "Warm-up: is it significant?", (LEAST, True), (4.3 * 0.01, False), (4.3 * 0.01 / 3, True),
          (0.01 / 3**0.5, True), (0.02, True), (4.3 * 0.02 / 3**0.5, False))
def verdict(answer):
    assert isinstance(answer, tuple | list) and len(answer) == 2, "Give two things: a number, and True or False."
    least, significant = map(answered, answer)
    for wrong, hint in ((4.3 * 0.01, "The root of the number of seeds is missing: divide by the root of 3."),
                        (4.3 * 0.01 / 3, "Divide by the root of the number of seeds, not by the number."),
                        (0.01 / math.sqrt(3), "That is the standard error; t times that is wanted."),
                        (0.02, "0.02 is the mean of the differences; with which number is it compared?"),
                        (4.3 * 0.02 / math.sqrt(3), "The standard deviation of the three differences is 0.01; 0.02 is their mean.")):
        assert abs(least - wrong) > 1e-4, hint
    assert abs(least - LEAST) < 2e-4, f"Got {least:.4f}: t times the standard deviation, over the root of the number of seeds, is wanted."
    assert significant is False, f"The mean, 0.02, is compared with {LEAST:.4f}: which one is larger?"


def _seeds(s: float, d: float, lost: int = 1, power: float = 0.5) -> int:
    """The fewest seeds whose 95 % interval is below d; `lost` degrees of freedom, the `power` of n in the standard error."""
    quantile = lambda freedom: QUANTILES[freedom - 1] if freedom <= len(QUANTILES) else 1.96 + 2.51 / freedom
    return next(n for n in count(2) if quantile(n - lost) * s / n**power < d)


seeds = Exercise("04.1", "How many seeds?", cases(
    "s = {0}, d = {1}: got {got}, expected {expected} seeds. {hint}", _seeds, [
        ((0.01, 0.01), "With d = s the formula needs t / sqrt(n) below 1: 6 seeds give 2.571 / sqrt(6) = 1.05, 7 give 0.92."),
        ((0.01, 0.005), "Half the difference takes more than twice the seeds, since the root of n is in the formula."),
        ((0.02, 0.01), "Only the ratio s / d counts: twice the scatter is as bad as half the difference."),
        ((0.001, 0.05), "Two seeds are the least: one difference has no scatter."),
        ((0.01, 0.013), "t has n - 1 degrees of freedom, and n is the number of seeds."),
    ]),
    (lambda s, d: max(2, math.ceil((1.96 * s / d) ** 2)), lambda s, d: _seeds(s, d, power=1), lambda s, d: _seeds(s, d) + 1,
     lambda s, d: _seeds(s, d, lost=0), lambda s, d: max(3, _seeds(s, d))))


def _more(base, steps: float, loss: float, there=math.log, back=math.exp) -> float:
    (s0, l0), (s1, l1) = base
    return steps / back(there(s0) + (l0 - loss) / (l0 - l1) * (there(s1) - there(s0)))


@exercise("04.2", "How many more batches?",
          lambda base, steps, loss: _more(base, steps, loss, float, float), lambda base, steps, loss: 1 / _more(base, steps, loss),
          lambda base, steps, loss: _more(base, steps, base[0][1] + base[1][1] - loss), lambda base, steps, loss: steps / base[1][0],
          lambda base, steps, loss: _more(base, steps, loss) - 1)
def more_batches(answer):
    base = [(100, 4.0), (400, 3.6)]
    got, expected = answer(base, 300, 3.8), 1.5
    for value, hint in (
            (300 / 250, "That takes the steps half way between 100 and 400; half way between their logarithms is 200."),
            (1 / expected, "Upside down: an arm that needs more batches has a ratio above 1."),
            (300 / 400, "That divides by all steps of the base arm; it reached this loss earlier."),
            (300 / 100, "That divides by the steps of the shorter run, whose loss is higher.")):
        assert abs(got - value) > 1e-6, f"Got {got:.3f}. {hint}"
    assert abs(got - expected) < TOLERANCE, f"Got {got:.3f}, expected {expected}: the base arm has this loss after 200 steps."
    for loss, steps, hint in ((4.0, 100, "At the loss of the shorter run the base arm needs its 100 steps."),
                              (3.6, 500, "At the loss of the longer run the base arm needs its 400 steps."),
                              (3.7, 300, "Three quarters of the way down in loss are three quarters of the way in log steps.")):
        got, expected = answer(base, steps, loss), _more(base, steps, loss)
        assert abs(got - expected) < TOLERANCE, f"loss {loss}, steps {steps}: got {got:.3f}, expected {expected:.3f}. {hint}"


_rank = lambda Q: int(torch.linalg.matrix_rank(Q))


@exercise("04.3", "How many products does a quadratic form need?", _rank, lambda Q: -(-_rank(Q) // 2),
          lambda Q: int((torch.linalg.eigvalsh(Q) > 1e-9 * float(Q.abs().max() or 1)).sum()))
def products(answer):
    for eigenvalues, expected, hint in (
            ((2.0, -1.0, 0.0, 0.0), 1, "One positive and one negative eigenvalue: a^2 - b^2 = (a + b)(a - b) is one product."),
            ((2.0, 1.0, 0.0, 0.0), 2, "Two positive eigenvalues: a sum of two squares is no product of two real readings."),
            ((3.0, 2.0, -1.0, -4.0), 2, "Two of each sign make two products."),
            ((-1.0, -2.0, -3.0, 5.0), 3, "Three negative and one positive: the positive one can join only one of them."),
            ((0.0, 0.0, 0.0, 0.0), 0, "Nothing needs no product."),
            ((1e3, -1e-2, 1e-13, 0.0), 1, "Compare with the largest eigenvalue: what is smaller by 1e-9 is rounding.")):
        got = answer(random_form(*eigenvalues, seed=70))
        assert int(got) == expected, f"Got {got}, expected {expected}. {hint}"


def _quotient(run):
    return (run[0][1] - run[-1][1]) / run[-1][0]


def _reached(run, target):
    """The seconds after which the line through the points is down at `target`."""
    for (x0, l0), (x1, l1) in zip(run, run[1:]):
        if l0 > target >= l1:
            return x0 + (x1 - x0) * (l0 - target) / (l0 - l1)
    raise AssertionError(f"A run never comes down to the target {target:g}: it ends at {run[-1][1]:g}.")


def _require_run(run):
    assert len(run) >= 3 and all(len(point) == 2 for point in run), "A run is a list of at least three points (seconds, loss)."
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in zip(run, run[1:])), "In each run the seconds must rise and the loss must fall."
    assert run[0][0] == 0, "Both runs begin at 0 seconds."


_LATE, _EARLY = [(0, 5), (8, 4), (10, 2)], [(0, 5), (2, 3), (20, 2)]


@exercise("04.4", "Open: a misleading quotient", (_EARLY, _LATE, 3), (_LATE, _EARLY, 2.01), (_LATE, _EARLY, 1),
          (_LATE, [(0, 4), (2, 3), (20, 2)], 3), (_LATE, [(0, 5), (2, 3), (5, 2)], 3), ([(0, 5), (10, 2)], _EARLY, 3),
          (_LATE, [(0, 5), (2, 3), (20, 3.5)], 3))
def misleading(answer):
    assert isinstance(answer, tuple | list) and len(answer) == 3, "Give three things: two runs and a target."
    first, second, target = map(answered, answer)
    for run in (first, second):
        _require_run(run)
    assert first[0][1] == second[0][1], f"Both runs begin with the same loss; yours begin with {first[0][1]:g} and {second[0][1]:g}."
    times, quotients = [_reached(run, target) for run in (first, second)], [_quotient(run) for run in (first, second)]
    assert quotients[0] > quotients[1], f"The quotients are {quotients[0]:.3f} and {quotients[1]:.3f}: the first must be the larger one."
    assert times[1] < times[0], f"They are at the target after {times[0]:.1f} and {times[1]:.1f} s: the second must be sooner."
