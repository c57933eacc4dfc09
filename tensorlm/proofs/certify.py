"""Exact robustness of one bilinear layer: how far an image is from another class, and the nearest image that has it.

Each margin is a quadratic g of the step away from the image. In the eigenbasis of its Q, with h = Qx + b half of its gradient,
both questions have one unknown v, and y_i = -v h_i / (1 + v (lambda_i - lambda_min)) is the best step for some v:

- the nearest zero of g: v at which g vanishes, by Newton's method on a convex falling function, whose iterates all stay on one side;
- the least g in a ball: v at which |y| is its radius (More and Sorensen 1983).

Where h has no part along the lowest eigenvector (the *hard case*) v is infinite and any multiple of that vector may be added: a part
of h below rounding is put in its place. The point that is found is itself the attack, so certificate and attack are one number.
"""

from collections.abc import Sequence
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
TOUCH_SHARE = 1e-12  # of g at the image: a least g below it is a zero that g touches
MAX_STEPS = 200
STEP_ERRORS = 4  # rounding errors below which a step is none
CHUNK_NUMBERS = 2**24  # in one array of images x rivals x dimensions


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is certain of n images, in float64: shapes (...) are those of the labels.

    `radius` (...): the distance to the nearest image that is not of the label's class, infinite where there is none, and 0 for an
    image that is itself misclassified. `rival` (...): the class that it meets there. `nearest` (..., d): that image, where label and
    rival tie. `distances` (..., classes): the same for every rival by itself, infinite for the label.
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


class Eigenforms(NamedTuple):
    """Margins of one label against m rivals (m,), each in its eigenbasis: values (m, k) rising, vectors (m, k, k) as columns,
    linear = V'b (m, k). What is zero to rounding is zero."""

    rivals: Tensor
    values: Tensor
    vectors: Tensor
    linear: Tensor

    def half_gradient(self, points: Tensor) -> Tensor:
        """V'(Qx + b) of points (n, k) in the basis that all forms share: (n, m, k)."""
        return self.values * torch.einsum("ni,mik->nmk", points, self.vectors) + self.linear


@dataclass(frozen=True, eq=False)
class Margins:
    """All margins of a layer, in a basis (d, k) of what its rows span, k = min(d, 2 hidden): one eigendecomposition a pair."""

    layer: CPTensor
    basis: Tensor
    pairs: dict[tuple[int, int], int]
    values: Tensor
    vectors: Tensor
    linear: Tensor

    @classmethod
    def of(cls, classifier: Any, width: int) -> "Margins":
        layer = single_layer(classifier, width)
        require(layer.out > 1, "classifier", f"{layer.out} output", "a layer with at least 2 outputs, one a class")
        basis = torch.linalg.qr(torch.cat([layer.L[:, 1:], layer.R[:, 1:]]).mT).Q
        left, right = layer.L[:, 1:] @ basis, layer.R[:, 1:] @ basis
        first, second = torch.triu_indices(layer.out, layer.out, 1)
        weights = layer.D[first] - layer.D[second]
        values, vectors = eigh(CPTensor(weights, left, right).symmetric())
        values, vectors = values.flip(-1), vectors.flip(-2).mT
        linear = weights @ (layer.L[:, :1] * right + layer.R[:, :1] * left) / 2
        values, linear = _without_rounding(values, torch.einsum("mi,mik->mk", linear, vectors), weights, layer)
        pairs = {pair: number for number, pair in enumerate(zip(first.tolist(), second.tolist()))}
        return cls(layer, basis, pairs, values, vectors, linear)

    def against_all(self, label: int) -> Eigenforms:
        """The margins of one class against all others."""
        rivals = [rival for rival in range(self.layer.out) if rival != label]
        rows = [self.pairs[min(label, rival), max(label, rival)] for rival in rivals]
        turned = torch.tensor([rival < label for rival in rivals]).view(-1, 1)
        values, vectors, linear = self.values[rows], self.vectors[rows], self.linear[rows]
        values = torch.where(turned, -values.flip(-1), values)
        vectors = torch.where(turned.unsqueeze(-1), vectors.flip(-1), vectors)
        return Eigenforms(torch.tensor(rivals), values, vectors, torch.where(turned, -linear.flip(-1), linear))


