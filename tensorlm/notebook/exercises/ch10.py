"""Exercises of chapter 10: the split of attention, degrees through blocks, tipping points, coefficients through a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random

# 10.1 -----------------------------------------------------------------------------------------------------------------


def _carriers(p: Tensor, v: Tensor, p2: Tensor, v2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return p @ (v2 - v), (p2 - p) @ v, (p2 - p) @ (v2 - v)


def _check_carriers(answer: Any) -> None:
    for seed in (1, 11, 21):
        p, v, p2, v2 = (_random(6, seed=seed + n) for n in range(4))
        got = answer(p, v, p2, v2)
        assert isinstance(got, Sequence) and len(got) == 3, "Three numbers are wanted: values, pattern, both."
        values, pattern, both = (float(part) for part in got)
        expected = [float(part) for part in _carriers(p, v, p2, v2)]
        total = float(p2 @ v2 - p @ v)
        assert abs(values + pattern + both - total) < 1e-9 * (1 + abs(total)), (
            f"They sum to {values + pattern + both:.4f}, the change is {total:.4f}.")
        assert _near([values, pattern], expected[:2]), (
            "The sum is right, the split is not: for the part of the values, the pattern stays as it was before steering, "
            "and the other way round.")


# 10.2 -----------------------------------------------------------------------------------------------------------------


def _degree(blocks: int, same: bool) -> int:
    there, later = 1, 0
    for _ in range(blocks):
        there, later = 10 * there, 2 * (2 * later + 3 * there)
    return there if same else later


def _check_degree(answer: Any) -> None:
    for blocks, same in ((1, True), (1, False), (2, True), (2, False), (3, False)):
        got, expected = answer(blocks, same), _degree(blocks, same)
        where = "at the steered position" if same else "at a later one"
        assert got != expected / 2, f"{blocks} block(s), {where}: got {got}. This is before the MLP, which doubles it."
        assert got == expected, (f"{blocks} block(s), {where}: got {got}, expected {expected}. Two queries of the reader, two keys and "
                                 "one value of the place that is read, and a later position has steering in its own queries from the "
                                 "second block on.")


# 10.3 -----------------------------------------------------------------------------------------------------------------


def _roots(lead: Any, low: float, high: float) -> list[float]:
    roots = np.polynomial.polynomial.polyroots(np.asarray(lead))
    return sorted(float(r.real) for r in roots if abs(r.imag) < 1e-6 and low < r.real < high)


def _tips(lead: Any, low: float, high: float) -> list[float]:
    def above(alpha: float) -> bool:
        return bool(np.polynomial.polynomial.polyval(alpha, np.asarray(lead)) > 0)

    return [r for r in _roots(lead, low, high) if above(r - 1e-4) != above(r + 1e-4)]


def _check_tips(answer: Any) -> None:
    cases = (([-0.7, 0.5, -1.3], [1.0]), ([0.4, 1.7, -3.9, 2.2], [1.0]), ([0.3], [1.0, 0.0, 1.0]), ([-1.2, 0.9], [1.0, -1.0, 1.0]))
    for roots, factor in cases:
        lead = np.polynomial.polynomial.polymul(np.polynomial.polynomial.polyfromroots(roots), factor)
        got, expected = [float(a) for a in answer(list(lead), -3.0, 3.0)], sorted(r for r in roots if -3 < r < 3)
        assert len(got) == len(expected), (f"With the real roots {sorted(roots)} between -3 and 3: expected {len(expected)} strengths, "
                                           f"got {got}.")
        assert np.allclose(got, expected, atol=1e-6), f"Expected {expected} in rising order, got {got}."
    touching = np.polynomial.polynomial.polyfromroots([1.0, 1.0, -2.0])
    got = [float(a) for a in answer(list(touching), -3.0, 3.0)]
    assert len(got) == 1 and abs(got[0] + 2) < 1e-5, f"(a - 1)^2 (a + 2) changes sign at -2 alone: at 1 it touches zero. Got {got}."


# 10.4 -----------------------------------------------------------------------------------------------------------------


def _through(D: Tensor, L: Tensor, R: Tensor, c: Tensor) -> Tensor:
    left, right = c @ L.mT, c @ R.mT
    out = left.new_zeros(2 * len(c) - 1, len(D))
    for i in range(len(c)):
        out[i:i + len(c)] += (left[i] * right) @ D.mT
    return out


def _check_through(answer: Callable[..., Any]) -> None:
    for seed, powers in ((31, 2), (41, 3), (51, 4)):
        D, L, R, c = (_random(*shape, seed=seed + n) for n, shape in enumerate([(3, 5), (5, 4), (5, 4), (powers, 4)]))
        got, expected = torch.as_tensor(answer(D, L, R, c), dtype=DTYPE), _through(D, L, R, c)
        assert got.shape == expected.shape, f"For {powers} coefficients: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}."
        squares = torch.zeros_like(expected)
        squares[::2] = ((c @ L.mT) * (c @ R.mT)) @ D.mT
        assert not _near(got, squares), "Only each coefficient with itself: the products of different powers are missing."
        assert _near(got, expected), "Not the coefficients of the layer: the one of power k sums over all i and j with i + j = k."


EXERCISES = (
    Exercise("10.1", "The split of attention", _check_carriers,
             mutants=(lambda p, v, p2, v2: (p2 @ (v2 - v), (p2 - p) @ v, 0.0), lambda p, v, p2, v2: (p @ (v2 - v), (p2 - p) @ v, 0.0),
                      lambda p, v, p2, v2: ((p2 - p) @ v, p @ (v2 - v), (p2 - p) @ (v2 - v)), lambda p, v, p2, v2: p2 @ v2 - p @ v)),
    Exercise("10.2", "Count the degree", _check_degree,
             mutants=(lambda blocks, same: 10**blocks, lambda blocks, same: 10**blocks if same else 6**blocks,
                      lambda blocks, same: _degree(blocks, same) // 2,
                      lambda blocks, same: 10**blocks if same else 6 * 10 ** (blocks - 1))),
    Exercise("10.3", "Where it tips", _check_tips,
             mutants=(_roots, lambda lead, low, high: _tips(lead, low, high)[::-1], lambda lead, low, high: _tips(lead, -100.0, 100.0),
                      lambda lead, low, high: _tips(lead, 0.0, high))),
    Exercise("10.4", "Coefficients through a layer", _check_through,
             mutants=(lambda D, L, R, c: ((c @ L.mT) * (c @ R.mT)) @ D.mT, lambda D, L, R, c: 2 * _through(D, L, R, c),
                      lambda D, L, R, c: _through(D, L, L, c), lambda D, L, R, c: _through(D, L, R, c).flip(0))),
)
