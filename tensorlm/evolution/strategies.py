"""Evolution strategies: climb a reward that can only be asked for, by trying Gaussian changes of the parameters.

One step draws N noises e_i, asks for the rewards R(x + sigma e_i), shapes them into weights s_i, and moves
`x <- x + rate * sigma / N * sum_i s_i e_i` (Rechenberg, 1973; Wierstra et al., 2014; Salimans et al., 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require, require_number, require_one_of, require_whole

SHAPINGS = ("raw", "standardised", "clipped", "ranked")
CLIP = 2.0  # standard deviations


@dataclass(frozen=True)
class Strategy:
    """How a strategy climbs: `population` samples a step of spread `sigma`, rewards shaped, a step of `rate` sigma.

    `shaping`: see `shape_rewards`. `antithetic` draws pairs e, -e. `adapt` above 0 moves sigma too, by the natural gradient of its
    logarithm: `sigma <- sigma exp(adapt / 2 * mean_i s_i (|e_i|^2 / n - 1))` (Wierstra et al., 2014). Raises ValueError by name.
    """

    population: int = 30
    sigma: float = 0.3
    rate: float = 0.5
    shaping: str = "standardised"
    antithetic: bool = True
    adapt: float = 0.0

    def __post_init__(self) -> None:
        require_whole("population", self.population, 2)
        require(not self.antithetic or self.population % 2 == 0, "population", self.population, "even, for antithetic pairs")
        require_number("sigma", self.sigma, above=0)
        require_number("rate", self.rate, above=0)
        require_one_of("shaping", self.shaping, SHAPINGS)
        require_number("adapt", self.adapt, least=0)


class Climb(NamedTuple):
    """Where it went: `path` (steps + 1, ..., n), the samples' `best` and `mean` rewards (steps, ...), `sigmas` (steps + 1, ...)."""

    path: Tensor
    best: Tensor
    mean: Tensor
    sigmas: Tensor


def shape_rewards(rewards: Tensor, shaping: str = "standardised") -> Tensor:
    """Weights of N samples from their rewards (..., N), of mean 0 except for "raw".

    "raw": the rewards. "standardised": `(R - mean) / deviation`, 0 where all are equal. "clipped": that, cut at two deviations and
    centred again. "ranked": ranks spread evenly from -1/2 to 1/2 times `sqrt(12)`, so of variance near 1; equal rewards share
    their rank. One sample above N - 1 equal ones has the standardised weight `sqrt(N - 1)`, however far above it lies.

    >>> shape_rewards(torch.tensor([1.0, 1.0, 1.0, 1.0, 100.0])).tolist()
    [-0.5, -0.5, -0.5, -0.5, 2.0]
    """
    require_one_of("shaping", shaping, SHAPINGS)
    require(rewards.ndim > 0 and rewards.shape[-1] > 1, "rewards", rewards, "of two samples or more in the last axis")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards must be finite, got one that is not; a sample that fails needs a reward of its own")
    if shaping == "raw":
        return rewards
    if shaping == "ranked":
        ordered = rewards.sort(-1).values.contiguous()
        below, upto = (torch.searchsorted(ordered, rewards.contiguous(), right=right) for right in (False, True))
        return 12**0.5 * ((below + upto - 1) / (2 * (rewards.shape[-1] - 1)) - 0.5).to(rewards.dtype)
    centred = rewards - rewards.mean(-1, keepdim=True)
    deviation = centred.pow(2).mean(-1, keepdim=True).sqrt()
    z = torch.where(deviation > 0, centred / deviation.clamp(min=torch.finfo(rewards.dtype).tiny), 0.0)
    if shaping == "standardised":
        return z
    z = z.clamp(-CLIP, CLIP)
    return z - z.mean(-1, keepdim=True)


def draw_noise(strategy: Strategy, like: Tensor, generator: torch.Generator) -> Tensor:
    """Noises e (N, ...) of the shape of `like`; the second half is minus the first for antithetic pairs."""
    count = strategy.population // (2 if strategy.antithetic else 1)
    noise = torch.randn(count, *like.shape, generator=generator, dtype=like.dtype)
    return torch.cat([noise, -noise]) if strategy.antithetic else noise


def evolve(reward: Callable[[Tensor], Tensor], start: Tensor, strategy: Strategy, steps: int, seed: int = 0) -> Climb:
    """Climb `reward`, a function of points (N, ..., n) that gives (N, ...), for `steps` from `start` (..., n).

    The middle axes are runs of their own, side by side, each with its own noise. Raises ValueError for rewards of another shape.

    >>> peak = lambda x: -(x - 1).pow(2).sum(-1)
    >>> climb = evolve(peak, torch.zeros(3), Strategy(population=100, sigma=0.1), steps=60)
    >>> bool((climb.path[-1] - 1).abs().max() < 0.1)
    True
    """
    require_whole("steps", steps, 0)
    require(isinstance(start, Tensor) and start.is_floating_point() and start.ndim > 0, "start", start, "a floating-point point (..., n)")
    generator, x = torch.Generator().manual_seed(seed), start
    sigma = torch.full(start.shape[:-1], strategy.sigma, dtype=start.dtype)
    records: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        noise = draw_noise(strategy, x, generator)
        found = reward(x + sigma[..., None] * noise)
        require(found.shape == noise.shape[:-1], "the reward", found, f"of shape {tuple(noise.shape[:-1])}")
        weights = shape_rewards(found.movedim(0, -1), strategy.shaping).movedim(-1, 0)
        x = x + strategy.rate * sigma[..., None] * (weights[..., None] * noise).mean(0)
        sigma = sigma * torch.exp(strategy.adapt / 2 * (weights * (noise.pow(2).mean(-1) - 1)).mean(0))
        records.append((x, found.amax(0), found.mean(0), sigma))
    none = start.new_empty(0, *start.shape[:-1])
    path, best, mean, sigmas = map(torch.stack, zip(*records)) if records else (start.new_empty(0, *start.shape), none, none, none)
    first = torch.full_like(sigma, strategy.sigma)
    return Climb(torch.cat([start[None], path]), best, mean, torch.cat([first[None], sigmas]))
