"""One block of models trained side by side: first values, batches, gradients written by hand, and three optimisers.

The models of a block share the rows of each batch, or have each their own. With x (groups, batch, inputs) there are as many groups
as there are different seeds, and the first layer of all models of a group is one matrix product.
"""

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from tensorlm.data_attribution.classifiers import Classifiers, Recipe
from tensorlm.scaling import newton_schulz

ADAM_SECOND, ADAM_EPS = 0.999, 1e-8
ORDER_SEEDS = 2**31  # what is added to a seed where it orders the examples
Weights = tuple[Tensor, Tensor]  # A1 above A2 (models, 2 * hidden, inputs), and P (models, classes, hidden)


def first_values(seed: int, inputs: int, classes: int, recipe: Recipe) -> Classifiers:
    """The untrained model of a seed: entries of A1 and A2 are N(0, 1 / inputs), of P N(0, 1 / hidden).

    They are drawn in float64, so that both dtypes begin at one model.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = ((recipe.hidden, inputs), (recipe.hidden, inputs), (classes, recipe.hidden))
    drawn = [torch.randn(1, *size, generator=generator, dtype=torch.float64) / size[1] ** 0.5 for size in sizes]
    return Classifiers(*(factor.to(recipe.dtype) for factor in drawn))


def batches(seed: int, examples: int, recipe: Recipe) -> Iterator[Tensor]:
    """The rows of each batch of a training in turn: every epoch is a shuffle of all examples, whatever is left out."""
    generator = torch.Generator().manual_seed(ORDER_SEEDS + seed)
    for _ in range(recipe.epochs):
        yield from torch.randperm(examples, generator=generator).split(recipe.batch)


def train_block(x: Tensor, y: Tensor, weights: Tensor, recipe: Recipe, seeds: Sequence[int],
                keep: Collection[int] = ()) -> list[Classifiers]:
    """Models after each number of steps in `keep`, rising, and at the end; `seeds` has one seed for all, or one a model."""
    models, classes = len(weights), int(y.max()) + 1
    start = [first_values(seed, x.shape[1], classes, recipe) for seed in seeds]
    left, right, down = (torch.cat(factors).repeat(models // len(start), 1, 1).to(x.device) for factors in zip(*start))
    first = torch.cat([left, right], 1)
    targets = torch.nn.functional.one_hot(y, classes).to(x.dtype)
    optimiser = OPTIMISER_KINDS[recipe.optimiser](recipe, (first, down))
    kept = []
    rates, orders = recipe.rates(len(x)).tolist(), zip(*(batches(seed, len(x), recipe) for seed in seeds))
    for step, (rate, order) in enumerate(zip(rates, orders)):
        if step in keep:
            kept.append(split(first.clone(), down.clone()))
        rows = torch.stack(order).to(x.device)
        present = weights[:, rows[0]] if len(rows) == 1 else weights.gather(1, rows)
        optimiser.step(gradients(first, down, x[rows], targets[rows], present, recipe.divide), rate)
    return kept + [split(first, down)]


def split(first: Tensor, down: Tensor) -> Classifiers:
    left, right = first.chunk(2, 1)
    return Classifiers(left.contiguous(), right.contiguous(), down)


def gradients(first: Tensor, down: Tensor, x: Tensor, targets: Tensor, weights: Tensor, divide: str) -> Weights:
    """Of the weighted cross-entropy of a batch, in `first` (A1 above A2) and `down` (P), without the weight decay.

    x (groups, batch, inputs), targets (groups, batch, classes), weights (models, batch). With z = A x, h = z1 * z2 and
    e = w (softmax(P h) - target) / sum(w): dP = e h^T, dz1 = (P^T e) * z2, dz2 = (P^T e) * z1, dA = dz x^T.
    """
    models, twice, inputs = first.shape
    groups, batch, classes = targets.shape
    units = torch.bmm(first.view(groups, -1, inputs), x.mT).view(models, 2, twice // 2, batch)
    left, right = units.unbind(1)
    products = left * right
    errors = torch.bmm(down, products).softmax(1)
    errors.view(groups, -1, classes, batch).sub_(targets.mT.unsqueeze(1))
    errors.mul_((weights / divisor(weights, divide)).unsqueeze(1))
    back = torch.bmm(down.mT, errors)
    slopes = torch.empty_like(units)
    torch.mul(back, right, out=slopes[:, 0])
    torch.mul(back, left, out=slopes[:, 1])
    return torch.bmm(slopes.view(groups, -1, batch), x).view(first.shape), torch.bmm(errors, products.mT)


def divisor(weights: Tensor, divide: str) -> Tensor | int:
    """By what the gradient of a batch is divided; a batch in which nothing is present has no gradient."""
    if divide == "batch":
        return weights.shape[1]
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, total, 1)


class Sgd:
    """v <- momentum v + g, w <- w - rate v, where g has the weight decay in it."""

    def __init__(self, recipe: Recipe, weights: Weights) -> None:
        self.recipe, self.weights, self.steps = recipe, weights, 0
        self.momenta: Weights = (torch.zeros_like(weights[0]), torch.zeros_like(weights[1]))

    def step(self, gradients: Weights, rate: float) -> None:
        self.steps += 1
        for weight, gradient, *state in zip(self.weights, gradients, *self.state()):
            if self.recipe.weight_decay:
                gradient.add_(weight, alpha=self.recipe.weight_decay)
            self.move(weight, gradient, state, rate)

    def state(self) -> tuple[Weights, ...]:
        return (self.momenta,)

    def move(self, weight: Tensor, gradient: Tensor, state: list[Tensor], rate: float) -> None:
        momentum, = state
        momentum.mul_(self.recipe.momentum).add_(gradient)
        weight.add_(momentum, alpha=-rate)


class Adam(Sgd):
    """Source: Kingma and Ba, arXiv 1412.6980."""

    def __init__(self, recipe: Recipe, weights: Weights) -> None:
        super().__init__(recipe, weights)
        self.squares: Weights = (torch.zeros_like(weights[0]), torch.zeros_like(weights[1]))

    def state(self) -> tuple[Weights, ...]:
        return self.momenta, self.squares

    def move(self, weight: Tensor, gradient: Tensor, state: list[Tensor], rate: float) -> None:
        momentum, square = state
        momentum.lerp_(gradient, 1 - self.recipe.momentum)
        square.mul_(ADAM_SECOND).addcmul_(gradient, gradient, value=1 - ADAM_SECOND)
        first, second = (1 - beta**self.steps for beta in (self.recipe.momentum, ADAM_SECOND))
        weight.addcdiv_(momentum, square.sqrt().div_(second**0.5).add_(ADAM_EPS), value=-rate / first)


class Muon(Sgd):
    """As `training.Muon`, with the decay in the gradient: A1, A2 and P of each model move by a matrix with singular values near 1."""

    def move(self, weight: Tensor, gradient: Tensor, state: list[Tensor], rate: float) -> None:
        momentum, = state
        momentum.lerp_(gradient, 1 - self.recipe.momentum)
        ahead = gradient.lerp_(momentum, self.recipe.momentum)
        matrices = ahead.view(-1, self.recipe.hidden, ahead.shape[2]) if weight is self.weights[0] else ahead
        rows, columns = matrices.shape[1:]
        tall = rows > columns
        update = newton_schulz(matrices.mT if tall else matrices, dtype=weight.dtype)
        update = (update.mT if tall else update).reshape(weight.shape)
        weight.add_(update, alpha=-rate * math.sqrt(max(1.0, rows / columns)))


OPTIMISER_KINDS = {"sgd": Sgd, "adam": Adam, "muon": Muon}
