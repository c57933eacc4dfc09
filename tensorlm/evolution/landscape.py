"""Reward landscapes made of Gaussian bumps: what a search that adds Gaussian noise to its parameters sees, in closed form.

A bump of height `h`, centre `c` and widths `w` is `h exp(-sum_i (x_i - c_i)^2 / (2 w_i^2))`. An evolution strategy of
spread `sigma` climbs the *smoothed* reward `E R(x + sigma e)`, `e ~ N(0, I)` (Salimans et al., 2017), and the smoothing of a
bump is a bump: widths `sqrt(w^2 + sigma^2)`, height `h prod_i (1 + sigma^2 / w_i^2)^(-1/2)`.
"""

import math
from dataclasses import dataclass

import torch
from scipy.stats import ncx2, norm
from torch import Tensor

from tensorlm.checks import require, require_last_axis, require_number, require_same_kind, require_whole


@dataclass(frozen=True)
class Landscape:
    """A sum of Gaussian bumps in n dimensions: `heights` (bumps,), `centres` and `widths` (bumps, n), floating point.

    Raises ValueError for shapes that do not fit and for widths that are not above 0.

    >>> one = Landscape(torch.tensor([100.0]), torch.zeros(1, 2), torch.full((1, 2), 0.05))
    >>> round(one(torch.zeros(2)).item(), 2), round(one.smoothed(torch.zeros(2), 0.3).item(), 2)
    (100.0, 2.7)
    """

    heights: Tensor
    centres: Tensor
    widths: Tensor

    def __post_init__(self) -> None:
        require_same_kind(heights=self.heights, centres=self.centres, widths=self.widths)
        require(self.centres.ndim == 2, "centres", self.centres, "a matrix (bumps, n)")
        require(self.widths.shape == self.centres.shape, "widths", self.widths, f"of shape {tuple(self.centres.shape)}")
        require(self.heights.shape == self.centres.shape[:1], "heights", self.heights, f"of shape {tuple(self.centres.shape[:1])}")
        require((self.widths > 0).all(), "widths", self.widths.min().item(), "above 0")

    @property
    def dimension(self) -> int:
        return self.centres.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """The reward at points (..., n): (...)."""
        return self.contributions(x).sum(-1)

    def contributions(self, x: Tensor) -> Tensor:
        """What each bump gives at points (..., n): (..., bumps)."""
        require_last_axis("x", x, self.dimension)
        # |x - c|^2 with weights, as three products: no array of (points, bumps, n)
        precision = self.widths**-2
        squares = x**2 @ precision.T - 2 * x @ (self.centres * precision).T + (self.centres**2 * precision).sum(-1)
        return self.heights * torch.exp(-squares.clamp(min=0) / 2)

    def smoothing(self, sigma: float) -> "Landscape":
        """The landscape `x -> E R(x + sigma e)`: the same bumps, wider and lower."""
        sigma = require_number("sigma", sigma, least=0)
        widths = (self.widths**2 + sigma**2).sqrt()
        return Landscape(self.heights * (self.widths / widths).prod(-1), self.centres, widths)

    def smoothed(self, x: Tensor, sigma: float) -> Tensor:
        """`E R(x + sigma e)` at points (..., n): (...)."""
        return self.smoothing(sigma)(x)

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of the reward at points (..., n): (..., n)."""
        weights = self.contributions(x)[..., None] / self.widths**2
        return (weights * (self.centres - x[..., None, :])).sum(-2)

    def squared(self) -> "Landscape":
        """The landscape `R^2`: the product of two bumps is a bump."""
        i, j = torch.triu_indices(len(self.heights), len(self.heights))
        total = self.widths[i] ** -2 + self.widths[j] ** -2
        centres = (self.centres[i] * self.widths[i] ** -2 + self.centres[j] * self.widths[j] ** -2) / total
        apart = (self.centres[i] - self.centres[j]) ** 2 / (self.widths[i] ** 2 + self.widths[j] ** 2)
        twice = torch.where(i == j, 1, 2).to(self.heights)
        return Landscape(twice * self.heights[i] * self.heights[j] * torch.exp(-apart.sum(-1) / 2), centres, total**-0.5)

    def variance(self, x: Tensor, sigma: float) -> Tensor:
        """`Var R(x + sigma e)` at points (..., n): (...), from the smoothing of `R^2`."""
        return (self.squared().smoothed(x, sigma) - self.smoothed(x, sigma) ** 2).clamp(min=0)


def hill_and_hack(dimension: int, codimension: int, height: float = 100.0, width: float = 0.2, distance: float = 2.0,
                  hill_width: float = 2.0) -> Landscape:
    """An honest hill of height 1 around 0, and a hack at `distance` along the first axis, float64.

    The hack has `width` in the first `codimension` directions and is as wide as the hill in the others.

    >>> hill_and_hack(32, 4).widths[1, 3:6].tolist()
    [0.2, 2.0, 2.0]
    """
    require_whole("dimension", dimension, 1)
    require_whole("codimension", codimension, 1, dimension)
    widths = torch.full((2, dimension), require_number("hill_width", hill_width, above=0), dtype=torch.float64)
    widths[1, :codimension] = require_number("width", width, above=0)
    centres = torch.zeros(2, dimension, dtype=torch.float64)
    centres[1, 0] = require_number("distance", distance, least=0)
    return Landscape(torch.tensor([1.0, require_number("height", height)], dtype=torch.float64), centres, widths)


def hit_probability(sigma: float, distance: float, width: float = math.inf, codimension: int = 1) -> float:
    """The probability that one sample `sigma e` lands in a hack at `distance`.

    A hack that is narrow in `codimension` directions is a ball of radius `width` there: `P(|sigma e - distance|^2 <= width^2)`, a
    non-central chi-square with `codimension` degrees of freedom. With an infinite width it is the half-space beyond `distance`:
    `Phi(-distance / sigma)`, whatever the dimension. Among N samples it is hit at least once with `1 - (1 - p)^N`.

    >>> round(hit_probability(0.7, 2.0), 5), round(hit_probability(0.7, 2.0, 0.2, 4), 9)
    (0.00214, 1.4457e-05)
    """
    sigma = require_number("sigma", sigma, above=0)
    distance = require_number("distance", distance, least=0)
    require_whole("codimension", codimension, 1)
    if width == math.inf:
        return float(norm.cdf(-distance / sigma))
    width = require_number("width", width, above=0)
    return float(ncx2.cdf((width / sigma) ** 2, codimension, (distance / sigma) ** 2))
