"""Exercises of chapter 02: exponents, factorisations, steered responses, a normed block, and a detector of degrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random


def _layer(seed: int, width: int = 4, hidden: int = 5) -> Callable[[Tensor], Tensor]:
    """A random bilinear layer as a plain function of one vector (width,)."""
    D, L, R = _random(width, hidden, seed=seed), _random(hidden, width, seed=seed + 1), _random(hidden, width, seed=seed + 2)
    return lambda x: D @ ((L @ x) * (R @ x))


# 02.1 -----------------------------------------------------------------------------------------------------------------


def _check_exponent(answer: Any) -> None:
    hints = {
        (1, 3): "One layer with three encoders multiplies three factors a.",
        (2, 1): "A layer with one encoder is linear: two of them in a row still scale by a.",
        (3, 2): "Each layer raises everything below it to its own power, so the exponents multiply from layer to layer.",
        (2, 3): "Two layers with three encoders: the second one cubes what is already cubed.",
    }
    for (layers, encoders), hint in hints.items():
        got, expected = answer(layers, encoders), encoders**layers
        assert got == expected, f"layers = {layers}, encoders = {encoders}: got {got}, expected {expected}. {hint}"


# 02.2 -----------------------------------------------------------------------------------------------------------------


def _check_factors(answer: Any) -> None:
    assert isinstance(answer, (tuple, list)) and len(answer) == 3, "Give the three factors as a tuple (D, L, R)."
    D, L, R = (torch.as_tensor(factor, dtype=DTYPE) for factor in answer)
    shapes = tuple(tuple(factor.shape) for factor in (D, L, R))
    assert shapes == ((1, 2), (2, 2), (2, 2)), f"Two units, two inputs, one output: D (1, 2), L (2, 2), R (2, 2); got {shapes}."
    for x in _random(5, 2, seed=0):
        got, expected = D @ ((L @ x) * (R @ x)), (x @ x)[None]
        assert _near(got, expected), (f"At x = {_rounded(x)} your factors give {got.item():.3f}, but x1^2 + x2^2 is {expected.item():.3f}. "
                                      "A share is worth comparing only between forms of the same function (is a factor one half missing?).")
    share = _shares(D, L, R, torch.tensor([1.0, 0.0], dtype=DTYPE)).sort().values
    assert not _near(share, [0.0, 1.0]), (
        "The function is right, but at x = (1, 0) one unit still has the whole share. Swapping L and R, "
        "rescaling and reordering units never change the set of shares: take other directions for the units.")
    assert _near(share, [0.5, 0.5]), f"The function is right, but at x = (1, 0) the shares are {_rounded(share)}; wanted: one half each."


def _shares(D: Tensor, L: Tensor, R: Tensor, x: Tensor) -> Tensor:
    contributions = (D[0] * (L @ x) * (R @ x)).abs()
    return contributions / contributions.sum()


def _rounded(vector: Tensor) -> str:
    return "(" + ", ".join(f"{entry:.2f}" for entry in vector.tolist()) + ")"


SQUARES = [[1.0, 0.0], [0.0, 1.0]]
DIAGONALS = [[1.0, 1.0], [1.0, -1.0]]
WRONG_FACTORS = (
    ([[1.0, 1.0]], SQUARES, SQUARES),                                   # the form given in the question
    ([[0.5, 1.0]], [[2.0, 0.0], [0.0, 1.0]], SQUARES),                  # rescaled
    ([[1.0, 1.0]], SQUARES[::-1], SQUARES[::-1]),                       # reordered
    ([[1.0, 1.0]], DIAGONALS, DIAGONALS),                               # without the half
    ([[0.5, 0.5]], DIAGONALS, DIAGONALS[::-1]),                         # (x1 + x2)(x1 - x2)
    ([[1.0, 1.0]], [[0.6, 0.8], [-0.8, 0.6]], [[0.6, 0.8], [-0.8, 0.6]]),   # turned, but not by 45 degrees
)


# 02.3 -----------------------------------------------------------------------------------------------------------------


def _check_predict(answer: Any) -> None:
    f, x, s = _layer(seed=10), _random(4, seed=20), _random(4, seed=21)
    minus, zero, plus = f(x - s), f(x), f(x + s)
    known = {0.0: (zero, "At alpha = 0 nothing has been added, so the answer is `zero`: is f(x) counted twice in the self term?"),
             1.0: (plus, "At alpha = 1 the answer is `plus`: is a factor one half missing, or a term counted twice?"),
             -1.0: (minus, "At alpha = -1 the answer is `minus`: the cross term changes its sign with alpha, the self term does not.")}
    for alpha, (expected, hint) in known.items():
        assert _near(answer(minus, zero, plus, alpha), expected), hint
    for alpha in (3.0, -2.5, 0.1):
        assert _near(answer(minus, zero, plus, alpha), f(x + alpha * s)), (
            f"The three given points are met, but alpha = {alpha:g} is not: the cross term grows as alpha, the self term as alpha squared.")


WRONG_PREDICTIONS = (
    lambda minus, zero, plus, alpha: zero + alpha * (plus - zero),
    lambda minus, zero, plus, alpha: zero + alpha**2 * (plus - zero),
    lambda minus, zero, plus, alpha: zero + alpha * (plus - minus) + alpha**2 * (plus + minus - 2 * zero),
    lambda minus, zero, plus, alpha: zero + alpha * (plus - minus) / 2 + alpha**2 * (plus + minus) / 2,
    lambda minus, zero, plus, alpha: zero + abs(alpha) * (plus - minus) / 2 + alpha**2 * ((plus + minus) / 2 - zero),
    lambda minus, zero, plus, alpha: zero + alpha * (plus - minus) / 2 + abs(alpha) * ((plus + minus) / 2 - zero),
    lambda minus, zero, plus, alpha: alpha * (plus - minus) / 2 + alpha**2 * ((plus + minus) / 2 - zero),
)


# 02.4 -----------------------------------------------------------------------------------------------------------------


def _check_block(answer: Any) -> None:
    f, x = _layer(seed=30), _random(4, seed=40)
    d, square, got = len(x), x @ x, answer(x, f(x))
    likely = {
        "the layer is divided by x.x but the factor d is missing": x + f(x) / square,
        "the divisor is the norm; the layer has two factors x, and each is divided": x + d**0.5 * f(x) / square.sqrt(),
        "the residual x is not normed: only what the layer reads is": x * (d / square) ** 0.5 + d * f(x) / square,
        "the whole numerator stands over x.x, so the residual must be x (x.x) in it": (x + d * f(x)) / square,
        "d and x.x have changed places": x + f(x) * square / d,
        "the residual is missing": d * f(x) / square,
        "there is no norm in it": x + f(x),
    }
    for mistake, value in likely.items():
        assert not _near(got, value), f"Likely mistake: {mistake}."
    assert _near(got, x + d * f(x) / square), "Not x + f(x / rms(x)). Start from rms(x)^2 = x.x / d and f(cx) = c^2 f(x)."


WRONG_BLOCKS = (
    lambda x, fx: x + fx / (x @ x),
    lambda x, fx: x + len(x) ** 0.5 * fx / x.norm(),
    lambda x, fx: (x + len(x) * fx) / (x @ x),
    lambda x, fx: x + fx * (x @ x) / len(x),
    lambda x, fx: x * (len(x) / (x @ x)) ** 0.5 + len(x) * fx / (x @ x),
    lambda x, fx: len(x) * fx / (x @ x),
    lambda x, fx: x + fx,
)


# 02.5 -----------------------------------------------------------------------------------------------------------------


def _check_degree(answer: Any) -> None:
    f, g, W, x = _layer(seed=50), _layer(seed=60), _random(4, 4, seed=70), _random(4, seed=80)
    b = _random(4, seed=90)
    cases: tuple[tuple[str, Callable[[Tensor], Tensor], int | str, str], ...] = (
        ("a linear map", lambda z: W @ z, 1, "For an odd degree f(-x) is -f(x), not f(x)."),
        ("a bilinear layer", f, 2, ""),
        ("three encoders", lambda z: f(z) * (W @ z), 3, "For an odd degree f(-x) is -f(x), not f(x)."),
        ("two layers", lambda z: g(f(z)), 4, ""),
        ("a bilinear layer after RMSNorm", lambda z: f(z / z.norm()), 0, "Nothing changes at all there, and that is the exponent 0."),
        ("a residual block", lambda z: z + f(z), "none", "The size alone does not decide: compare the whole vectors f(ax) and a^n f(x)."),
        ("a layer with a bias", lambda z: f(z + b), "none", "Compare the whole vectors f(ax) and a^n f(x), at more than one a."),
        ("a ReLU layer", lambda z: W.T @ torch.relu(W @ z), "none", "It scales by a for positive a only: try a negative a too."),
        ("the absolute value", lambda z: z.abs(), "none", "It scales by |a|, not by a: try a negative a too."),
    )
    for name, function, expected, hint in cases:
        got = answer(function, x)
        assert got == expected, f"For {name}: got {got}, expected {expected}. {hint}".rstrip()


def _size_only(f: Callable[[Tensor], Tensor], x: Tensor) -> int:
    return round(float((f(2 * x).norm() / f(x).norm()).log2()))


def _same(f: Callable[[Tensor], Tensor], x: Tensor, n: int, scales: tuple[float, ...]) -> bool:
    return all(_near(f(a * x), a**n * f(x)) for a in scales)


def _positive_only(f: Callable[[Tensor], Tensor], x: Tensor) -> int | str:
    n = _size_only(f, x)
    return n if _same(f, x, n, (2.0, 3.0)) else "none"


def _direction_only(f: Callable[[Tensor], Tensor], x: Tensor) -> int | str:
    n = _size_only(f, x)
    return n if _near(f(3 * x) / f(3 * x).norm(), f(x) / f(x).norm()) else "none"


def _always_even(f: Callable[[Tensor], Tensor], x: Tensor) -> int | str:
    n = _size_only(f, x)
    return n if _same(f, x, n, (2.0, 3.0)) and _near(f(-x), f(x)) else "none"


EXERCISES = (
    Exercise("02.1", "The exponent of a stack", _check_exponent,
             (lambda N, k: N * k, lambda N, k: 2**N, lambda N, k: N**k, lambda N, k: N + k, lambda N, k: k)),
    Exercise("02.2", "Same function, other shares", _check_factors, WRONG_FACTORS),
    Exercise("02.3", "Three runs predict them all", _check_predict, WRONG_PREDICTIONS),
    Exercise("02.4", "A normed block without a square root", _check_block, WRONG_BLOCKS),
    Exercise("02.5", "A detector of degrees", _check_degree, (_size_only, _positive_only, _direction_only, _always_even)),
)
