"""Exact robustness of one bilinear layer: how far an image is from another class, and the nearest image that has it.

Each margin is a quadratic g of the step away from the image. In the eigenbasis of its Q, with h = Qx + b half of its
gradient, two questions have one unknown v, since y_i = -v h_i / (1 + v (lambda_i - lambda_min)) is the best step for some v:

- the nearest zero of g: v at which g vanishes, by Newton's method on a convex function that falls, from one side;
- the least g in a ball: v at which |y| is its radius (More and Sorensen 1983).

Where h has no part along the lowest eigenvector (the *hard case*) v is infinite and any multiple of that vector may be added;
a part far below rounding is put in its place. The point that is found is the attack: certificate and attack are one number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require, require_finite, require_number, require_rows
from tensorlm.proofs.forms import single_layer
from tensorlm.tensors import CPTensor, lift
from tensorlm.ties import eigh

HARD_SHARE = 1e-20  # of the natural size of a half gradient: what stands for zero along the lowest eigenvector
NULL_ERRORS = 4  # rounding errors for each dimension, below which an eigenvalue is zero
TOUCH_SHARE = 1e-12  # of g at the image: where its least value is below that share, g touches zero
MAX_STEPS = 200
STEP_ERRORS = 4  # rounding errors below which a step is none
CHUNK_NUMBERS = 2**22  # in one array of images x rivals x dimensions


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is certain of images, in float64; shapes (...) are those of the labels.

    `radius` (...) is the distance to the nearest image that is not of the label's class: infinite where there is none, 0 for an
    image that is itself misclassified. `rival` (...) is the class that it meets there, `nearest` (..., d) that image, where
    label and rival tie. `distances` (..., classes) has the radius against each rival by itself, infinite for the label.
    """

    radius: Tensor
    rival: Tensor
    nearest: Tensor
    distances: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether the image itself has its label (...)."""
        return self.radius > 0

    def accuracy(self, radii: Sequence[float] = (0.0,)) -> list[float]:
        """The share of images that keep their label at every distance up to r, for each r of `radii`; at 0, the accuracy."""
        radii = [require_number("radii", radius, 0) for radius in radii]
        return [(self.radius > radius).double().mean().item() for radius in radii]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The least margin in a ball around each image: `margin` (...), the rival that has it (...), and the point (..., d)."""

    margin: Tensor
    rival: Tensor
    point: Tensor


def certificate(classifier: Any, x: Tensor, labels: Tensor | None = None) -> Certificate:
    """How far each image x (..., d) is from another class, exactly, and the nearest such image; in float64 on the CPU.

    `classifier` is one bilinear layer: an MLP of degree 2 or a CPTensor, alone or in a sequence with linear maps. A layer of
    width d + 1 reads (1, x), so that biases and residuals are in its factors. `labels` (...) are the true classes, whole
    numbers; without them the classes that the layer says. Distances are Euclidean and in all of R^d: pixels may leave
    [0, 1]. A zero that a margin only touches counts, as a tie. Raises ValueError or TypeError for more layers, for parts that
    are no polynomials, naming them and what can be done, and for shapes that do not fit.

    >>> parabola = CPTensor(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0]]))
    >>> found = certificate(parabola, torch.tensor([[5.0], [-1.0]]))  # class 0 where x^2 > 4
    >>> found.radius.tolist(), found.nearest.tolist()
    ([3.0, 1.0], [[2.0], [-2.0]])
    """
    margins, points, labels = _given(classifier, x, labels)
    radius = points.new_empty(len(points))
    distances = points.new_full((len(points), margins.layer.out), torch.inf)
    nearest, rival = points.clone(), labels.clone()
    for rows, seen in margins.chunks(points, labels):
        reached, beaten = nearest_zero(seen.values, seen.half, seen.start), (seen.start <= 0).any(1)
        best = torch.where(beaten, seen.start.argmin(1), reached.size.argmin(1))
        radius[rows], rival[rows] = reached.size.amin(1), seen.of(best, seen.rivals)
        nearest[rows] += torch.where(beaten.unsqueeze(1), 0, margins.in_pixels(seen, reached.step, best))
        distances[rows] = distances[rows].scatter(1, seen.rivals, reached.size)
    shape, classes = x.shape[:-1], margins.layer.out
    return Certificate(radius.view(shape), rival.view(shape), nearest.view(x.shape), distances.view(*shape, classes))


