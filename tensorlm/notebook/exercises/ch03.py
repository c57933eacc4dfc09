"""Exercises of chapter 03: a table of counts, a step of Muon, a schedule, an attention pattern, and a gain against noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, TOLERANCE, near as _near, random as _random

# 03.1 -----------------------------------------------------------------------------------------------------------------


def _blend(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    total, kinds = count.sum(), (count > 0).sum()
    if total == 0:
        return lower
    return np.maximum(count - discount, 0) / total + discount * kinds / total * lower


def _check_blend(answer: Any) -> None:
    lower, unseen = np.array([0.5, 0.25, 0.125, 0.125]), np.zeros(4)
    seen = np.array([6.0, 0.0, 1.0, 1.0])
    with np.errstate(all="ignore"):
        got, empty = np.asarray(answer(seen, lower, 0.75), float), np.asarray(answer(unseen, lower, 0.75), float)
    assert got.shape == (4,), f"Return one probability for each of the four characters; got shape {got.shape}."
    assert (got >= 0).all(), "A probability is negative: a character with count 0 has nothing to be discounted from."
    assert got[1] > 0, "A character that never followed still needs a probability: its part of what the discount freed."
    assert abs(got.sum() - 1) < 1e-12, (f"The probabilities sum to {got.sum():.3f}. The discount is taken once from every kind of "
                                        "character that was seen, here three, and all of it goes to the shorter history.")
    expected = _blend(seen, lower, 0.75)
    assert _near(got, expected), (f"Got {got.round(3).tolist()}, expected {expected.round(3).tolist()}: take the discount from each "
                                  "count and hand it out in proportion to `lower`.")
    assert _near(empty, lower), "A history that never occurred says nothing: its answer is `lower`, without a division by zero."
    other = np.array([0.0, 3.0, 2.0, 0.0])
    assert _near(answer(other, lower, 0.5), _blend(other, lower, 0.5)), "With a discount of one half the answer is off: use the argument."


def _without_return(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    return np.maximum(count - discount, 0) / count.sum() if count.sum() else lower


def _all_kinds(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    total = count.sum()
    return np.maximum(count - discount, 0) / total + discount * len(count) / total * lower if total else lower


def _negative(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    return (count - discount) / count.sum() + discount * len(count) / count.sum() * lower if count.sum() else lower


def _even(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    return _blend(count, np.full(len(count), 1 / len(count)), discount) if count.sum() else lower


def _no_guard(count: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
    return np.maximum(count - discount, 0) / count.sum() + discount * (count > 0).sum() / count.sum() * lower


# 03.2 -----------------------------------------------------------------------------------------------------------------

Orthogonal = Callable[[Tensor], Tensor]


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values one."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def _muon(W: Tensor, G: Tensor, M: Tensor, lr: float, mu: float, orthogonal: Orthogonal) -> tuple[Tensor, Tensor]:
    M = mu * M + (1 - mu) * G
    update = orthogonal((1 - mu) * G + mu * M)
    return W - lr * max(1.0, W.shape[0] / W.shape[1]) ** 0.5 * update, M


def _check_muon(answer: Any) -> None:
    for shape, hint in (((4, 4), ""), ((6, 3), "This matrix is tall: is the step multiplied by sqrt(rows / columns)?"),
                        ((3, 6), "This matrix is wide: the factor is 1 there, never below.")):
        W, G, M = (_random(*shape, seed=seed) for seed in (1, 2, 3))
        given = [part.clone() for part in (W, G, M)]
        got = answer(W, G, M, 0.1, 0.9, _orthogonal)
        assert isinstance(got, (tuple, list)) and len(got) == 2, "Return the new weights and the new momentum, as (W, M)."
        assert all(_near(part, copy) for part, copy in zip((W, G, M), given)), "Leave the arguments as they are: compute new tensors."
        weights, momentum = _muon(W, G, M, 0.1, 0.9, _orthogonal)
        assert _near(got[1], momentum), "The momentum is off: M becomes mu M + (1 - mu) G, before any orthogonalisation."
        assert not _near(got[0], 2 * W - weights), "The step goes uphill: it is subtracted from the weights."
        plain = W - 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5 * _orthogonal(momentum)
        assert not _near(got[0], plain), "Likely mistake: the new momentum alone is orthogonalised; Nesterov's form mixes in G once more."
        assert _near(got[0], weights), (f"The weights of a {shape[0]} x {shape[1]} matrix are off. {hint}".rstrip())


def _heavy_ball(W, G, M, lr, mu, orthogonal):
    M = mu * M + (1 - mu) * G
    return W - lr * max(1.0, W.shape[0] / W.shape[1]) ** 0.5 * orthogonal(M), M


def _no_factor(W, G, M, lr, mu, orthogonal):
    M = mu * M + (1 - mu) * G
    return W - lr * orthogonal((1 - mu) * G + mu * M), M


def _any_factor(W, G, M, lr, mu, orthogonal):
    M = mu * M + (1 - mu) * G
    return W - lr * (W.shape[0] / W.shape[1]) ** 0.5 * orthogonal((1 - mu) * G + mu * M), M


def _sum_momentum(W, G, M, lr, mu, orthogonal):
    M = mu * M + G
    return W - lr * max(1.0, W.shape[0] / W.shape[1]) ** 0.5 * orthogonal(G + mu * M), M


def _uphill(W, G, M, lr, mu, orthogonal):
    weights, M = _muon(W, G, M, lr, mu, orthogonal)
    return 2 * W - weights, M


# 03.3 -----------------------------------------------------------------------------------------------------------------


def _rate(step: int, steps: int, cooldown: float) -> float:
    return min(1.0, (steps - step) / (cooldown * steps)) if cooldown else 1.0


def _check_rate(answer: Any) -> None:
    cases = (
        (0, 10, 0.5, "The first step has the full rate: there is no warm-up."),
        (5, 10, 0.5, "With 5 of 10 steps done, half of the steps remain: the rate is still the full one."),
        (6, 10, 0.5, "The fall is a straight line: each step takes away one part of the cool-down's length."),
        (9, 10, 0.5, "The last step that is taken still has a rate above zero: the one after it would have zero."),
        (3, 10, 1.0, "With cooldown = 1 the rate falls from the first step on."),
        (7, 10, 0.0, "With cooldown = 0 the rate never falls, and nothing is divided by zero."),
        (700, 1000, 0.6, "300 of the 600 steps of the cool-down remain."),
    )
    for step, steps, cooldown, hint in cases:
        got, expected = answer(step, steps, cooldown), _rate(step, steps, cooldown)
        assert abs(got - expected) < TOLERANCE, (f"step {step} of {steps}, cooldown {cooldown}: got {got:.3f}, expected {expected:.3f}. "
                                                 f"{hint}")


def _one_early(step: int, steps: int, cooldown: float) -> float:
    return min(1.0, (steps - 1 - step) / (cooldown * steps)) if cooldown else 1.0


def _cosine(step: int, steps: int, cooldown: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * _rate(step, steps, cooldown))


# 03.4 -----------------------------------------------------------------------------------------------------------------


def _pattern(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, mask: Tensor) -> Tensor:
    return mask * (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1]


def _check_pattern(answer: Any) -> None:
    q1, k1, q2, k2 = (_random(5, 4, seed=seed) for seed in (1, 2, 3, 4))
    mask = torch.tril(_random(5, 5, seed=5).abs())
    got, expected = torch.as_tensor(answer(q1, k1, q2, k2, mask), dtype=DTYPE), _pattern(q1, k1, q2, k2, mask)
    assert got.shape == (5, 5), f"The pattern has one row a query and one column a key, (5, 5); got {tuple(got.shape)}."
    assert not got.isinf().any() and not _near(got.sum(-1), torch.ones(5)), "Its rows sum to one: there is no softmax here."
    assert got.triu(1).abs().max() == 0, "A position reads from a later one: multiply by the mask, whose upper triangle is zero."
    assert not _near(got, expected.mT), "Rows and columns have changed places: row i belongs to query i."
    assert not _near(got, 2 * expected) and not _near(got, expected / 2), (
        "Off by a factor of 2: with head dimension 4, each of the two scores is divided by its root, so the product by 4.")
    assert not _near(got, 4 * expected), "The scale is missing: each score is divided by the square root of the head dimension."
    assert _near(got, expected), "Not (q1.k1)(q2.k2) / head_dim times the mask: the two scores are multiplied, entry by entry."


# 03.5 -----------------------------------------------------------------------------------------------------------------


def _errors(base: Sequence[float], changed: Sequence[float]) -> float:
    gains = [b - c for b, c in zip(base, changed)]
    return statistics.mean(gains) / (statistics.stdev(gains) / math.sqrt(len(gains)))


def _check_errors(answer: Any) -> None:
    base, changed = [1.80, 1.90, 2.00], [1.78, 1.89, 1.97]
    got, expected = answer(base, changed), _errors(base, changed)
    assert got > 0, "A lower loss is a gain: the sign should be positive when `changed` is lower than `base`."
    likely = {
        _errors(base, changed) / math.sqrt(3): "The mean of three runs is surer than one run: divide the deviation by the root of 3.",
        _errors(base, changed) * math.sqrt(1.5): "The deviation of a sample divides by n - 1 (statistics.stdev, not pstdev).",
        statistics.mean(base) - statistics.mean(changed): "That is the gain in nats: it still has to be divided by its standard error.",
    }
    for value, hint in likely.items():
        assert abs(got - value) > 1e-6, f"Got {got:.3f}. {hint}"
    assert abs(got - expected) < 1e-6, (f"Got {got:.3f}, expected {expected:.3f}. The same seed stands at the same place in both lists: "
                                        "subtract seed by seed, and take the spread of the differences.")
    base, changed = [2.0, 2.1, 1.9, 2.2, 2.05], [2.0, 2.12, 1.88, 2.21, 2.0]
    assert abs(answer(base, changed) - _errors(base, changed)) < 1e-6, "Right for three seeds, but not for five: use the number of seeds."


def _unpaired(base: Sequence[float], changed: Sequence[float]) -> float:
    spread = statistics.variance(base) / len(base) + statistics.variance(changed) / len(changed)
    return (statistics.mean(base) - statistics.mean(changed)) / math.sqrt(spread)


def _of_one_run(base: Sequence[float], changed: Sequence[float]) -> float:
    return _errors(base, changed) / math.sqrt(len(base))


def _population(base: Sequence[float], changed: Sequence[float]) -> float:
    return _errors(base, changed) * math.sqrt(len(base) / (len(base) - 1))


EXERCISES = (
    Exercise("03.1", "One row of a table of counts", _check_blend, (_without_return, _all_kinds, _negative, _even, _no_guard)),
    Exercise("03.2", "One step of Muon", _check_muon, (_heavy_ball, _no_factor, _any_factor, _sum_momentum, _uphill)),
    Exercise("03.3", "Constant, then down to zero", _check_rate,
             (_one_early, _cosine, lambda step, steps, cooldown: 1 - step / steps,
              lambda step, steps, cooldown: min(1.0, (steps - step) / (cooldown * steps)) if step else 0.0)),
    Exercise("03.4", "A pattern without softmax", _check_pattern,
             (lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT) * (q2 @ k2.mT),
              lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1] ** 0.5,
              lambda q1, k1, q2, k2, mask: (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1],
              lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT + q2 @ k2.mT) / q1.shape[-1] ** 0.5,
              lambda q1, k1, q2, k2, mask: torch.softmax((_pattern(q1, k1, q2, k2, mask)).masked_fill(mask == 0, -math.inf), -1))),
    Exercise("03.5", "A gain, or luck", _check_errors,
             (_unpaired, _of_one_run, _population, lambda base, changed: -_errors(base, changed),
              lambda base, changed: statistics.mean(base) - statistics.mean(changed))),
)
