"""Sound lower bounds where the exact radius is not to be had: boxes of pixels, and two or more bilinear layers.

A box asks for the least value of a quadratic over a cube, which is NP-hard; a margin of two layers is of degree 4. Every bound
here is at most the true radius, and `attack_radius` is at least it: the gap between the two is what is not known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require_finite, require_one_of, require_rows
from tensorlm.proofs.certify import as_labels, as_points, ball_minimum, rivals_of
from tensorlm.proofs.forms import Quadratic, as_layers, forms_of, quadratic_forms
from tensorlm.tensors import CPTensor, lift

BARRIER_GAP = 0.003  # share of its best within which the semidefinite bound is
BARRIER_STEPS, BARRIER_GROWTH, NEAR_CENTRE = 200, 5.0, 1.0
DOUBLINGS, HALVINGS = 20, 26  # of a radius, from 1
CHUNK_IMAGES = 64
Bound = Callable[[Tensor], Tensor]  # from radii (n,) to what is certain within them (n,)


# One layer, each pixel by itself

def box_radius(classifier: Any, x: Tensor, labels: Tensor | None = None, method: str = "semidefinite") -> Tensor:
    """A lower bound (...), for images x (..., d), of the least r so that changes of pixels by at most r each change the class.

    With h half the gradient of a margin g, and s such that s r^2 + delta'Q delta >= 0 for all |delta_i| <= r, the margin stays
    positive while g(x) - 2 r sum |h_i| - s r^2 > 0. The linear part is exact; s depends on the two classes alone. By `method`:

    - "interval": s = sum |Q_ij|, without the positive ones on the diagonal;
    - "eigenvalue": s = d max(0, -lambda_min), since |delta|^2 <= d r^2;
    - "semidefinite": the least s = tr D of a diagonal D >= 0 with Q + D positive semidefinite, never above the other two.

    Takes and raises what `certificate` does. 0 for a misclassified image, infinite where no change can matter.

    >>> product = CPTensor(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> box_radius(product, torch.tensor([[3.0, 1.0]]), method="interval")  # x1 x2 against 0: the truth is 1
    tensor([0.6458], dtype=torch.float64)
    """
    require_one_of("method", method, CURVATURES)
    require_rows(x, None)
    require_finite("x", x)
    forms, points = quadratic_forms(classifier, x.shape[-1]), as_points(x)
    targets = as_labels(labels, x, forms(points))
    found = torch.full_like(points[:, 0], torch.inf)
    for label in targets.unique().tolist():
        rows, rivals = targets == label, rivals_of(torch.tensor(label), len(forms.c0))
        pairs = Quadratic(*(part[label] - part[rivals] for part in forms))
        bend = CURVATURES[method](pairs.Q)
        slope = (einsum(points[rows], pairs.Q, "n i, rival i j -> n rival j") + pairs.b).abs().sum(-1)
        margin = pairs(points[rows]).clamp_min(0)
        reached = margin / (slope + (slope.square() + bend * margin).sqrt())
        found[rows] = torch.where(margin > 0, reached, 0).amin(1)
    return found.view(x.shape[:-1])


def interval_curvature(Q: Tensor) -> Tensor:
    """s of intervals: Q (m, d, d) -> (m,)."""
    diagonal = Q.diagonal(dim1=-2, dim2=-1)
    return Q.abs().sum((-2, -1)) - diagonal.clamp_min(0).sum(-1)


def eigenvalue_curvature(Q: Tensor) -> Tensor:
    """s of the least eigenvalue: Q (m, d, d) -> (m,)."""
    return Q.shape[-1] * _below_zero(Q)


def semidefinite_curvature(Q: Tensor) -> Tensor:
    """The least tr D with D >= 0 diagonal and Q + D >= 0, to `BARRIER_GAP`: Q (m, d, d) -> (m,).

    Newton's method on t tr D - log det(Q + D) - sum log D, whose minimum is within 2 d / t of the least tr D (Boyd and
    Vandenberghe 2004, section 11.6). D is made feasible by the least eigenvalue of Q + D, so a wrong step cannot be unsound.
    """
    simple = torch.minimum(interval_curvature(Q), eigenvalue_curvature(Q))
    rows = simple > 0
    if not rows.any():
        return simple
    scale = simple[rows, None] / Q.shape[-1]
    diagonal = _barrier(Q[rows] / scale.unsqueeze(-1)) * scale
    lacking = _below_zero(Q[rows] + torch.diag_embed(diagonal))
    simple[rows] = torch.minimum(simple[rows], diagonal.sum(-1) + Q.shape[-1] * lacking)
    return simple


CURVATURES = {"interval": interval_curvature, "eigenvalue": eigenvalue_curvature, "semidefinite": semidefinite_curvature}


def _below_zero(Q: Tensor) -> Tensor:
    """How far the least eigenvalue is below zero (m,), rounding errors of the largest included."""
    values = torch.linalg.eigvalsh(Q)
    errors = Q.shape[-1] * torch.finfo(Q.dtype).eps * values.abs().amax(-1)
    return torch.where(values[:, 0] < -errors, errors - values[:, 0], 0)


def _barrier(Q: Tensor) -> Tensor:
    """Diagonals (m, d) near the least trace."""
    size = Q.shape[-1]
    start = 1.1 * _below_zero(Q) + 0.05 * Q.abs().amax((-2, -1))
    diagonal = start.unsqueeze(-1).expand(-1, size).clone()
    weight = size / diagonal.sum(-1)
    for _ in range(BARRIER_STEPS):
        inverse = torch.linalg.inv(Q + torch.diag_embed(diagonal))
        gradient = weight.unsqueeze(-1) - inverse.diagonal(dim1=-2, dim2=-1) - 1 / diagonal
        step = -torch.linalg.solve(inverse.square() + torch.diag_embed(diagonal.reciprocal().square()), gradient)
        decrement = (-(gradient * step).sum(-1)).clamp_min(0).sqrt()
        diagonal = diagonal + step / (1 + decrement).unsqueeze(-1)
        near, done = decrement < NEAR_CENTRE, 2 * size / weight <= BARRIER_GAP * diagonal.sum(-1)
        if (near & done).all():
            break
        weight = torch.where(near & ~done, BARRIER_GROWTH * weight, weight)
    return diagonal


# Layers on layers

def radius_bound(classifier: Any, x: Tensor, labels: Tensor | None = None, method: str = "taylor") -> Tensor:
    """A lower bound (...), for images x (..., d), of the Euclidean distance to another class through any number of layers.

    `classifier` is what `certificate` takes, of one layer or more. A layer y has a Jacobian J at the image and a part q of
    degree 2, with |q(e)| <= k |e|^2. By `method`, what is known of y for images within r:

    - "interval": an interval for each entry; exact behind the first layer, by products of intervals behind the others;
    - "norm": |y - y(x)| <= |J| rho + k rho^2, rho being that bound of the layer before;
    - "taylor": y as a polynomial of degree 2 in the step, exactly, and a bound of what is left, of order r^3.

    The last layer's margin is exact in the ball of "norm" and to degree 2 for "taylor". Of one layer the radius is that of
    `certificate`. Takes and raises what `certificate` does. Never above 2^20.

    >>> square = CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    >>> head = torch.nn.Linear(1, 2, dtype=torch.float64)
    >>> head.weight.data, head.bias.data = torch.eye(2, 1).double(), torch.tensor([0.0, 16.0]).double()
    >>> radius_bound([square, square, head], torch.tensor([[3.0]]))  # x^4 against 16: the truth is 1
    tensor([0.9726], dtype=torch.float64)
    """
    require_one_of("method", method, METHODS)
    require_rows(x, None)
    require_finite("x", x)
    layers = as_layers(classifier, x.shape[-1])
    points = as_points(x)
    chunks = zip(points.split(CHUNK_IMAGES), as_labels(labels, x, logits(layers, points)).split(CHUNK_IMAGES))
    return torch.cat([_largest(METHODS[method](layers, rows, marks), len(rows)) for rows, marks in chunks]).view(x.shape[:-1])


def logits(classifier: Any, x: Tensor) -> Tensor:
    """What a classifier, as `certificate` takes it, says of x (..., d): (..., classes), in float64 on the CPU."""
    require_rows(x, None)
    value = x.detach().to("cpu", torch.float64)
    for layer in as_layers(classifier, x.shape[-1]):
        value = layer(lift(value))
    return value


class Expansion(NamedTuple):
    """Values y = centre + slope delta + delta' bend delta + rest of a layer, for steps delta with |delta| <= r: centre (n, m),
    slope (n, m, d), bend (n, m, d, d) or None for zero, and `rest(r)`, at least |rest| (n,)."""

    centre: Tensor
    slope: Tensor
    bend: Tensor | None
    rest: Bound

    def curved(self) -> Bound:
        """A bound of |y - centre - slope delta|."""
        if self.bend is None:
            return self.rest
        size = torch.linalg.matrix_norm(self.bend.flatten(-2), 2)
        return lambda radius: size * radius.square() + self.rest(radius)

    def through(self, forms: Quadratic) -> "Expansion":
        """The expansion behind a layer whose outputs are `forms`."""
        value, gradient = _at(forms, self.centre)
        slope, bend = self.pulled_back(forms.Q, gradient)
        steep, own = torch.linalg.matrix_norm(2 * gradient, 2), torch.linalg.matrix_norm(self.slope, 2)
        spread, curved = torch.linalg.matrix_norm(forms.Q.flatten(1), 2), self.curved()

        def rest(radius: Tensor) -> Tensor:
            beyond = curved(radius)
            return steep * self.rest(radius) + spread * beyond * (2 * own * radius + beyond)

        return Expansion(value, 2 * slope, bend, rest)

    def pulled_back(self, Q: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Forms of y, with half gradients (n, o, m), as forms of delta to degree 2: half gradients (n, o, d), (n, o, d, d)."""
        bend = self.slope.mT.unsqueeze(1) @ Q @ self.slope.unsqueeze(1)
        if self.bend is not None:
            bend = bend + 2 * einsum(gradient, self.bend, "n o m, n m i j -> n o i j")
        return einsum(gradient, self.slope, "n o m, n m i -> n o i"), bend