def worst_margin(classifier: Any, x: Tensor, radius: float | Tensor, labels: Tensor | None = None) -> WorstCase:
    """The least margin of the label over all rivals and all images within `radius` of x (..., d), exactly, and where it is.

    `radius` is one number or one an image (...), at least 0. The margin is positive inside the certificate's radius and zero at
    it. Takes and raises what `certificate` does, and ValueError for a radius below 0.

    >>> parabola = CPTensor(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0]]))
    >>> found = worst_margin(parabola, torch.tensor([[5.0]]), radius=2.0)  # x^2 - 4 at x = 3
    >>> found.margin.item(), found.point.item()
    (5.0, 3.0)
    """
    margins, points, labels = _given(classifier, x, labels)
    radii = as_radii(radius, x.shape[:-1]).flatten()
    margin, rival, point = radii.clone(), labels.clone(), points.clone()
    for rows, seen in margins.chunks(points, labels):
        step = ball_minimum(seen.values, seen.half, radii[rows].unsqueeze(1))
        least = seen.start + (step * (2 * seen.half + seen.values * step)).sum(-1)
        margin[rows], best = least.min(1)
        rival[rows] = seen.of(best, seen.rivals)
        point[rows] += margins.in_pixels(seen, step, best)
    shape = x.shape[:-1]
    return WorstCase(margin.view(shape), rival.view(shape), point.view(x.shape))


# The forms of a layer, and what images see of them

class Seen(NamedTuple):
    """For n images the margins against m rivals (n, m): the number of the pair, and whether its form is turned round. In the
    eigenbasis of each: eigenvalues, rising, and half gradients (n, m, k); and the values at the images (n, m)."""

    rivals: Tensor
    pairs: Tensor
    turned: Tensor
    values: Tensor
    half: Tensor
    start: Tensor

    def of(self, best: Tensor, side: Tensor) -> Tensor:
        """The entry of rival number `best` (n,) of each image."""
        return side[torch.arange(len(best)), best]


