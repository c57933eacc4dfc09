"""Projected gradient descent: the best known way to a wrong class nearby, and so an upper bound of every radius."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_counts, require_finite, require_number, require_one_of, require_rows
from tensorlm.proofs.certify import require_labels

NORMS = ("l2", "linf")
FIRST_STEP, LAST_STEP = 0.4, 0.02  # of the radius


class Attack(NamedTuple):
    """The least distance (...) at which another class was found, infinite where none was, and the image (..., d)."""

    radius: Tensor
    nearest: Tensor


def attack_radius(function: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, norm: str = "l2", reach: float = 4.0,
                  aims: int = 3, steps: int = 30, halvings: int = 10) -> Attack:
    """The nearest image of another class that projected gradient descent finds (Madry et al. arXiv 1706.06083).

    `function` maps x (n, d) to logits (n, classes), differentiably. Towards each of the `aims` rivals that are nearest by their
    gradients, the ball around an image is halved `halvings` times from `reach`, each time with `steps` steps down the margin.
    `norm` is the Euclidean length ("l2") or the largest change of a pixel ("linf"). What is found is an upper bound of the true
    radius, and 0 for misclassified images. Raises ValueError for what does not fit.

    >>> found = attack_radius(lambda x: torch.cat([x, 1 - x], dim=-1), torch.tensor([[0.9]]), torch.tensor([0]))
    >>> round(found.radius.item(), 3)  # the classes tie at 0.5
    0.4
    """
    require_one_of("norm", norm, NORMS)
    require_rows(x, None)
    require_finite("x", x)
    require_number("reach", reach, above=0)
    require_counts(aims=aims, steps=steps, halvings=halvings)
    points = x.detach().reshape(-1, x.shape[-1])
    targets = require_labels(labels, x, function(points[:1]).shape[-1]).flatten()
    radius, nearest = torch.full_like(points[:, 0], torch.inf), points.clone()
    for rivals in promising(function, points, targets, norm)[:aims]:
        low, high = torch.zeros_like(radius), radius.clamp(max=reach)
        for turn in range(halvings + 1):
            tried = high if turn == 0 else (low + high) / 2
            size, found = descend(function, points, (targets, rivals), tried, norm, steps)
            better = size < radius
            radius, nearest = torch.where(better, size, radius), torch.where(better.unsqueeze(1), found, nearest)
            low, high = torch.where(size <= tried, low, tried), torch.minimum(high, size)
    return Attack(radius.view(x.shape[:-1]), nearest.view(x.shape))


def promising(function: Callable, points: Tensor, labels: Tensor, norm: str) -> list[Tensor]:
    """Rivals (n,), those first whose margin divided by the length of its gradient is the least."""
    distances = []
    for rival in range(function(points[:1]).shape[-1]):
        place = points.clone().requires_grad_()
        values = function(place)
        left = values.gather(1, labels.unsqueeze(1)).squeeze(1) - values[:, rival]
        gradient, = torch.autograd.grad(left.sum(), place)
        steep = torch.linalg.vector_norm(gradient, ord=2 if norm == "l2" else 1, dim=1)
        distances.append(torch.where(labels == rival, torch.inf, left.detach() / steep.clamp_min(1e-30)))
    return list(torch.stack(distances, 1).argsort(1)[:, :-1].unbind(1))


def descend(function: Callable, points: Tensor, classes: tuple[Tensor, Tensor], radius: Tensor, norm: str,
            steps: int) -> tuple[Tensor, Tensor]:
    """From label towards rival, `classes` (n,) both: the size (n,) of the smallest step within `radius` on the way at which the
    class is no longer the label, infinite without one, and the image."""
    labels, rivals = (side.unsqueeze(1) for side in classes)
    delta, nearest, best = torch.zeros_like(points), points, torch.full_like(radius, torch.inf)
    for turn in range(steps + 1):
        place = (points + delta).requires_grad_()
        values = function(place)
        own, size = values.gather(1, labels), length(delta, norm)
        wrong = (own <= values.scatter(1, labels, -torch.inf).amax(1, keepdim=True)).squeeze(1) & (size < best)
        best, nearest = torch.where(wrong, size, best), torch.where(wrong.unsqueeze(1), place.detach(), nearest)
        gradient, = torch.autograd.grad((own - values.gather(1, rivals)).sum(), place)
        share = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (turn / steps)
        direction = gradient.sign() if norm == "linf" else torch.nn.functional.normalize(gradient, dim=1, eps=1e-30)
        delta = projected(delta - share * radius.unsqueeze(1) * direction, radius.unsqueeze(1), norm)
    return best, nearest


def length(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta, ord=2 if norm == "l2" else torch.inf, dim=1)


def projected(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, radius), -radius)
    return delta * (radius / torch.linalg.vector_norm(delta, dim=1, keepdim=True).clamp_min(1e-30)).clamp(max=1)
