"""Exercises of chapter 05: a fading norm, a folded constant, the degree of a model, a degree read off coefficients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import near as _near, random as _random

# 05.1 -----------------------------------------------------------------------------------------------------------------


def _faded(x: Tensor, c: float, a: float) -> Tensor:
    r = x.square().mean(-1, keepdim=True).sqrt()
    return x * r ** (a - 1) * c**-a


def _check_faded(answer: Any) -> None:
    x = _random(5, 4, seed=1) * torch.tensor([[1.0], [2.0], [0.5], [3.0], [1.0]])
    assert _near(answer(x, 1.7, 0.0), _faded(x, 1.7, 0.0)), (
        "At a = 0 it is RMSNorm: each token (row) is divided by the root of the mean of its squares, and comes out with a mean "
        "square of 1.")
    assert _near(answer(2 * x, 1.7, 1.0), 2 * answer(x, 1.7, 1.0)), (
        "At a = 1 nothing depends on the token any more: doubling x must double the result.")
    assert _near(answer(x, 1.7, 1.0), x / 1.7), "At a = 1 nothing but the division by c is left."
    assert _near(answer(x, 1.7, 0.3), _faded(x, 1.7, 0.3)), (
        "Right at both ends, wrong between: the two sizes are multiplied as powers, r^(1-a) c^a, not mixed.")


# 05.2 -----------------------------------------------------------------------------------------------------------------


def _layer(D: Tensor, L: Tensor, R: Tensor, x: Tensor) -> Tensor:
    return ((x @ L.mT) * (x @ R.mT)) @ D.mT


def _check_folded(answer: Any) -> None:
    D, L, R, x = _random(3, 5, seed=2), _random(5, 4, seed=3), _random(5, 4, seed=4), _random(7, 4, seed=5)
    for c in (2.0, 0.3):
        result = answer(D, L, R, c)
        assert isinstance(result, (tuple, list)) and len(result) == 3, "Return three matrices: D, L, R."
        assert all(new.shape == old.shape for new, old in zip(result, (D, L, R))), (
            "The factors keep their shapes: a constant needs no room.")
        new_D, new_L, new_R = result
        got, expected = _layer(new_D, new_L, new_R, x), _layer(D, L, R, x / c)
        hint = ("The layer reads its input twice." if _near(got * c, expected) or _near(got / c, expected)
                else "Which power of c does f(x / c) carry?")
        assert _near(got, expected), f"c = {c}: the new layer at x is not the old layer at x / c. {hint}"


# 05.3 -----------------------------------------------------------------------------------------------------------------


def _check_degree(answer: Any) -> None:
    cases = [(1, 2, 10, "One layer: attention reads its input five times, the MLP squares that."),
             (2, 2, 100, "Layers multiply; they do not add."), (2, 1, 25, "One encoder is a linear MLP."),
             (3, 2, 1000, "Three layers."), (2, 3, 225, "Three encoders multiply three inputs.")]
    for layers, encoders, expected, hint in cases:
        got = int(answer(layers, encoders))
        assert got == expected, f"{layers} layers, {encoders} encoders: you said {got}, and it is {expected}. {hint}"


# 05.4 -----------------------------------------------------------------------------------------------------------------


def _check_measured(answer: Any) -> None:
    exact = torch.tensor([1.0, -0.5, 0.0, 1e-3, -1e-7, 1e-15, -2e-16], dtype=torch.float64)
    cases = [(exact, 4, "Entries of 1e-15 are rounding error, and one that happens to be 0 in between does not end the series."),
             (1e12 * exact, 4, "Rounding error is relative: it grows with the largest coefficient."),
             (torch.tensor([3.0, 0.0]), 0, "A constant has degree 0."),
             (torch.tensor([0.0, 0.0, -2.0]), 2, "The sign of a coefficient does not matter.")]
    for coefficients, expected, hint in cases:
        got = int(answer(coefficients, 1e-12))
        assert got == expected, (f"coefficients {[f'{value:.0e}' for value in coefficients.tolist()]}: you said {got}, "
                                 f"and it is {expected}. {hint}")


EXERCISES = (
    Exercise("05.1", "A norm that fades", _check_faded,
             mutants=(lambda x, c, a: x / ((1 - a) * x.square().mean(-1, keepdim=True).sqrt() + a * c),
                      lambda x, c, a: x * x.square().mean().sqrt() ** (a - 1) * c**-a,
                      lambda x, c, a: x * x.square().mean(-1, keepdim=True).sqrt() ** -a * c ** (a - 1),
                      lambda x, c, a: x * x.norm(dim=-1, keepdim=True) ** (a - 1) * c**-a,
                      lambda x, c, a: x / x.square().mean(-1, keepdim=True).sqrt())),
    Exercise("05.2", "A constant, folded", _check_folded,
             mutants=(lambda D, L, R, c: (D / c, L, R), lambda D, L, R, c: (D, L * c, R * c), lambda D, L, R, c: (D / c, L / c, R / c))),
    Exercise("05.3", "How high a degree?", _check_degree,
             mutants=(lambda layers, encoders: (5 + encoders) ** layers, lambda layers, encoders: 5 * encoders * layers,
                      lambda layers, encoders: 10**layers)),
    Exercise("05.4", "Read a degree", _check_measured,
             mutants=(lambda coefficients, tolerance: len(coefficients) - 1,
                      lambda coefficients, tolerance: int((coefficients.abs() > tolerance).nonzero().max()),
                      lambda coefficients, tolerance: int((coefficients.abs() > tolerance * coefficients.abs().max()).sum()) - 1,
                      lambda coefficients, tolerance: int((coefficients > tolerance * coefficients.abs().max()).nonzero().max()))),
)
