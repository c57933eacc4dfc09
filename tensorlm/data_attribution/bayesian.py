"""A Bayesian influence function: the covariance of two losses where parameters are drawn near the trained ones, not solved for.

    p(w) ~ exp(-beta (mean loss + decay |w|^2 / 2) - gamma |w - w*|^2 / 2)
    scores[i, t] = beta / n Cov(loss_i - mean loss, outcome_t)

Where the mean loss is quadratic near w* and has its minimum there, w has the covariance (beta H + (beta decay + gamma) I)^-1,
and the score is that of `influence` with damping gamma / beta. It is drawn by Langevin steps, without any matrix of parameters.

Sources: Kreer et al. arXiv 2509.26544 (the method); Welling and Teh (2011, SGLD).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tensorlm.checks import require, require_counts, require_number, require_whole
from tensorlm.data_attribution.block import gradients, joined, parted
from tensorlm.data_attribution.classifiers import Classifiers, Examples, Recipe, outcomes
from tensorlm.data_attribution.influence import centred, mean_of


@dataclass(frozen=True)
class Langevin:
    """How the parameters are drawn.

    | setting | meaning |
    | --- | --- |
    | beta | weight of the mean loss: the number of training examples gives their posterior |
    | gamma | pull towards the trained parameters; gamma / beta acts as the damping of `influence` |
    | step | of w <- w - step / 2 dU/dw + sqrt(step) noise; it must stay far below 1 / (beta times the largest curvature) |
    | draws, thin, burn_in | draws of each chain, steps from one to the next, steps before the first |
    | chains | parameters that move side by side |
    | batch | examples of each step's gradient, drawn anew; None takes all |

    Raises ValueError for a value that does not fit.

    >>> Langevin(beta=1000, gamma=100, step=1e-5, draws=200).damping
    0.1
    """

    beta: float
    gamma: float
    step: float
    draws: int
    thin: int = 1
    burn_in: int = 0
    chains: int = 16
    batch: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(draws=self.draws, thin=self.thin, chains=self.chains)
        require_whole("burn_in", self.burn_in)
        require_whole("seed", self.seed)
        for name in ("beta", "gamma", "step"):
            require_number(name, getattr(self, name), above=0)
        if self.batch is not None:
            require_counts(batch=self.batch)

    @property
    def damping(self) -> float:
        return self.gamma / self.beta


def bayesian_influence(models: Classifiers, data: Examples, recipe: Recipe, kind: str = "margin", *,
                       sampler: Langevin) -> Tensor:
    """Bayesian influence function around each model, mean over the models: (train, test), in float64.

    Chains move in the dtype of the models. Raises ValueError where a chain diverges: its step is too large.

    >>> data = Examples(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3))
    >>> models = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 3, 2))
    >>> bayesian_influence(models, data, Recipe(), "loss", sampler=Langevin(30, 10, 0.01, draws=200)).diagonal() > 0
    tensor([True, True, True])
    """
    seeds = count(sampler.seed)
    return mean_of(lambda model: _around(model, data, recipe, kind, sampler, next(seeds)), models)


def _around(model: Classifiers, data: Examples, recipe: Recipe, kind: str, sampler: Langevin, seed: int) -> Tensor:
    """beta / n times the covariance over all chains and draws, of changes against the model's own losses and outcomes."""
    x, test_x = (part.to(model.down) for part in (data.x, data.test_x))
    start, test_start = outcomes(model, x, data.y, "loss"), outcomes(model, test_x, data.test_y, kind)
    product = torch.zeros(len(x), len(test_x), dtype=torch.float64)
    total, test_total = torch.zeros(len(x), 1, dtype=torch.float64), torch.zeros(1, len(test_x), dtype=torch.float64)
    for chains in langevin(model, x, data.y, recipe, sampler, seed):
        changes = (outcomes(chains, x, data.y, "loss") - start).double()
        test_changes = (outcomes(chains, test_x, data.test_y, kind) - test_start).double()
        product += changes.mT @ test_changes
        total += changes.sum(0)[:, None]
        test_total += test_changes.sum(0)
    drawn = sampler.draws * sampler.chains
    covariance = product / drawn - total / drawn * test_total / drawn
    return centred(covariance, recipe) * sampler.beta / len(x)


def langevin(model: Classifiers, x: Tensor, y: Tensor, recipe: Recipe, sampler: Langevin, seed: int) -> Iterator[Classifiers]:
    """Chains from the model on, as they are at every draw."""
    generator = torch.Generator().manual_seed(seed)
    chains = joined(Classifiers(*(weight.expand(sampler.chains, -1, -1) for weight in model)), groups=1)
    centres, targets = tuple(weight.clone() for weight in chains), one_hot(y, model.down.shape[1]).mT.to(x)
    size = len(x) if sampler.batch is None else min(sampler.batch, len(x))
    shares = torch.full((sampler.chains, size), 1 / size).to(x)
    for step in range(1, sampler.burn_in + sampler.draws * sampler.thin + 1):
        rows = slice(None) if sampler.batch is None else torch.randperm(len(x), generator=generator)[:size]
        slopes = gradients(*chains, x[None, rows], targets[None, :, rows], shares)
        for weight, centre, slope in zip(chains, centres, slopes):
            drift = slope.add_(weight, alpha=recipe.weight_decay).mul_(sampler.beta).add_(weight - centre, alpha=sampler.gamma)
            noise = torch.randn(weight.shape, dtype=weight.dtype, generator=generator)
            weight.sub_(drift, alpha=sampler.step / 2).add_(noise, alpha=sampler.step**0.5)
        if step > sampler.burn_in and (step - sampler.burn_in) % sampler.thin == 0:
            drawn = parted(*chains)
            require(not drawn.nonfinite(), "sampler.step", sampler.step, "small enough that no chain diverges")
            yield drawn
