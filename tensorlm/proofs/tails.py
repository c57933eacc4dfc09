"""How probable it is that a logit difference of one layer exceeds a threshold: the distribution of a quadratic form.

Under x ~ N(mu, C) the form g(x) = x^T Q x + 2 b^T x + c0 is a constant plus a sum over independent standard normal z_i of
lambda_i z_i^2 + 2 beta_i z_i, a generalised chi-square. Its cumulant function is in closed form,
K(s) = s constant + sum_i [2 beta_i^2 s^2 / (1 - 2 lambda_i s) - log(1 - 2 lambda_i s) / 2], so that a tail is one integral,

    P(g > t) = 1 / (2 pi i) * the integral of exp(K(s) - s t) / s along a line with real part above 0.

Imhof (1961) and Davies (1980) take the line through 0, which leaves an error of fixed size. Here it passes through the
saddle point, where the integrand does not oscillate, and bends towards where it dies: digits are *relative*, at 1e-12 as at
0.1. The saddle point alone gives the approximation of Lugannani and Rice (1980); mean and variance alone the Gaussian one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import as_array, require, require_finite, require_instance, require_one_of, require_same_kind
from tensorlm.proofs.distributions import Distribution, Gaussian, Mixture, Samples, require_distribution
from tensorlm.proofs.forms import Quadratic

METHODS = ("exact", "saddle", "gaussian")
ZERO_WEIGHT = 1e-13  # share of the standard deviation below which an eigenvalue counts as zero
BISECTIONS = 200
NEAR_MEAN = 0.5  # standard deviations: nearer saddle points would lie on the pole at 0
BENDS = (0.5, 0.0, -0.5)  # slopes at which the path may leave the vertical
REACH, NODES = 40.0, 2049  # of the path parameter, on which the distance grows as its sinh
AGREEMENT = 1e-8  # relative, of the sums over all nodes and over every second one
SETTLED = 1e-12  # where no other path is tried


class ChiSquares(NamedTuple):
    """constant + sum_i weights_i z_i^2 + 2 slopes_i z_i, z_i independent standard normal; weights, slopes (r,), float64."""

    weights: Tensor
    slopes: Tensor
    constant: float

    @property
    def mean(self) -> float:
        return self.constant + float(self.weights.sum())

    @property
    def variance(self) -> float:
        return float((2 * self.weights.square() + 4 * self.slopes.square()).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the cumulant function is finite, (low, high) around 0."""
        least, greatest = float(self.weights.min()), float(self.weights.max())
        return 1 / (2 * least) if least < 0 else -math.inf, 1 / (2 * greatest) if greatest > 0 else math.inf

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value, infinite where there is none."""
        linear = bool(self.slopes[self.weights == 0].any())
        live = self.weights != 0
        end = self.constant - float((self.slopes[live].square() / self.weights[live]).sum())
        down, up = linear or bool((self.weights < 0).any()), linear or bool((self.weights > 0).any())
        return -math.inf if down else end, math.inf if up else end

    def cumulant(self, s: Tensor) -> Tensor:
        """K(s) of real or complex s (...): (...)."""
        left = 1 - 2 * s.unsqueeze(-1) * self.weights
        return s * self.constant + (2 * (s.unsqueeze(-1) * self.slopes).square() / left - left.log() / 2).sum(-1)

    def derivative(self, s: Tensor, order: int = 1) -> Tensor:
        """The first, second or third derivative of K at real s (...)."""
        s, w, b = s.unsqueeze(-1), self.weights, self.slopes.square()
        left = 1 - 2 * s * w
        if order == 1:
            return self.constant + (w / left + 4 * b * s * (1 - s * w) / left.square()).sum(-1)
        if order == 2:
            return (2 * w.square() / left.square() + 4 * b / left**3).sum(-1)
        return (8 * w**3 / left**3 + 24 * b * w / left**4).sum(-1)

    def saddle(self, threshold: Tensor) -> Tensor:
        """The s in `interval` with K'(s) = threshold, for thresholds between the bounds: (...)."""
        low, high = (self.beyond(threshold, end, sign) for end, sign in zip(self.interval, (-1, 1)))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self.derivative(middle) > threshold
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def beyond(self, threshold: Tensor, end: float, sign: int) -> Tensor:
        """An s on one side (`sign`) of every saddle point: the end of the interval, or far enough where it has none."""
        s = torch.full_like(threshold, end if math.isfinite(end) else sign / math.sqrt(self.variance))
        for _ in range(0 if math.isfinite(end) else BISECTIONS):
            short = sign * (self.derivative(s) - threshold) < 0
            if not bool(short.any()):
                break
            s = torch.where(short, 2 * s, s)
        return s


def chi_squares(form: Quadratic, distribution: Gaussian) -> ChiSquares:
    """The law of g(x) for x ~ N(mu, C), C = K K^T, from the eigenvalues of K^T Q K; ValueError where g does not vary."""
    Q, b, c0 = (part.double() for part in form)
    mean, root = distribution.mean.double(), distribution.root.double()
    values, vectors = torch.linalg.eigh(root.mT @ Q @ root)
    slopes = vectors.mT @ (root.mT @ (Q @ mean + b))
    size = math.sqrt(float((2 * values.square() + 4 * slopes.square()).sum()))
    require(size > 0, "form", Q, "a form that varies under the distribution (its covariance leaves it constant)")
    values = torch.where(values.abs() > ZERO_WEIGHT * size, values, 0)
    return ChiSquares(values, slopes, float(mean @ Q @ mean + 2 * b @ mean + c0))


