"""Exercises of chapter 08: one head, its recurrent state, where the recurrence pays, a lifted layer, a rational norm, roots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random


def _as_tensor(answer: Any) -> Tensor:
    return torch.as_tensor(answer, dtype=DTYPE)


def _head(time: int, size: int, seed: int) -> tuple[Tensor, ...]:
    """Random q1, k1, q2, k2, v of shape (time, size)."""
    return tuple(_random(time, size, seed=seed + number) for number in range(5))


# 08.1 -----------------------------------------------------------------------------------------------------------------


def _attend(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return (c * (q1 @ k1.mT) * (q2 @ k2.mT)) @ v


def _check_attend(answer: Any) -> None:
    q1, k1, q2, k2, v = _head(5, 3, seed=1)
    c = torch.exp(-0.3 * (torch.arange(5)[:, None] - torch.arange(5)).clamp(min=0).to(DTYPE)).tril()
    got, expected = _as_tensor(answer(q1, k1, q2, k2, v, c)), _attend(q1, k1, q2, k2, v, c)
    assert got.shape == expected.shape, f"One output for each position: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}."
    assert not _near(got, _attend(q1, k1, q2, k2, v, torch.ones_like(c))), (
        "Position 0 sees the future: the constants c_ij are missing, and they are zero above the diagonal.")
    assert _near(got, expected), ("Not the bilinear head: the two scores are multiplied with each other and with c, entry by entry, "
                                  "and the result multiplies the values. Nothing is exponentiated or divided.")


# 08.2 -----------------------------------------------------------------------------------------------------------------


def _step(state: Tensor, q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, fade: float) -> tuple[Tensor, Tensor]:
    state = fade * state + torch.einsum("a,b,c->abc", k1, k2, v)
    return state, torch.einsum("a,b,abc->c", q1, q2, state)


def _check_step(answer: Any) -> None:
    q1, k1, q2, k2, v = _head(6, 3, seed=11)
    ages = (torch.arange(6)[:, None] - torch.arange(6)).clamp(min=0).to(DTYPE)
    expected = _attend(q1, k1, q2, k2, v, (0.8**ages).tril())
    state = torch.zeros(3, 3, 3, dtype=DTYPE)
    for i in range(6):
        result = answer(state, q1[i], k1[i], q2[i], k2[i], v[i], 0.8)
        assert isinstance(result, (tuple, list)) and len(result) == 2, "Return two things: the new state and the output."
        state, z = (_as_tensor(part) for part in result)
        assert state.shape == (3, 3, 3), ("The state has one axis for k1, one for k2 and one for the values; "
                                          f"got shape {tuple(state.shape)}.")
        assert z.shape == (3,), f"The output has the size of a value, got shape {tuple(z.shape)}."
        hint = ("A token reads its own key too, and unfaded: write first, then read." if i == 0
                else "Does the old state fade by the factor at each step, and only the old one?")
        assert _near(z, expected[i]), f"Position {i}: not what attention over all keys so far gives. {hint}"


def _step_reads_first(state, q1, k1, q2, k2, v, fade):
    return fade * state + torch.einsum("a,b,c->abc", k1, k2, v), torch.einsum("a,b,abc->c", q1, q2, state)


def _step_fades_all(state, q1, k1, q2, k2, v, fade):
    state = fade * (state + torch.einsum("a,b,c->abc", k1, k2, v))
    return state, torch.einsum("a,b,abc->c", q1, q2, state)


def _step_keeps_all(state, q1, k1, q2, k2, v, fade):
    return _step(state, q1, k1, q2, k2, v, 1.0)


# 08.3 -----------------------------------------------------------------------------------------------------------------


def _pays_from(size: int) -> int:
    time = 1
    while time * (2 * size**3 + 2 * size**2) >= time**2 / 2 * (3 * size + 1):
        time += 1
    return time


def _check_pays_from(answer: Any) -> None:
    for size in (8, 16, 32, 64):
        got, expected = answer(size), _pays_from(size)
        assert abs(got - expected) <= 1, (f"Head size {size}: got {got}, expected {expected}. "
                                          "Set n(2d^3 + 2d^2) equal to n^2 (3d + 1) / 2 and solve for n.")


# 08.4 -----------------------------------------------------------------------------------------------------------------


def _lifted(D: Tensor, L: Tensor, R: Tensor, b: Tensor, c: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    constant = torch.zeros(1, 1 + L.shape[1], dtype=DTYPE)
    constant[0, 0] = 1
    return (torch.cat([D, e[:, None]], 1), torch.cat([torch.cat([b[:, None], L], 1), constant]),
            torch.cat([torch.cat([c[:, None], R], 1), constant]))


def _check_lifted(answer: Any) -> None:
    D, L, R = _random(2, 4, seed=20), _random(4, 3, seed=21), _random(4, 3, seed=22)
    b, c, e = _random(4, seed=23), _random(4, seed=24), _random(2, seed=25)
    result = answer(D, L, R, b, c, e)
    assert isinstance(result, (tuple, list)) and len(result) == 3, "Give the three factors as a tuple (D, L, R)."
    D2, L2, R2 = (_as_tensor(factor) for factor in result)
    assert L2.shape == R2.shape and L2.shape[1] == 4, (
        f"The encoders read (1, x), 4 numbers here; got {tuple(L2.shape)} and {tuple(R2.shape)}.")
    assert D2.shape == (2, L2.shape[0]), f"D needs a column for each of your {L2.shape[0]} units, got shape {tuple(D2.shape)}."
    for x in _random(4, 3, seed=26):
        one_x = torch.cat([torch.ones(1, dtype=DTYPE), x])
        got = D2 @ ((L2 @ one_x) * (R2 @ one_x))
        expected = D @ ((L @ x + b) * (R @ x + c)) + e
        assert not _near(got, expected - e), "The output bias e is missing: one more unit reads the constant on both sides."
        assert _near(got, expected), "The lifted layer gives other outputs: b and c are the weights of the constant, in its column."


def _lifted_without_output(D, L, R, b, c, e):
    return D, torch.cat([b[:, None], L], 1), torch.cat([c[:, None], R], 1)


def _lifted_at_the_end(D, L, R, b, c, e):
    D2, L2, R2 = _lifted(D, L, R, b, c, e)
    return D2, L2.roll(-1, 1), R2.roll(-1, 1)


def _lifted_both_left(D, L, R, b, c, e):
    return _lifted(D, L, R, b, b, e)


# 08.5 -----------------------------------------------------------------------------------------------------------------


def _bounded_score(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor) -> Tensor:
    return (q1 @ k1) * (q2 @ k2) * 4 / ((q1 @ q1 + q2 @ q2) * (k1 @ k1 + k2 @ k2))


def _check_bounded(answer: Any) -> None:
    for seed in range(30, 60, 5):
        q1, k1, q2, k2 = (_random(3, seed=seed + number) for number in range(4))
        got, expected = float(answer(q1, k1, q2, k2)), float(_bounded_score(q1, k1, q2, k2))
        rooted = float((q1 @ k1) * (q2 @ k2) / (q1.norm() * q2.norm() * k1.norm() * k2.norm()))
        assert abs(got - rooted) > 1e-9 or abs(expected - rooted) < 1e-9, (
            "This divides by norms, which are square roots: a ratio of polynomials has none.")
        assert abs(got - expected) < 1e-9, (f"Got {got:.4f}, expected {expected:.4f}. N is the mean of the two squared lengths, "
                                            "one N for queries and one for keys.")


# 08.6 -----------------------------------------------------------------------------------------------------------------


def _check_is_ratio(answer: Any) -> None:
    cases = [([2], "A bilinear layer."), ([2, 0], "A bilinear layer and a constant."), ([4, 2], "Even counts only."),
             ([2, 1, 1, 0], "A bilinear layer with input biases has terms that read once."), ([2, 3], "One of the terms is odd."),
             ([5], "Five is odd.")]
    for reads, hint in cases:
        got, expected = bool(answer(reads)), all(count % 2 == 0 for count in reads)
        assert got == expected, f"reads = {reads}: you said {got}, and it is {expected}. {hint}"


EXERCISES = (
    Exercise("08.1", "One head", _check_attend,
             mutants=(lambda q1, k1, q2, k2, v, c: ((q1 @ k1.mT) * (q2 @ k2.mT)) @ v,
                      lambda q1, k1, q2, k2, v, c: (torch.softmax(q1 @ k1.mT, -1) * (q2 @ k2.mT) * c) @ v,
                      lambda q1, k1, q2, k2, v, c: ((q1 @ k1.mT) @ (q2 @ k2.mT) * c) @ v,
                      lambda q1, k1, q2, k2, v, c: (c * (q1 @ k1.mT + q2 @ k2.mT)) @ v)),
    Exercise("08.2", "One token at a time", _check_step, mutants=(_step_reads_first, _step_fades_all, _step_keeps_all)),
    Exercise("08.3", "From when on does it pay?", _check_pays_from,
             mutants=(lambda size: size**2, lambda size: 2 * size**2, lambda size: 2 * (2 * size**3 + 2 * size**2))),
    Exercise("08.4", "Biases, lifted", _check_lifted, mutants=(_lifted_without_output, _lifted_at_the_end, _lifted_both_left)),
    Exercise("08.5", "A norm without a root", _check_bounded,
             mutants=(lambda q1, k1, q2, k2: (q1 @ k1) * (q2 @ k2) / (q1.norm() * q2.norm() * k1.norm() * k2.norm()),
                      lambda q1, k1, q2, k2: (q1 @ k1) * (q2 @ k2) / ((q1 @ q1 + q2 @ q2) * (k1 @ k1 + k2 @ k2)),
                      lambda q1, k1, q2, k2: (q1 @ k1) * (q2 @ k2))),
    Exercise("08.6", "Does a root stay?", _check_is_ratio,
             mutants=(lambda reads: sum(reads) % 2 == 0, lambda reads: any(count % 2 == 0 for count in reads),
                      lambda reads: max(reads) % 2 == 0)),
)
