"""Exercises of chapter 03: a loss, a table of counts, a step of Muon, a schedule, attention patterns, and a gain against noise."""

import math
import statistics

import numpy as np
import torch
from torch import Tensor

from tensorlm.notebook.checks import TOLERANCE, Exercise, as_tensor, cases, compare, exercise, near, random


def _blend(count, lower, discount, kinds=None):
    """Absolute discounting; `kinds` characters are discounted, by default those that were seen."""
    total, kinds = count.sum(), (count > 0).sum() if kinds is None else kinds
    return np.maximum(count - discount, 0) / total + discount * kinds / total * lower if total else lower


@exercise("03.1", "One row of a table of counts",
          lambda count, lower, discount: _blend(count, lower, discount, kinds=0),
          lambda count, lower, discount: _blend(count, lower, discount, kinds=len(count)),
          lambda count, lower, discount: (count - discount + discount * len(count) * lower) / count.sum() if count.sum() else lower,
          lambda count, lower, discount: _blend(count, np.full(len(count), 1 / len(count)), discount) if count.sum() else lower,
          lambda count, lower, discount: (np.maximum(count - discount, 0) + discount * (count > 0).sum() * lower) / count.sum())
def blend(answer):
    lower, unseen, seen = np.array([0.5, 0.25, 0.125, 0.125]), np.zeros(4), np.array([6.0, 0.0, 1.0, 1.0])
    with np.errstate(all="ignore"):
        got, empty = np.asarray(answer(seen, lower, 0.75), float), np.asarray(answer(unseen, lower, 0.75), float)
    assert got.shape == (4,), f"Return one probability for each of the four characters; got shape {got.shape}."
    assert (got >= 0).all(), "A probability is negative: a character with count 0 has nothing to be discounted from."
    assert got[1] > 0, "A character that never followed still needs a probability: its part of what the discount freed."
    assert abs(got.sum() - 1) < 1e-12, (f"The probabilities sum to {got.sum():.3f}. The discount is taken once from every kind of "
                                        "character that was seen, here three, and all of it goes to the shorter history.")
    expected = _blend(seen, lower, 0.75)
    compare(got, expected, f"Got {got.round(3).tolist()}, expected {expected.round(3).tolist()}: take the discount from each "
                           "count and hand it out in proportion to `lower`.")
    compare(empty, lower, "A history that never occurred says nothing: its answer is `lower`, without a division by zero.")
    other = np.array([0.0, 3.0, 2.0, 0.0])
    compare(answer(other, lower, 0.5), _blend(other, lower, 0.5), "With a discount of one half the answer is off: use the argument.")