def taylor(layers: tuple[CPTensor, ...], points: Tensor, labels: Tensor) -> Bound:
    """Exact to degree 2 in the step, and a bound of the rest."""
    identity = torch.eye(points.shape[1]).to(points).expand(len(points), -1, -1)
    expansion = Expansion(points, identity, None, torch.zeros_like)
    for layer in layers[:-1]:
        expansion = expansion.through(forms_of(layer))
    pairs = _pairs(layers[-1], labels)
    start, gradient = _at(pairs, expansion.centre)
    half, bend = expansion.pulled_back(pairs.Q, gradient)
    values, half = _diagonal(bend, half)
    if len(layers) == 1:
        return lambda radius: _least(values, half, start, radius)
    steep = torch.linalg.vector_norm(gradient, dim=-1)
    crossed = torch.linalg.matrix_norm(pairs.Q @ expansion.slope.unsqueeze(1), 2)
    concave = torch.linalg.eigvalsh(pairs.Q)[..., 0].neg().clamp_min(0)
    curved = expansion.curved()

    def bound(radius: Tensor) -> Tensor:
        beyond, rest = curved(radius).unsqueeze(1), expansion.rest(radius).unsqueeze(1)
        lost = 2 * steep * rest + beyond * (2 * crossed * radius.unsqueeze(1) + concave * beyond)
        return _least(values, half, start - lost, radius)

    return bound


