"""Modular addition: many bilinear models side by side that grok it, each with its own weights on the pairs.

    logits(a, b) = D[(A a) * (B b)]        a, b = 0 .. p - 1 as one-hot rows; the right answer is (a + b) mod p

Trained on half of all pairs with weight decay, a model first memorises these and only later, and rather suddenly, gets the other half
right ("grokking": Power et al. arXiv 2201.02177; with bilinear layers: Gromov arXiv 2301.02679).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tensorlm.checks import require, require_counts, require_finite, require_number, require_whole

BLOCK_MODELS = 16  # trained together, so that they stay in the cache
BETAS = (0.9, 0.98)


class Pairs(NamedTuple):
    """Training and test pairs of one split: `train` and `test` (n, 2) with their sums `train_sum` and `test_sum` (n,) mod p."""

    train: Tensor
    train_sum: Tensor
    test: Tensor
    test_sum: Tensor


@dataclass(frozen=True)
class Adder:
    """How the models are made: `p` numbers, `hidden` products, AdamW of `rate` and decoupled `decay`, full batch, `steps` of it.

    Raises ValueError for a value that does not fit.
    """

    p: int = 31
    hidden: int = 32
    rate: float = 0.01
    decay: float = 0.3
    steps: int = 600
    every: int = 20

    def __post_init__(self) -> None:
        require_counts(p=self.p, hidden=self.hidden, steps=self.steps, every=self.every)
        require_number("rate", self.rate, above=0)
        require_number("decay", self.decay, least=0)


class Grokked(NamedTuple):
    """Test accuracy of every model at every `every` steps, (models, times), and the parameters of the first model at these times."""

    accuracy: Tensor
    path: tuple[tuple[Tensor, ...], ...]

    def step_at(self, level: float, every: int) -> Tensor:
        """The step at which each accuracy first reaches `level`, interpolated; NaN where it never does: (models,)."""
        reached = self.accuracy >= level
        first = reached.int().argmax(1)
        before = (first - 1).clamp(min=0)
        low, high = (self.accuracy.gather(1, place[:, None])[:, 0] for place in (before, first))
        share = torch.where(first > 0, (level - low) / (high - low).clamp(min=1e-12), 0.0)
        return torch.where(reached.any(1), every * (before + share), torch.nan)


def split_pairs(p: int, share: float = 0.5, seed: int = 0) -> Pairs:
    """All p^2 pairs in one random order, the first `share` of them for training.

    >>> pairs = split_pairs(5)
    >>> len(pairs.train), len(pairs.test), bool((pairs.train.sum(1) % 5 == pairs.train_sum).all())
    (12, 13, True)
    """
    require_number("share", share, above=0, most=1)
    every = torch.cartesian_prod(torch.arange(p), torch.arange(p))[torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))]
    count = int(share * p * p)
    sums = every.sum(1) % p
    return Pairs(every[:count], sums[:count], every[count:], sums[count:])


def grok(adder: Adder, pairs: Pairs, weights: Tensor, seed: int = 0) -> Grokked:
    """Train one model for each row of `weights` (models, train pairs) from the same first values; 0 leaves a pair out.

    The loss is the weighted mean over all training pairs, so that leaving one out makes it smaller and changes nothing else.
    Raises ValueError for weights of another shape or below 0.

    >>> run = grok(Adder(p=7, hidden=8, steps=20), split_pairs(7), torch.ones(2, 24))
    >>> run.accuracy.shape, bool((run.accuracy[0] == run.accuracy[1]).all())
    (torch.Size([2, 2]), True)
    """
    require_whole("seed", seed)
    fits = isinstance(weights, Tensor) and weights.ndim == 2 and weights.shape[1] == len(pairs.train)
    require(fits, "weights", weights, f"a matrix (models, {len(pairs.train)})")
    require_finite("weights", weights)
    require(weights.min() >= 0, "weights", weights.min().item(), "at least 0")
    runs = [_grok_block(adder, pairs, block, seed) for block in weights.float().split(BLOCK_MODELS)]
    return Grokked(torch.cat([run.accuracy for run in runs]), runs[0].path)


def _grok_block(adder: Adder, pairs: Pairs, weights: Tensor, seed: int) -> Grokked:
    generator = torch.Generator().manual_seed(seed)
    first = [torch.randn(size, generator=generator) / adder.hidden**0.5 for size in [(adder.p, adder.hidden)] * 3]
    parameters = [part.expand(len(weights), -1, -1).clone().requires_grad_() for part in first]
    optimiser = torch.optim.AdamW(parameters, adder.rate, BETAS, weight_decay=adder.decay)
    found, path = [], []
    for step in range(adder.steps + 1):
        if step % adder.every == 0:
            with torch.no_grad():
                found.append((logits(parameters, pairs.test).argmax(-1) == pairs.test_sum).float().mean(1))
            path.append(tuple(part[0].detach().clone() for part in parameters))
        if step < adder.steps:
            optimiser.zero_grad()
            _losses(parameters, pairs, weights).sum().backward()
            optimiser.step()
    return Grokked(torch.stack(found, 1), tuple(path))


def logits(parameters, pairs: Tensor) -> Tensor:
    """(A, B, D), each (models, p, hidden), on pairs (n, 2): (models, n, p)."""
    first, second, down = parameters
    rows = [one_hot(numbers, down.shape[1]).to(down) @ part for numbers, part in zip(pairs.unbind(1), (first, second))]
    return (rows[0] * rows[1]) @ down.mT  # products with one-hot rows: their gradient is a product too, and faster than an index


def _losses(parameters, pairs: Pairs, weights: Tensor) -> Tensor:
    scores = logits(parameters, pairs.train)
    targets = pairs.train_sum.expand(len(weights), -1)
    return (weights * cross_entropy(scores.mT, targets, reduction="none")).mean(1)


def trace(path, pairs: Pairs) -> Tensor:
    """TracIn along the first model's run: sum over its stored times of g_i . g_test, (train pairs,); positive helps the test pairs."""
    total = torch.zeros(len(pairs.train))
    for parameters in path:
        own = tuple(part[None].requires_grad_() for part in parameters)
        test = torch.autograd.grad(cross_entropy(logits(own, pairs.test)[0], pairs.test_sum), own)
        # the derivative of all training losses along the test gradient is one directional derivative
        along = torch.func.jvp(lambda *parts: cross_entropy(logits(parts, pairs.train)[0], pairs.train_sum, reduction="none"), own, test)
        total += along[1].detach()
    return total