def _orthogonal(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def _muon(factor=lambda rows, columns: max(1.0, rows / columns) ** 0.5, nesterov=True, fresh=True, sign=-1):
    """A step of Muon, and its wrong versions; `fresh` says that the gradient is weighted by what the momentum lacks."""
    def step(W, G, M, lr, mu, orthogonal):
        G = (1 - mu) * G if fresh else G
        M = mu * M + G
        return W + sign * lr * factor(*W.shape) * orthogonal(G + mu * M if nesterov else M), M

    return step


@exercise("03.2", "One step of Muon", _muon(nesterov=False), _muon(factor=lambda rows, columns: 1.0),
          _muon(factor=lambda rows, columns: (rows / columns) ** 0.5), _muon(fresh=False), _muon(sign=1))
def muon(answer):
    for shape, hint in (((4, 4), ""), ((6, 3), "This matrix is tall: is the step multiplied by sqrt(rows / columns)?"),
                        ((3, 6), "This matrix is wide: the factor is 1 there, never below.")):
        given = [random(*shape, seed=seed) for seed in (1, 2, 3)]
        copies = [part.clone() for part in given]
        got = answer(*given, 0.1, 0.9, _orthogonal)
        assert isinstance(got, tuple | list) and len(got) == 2, "Return the new weights and the new momentum, as (W, M)."
        assert all(map(near, given, copies)), "Leave the arguments as they are: compute new tensors."
        (weights, momentum), (plain, _) = (_muon(nesterov=nesterov)(*given, 0.1, 0.9, _orthogonal) for nesterov in (True, False))
        compare(got[1], momentum, "The momentum is off: M becomes mu M + (1 - mu) G, before any orthogonalisation.")
        compare(got[0], weights, f"The weights of a {shape[0]} x {shape[1]} matrix are off. {hint}".rstrip(), {
            "The step goes uphill: it is subtracted from the weights.": 2 * given[0] - weights,
            "Likely mistake: the new momentum alone is orthogonalised; Nesterov's form mixes in G once more.": plain})


_rate = lambda step, steps, cooldown: min(1.0, (steps - step) / (cooldown * steps)) if cooldown else 1.0
rate = Exercise("03.3", "Constant, then down to zero", cases(
    "step {0} of {1}, cooldown {2}: got {got:.3f}, expected {expected:.3f}. {hint}", _rate, [
        ((0, 10, 0.5), "The first step has the full rate: there is no warm-up."),
        ((5, 10, 0.5), "With 5 of 10 steps done, half of the steps remain: the rate is still the full one."),
        ((6, 10, 0.5), "The fall is a straight line: each step takes away one part of the cool-down's length."),
        ((9, 10, 0.5), "The last step that is taken still has a rate above zero: the one after it would have zero."),
        ((3, 10, 1.0), "With cooldown = 1 the rate falls from the first step on."),
        ((7, 10, 0.0), "With cooldown = 0 the rate never falls, and nothing is divided by zero."),
        ((700, 1000, 0.6), "300 of the 600 steps of the cool-down remain."),
    ], fits=lambda got, expected: abs(got - expected) < TOLERANCE),
    (lambda step, steps, cooldown: min(1.0, (steps - 1 - step) / (cooldown * steps)) if cooldown else 1.0,
     lambda step, steps, cooldown: 0.5 - 0.5 * math.cos(math.pi * _rate(step, steps, cooldown)),
     lambda step, steps, cooldown: 1 - step / steps,
     lambda step, steps, cooldown: min(1.0, (steps - step) / (cooldown * steps)) if step else 0.0))


@exercise("03.4", "A pattern without softmax",
          lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT) * (q2 @ k2.mT),
          lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1] ** 0.5,
          lambda q1, k1, q2, k2, mask: (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1],
          lambda q1, k1, q2, k2, mask: mask * (q1 @ k1.mT + q2 @ k2.mT) / q1.shape[-1] ** 0.5,
          lambda q1, k1, q2, k2, mask: torch.softmax(((q1 @ k1.mT) * (q2 @ k2.mT) / 4).masked_fill(mask == 0, -math.inf), -1))
def pattern(answer):
    q1, k1, q2, k2 = (random(5, 4, seed=seed) for seed in (1, 2, 3, 4))
    mask = torch.tril(random(5, 5, seed=5).abs())
    got, expected = as_tensor(answer(q1, k1, q2, k2, mask)), mask * (q1 @ k1.mT) * (q2 @ k2.mT) / 4
    assert got.shape == (5, 5), f"The pattern has one row a query and one column a key, (5, 5); got {tuple(got.shape)}."
    assert not got.isinf().any() and not near(got.sum(-1), torch.ones(5)), "Its rows sum to one: there is no softmax here."
    assert got.triu(1).abs().max() == 0, "A position reads from a later one: multiply by the mask, whose upper triangle is zero."
    assert not near(got, expected.mT), "Rows and columns have changed places: row i belongs to query i."
    assert not near(got, 2 * expected) and not near(got, expected / 2), (
        "Off by a factor of 2: with head dimension 4, each of the two scores is divided by its root, so the product by 4.")
    compare(got, expected, "Not (q1.k1)(q2.k2) / head_dim times the mask: the two scores are multiplied, entry by entry.",
            {"The scale is missing: each score is divided by the square root of the head dimension.": 4 * expected})


def _errors(base, changed) -> float:
    gains = [b - c for b, c in zip(base, changed)]
    return statistics.mean(gains) / (statistics.stdev(gains) / math.sqrt(len(gains)))


def _unpaired(base, changed) -> float:
    spread = statistics.variance(base) / len(base) + statistics.variance(changed) / len(changed)
    return (statistics.mean(base) - statistics.mean(changed)) / math.sqrt(spread)


@exercise("03.5", "A gain, or luck", _unpaired, lambda base, changed: _errors(base, changed) / math.sqrt(len(base)),
          lambda base, changed: _errors(base, changed) * math.sqrt(len(base) / (len(base) - 1)),
          lambda base, changed: -_errors(base, changed), lambda base, changed: statistics.mean(base) - statistics.mean(changed))