def norm(layers: tuple[CPTensor, ...], points: Tensor, labels: Tensor) -> Bound:
    """A ball behind every layer, and the exact least margin of the last layer in its ball."""
    sizes, centre = [], points
    for layer in layers[:-1]:
        forms = forms_of(layer)
        centre, gradient = _at(forms, centre)
        sizes.append((torch.linalg.matrix_norm(2 * gradient, 2), torch.linalg.matrix_norm(forms.Q.flatten(1), 2)))
    pairs = _pairs(layers[-1], labels)
    start, gradient = _at(pairs, centre)
    values, half = _diagonal(pairs.Q, gradient)

    def bound(radius: Tensor) -> Tensor:
        for steep, spread in sizes:
            radius = radius * (steep + spread * radius)
        return _least(values, half, start, radius)

    return bound


def interval(layers: tuple[CPTensor, ...], points: Tensor, labels: Tensor) -> Bound:
    """An interval for every value: exact behind the first layer, of products behind the others."""
    first, others, pairs = forms_of(layers[0]), [forms_of(layer) for layer in layers[1:-1]], _pairs(layers[-1], labels)
    outputs = pairs if len(layers) == 1 else first
    start, gradient = _at(outputs, points)
    (low_values, low_half), (high_values, high_half) = _diagonal(outputs.Q, gradient), _diagonal(-outputs.Q, -gradient)
    if len(layers) == 1:
        return lambda radius: _least(low_values, low_half, start, radius)

    def bound(radius: Tensor) -> Tensor:
        low, high = _lowered(low_values, low_half, start, radius), -_lowered(high_values, high_half, -start, radius)
        for forms in others:
            low, high = _range(forms, low, high)
        return _range(pairs, low, high)[0].amin(1)

    return bound