def tail_probability(form: Quadratic, distribution: Distribution, threshold: float | Tensor = 0.0,
                     method: str = "exact") -> Tensor:
    """P(g(x) > threshold) of one form, Q (d, d), for x from `distribution`: the shape of `threshold`, float64.

    `method`: "exact" (contour integral, relative error below 1e-8, or RuntimeError), "saddle" (Lugannani and Rice), or
    "gaussian" (mean and variance of g alone). A mixture sums over its parts; of `Samples` it is the share of rows, whatever
    the method. Raises TypeError and ValueError for a form of another shape, NaN or infinity, and where g does not vary.

    >>> one = Quadratic(torch.eye(1), torch.zeros(1), torch.zeros(()))  # z^2 > 4 is |z| > 2
    >>> round(float(tail_probability(one, Gaussian(torch.zeros(1), torch.eye(1)), 4.0)), 6)
    0.0455
    """
    require_one_of("method", method, METHODS)
    require_form(form, distribution)
    thresholds = torch.from_numpy(as_array(threshold, "threshold"))
    if isinstance(distribution, Samples):
        x = distribution.rows
        values = ((x @ form.Q) * x).sum(1) + 2 * x @ form.b + form.c0
        return (values > thresholds.unsqueeze(-1).to(values)).double().mean(-1)
    if isinstance(distribution, Mixture):
        tails = [tail_probability(form, part, thresholds, method) for part in distribution.parts]
        return torch.stack([weight * tail for weight, tail in zip(distribution.weights, tails)]).sum(0)
    law = chi_squares(form, distribution)
    least, greatest = law.bounds
    inside = (thresholds > least) & (thresholds < greatest)
    found = (thresholds <= least).double()
    if method == "gaussian":
        return above((thresholds - law.mean) / math.sqrt(law.variance))
    if bool(inside.any()):
        found[inside] = (lugannani_rice if method == "saddle" else inverted)(law, thresholds[inside])
    return found


def above(w: Tensor) -> Tensor:
    """P(z > w) of a standard normal z, with relative digits."""
    return torch.special.erfc(w / math.sqrt(2)) / 2


def lugannani_rice(law: ChiSquares, threshold: Tensor) -> Tensor:
    """P(g > t) from the saddle point alone: 1 - Phi(w) + phi(w) (1/v - 1/w); thresholds (n,)."""
    s = law.saddle(threshold)
    curvature = law.derivative(s, 2)
    w = s.sign() * (2 * (s * threshold - law.cumulant(s))).clamp_min(0).sqrt()
    v = s * curvature.sqrt()
    usual = above(w) + torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi) * (1 / v - 1 / w)
    at_mean = 0.5 - law.derivative(s, 3) / (6 * math.sqrt(2 * math.pi) * curvature**1.5)
    return torch.where(v.abs() > 1e-4, usual, at_mean)


def inverted(law: ChiSquares, threshold: Tensor) -> Tensor:
    """P(g > t) by the contour integral, threshold by threshold (n,); RuntimeError where its digits do not settle."""
    return torch.stack([inverted_once(law, float(t), float(s)) for t, s in zip(threshold, law.saddle(threshold))])


def inverted_once(law: ChiSquares, threshold: float, saddle: float) -> Tensor:
    """The integral through the saddle point or, where that is the pole at 0, beside it; its mirror image gives 1 - P."""
    nearest = NEAR_MEAN / math.sqrt(law.variance)
    low, high = law.interval
    if abs(saddle) < nearest:
        saddle = max(-nearest, low / 2) if saddle < 0 else min(nearest, high / 2)
    curvature = law.derivative(torch.tensor(saddle, dtype=torch.float64), 2)
    best, error = torch.tensor(math.nan, dtype=torch.float64), math.inf
    for bend in BENDS:
        whole, half = path_sums(law, threshold, saddle, float(curvature) ** -0.5, bend)
        apart = float(((whole - half) / whole).abs())
        if apart < error:
            best, error = whole, apart
        if error < SETTLED:
            break
    if not error <= AGREEMENT:
        raise RuntimeError(f"threshold {threshold:g}: the integral settles to {error:.1e} only; use method='saddle'")
    return best if saddle > 0 else 1 + best


def path_sums(law: ChiSquares, threshold: float, start: float, scale: float, bend: float) -> tuple[Tensor, Tensor]:
    """Trapezoidal sums over s(u) = start + scale [i sinh u + bend (cosh u - 1)], u >= 0, by all nodes and every second one."""
    u = torch.linspace(0, REACH, NODES, dtype=torch.float64)
    s = torch.complex(start + scale * bend * (u.cosh() - 1), scale * u.sinh())
    speed = torch.complex(scale * bend * u.sinh(), scale * u.cosh())
    exponent = law.cumulant(s) - s * threshold
    values = (exponent.exp() * speed / s).imag / math.pi
    values = torch.where(exponent.real > -700, values, 0)
    values[0] /= 2
    step = REACH / (NODES - 1)
    return step * values.sum(), 2 * step * values[::2].sum()


def require_form(form: Quadratic, distribution: Distribution) -> None:
    """Raise unless `form` is one finite quadratic of the width of `distribution`."""
    require_instance("form", form, Quadratic)
    require_distribution(distribution)
    require_same_kind(Q=form.Q, b=form.b, c0=form.c0)
    width = distribution.width
    require(form.Q.shape == (width, width), "Q", form.Q, f"of shape {(width, width)}, the width of the distribution")
    require(form.b.shape == (width,), "b", form.b, f"of shape {(width,)}")
    require(form.c0.ndim == 0, "c0", form.c0, "one number")
    for name, part in zip(("Q", "b", "c0"), form):
        require_finite(name, part)
