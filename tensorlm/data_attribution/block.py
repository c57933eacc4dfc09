"""One block of models trained side by side: first values, batches, gradients written by hand, and three optimisers.

The models of a block share their batches, as one group, or have each its own, as many groups of one model. A1 and A2 of all models
of a group stand side by side in one matrix `first` (groups, inputs, 2 * members * hidden), so that one matrix product with a batch x
(groups, batch, inputs) is the first layer of all of them. The layouts are those for which no product has to transpose its second factor.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from tensorlm.data_attribution.classifiers import Classifiers, Recipe
from tensorlm.scaling import newton_schulz

ADAM_SECOND, ADAM_EPS = 0.999, 1e-8
ORDER_SEEDS = 2**31  # what is added to a seed where it orders the examples
SIDE_BY_SIDE, STACKED = "groups inputs (two m hidden)", "two (groups m) hidden inputs"  # axes of `first`, and of A1 and A2
Step = Callable[[Tensor, Tensor, float], None]


def first_values(seed: int, inputs: int, classes: int, recipe: Recipe) -> Classifiers:
    """The untrained model of a seed: entries of A1 and A2 are N(0, 1 / inputs), of P N(0, 1 / hidden).

    They are drawn in float64, so that both dtypes begin at one model.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = ((recipe.hidden, inputs), (recipe.hidden, inputs), (classes, recipe.hidden))
    drawn = [torch.randn(1, *size, generator=generator, dtype=torch.float64) / size[1] ** 0.5 for size in sizes]
    return Classifiers(*(factor.to(recipe.dtype) for factor in drawn))


def shuffles(seed: int, examples: int, recipe: Recipe) -> Iterator[Tensor]:
    """The order of the examples in each epoch, whatever is left out."""
    generator = torch.Generator().manual_seed(ORDER_SEEDS + seed)
    for _ in range(recipe.epochs):
        yield torch.randperm(examples, generator=generator)


def batches(seed: int, examples: int, recipe: Recipe) -> Iterator[Tensor]:
    """The rows of each batch of a training in turn, one for each step."""
    for order in shuffles(seed, examples, recipe):
        yield from order.split(recipe.batch)