Method = Callable[[tuple[CPTensor, ...], Tensor, Tensor], Bound]
METHODS: dict[str, Method] = {"interval": interval, "norm": norm, "taylor": taylor}


def _range(forms: Quadratic, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (n, o) of forms (n, o) or (o,) over a box (n, m): each coordinate by itself exactly, and every product of two."""
    centre, reach = (low + high) / 2, ((high - low) / 2).unsqueeze(1)
    start, gradient = _at(forms, centre)
    diagonal = forms.Q.diagonal(dim1=-2, dim2=-1)
    apart = forms.Q.abs() - torch.diag_embed(diagonal.abs())
    crossed = ((apart @ reach.unsqueeze(-1)).squeeze(-1) * reach).sum(-1)
    falls, rises = (_parabolas(sign * diagonal, gradient.abs(), reach).sum(-1) for sign in (1, -1))
    return start + falls - crossed, start - rises + crossed


def _parabolas(bend: Tensor, slope: Tensor, reach: Tensor) -> Tensor:
    """The least value of bend e^2 - 2 slope e for |e| <= reach, slope at least 0."""
    inside = torch.where(bend > 0, torch.minimum(slope / bend, reach), reach)
    return inside * (bend * inside - 2 * slope)


def _pairs(layer: CPTensor, labels: Tensor) -> Quadratic:
    """For each image the margins of its label against all others, forms (n, classes - 1)."""
    rivals = rivals_of(labels, layer.out)
    return Quadratic(*(part[labels].unsqueeze(1) - part[rivals] for part in forms_of(layer)))


def _at(forms: Quadratic, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n, o) and half gradients (n, o, m) at points (n, m) of forms (o,), or (n, o) where each point has its own."""
    curved = (forms.Q @ points[:, None, :, None]).squeeze(-1)
    return ((curved + 2 * forms.b) * points.unsqueeze(1)).sum(-1) + forms.c0, curved + forms.b


def _diagonal(Q: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of Q (..., o, m, m), and half gradients (n, o, m) in the eigenbasis."""
    values, vectors = torch.linalg.eigh(Q)
    return values, (half.unsqueeze(-2) @ vectors).squeeze(-2)


def _lowered(values: Tensor, half: Tensor, start: Tensor, radius: Tensor) -> Tensor:
    """The least value of each form within the radius (n, o)."""
    step = ball_minimum(values, half, radius.view(-1, 1) if radius.ndim == 1 else radius)
    return start + (step * (2 * half + values * step)).sum(-1)


def _least(values: Tensor, half: Tensor, start: Tensor, radius: Tensor) -> Tensor:
    return _lowered(values, half, start, radius).amin(1)


def _largest(bound: Bound, count: int) -> Tensor:
    """The largest radius of each image at which its bound is positive, from below, to 2^-25 of it or of 1."""
    low, high = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    for _ in range(DOUBLINGS):
        holds = bound(high) > 0
        if not holds.any():
            break
        low, high = torch.where(holds, high, low), torch.where(holds, 2 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        holds = bound(middle) > 0
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low
