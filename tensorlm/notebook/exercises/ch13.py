"""Exercises of chapter 13: the weight of one hit, what is left of a spike, how many samples, ranks with ties, where a climb is safe."""

import math

import torch
from torch import Tensor

from tensorlm.notebook.checks import as_tensor, cases, compare, exercise, random

NARROW, WIDE, FAR, HEIGHT, DIRECTIONS = 0.2, 2.0, 2.0, 100.0, 8
CLOSE = 0.03  # how near to the edge an answer must come


@exercise("13.1", "One hit among many", lambda n: n**0.5, lambda n: n - 1, lambda n: (n - 1) / n, lambda n: 1.0)
def weight_of_a_hit(answer):
    for n in (2, 5, 1000):
        got, expected = float(answer(n)), (n - 1) ** 0.5
        assert abs(got - n**0.5) > 1e-9, f"For {n} samples got {got:.4f}: the mean has the hit in it, too."
        assert abs(got - (n - 1)) > 1e-9 or n == 2, f"For {n} samples got {got:.4f}: this is the distance to the mean, not yet divided."
        hint = "Take rewards 0, ..., 0, 1: the mean is 1/n. What is the deviation?"
        assert abs(got - expected) < 1e-9, f"For {n} samples got {got:.4f}, expected {expected:.4f}. {hint}"


_left = lambda height, width, sigma, k: height * (1 + sigma**2 / width**2) ** (-k / 2)


@exercise("13.2", "What is left of a spike",
          lambda height, width, sigma, k: _left(height, width, sigma, 2 * k),
          lambda height, width, sigma, k: _left(height, width, sigma, 1),
          lambda height, width, sigma, k: height * (1 + sigma / width) ** (-k),
          lambda height, width, sigma, k: _left(height, sigma, width, k))
def spike(answer):
    for given in ((100.0, 0.05, 0.3, 2), (10.0, 0.2, 0.1, 3), (1.0, 2.0, 0.5, 8)):
        got, expected = float(answer(*given)), _left(*given)
        near = lambda wrong: abs(got - wrong) < 1e-9 * abs(wrong)
        assert not near(_left(*given[:3], 2 * given[3])), "Each direction divides by the ratio of widths, not of their squares."
        assert not near(_left(*given[:3], 1)), "This is one direction: all k of them take their share."
        assert near(expected), f"For height, width, sigma, k = {given} got {got:.5f}, expected {expected:.5f}: widths add up in squares."


_needed = lambda p, q: math.ceil(math.log(1 - q) / math.log(1 - p))


@exercise("13.3", "How many samples?",
          lambda p, q: math.ceil(q / p), lambda p, q: math.ceil(1 / p), lambda p, q: _needed(p, q) - 1,
          lambda p, q: math.log(1 - q) / math.log(1 - p))
def samples(answer):
    check = cases("For p = {0}, q = {1}: got {got}, expected {expected}. {hint}", _needed, (
        ((0.5, 0.9), "All N miss with probability (1 - p)^N; round up, since N is a whole number."),
        ((0.01, 0.5), "Not q / p: hits may fall together, so more samples are needed."),
        ((0.002, 0.99), "Take the logarithm of 1 - q and of 1 - p.")))
    check(answer)


def _ranked(rewards: Tensor) -> Tensor:
    below, equal = rewards[:, None] > rewards, rewards[:, None] == rewards
    return (below.sum(1) + (equal.sum(1) - 1) / 2).to(rewards) / (len(rewards) - 1) - 0.5


_by_order = lambda rewards: rewards.argsort().argsort().to(rewards) / (len(rewards) - 1) - 0.5


@exercise("13.4", "Ranks, with ties", _by_order, lambda rewards: _ranked(rewards) + 0.5,
          lambda rewards: rewards.argsort().to(rewards) / (len(rewards) - 1) - 0.5,
          lambda rewards: (rewards - rewards.mean()) / rewards.std(correction=0))
def ranks(answer):
    for rewards in (as_tensor([3.0, -1.0, 8.0, 2.0]), random(9, seed=5), as_tensor([1.0, 1.0, 1.0, 100.0, 1.0]),
                    as_tensor([2.0, 0.0, 2.0, 5.0, 0.0, 2.0])):
        expected, tied = _ranked(rewards), len(set(rewards.tolist())) < len(rewards)
        mistakes = {"These run from 0 to 1: the mean of all ranks must be 0.": expected + 0.5,
                    "This says which sample stands at each place; wanted is the place of each sample.":
                        rewards.argsort().to(rewards) / (len(rewards) - 1) - 0.5}
        hint = ("Equal rewards must get the mean of the places that they share." if tied
                else "Not the ranks, spread evenly from -1/2 (lowest) to 1/2 (highest).")
        compare(answer(rewards.clone()), expected, hint, mistakes, each="One number for each sample")


def _leaves(sigma: float, k: int) -> bool:
    """Whether the smoothed slope is upwards all the way from the hill's top to half the distance."""
    x = torch.linspace(0, FAR / 2, 101, dtype=torch.float64)
    wide, narrow = WIDE**2 + sigma**2, NARROW**2 + sigma**2
    tops = (WIDE**2 / wide) ** (DIRECTIONS / 2), HEIGHT * (WIDE**2 / wide) ** ((DIRECTIONS - k) / 2) * (NARROW**2 / narrow) ** (k / 2)
    slope = -tops[0] * x / wide * torch.exp(-x**2 / (2 * wide)) + tops[1] * (FAR - x) / narrow * torch.exp(-((FAR - x) ** 2) / (2 * narrow))
    return bool((slope > 0).all())


def _edge(k: int, step: float = 0.001) -> float:
    return step * next(i for i in range(1, 5000) if _leaves(i * step, k))


@exercise("13.5", "Open: the smallest unsafe sigma",
          lambda k: NARROW, lambda k: 0.1, lambda k: FAR / 2, lambda k: _edge(k) * 1.2)
def safe_sigma(answer):
    for k in (1, 2, 4):
        got, edge = float(answer(k)), _edge(k)
        assert got > 0, f"k = {k}: sigma must be above 0."
        assert got <= edge * (1 + CLOSE), f"k = {k}: at a sigma of {edge:.3f}, below your {got:.3f}, the climb leaves the hill."
        assert got >= edge * (1 - CLOSE), f"k = {k}: your {got:.3f} is safe, and so is every sigma up to {edge:.3f}: go further."
