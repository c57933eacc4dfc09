"""Exercises of chapter 10: the split of attention, degrees through blocks, tipping points, coefficients, one strength for many texts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial.polynomial import polyfromroots, polymul, polyroots, polyval

from tensorlm.notebook.checks import compare, exercise, random


@exercise("10.1", "The split of attention",
          lambda p, v, p2, v2: (p2 @ (v2 - v), (p2 - p) @ v, 0.0), lambda p, v, p2, v2: (p @ (v2 - v), (p2 - p) @ v, 0.0),
          lambda p, v, p2, v2: ((p2 - p) @ v, p @ (v2 - v), (p2 - p) @ (v2 - v)), lambda p, v, p2, v2: p2 @ v2 - p @ v)
def carriers(answer):
    for seed in (1, 11, 21):
        p, v, p2, v2 = (random(6, seed=seed + n) for n in range(4))
        got, total = answer(p, v, p2, v2), float(p2 @ v2 - p @ v)
        assert isinstance(got, Sequence) and len(got) == 3, "Three numbers are wanted: values, pattern, both."
        parts = [float(part) for part in got]
        assert abs(sum(parts) - total) < 1e-9 * (1 + abs(total)), f"They sum to {sum(parts):.4f}, the change is {total:.4f}."
        compare(parts[:2], [float(p @ (v2 - v)), float((p2 - p) @ v)],
                "The sum is right, the split is not: for the part of the values, the pattern stays as it was before steering, and the "
                "other way round.")


def _degree(blocks: int, same: bool) -> int:
    there, later = 1, 0
    for _ in range(blocks):
        there, later = 10 * there, 2 * (2 * later + 3 * there)
    return there if same else later


@exercise("10.2", "Count the degree",
          lambda blocks, same: 10**blocks, lambda blocks, same: 10**blocks if same else 6**blocks,
          lambda blocks, same: _degree(blocks, same) // 2, lambda blocks, same: 10**blocks if same else 6 * 10 ** (blocks - 1))
def degree(answer):
    for blocks, same in ((1, True), (1, False), (2, True), (2, False), (3, False)):
        got, expected = answer(blocks, same), _degree(blocks, same)
        where = "at the steered position" if same else "at a later one"
        assert got != expected / 2, f"{blocks} block(s), {where}: got {got}. This is before the MLP, which doubles it."
        assert got == expected, (f"{blocks} block(s), {where}: got {got}, expected {expected}. Two queries of the reader, two keys and "
                                 "one value of the place that is read, and a later position has steering in its own queries from the "
                                 "second block on.")


def _roots(lead, low: float, high: float) -> list[float]:
    return sorted(float(root.real) for root in polyroots(np.asarray(lead)) if abs(root.imag) < 1e-6 and low < root.real < high)


def _tips(lead, low: float, high: float) -> list[float]:
    above = lambda alpha: bool(polyval(alpha, np.asarray(lead)) > 0)
    return [root for root in _roots(lead, low, high) if above(root - 1e-4) != above(root + 1e-4)]


@exercise("10.3", "Where it tips", _roots, lambda lead, low, high: _tips(lead, low, high)[::-1],
          lambda lead, low, high: _tips(lead, -100.0, 100.0), lambda lead, low, high: _tips(lead, 0.0, high))
def tips(answer):
    ask = lambda lead: [float(a) for a in answer(list(lead), -3.0, 3.0)]
    for roots, factor in (([-0.7, 0.5, -1.3], [1.0]), ([0.4, 1.7, -3.9, 2.2], [1.0]), ([0.3], [1.0, 0.0, 1.0]),
                          ([-1.2, 0.9], [1.0, -1.0, 1.0])):
        got, expected = ask(polymul(polyfromroots(roots), factor)), sorted(root for root in roots if -3 < root < 3)
        assert len(got) == len(expected), (f"With the real roots {sorted(roots)} between -3 and 3: expected {len(expected)} strengths, "
                                           f"got {got}.")
        assert np.allclose(got, expected, atol=1e-6), f"Expected {expected} in rising order, got {got}."
    got = ask(polyfromroots([1.0, 1.0, -2.0]))
    assert len(got) == 1 and abs(got[0] + 2) < 1e-5, f"(a - 1)^2 (a + 2) changes sign at -2 alone: at 1 it touches zero. Got {got}."


def _through(D, L, R, c):
    left, right = c @ L.mT, c @ R.mT
    out = left.new_zeros(2 * len(c) - 1, len(D))
    for i in range(len(c)):
        out[i:i + len(c)] += (left[i] * right) @ D.mT
    return out


@exercise("10.4", "Coefficients through a layer",
          lambda D, L, R, c: ((c @ L.mT) * (c @ R.mT)) @ D.mT, lambda D, L, R, c: 2 * _through(D, L, R, c),
          lambda D, L, R, c: _through(D, L, L, c), lambda D, L, R, c: _through(D, L, R, c).flip(0))
def through(answer):
    for seed, powers in ((31, 2), (41, 3), (51, 4)):
        D, L, R, c = (random(*shape, seed=seed + n) for n, shape in enumerate([(3, 5), (5, 4), (5, 4), (powers, 4)]))
        expected = _through(D, L, R, c)
        squares = torch.zeros_like(expected)
        squares[::2] = ((c @ L.mT) * (c @ R.mT)) @ D.mT
        compare(answer(D, L, R, c), expected,
                "Not the coefficients of the layer: the one of power k sums over all i and j with i + j = k.",
                {"Only each coefficient with itself: the products of different powers are missing.": squares},
                each=f"For {powers} coefficients")


def _won(leads, strength: float) -> int:
    return sum(bool(polyval(strength, np.asarray(lead)) > 0) for lead in leads)


def _dose(leads, low: float, high: float) -> float:
    ends = [low, *sorted(root for lead in leads for root in _roots(lead, low, high)), high]
    return max(((a + b) / 2 for a, b in zip(ends, ends[1:])), key=lambda strength: _won(leads, strength))


@exercise("10.5", "One strength for many texts",
          lambda leads, low, high: high, lambda leads, low, high: float(np.median(sum((_roots(lead, low, high) for lead in leads), []))),
          lambda leads, low, high: max(range(int(low), int(high) + 1), key=lambda strength: _won(leads, strength)),
          lambda leads, low, high: _dose(leads, low, 2 * high))
def dose(answer):
    windows = ([(0.3, 2.9), (0.6, 1.15), (1.05, 3.5)], [(0.5, 0.56), (0.54, 2.0), (0.2, 0.58), (1.5, 3.0)],
               [(3.2, 3.9), (4.2, 6.0), (4.5, 7.0)])
    for texts in windows:  # each lead is above zero within its window
        leads = [list(-polyfromroots(window)) for window in texts]
        got, best = float(answer([*leads], 0.0, 4.0)), _won(leads, _dose(leads, 0.0, 4.0))
        assert 0 <= got <= 4, f"Strengths from 0 to 4 were allowed, got {got:.3f}."
        assert _won(leads, got) == best, (f"At {got:.3f} there are {_won(leads, got)} of {len(leads)} leads above zero, and {best} "
                                          f"are possible: they are positive within {texts}.")