def _without_rounding(values: Tensor, linear: Tensor, weights: Tensor, layer: CPTensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m, k) that are zero to rounding as zeros, and in their directions linear parts that are; measured by the sum of
    the sizes of what the hidden units add to Q and to b."""
    least = NULL_ERRORS * layer.width * torch.finfo(values.dtype).eps * weights.abs()
    left, right = (torch.linalg.vector_norm(factor[:, 1:], dim=1) for factor in (layer.L, layer.R))
    crossed = (layer.L[:, 0].abs() * right + layer.R[:, 0].abs() * left) / 2
    values = torch.where(values.abs() <= (least @ (left * right)).unsqueeze(1), 0, values)
    return values, torch.where((values == 0) & (linear.abs() <= (least @ crossed).unsqueeze(1)), 0, linear)


def certificate(classifier: Any, x: Tensor, labels: Tensor | None = None) -> Certificate:
    """How far each image x (..., d) is from another class, exactly, and the nearest such image; in float64 on the CPU.

    `classifier` is one bilinear layer: an MLP of degree 2, a CPTensor, linear maps before and behind; a layer of width d + 1 reads
    (1, x), so that biases and residuals are in its factors. `labels` (...), whole numbers, are the true classes; without them the
    classes that the layer says. Distances are Euclidean and in all of R^d: pixels may leave [0, 1]. A zero that a margin only
    touches counts, as a tie. Raises ValueError for more layers, parts that are no polynomials and shapes that do not fit.

    >>> parabola = CPTensor(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0]]))  # x^2, 4
    >>> found = certificate(parabola, torch.tensor([[5.0], [-1.0]]), torch.tensor([0, 1]))
    >>> found.radius.tolist(), found.nearest.tolist()
    ([3.0, 1.0], [[2.0], [-2.0]])
    """
    margins, points, labels, shape = _given(classifier, x, labels)
    distances = points.new_full((len(points), margins.layer.out), torch.inf)
    nearest, rival = points.clone(), labels.clone()
    for rows, forms, values in _by_label(margins, points, labels):
        half = forms.half_gradient(points[rows] @ margins.basis)
        reached, beaten = nearest_zero(forms.values, half, values), (values <= 0).any(1)
        best = torch.where(beaten, values.argmin(1), reached.size.argmin(1))
        nearest[rows] += torch.where(beaten.unsqueeze(1), 0, _back(reached.step, forms, margins, best))
        distances[rows.unsqueeze(1), forms.rivals] = reached.size
        rival[rows] = forms.rivals[best]
    radius = distances.amin(1)
    return Certificate(radius.view(shape), rival.view(shape), nearest.view(x.shape), distances.view(*shape, margins.layer.out))


def worst_margin(classifier: Any, x: Tensor, radius: float | Tensor, labels: Tensor | None = None) -> WorstCase:
    """The least margin of the label over all rivals and all images within `radius` of x (..., d), exactly, and where it is.

    `radius` is a number or one an image (...), at least 0. It is positive where the certificate's radius is greater, zero at that
    radius. Takes and raises what `certificate` does, and ValueError for a radius below 0.

    >>> parabola = CPTensor(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0]]))  # x^2, 4
    >>> found = worst_margin(parabola, torch.tensor([[5.0]]), radius=2.0, labels=torch.tensor([0]))
    >>> found.margin, found.point
    (tensor([5.], dtype=torch.float64), tensor([[3.]], dtype=torch.float64))
    """
    margins, points, labels, shape = _given(classifier, x, labels)
    radii = as_radii(radius, shape).to(points).flatten()
    margin, rival, point = radii.clone(), labels.clone(), points.clone()
    for rows, forms, values in _by_label(margins, points, labels):
        half = forms.half_gradient(points[rows] @ margins.basis)
        step = ball_minimum(forms.values, half, radii[rows].view(-1, 1))
        least = values + (step * (2 * half + forms.values * step)).sum(-1)
        margin[rows], best = least.min(1)
        point[rows] += _back(step, forms, margins, best)
        rival[rows] = forms.rivals[best]
    return WorstCase(margin.view(shape), rival.view(shape), point.view(x.shape))


class Reached(NamedTuple):
    """The nearest zeros: `size` (n, m), infinite where there is none, and the steps there (n, m, k) in the forms' eigenbases."""

    size: Tensor
    step: Tensor


