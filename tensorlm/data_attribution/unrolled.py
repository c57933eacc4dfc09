"""The derivative of one training: how its result moves with the weight of every example, exactly, through every step.

A step is v <- momentum v + g + decay w, w <- w - rate v, with the gradient g of the weighted batch. Backwards from the end:

    s <- momentum s - rate q,    score_i <- score_i - s' dg / d(weight of i),    q <- q + (H + decay) s

where q, at first the gradient of the outcome, and s are its derivatives by w and by v, and H is the Hessian of the batch. No
matrix is formed: H s is the derivative of the batch's gradient along s, taken for all outcomes at once. The result is faithful
to one training, its first values and the order of its examples included, and says little of another.

Sources: Hara et al. arXiv 1906.08473; Bae et al. arXiv 2405.12186; Ilyas and Engstrom arXiv 2504.16430.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import one_hot

from tensorlm.checks import require
from tensorlm.data_attribution.bank import trajectory
from tensorlm.data_attribution.block import batches
from tensorlm.data_attribution.classifiers import Classifiers, Examples, Recipe
from tensorlm.data_attribution.gradients import example_gradients, single

BLOCK_OUTCOMES = 256  # at a time


class Directions(NamedTuple):
    """m directions in parameter space: lower (2 hidden, m, inputs) for A1 over A2, upper (classes, m, hidden) for P."""

    lower: Tensor
    upper: Tensor


def unrolled(data: Examples, recipe: Recipe, seed: int = 0, kind: str = "margin") -> Tensor:
    """Minus the derivative of every outcome by the weight of every example through the training of `seed`: (train, test).

    Training is run again in float64 and its models are kept at every step. Equal to central differences of retraining with
    `train_bank`. Raises ValueError for a recipe whose optimiser is not "sgd".

    >>> data = Examples(torch.eye(4), torch.tensor([0, 1, 0, 1]), torch.eye(4), torch.tensor([0, 1, 0, 1]))
    >>> unrolled(data, Recipe(epochs=30, batch=2, hidden=4), kind="loss").diagonal() > 0
    tensor([True, True, True, True])
    """
    require(recipe.optimiser == "sgd", "recipe.optimiser", recipe.optimiser, "'sgd', the one whose steps are derived here")
    exact, count = replace(recipe, dtype=torch.float64), len(data.x)
    steps = recipe.steps(count)
    run = trajectory(data.x, data.y, torch.ones(1, count), exact, seed, steps=range(steps + 1))
    ends = example_gradients(run[steps], data.test_x, data.test_y, kind).dense()
    path, orders = [run[step] for step in range(steps)], list(batches(seed, count, recipe))
    rates = recipe.rates(count).tolist()
    return torch.cat([_backwards(part, path, orders, rates, data, recipe) for part in ends.split(BLOCK_OUTCOMES)], dim=1)


def _backwards(ends: Tensor, path: Sequence[Classifiers], orders: Sequence[Tensor], rates: Sequence[float], data: Examples,
               recipe: Recipe) -> Tensor:
    """Scores (train, m) of the outcomes with gradients `ends` (m, parameters) at the end of the training."""
    position = _as_directions(ends, path[0])
    velocity = Directions(*(torch.zeros_like(part) for part in position))
    scores = torch.zeros(len(data.x), len(ends), dtype=torch.float64)
    x = data.x.double()
    for model, rows, rate in zip(reversed(path), reversed(orders), reversed(rates)):
        for speed, place in zip(velocity, position):
            speed.mul_(recipe.momentum).sub_(place, alpha=rate)
        slopes, turned = along(model, x[rows], data.y[rows], velocity)
        scores[rows] -= (slopes - slopes.mean(0) if recipe.divide == "present" else slopes) / len(rows)
        for place, turn, speed in zip(position, turned, velocity):
            place.add_(turn).add_(speed, alpha=recipe.weight_decay)
    return scores


def along(model: Classifiers, x: Tensor, y: Tensor, directions: Directions) -> tuple[Tensor, Directions]:
    """First and second derivatives of a batch's losses along directions: g_i' s (batch, m), and H s of their mean.

    Every quantity of the forward and backward pass has its derivative along s beside it (Pearlmutter 1994).
    """
    left, right, down = single(model)
    units, batch = len(left), len(x)
    u, v = left @ x.mT, right @ x.mT
    hidden = u * v
    chances = (down @ hidden).softmax(0)
    errors = (chances - one_hot(y, len(down)).mT) / batch
    moved = directions.lower @ x.mT  # each quantity's derivative has its rows first, then the directions, then the batch
    du, dv = moved[:units], moved[units:]
    d_hidden = (du * v[:, None]).addcmul_(dv, u[:, None])
    d_logits = _product(down, d_hidden).add_(directions.upper @ hidden)
    slopes = (errors[:, None] * d_logits).sum(0).mT * batch
    d_errors = d_logits.sub_((chances[:, None] * d_logits).sum(0)).mul_(chances[:, None] / batch)
    d_pull = _product(down.mT, d_errors).add_(rearrange(directions.upper, "label m unit -> unit m label") @ errors)
    d_rows = torch.cat([dv, du]).mul_((down.mT @ errors).repeat(2, 1)[:, None])
    d_rows[:units].addcmul_(d_pull, v[:, None])
    d_rows[units:].addcmul_(d_pull, u[:, None])
    d_down = d_errors @ hidden.mT + rearrange(d_hidden @ errors.mT, "unit m label -> label m unit")
    return slopes, Directions(d_rows @ x, d_down)


def _product(matrix: Tensor, values: Tensor) -> Tensor:
    """matrix (out, in) times values (in, m, batch), as one matrix product."""
    return (matrix @ values.flatten(1)).view(-1, *values.shape[1:])


def _as_directions(rows: Tensor, model: Classifiers) -> Directions:
    """Rows (m, parameters) cut into matrices."""
    lower, upper = rows.split([2 * model.left[0].numel(), model.down[0].numel()], dim=1)
    return Directions(*(rearrange(part, "m (row column) -> row m column", column=columns).contiguous()
                        for part, columns in ((lower, model.left.shape[2]), (upper, model.down.shape[2]))))