@dataclass(frozen=True, eq=False)
class Margins:
    """All margins of a layer, in a basis (d, k) of what its rows span, k = min(d, 2 hidden): one eigendecomposition a pair.

    `numbers` (classes, classes) says which pair two classes are. Of the pairs: eigenvalues (pairs, k), rising, eigenvectors
    (pairs, k, k) as columns, and V'b (pairs, k). The form is that of the lower class less the higher one.
    """

    layer: CPTensor
    basis: Tensor
    numbers: Tensor
    values: Tensor
    vectors: Tensor
    linear: Tensor

    @classmethod
    def of(cls, layer: CPTensor) -> "Margins":
        basis = torch.linalg.qr(torch.cat([layer.L[:, 1:], layer.R[:, 1:]]).mT).Q
        left, right = layer.L[:, 1:] @ basis, layer.R[:, 1:] @ basis
        first, second = torch.triu_indices(layer.out, layer.out, 1)
        weights = layer.D[first] - layer.D[second]
        values, vectors = eigh(CPTensor(weights, left, right).symmetric())
        values, vectors = values.flip(-1), vectors.flip(-2).mT
        linear = weights @ (layer.L[:, :1] * right + layer.R[:, :1] * left) / 2
        values, linear = _without_rounding(values, (linear.unsqueeze(1) @ vectors).squeeze(1), weights, layer)
        numbers = torch.zeros(layer.out, layer.out, dtype=torch.long)
        numbers[first, second] = numbers[second, first] = torch.arange(len(first))
        return cls(layer, basis, numbers, values, vectors, linear)

    def chunks(self, points: Tensor, labels: Tensor) -> Iterator[tuple[slice, Seen]]:
        """What images (n, d) see, a part of them at a time."""
        size = max(1, CHUNK_NUMBERS // (self.layer.out * self.basis.shape[1]))
        for start in range(0, len(points), size):
            rows = slice(start, start + size)
            yield rows, self.seen(points[rows], labels[rows])

    def seen(self, points: Tensor, labels: Tensor) -> Seen:
        rivals = rivals_of(labels, self.layer.out)
        pairs, turned = self.numbers[labels.unsqueeze(1), rivals], (rivals < labels.unsqueeze(1)).unsqueeze(-1)
        inside, values = points @ self.basis, self.values[pairs]
        parts = torch.empty_like(values)
        for label in labels.unique():
            rows = labels == label
            own = self.vectors[self.numbers[label, rivals_of(label, self.layer.out)]]
            parts[rows] = torch.einsum("ni,mik->nmk", inside[rows], own)
        half = values * parts + self.linear[pairs]
        values, half = (torch.where(turned, -side.flip(-1), side) for side in (values, half))
        logits = self.layer(lift(points))
        return Seen(rivals, pairs, turned, values, half, logits.gather(1, labels.unsqueeze(1)) - logits.gather(1, rivals))

    def in_pixels(self, seen: Seen, step: Tensor, best: Tensor) -> Tensor:
        """The step (n, d) against rival number `best` (n,), from steps (n, m, k) in eigenbases."""
        chosen, pairs = seen.of(best, step), seen.of(best, seen.pairs)
        chosen = torch.where(seen.of(best, seen.turned), chosen.flip(-1), chosen)
        for pair in pairs.unique():
            rows = pairs == pair
            chosen[rows] = chosen[rows] @ self.vectors[pair].mT
        return chosen @ self.basis.mT


def rivals_of(labels: Tensor, classes: int) -> Tensor:
    """The other classes, in order: labels (...) -> (..., classes - 1)."""
    others = torch.arange(classes - 1)
    return others + (others >= labels.unsqueeze(-1))


def _without_rounding(values: Tensor, linear: Tensor, weights: Tensor, layer: CPTensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m, k) that are zero to rounding as zeros, and the linear parts in their directions that are: rounding is
    measured by the sum of the sizes of what the hidden units add to Q and to b."""
    least = NULL_ERRORS * layer.width * torch.finfo(values.dtype).eps * weights.abs()
    left, right = (torch.linalg.vector_norm(factor[:, 1:], dim=1) for factor in (layer.L, layer.R))
    crossed = (layer.L[:, 0].abs() * right + layer.R[:, 0].abs() * left) / 2
    values = torch.where(values.abs() <= (least @ (left * right)).unsqueeze(1), 0, values)
    return values, torch.where((values == 0) & (linear.abs() <= (least @ crossed).unsqueeze(1)), 0, linear)


# The two problems in an eigenbasis

class Reached(NamedTuple):
    """The nearest zeros: `size` (n, m), infinite where there is none, and the steps there (n, m, k) in eigenbases."""

    size: Tensor
    step: Tensor


def nearest_zero(values: Tensor, half: Tensor, start: Tensor) -> Reached:
    """The shortest step to a zero of forms with eigenvalues (..., k), half gradients (n, m, k) and values `start` (n, m).

    With a_i = 1 + v (lambda_i - lambda_min) and q = 1 - v lambda_min the form at the step of v is
    phi = start - v sum h_i^2 (a_i + q) / a_i^2. In u = v (1 + q) it falls and is convex, since dphi/du = -sum h_i^2 / a_i^3:
    Newton's method from a u before the zero comes nearer from that side, and ends at it to rounding.
    """
    lowest, start = _lowest(values, half), start.clamp_min(0)
    half = _without_hard_case(values, half, (start * lowest.abs()).sqrt())
    gaps, squares = (values - lowest.unsqueeze(-1)).clamp_min(0), half.square()
    limits = torch.where(lowest.unsqueeze(-1) > 0, 1 / values, (gaps - lowest.unsqueeze(-1)) / gaps.square())
    most = torch.where(squares > 0, squares * limits, 0)  # by which each direction can lower the form
    exists = (lowest <= 0) | (start - most.sum(-1) <= TOUCH_SHARE * start)
    end = torch.where(lowest > 0, 1 / lowest, torch.inf)
    u = torch.where(exists, torch.minimum(_first_bound(start, squares, most), end), 0)
    for _ in range(MAX_STEPS):
        v = u / (1 + (1 - lowest * u).clamp_min(0).sqrt())
        inverse = 1 / (1 + v.unsqueeze(-1) * gaps)
        first = squares * inverse
        second = first * inverse
        left = start - v * (first.sum(-1) + (1 - lowest * v) * second.sum(-1))
        forward = torch.minimum(u + left / (second * inverse).sum(-1), end)
        moves = exists & (forward > u * (1 + STEP_ERRORS * torch.finfo(u.dtype).eps))
        if not moves.any():
            break
        u = torch.where(moves, forward, u)
    return Reached(torch.where(exists, v * second.sum(-1).sqrt(), torch.inf), -v.unsqueeze(-1) * half * inverse)


def ball_minimum(values: Tensor, half: Tensor, radius: Tensor) -> Tensor:
    """The step (n, m, k) within `radius` (n, 1) to the least value of forms as in `nearest_zero`.

    y = -h / (w + lambda - lambda_min) with w at least 0 and lambda_min: inside the ball w = lambda_min, on its sphere Newton's
    method on 1/|y|, which is concave in w and rises, comes from below.
    """
    lowest = _lowest(values, half)
    half = _without_hard_case(values, half, lowest.abs() * radius)
    gaps, squares = (values - lowest.unsqueeze(-1)).clamp_min(0), half.square()
    w = (squares.cumsum(-1).sqrt() / radius.unsqueeze(-1) - gaps).amax(-1)
    w = torch.maximum(w, lowest.clamp_min(0))
    for _ in range(MAX_STEPS):
        inverse = torch.where(squares > 0, 1 / (w.unsqueeze(-1) + gaps), 0)
        second = squares * inverse.square()
        norm = second.sum(-1).sqrt()
        forward = w + norm.square() / (second * inverse).sum(-1) * (norm / radius - 1)
        moves = forward > w * (1 + STEP_ERRORS * torch.finfo(w.dtype).eps)
        if not moves.any():
            break
        w = torch.where(moves, forward, w)
    return torch.where(radius.unsqueeze(-1) > 0, -half * inverse, 0)


def _lowest(values: Tensor, half: Tensor) -> Tensor:
    """The least eigenvalue of a direction in which the form can move (n, m); 1 where there is none."""
    lowest = torch.where((values != 0) | (half != 0), values, torch.inf).amin(-1)
    return torch.where(lowest.isinf(), 1, lowest)


def _without_hard_case(values: Tensor, half: Tensor, natural: Tensor) -> Tensor:
    """Half gradients whose part along a negative lowest eigenvector is at least a share of the `natural` size (n, m)."""
    least, first = HARD_SHARE * natural, half[..., 0]
    raised = (values[..., 0] < 0) & (first.abs() < least)
    first = torch.where(raised, torch.where(first < 0, -least, least), first)
    return torch.cat([first.unsqueeze(-1), half[..., 1:]], dim=-1)


def _first_bound(start: Tensor, squares: Tensor, most: Tensor) -> Tensor:
    """A u before every zero: the first i directions lower a form by at most u h^2 each, the others by at most `most`."""
    others = torch.nn.functional.pad(most.flip(-1).cumsum(-1).flip(-1)[..., 1:], (0, 1))
    bounds = (start.unsqueeze(-1) - others) / squares.cumsum(-1)
    return bounds.nan_to_num(nan=0.0, posinf=torch.inf).amax(-1).clamp_min(0)


# Arguments

def _given(classifier: Any, x: Tensor, labels: Tensor | None) -> tuple[Margins, Tensor, Tensor]:
    """Margins, images (n, d) in float64 and labels (n,), checked."""
    require_rows(x, None)
    require_finite("x", x)
    layer, points = single_layer(classifier, x.shape[-1]), as_points(x)
    labels = as_labels(labels, x, layer(lift(points)))
    return Margins.of(layer), points, labels


def as_points(x: Tensor) -> Tensor:
    """Images (..., d) as rows in float64 on the CPU."""
    return x.detach().to("cpu", torch.float64).reshape(-1, x.shape[-1])


def as_labels(labels: Tensor | None, x: Tensor, logits: Tensor) -> Tensor:
    """Labels (n,): those given for images x (..., d), checked, or the classes that logits (n, classes) say."""
    classes = logits.shape[-1]
    require(classes > 1, "classifier", f"{classes} output", "a layer with at least 2 outputs, one a class")
    return logits.argmax(-1) if labels is None else require_labels(labels, x, classes).flatten().cpu()


def require_labels(labels: Any, x: Tensor, classes: int) -> Tensor:
    """The labels; ValueError unless they are whole numbers from 0 to classes - 1, one for each row of x."""
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool
    shape = tuple(x.shape[:-1])
    require(whole and labels.shape == shape, "labels", labels, f"whole numbers in a tensor of shape {shape}")
    require(((labels >= 0) & (labels < classes)).all(), "labels", labels.unique().tolist(), f"classes from 0 to {classes - 1}")
    return labels.long()


def as_radii(radius: float | Tensor, shape: Sequence[int]) -> Tensor:
    """Radii in float64 of the given shape; ValueError unless they are finite, at least 0, and one number or of that shape."""
    if not isinstance(radius, Tensor):
        return torch.full(tuple(shape), require_number("radius", radius, 0), dtype=torch.float64)
    require(radius.shape in ((), tuple(shape)), "radius", radius, f"one number or a tensor of shape {tuple(shape)}")
    require((radius.isfinite() & (radius >= 0)).all(), "radius", radius, "finite numbers of at least 0")
    return radius.double().expand(tuple(shape))
