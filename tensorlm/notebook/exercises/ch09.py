"""Exercises of chapter 09: the cross term from runs, the strength of return, the token table, five runs through two layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random


def _as_tensor(answer: Any) -> Tensor:
    return torch.as_tensor(answer, dtype=DTYPE)


def _layer(seed: int, width: int = 4, hidden: int = 5, out: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Random factors D, L, R."""
    return _random(out, hidden, seed=seed), _random(hidden, width, seed=seed + 1), _random(hidden, width, seed=seed + 2)


def _apply(factors: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    D, L, R = factors
    return ((x @ L.mT) * (x @ R.mT)) @ D.mT


def _polar(factors: tuple[Tensor, Tensor, Tensor], u: Tensor, v: Tensor) -> Tensor:
    D, L, R = factors
    return ((u @ L.mT) * (v @ R.mT) + (v @ L.mT) * (u @ R.mT)) @ D.mT / 2


# 09.1 -----------------------------------------------------------------------------------------------------------------


def _check_cross(answer: Any) -> None:
    for seed in (1, 11, 21):
        factors, x, s = _layer(seed), _random(4, seed=seed + 5), _random(4, seed=seed + 6)
        f = lambda z: _apply(factors, z)
        got, cross = _as_tensor(answer(f(x), f(s), f(x + s))), 2 * _polar(factors, x, s)
        assert got.shape == cross.shape, f"One number for each output: expected shape {tuple(cross.shape)}, got {tuple(got.shape)}."
        assert not _near(got, cross / 2), "This is B(x, s) itself: the cross term at strength 1 is twice that."
        assert not _near(got, cross + f(s)), "The self term is still in it: at strength 1 it is f(s), a run of its own."
        assert _near(got, cross), "Not 2B(x, s): write out f(x + s) as three terms. Two of them are runs that you have."


# 09.2 -----------------------------------------------------------------------------------------------------------------


def _return(D: Tensor, L: Tensor, R: Tensor, x: Tensor, s: Tensor, u: Tensor) -> Tensor:
    factors = (D, L, R)
    return -2 * (_polar(factors, x, s) @ u) / (_apply(factors, s) @ u)


def _check_return(answer: Any) -> None:
    for seed in (31, 41, 51):
        D, L, R = _layer(seed)
        x, s, u = (_random(4, seed=seed + n) for n in (5, 6, 7))
        got, expected = float(answer(D, L, R, x, s, u)), float(_return(D, L, R, x, s, u))
        assert got != 0, "At strength 0 nothing has changed yet: the other root is wanted."
        assert abs(got + expected) > 1e-9 * abs(expected), "The sign is turned: cross and self term must cancel, not agree."
        assert abs(got - expected / 2) > 1e-9 * abs(expected), (
            "This is where the push is largest, half way to the return, or a factor 2 of the cross term is missing.")
        assert abs(got - expected) <= 1e-9 * abs(expected), (
            f"Got {got:.4f}, expected {expected:.4f}. The change along u is 2a u.B(x, s) + a^2 u.f(s); divide by a and set it to 0.")


# 09.3 -----------------------------------------------------------------------------------------------------------------


def _pushes(D: Tensor, L: Tensor, R: Tensor, rows: Tensor, s: Tensor, u: Tensor) -> Tensor:
    return 2 * _polar((D, L, R), s, rows) @ u


def _check_pushes(answer: Any) -> None:
    for seed in (61, 71):
        D, L, R = _layer(seed)
        rows, s, u = _random(7, 4, seed=seed + 5), _random(4, seed=seed + 6), _random(4, seed=seed + 7)
        got, expected = _as_tensor(answer(D, L, R, rows, s, u)), _pushes(D, L, R, rows, s, u)
        assert got.shape == expected.shape, f"One number for each token: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}."
        assert not _near(got, expected / 2), "Half of it: the cross term at strength 1 is 2B(s, row)."
        one_sided = 2 * ((s @ L.mT) * (rows @ R.mT)) @ D.mT @ u
        assert not _near(got, one_sided), "Only one half of the polar form: s must be read by L and by R, and the row by the other one."
        assert _near(got, expected), "Not u . 2B(s, row) for each row. Is the self term in it, which is the same for every token?"


# 09.4 -----------------------------------------------------------------------------------------------------------------


def _five(run: Callable[[float], Tensor], alpha: float) -> Tensor:
    nodes = [-2.0, -1.0, 0.0, 1.0, 2.0]
    total = torch.zeros((), dtype=DTYPE)
    for i, node in enumerate(nodes):
        weight = 1.0
        for other in nodes[:i] + nodes[i + 1:]:
            weight *= (alpha - other) / (node - other)
        total = total + weight * run(node)
    return total


def _check_five(answer: Any) -> None:
    for seed, alpha in ((81, 3.7), (91, -2.6), (101, 0.35)):
        lower, upper, x, s = _layer(seed), _layer(seed + 3), _random(4, seed=seed + 8), _random(4, seed=seed + 9)
        asked: list[float] = []

        def run(strength: float) -> Tensor:
            asked.append(float(strength))
            z = x + float(strength) * s
            z = z + _apply(lower, z)
            return z + _apply(upper, z)

        got = _as_tensor(answer(run, alpha))
        assert alpha not in asked, f"You ran the network at {alpha}, the strength to predict."
        assert len(set(asked)) <= 5, f"Five strengths are enough, and you ran {len(set(asked))}."
        z = x + alpha * s
        z = z + _apply(lower, z)
        expected = z + _apply(upper, z)
        assert got.shape == expected.shape, f"Return the whole output, shape {tuple(expected.shape)}; got {tuple(got.shape)}."
        assert (got - expected).norm() <= 1e-7 * expected.norm(), (
            "Not the output at that strength: two layers are a polynomial of degree 4, with five coefficients, so five different "
            "strengths are needed.")


def _three(run: Callable[[float], Tensor], alpha: float) -> Tensor:
    minus, zero, plus = run(-1.0), run(0.0), run(1.0)
    return zero + alpha * (plus - minus) / 2 + alpha**2 * ((plus + minus) / 2 - zero)


EXERCISES = (
    Exercise("09.1", "The cross term from three runs", _check_cross,
             mutants=(lambda fx, fs, both: both - fx, lambda fx, fs, both: (both - fx - fs) / 2, lambda fx, fs, both: fx + fs,
                      lambda fx, fs, both: both + fx - fs)),
    Exercise("09.2", "Where the change returns", _check_return,
             mutants=(lambda D, L, R, x, s, u: -_return(D, L, R, x, s, u), lambda D, L, R, x, s, u: _return(D, L, R, x, s, u) / 2,
                      lambda D, L, R, x, s, u: 0.0, lambda D, L, R, x, s, u: 1.0)),
    Exercise("09.3", "The token table", _check_pushes,
             mutants=(lambda D, L, R, rows, s, u: _pushes(D, L, R, rows, s, u) / 2,
                      lambda D, L, R, rows, s, u: 2 * ((s @ L.mT) * (rows @ R.mT)) @ D.mT @ u,
                      lambda D, L, R, rows, s, u: _apply((D, L, R), rows + s) @ u - _apply((D, L, R), rows) @ u,
                      lambda D, L, R, rows, s, u: 2 * _polar((D, L, R), s, rows))),
    Exercise("09.4", "Five runs predict them all", _check_five,
             mutants=(_three, lambda run, alpha: run(alpha), lambda run, alpha: run(0.0) + alpha * (run(1.0) - run(0.0)),
                      lambda run, alpha: sum(run(float(n)) for n in range(6)))),
)