def nearest_zero(values: Tensor, half: Tensor, start: Tensor) -> Reached:
    """The shortest step to a zero of forms with eigenvalues `values` (..., k), half gradients `half` (n, m, k), values `start` (n, m).

    With a_i = 1 + v (lambda_i - lambda_min) and q = 1 - v lambda_min the form at the step of v is
    phi = start - v sum h_i^2 (a_i + q) / a_i^2, which falls and is convex in u = v (1 + q), with dphi/du = -sum h_i^2 / a_i^3.
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
    raised = torch.where((values[..., 0] < 0) & (first.abs() < least), torch.where(first < 0, -least, least), first)
    return torch.cat([raised.unsqueeze(-1), half[..., 1:]], dim=-1)


def _first_bound(start: Tensor, squares: Tensor, most: Tensor) -> Tensor:
    """A u at which no form has reached zero yet: the first i directions lower it by at most u h^2 each, the others by `most`."""
    others = torch.nn.functional.pad(most.flip(-1).cumsum(-1).flip(-1)[..., 1:], (0, 1))
    bounds = (start.unsqueeze(-1) - others) / squares.cumsum(-1)
    return bounds.nan_to_num(nan=0.0, posinf=torch.inf).amax(-1).clamp_min(0)


def _back(step: Tensor, forms: Eigenforms, margins: Margins, best: Tensor) -> Tensor:
    """The step (n, d) in pixels against the rival number `best` (n,), from steps (n, m, k) in the forms' eigenbases."""
    chosen = step[torch.arange(len(step)), best]
    turned = torch.empty_like(chosen)
    for number in best.unique().tolist():
        turned[best == number] = chosen[best == number] @ forms.vectors[number].mT
    return turned @ margins.basis.mT


def _by_label(margins: Margins, points: Tensor, labels: Tensor):
    """For each label, in chunks: the rows of its images, its forms, and their values at the images (n, m)."""
    logits = margins.layer(lift(points))
    for label in labels.unique().tolist():
        forms = margins.against_all(label)
        for rows in torch.nonzero(labels == label)[:, 0].split(max(1, CHUNK_NUMBERS // forms.values.numel())):
            yield rows, forms, logits[rows, label].unsqueeze(1) - logits[rows][:, forms.rivals]


def _given(classifier: Any, x: Tensor, labels: Tensor | None) -> tuple[Margins, Tensor, Tensor, torch.Size]:
    """Margins, images (n, d) in float64, labels (n,), and the shape of the labels, all checked."""
    require_rows(x, None)
    require_finite("x", x)
    margins = Margins.of(classifier, x.shape[-1])
    points = x.detach().reshape(-1, x.shape[-1]).to(margins.values)
    if labels is None:
        labels = margins.layer(lift(points)).argmax(-1).view(x.shape[:-1])
    return margins, points, require_labels(labels, x, margins.layer.out).flatten(), x.shape[:-1]


def require_labels(labels: Any, x: Tensor, classes: int) -> Tensor:
    """The labels; ValueError unless they are whole numbers from 0 to classes - 1, one for each row of x."""
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool
    require(whole and labels.shape == x.shape[:-1], "labels", labels, f"whole numbers in a tensor of shape {tuple(x.shape[:-1])}")
    require(((labels >= 0) & (labels < classes)).all(), "labels", labels.unique().tolist(), f"classes from 0 to {classes - 1}")
    return labels.long()


def as_radii(radius: float | Tensor, shape: Sequence[int]) -> Tensor:
    """Radii in float64 of the given shape; ValueError unless they are finite, at least 0, and one number or of that shape."""
    if not isinstance(radius, Tensor):
        return torch.full(tuple(shape), require_number("radius", radius, 0), dtype=torch.float64)
    require(radius.shape in ((), tuple(shape)), "radius", radius, f"one number or a tensor of shape {tuple(shape)}")
    require((radius.isfinite() & (radius >= 0)).all(), "radius", radius, "finite numbers of at least 0")
    return radius.double().expand(tuple(shape))