def train_block(x: Tensor, y: Tensor, weights: Tensor, recipe: Recipe, seeds: Sequence[int],
                keep: Collection[int] = ()) -> list[Classifiers]:
    """Models after each number of steps in `keep`, rising, and at the end; `seeds` has one seed for all, or one a model."""
    models, groups, classes = len(weights), len(seeds), int(y.max()) + 1
    start = [first_values(seed, x.shape[1], classes, recipe) for seed in seeds]
    first, down = joined(Classifiers(*(torch.cat(factors).repeat(models // groups, 1, 1).to(x.device) for factors in zip(*start))), groups)
    targets = torch.nn.functional.one_hot(y, classes).to(x.dtype)
    move = STEPS[recipe.optimiser](recipe, first, down)
    rates, kept = recipe.rates(len(x)).tolist(), []
    for epoch, orders in enumerate(zip(*(shuffles(seed, len(x), recipe) for seed in seeds))):
        order = torch.stack(orders).to(x.device)
        rows, answers = x[order], targets[order].mT.contiguous()
        counts = shares(weights[:, order[0]] if groups == 1 else weights.gather(1, order), recipe)
        for number, begin in enumerate(range(0, len(x), recipe.batch), epoch * recipe.steps(len(x)) // recipe.epochs):
            if number in keep:
                kept.append(parted(first, down))
            part = slice(begin, begin + recipe.batch)
            move(*gradients(first, down, rows[:, part], answers[:, :, part], counts[:, part]), rates[number])
    return kept + [parted(first, down)]


def shares(present: Tensor, recipe: Recipe) -> Tensor:
    """What the gradient of each example counts in that of its batch, from its weight: (models, examples) in their order in an epoch."""
    batch_of = torch.arange(present.shape[1], device=present.device) // recipe.batch
    if recipe.divide == "batch":
        return present / torch.bincount(batch_of)[batch_of]
    totals = present.new_zeros(len(present), int(batch_of[-1]) + 1).index_add_(1, batch_of, present)
    return present / torch.where(totals > 0, totals, 1)[:, batch_of]  # a batch in which nothing is present has no gradient


def joined(models: Classifiers, groups: int) -> tuple[Tensor, Tensor]:
    """`first` and `down` of models that stand group by group."""
    pair = torch.stack([models.left, models.right])
    return rearrange(pair, f"{STACKED} -> {SIDE_BY_SIDE}", groups=groups).contiguous(), models.down.clone()


def parted(first: Tensor, down: Tensor) -> Classifiers:
    """The models of a block, copied."""
    left, right = rearrange(first, f"{SIDE_BY_SIDE} -> {STACKED}", two=2, hidden=down.shape[2]).contiguous()
    return Classifiers(left, right, down.clone())


def gradients(first: Tensor, down: Tensor, x: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of the weighted cross-entropy of a batch, in `first` and `down`, without the weight decay.

    x (groups, batch, inputs), targets (groups, classes, batch), counts (models, batch). With z = A x, h = z1 * z2 and
    e = count (softmax(P h) - target): dP = e h^T, dz1 = (P^T e) * z2, dz2 = (P^T e) * z1, dA = dz x^T.
    """
    groups, classes, batch = targets.shape
    models, _, hidden = down.shape
    units = torch.bmm(x, first).view(groups, batch, 2, -1, hidden)  # (groups, batch, two, members, hidden)
    left, right = units.unbind(2)
    products = (left * right).transpose(1, 2).reshape(models, batch, hidden)
    errors = torch.bmm(down, products.mT).softmax(1)  # (models, classes, batch)
    errors.view(groups, -1, classes, batch).sub_(targets.unsqueeze(1))
    errors.mul_(counts.unsqueeze(1))
    back = torch.bmm(errors.mT, down).view(groups, -1, batch, hidden).transpose(1, 2)
    slopes = torch.empty_like(units)
    torch.mul(back, right, out=slopes[:, :, 0])
    torch.mul(back, left, out=slopes[:, :, 1])
    return torch.bmm(x.mT, slopes.view(groups, batch, -1)), torch.bmm(errors, products)


# Optimisers: a function of the gradients of `first` and `down` and of the rate, which moves both

def sgd_step(recipe: Recipe, first: Tensor, down: Tensor) -> Step:
    """v <- momentum v + g, w <- w - rate v; torch's fused loop over all models."""
    momenta: list[Tensor | None] = [torch.zeros_like(first), torch.zeros_like(down)]

    def step(first_gradient: Tensor, down_gradient: Tensor, rate: float) -> None:
        sgd([first, down], [first_gradient, down_gradient], momenta, foreach=False, fused=True, weight_decay=recipe.weight_decay,
            momentum=recipe.momentum, lr=rate, dampening=0.0, nesterov=False, maximize=False)

    return step


def adam_step(recipe: Recipe, first: Tensor, down: Tensor) -> Step:
    """Source: Kingma and Ba, arXiv 1412.6980; torch's fused loop over all models."""
    momenta, squares = ([torch.zeros_like(first), torch.zeros_like(down)] for _ in range(2))
    counts = [torch.zeros((), device=first.device) for _ in range(2)]

    def step(first_gradient: Tensor, down_gradient: Tensor, rate: float) -> None:
        adam([first, down], [first_gradient, down_gradient], momenta, squares, [], counts, foreach=False, fused=True, amsgrad=False,
             beta1=recipe.momentum, beta2=ADAM_SECOND, lr=rate, weight_decay=recipe.weight_decay, eps=ADAM_EPS, maximize=False)

    return step


def muon_step(recipe: Recipe, first: Tensor, down: Tensor) -> Step:
    """As `training.Muon`, with the decay in the gradient: A1, A2 and P of each model move by a matrix with singular values near 1."""
    momenta = (torch.zeros_like(first), torch.zeros_like(down))
    def step(first_gradient: Tensor, down_gradient: Tensor, rate: float) -> None:
        for weight, gradient, momentum in zip((first, down), (first_gradient, down_gradient), momenta):
            gradient.add_(weight, alpha=recipe.weight_decay)
            momentum.lerp_(gradient, 1 - recipe.momentum)
            gradient.lerp_(momentum, recipe.momentum)
        stacked = rearrange(first_gradient, f"{SIDE_BY_SIDE} -> {STACKED}", two=2, hidden=recipe.hidden)
        update = orthogonal(stacked.flatten(0, 1)).view_as(stacked)
        first.add_(rearrange(update, f"{STACKED} -> {SIDE_BY_SIDE}", groups=len(first)), alpha=-rate)
        down.add_(orthogonal(down_gradient), alpha=-rate)

    return step


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with singular values near 1, times sqrt(max(1, rows / columns))."""
    rows, columns = matrices.shape[1:]
    wide = matrices.mT if rows > columns else matrices
    found = newton_schulz(wide, dtype=matrices.dtype) * math.sqrt(max(1.0, rows / columns))
    return found.mT if rows > columns else found


STEPS = {"sgd": sgd_step, "adam": adam_step, "muon": muon_step}