def standard_errors(answer):
    base, changed = [1.80, 1.90, 2.00], [1.78, 1.89, 1.97]
    got, expected = answer(base, changed), _errors(base, changed)
    assert got > 0, "A lower loss is a gain: the sign should be positive when `changed` is lower than `base`."
    for value, hint in (
            (expected / math.sqrt(3), "The mean of three runs is surer than one run: divide the deviation by the root of 3."),
            (expected * math.sqrt(1.5), "The deviation of a sample divides by n - 1 (statistics.stdev, not pstdev)."),
            (statistics.mean(base) - statistics.mean(changed),
             "That is the gain in nats: it still has to be divided by its standard error.")):
        assert abs(got - value) > 1e-6, f"Got {got:.3f}. {hint}"
    assert abs(got - expected) < 1e-6, (f"Got {got:.3f}, expected {expected:.3f}. The same seed stands at the same place in both lists: "
                                        "subtract seed by seed, and take the spread of the differences.")
    base, changed = [2.0, 2.1, 1.9, 2.2, 2.05], [2.0, 2.12, 1.88, 2.21, 2.0]
    assert abs(answer(base, changed) - _errors(base, changed)) < 1e-6, "Right for three seeds, but not for five: use the number of seeds."


LOSSES = {
    "that is the logarithm of the mean; take the logarithms first": lambda p: -math.log(statistics.mean(p)),
    "that is the sum; divide it by the number of characters": lambda p: -sum(map(math.log, p)),
    "nats are natural logarithms, not those to base 2": lambda p: -statistics.mean(map(math.log2, p)),
    "nats are natural logarithms, not those to base 10": lambda p: -statistics.mean(map(math.log10, p)),
    "a loss is positive, so a minus is missing": lambda p: statistics.mean(map(math.log, p)),
    "the logarithm is missing": lambda p: 1 - statistics.mean(p),
}


@exercise("03.0", "Warm-up: a loss by hand", *LOSSES.values())
def loss_by_hand(answer):
    for p in ([0.5, 0.25, 0.125], [1.0, 0.01], [0.3]):
        got, expected = answer(list(p)), -statistics.mean(map(math.log, p))
        mistakes = [mistake for mistake, wrong in LOSSES.items() if abs(got - wrong(p)) < TOLERANCE]
        hint = f"Likely mistake: {mistakes[0]}." if mistakes else "Take minus the logarithm of each, then the mean."
        assert abs(got - expected) < TOLERANCE, f"For p = {p}: got {float(got):.3f}, expected {expected:.3f}. {hint}"


def _by_distance(weight):
    """A pattern of one number for each distance, from 0 on; zero for later keys."""
    def pattern(T):
        distance = torch.arange(T)[:, None] - torch.arange(T)
        return torch.where(distance >= 0, weight(distance.clamp(min=0).double()), 0.0)

    return pattern


@exercise("03.6", "Open: a constant pattern of your own",
          _by_distance(torch.ones_like), _by_distance(lambda n: 1 / (1 + n)), _by_distance(lambda n: torch.exp(-n / 4)),
          _by_distance(lambda n: (n == 0).double()), _by_distance(torch.zeros_like), lambda T: torch.eye(T - 1),
          lambda T: torch.ones(T, T).tril() / T, lambda T: torch.exp(-torch.arange(T).float()).expand(T, T),
          lambda T: _by_distance(lambda n: (n < 4).double())(T) + torch.eye(T).roll(1, 1))
def own_pattern(answer):
    sizes = {}
    for T in (16, 256, 1024):
        c = as_tensor(answer(T))
        assert c.shape == (T, T), f"For T = {T} the pattern has shape {tuple(c.shape)}; a row for each query and a column for each key."
        assert c.isfinite().all(), "An entry is not finite: is something divided by the distance 0?"
        assert c.triu(1).abs().max() == 0, "A query reads a later key: the pattern must be zero above the diagonal."
        assert near(c[1:, 1:], c[:-1, :-1]), "One distance has several values: c[i, j] may depend on i - j alone, and not on T."
        sizes[T] = float(c[-1].abs().sum())
        weights = c[-1].flip(0)
    assert (weights != 0).sum() > 1, "Only one distance, or none, is read: give a weight to at least two."
    assert sizes[1024] < 1.01 * sizes[256], (f"The last of 256 rows sums to {sizes[256]:.2f}, that of 1024 to {sizes[1024]:.2f}: "
                                             "rows still grow. Let the weights fall faster, or cut them off.")
    ratios = weights[1:12] / weights[:11]
    assert not near(ratios, ratios[:1].expand(11)), "Each weight is the one before times a constant: that is the decay of the chapter."
