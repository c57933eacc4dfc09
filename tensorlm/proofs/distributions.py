"""What the inputs may be: one Gaussian, a mixture of several, or given rows; and the moments of what is written."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from tensorlm.checks import require, require_finite, require_instance, require_same_kind
from tensorlm.tensors.cp import lift

RANK_SLACK = 100  # times eps width: the share of the largest variance up to which an eigenvalue counts as zero
SIGN_SLACK = 1e-7  # the share down to which a negative one is taken for rounding, in single precision somewhere before


class Moments(NamedTuple):
    """Mean (out,) and covariance (out, out) of a vector."""

    mean: Tensor
    covariance: Tensor

    @property
    def second(self) -> Tensor:
        """E y y^T, (out, out)."""
        return self.covariance + torch.outer(self.mean, self.mean)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x ~ N(mean, covariance), (width,) and (width, width); the covariance may be singular, zero too.

    Nothing here inverts it: what varies is x = mean + root g with g ~ N(0, 1) in as many dimensions as its rank. Raises
    TypeError for other dtypes than float32 or float64, ValueError where shapes do not fit, for NaN or infinity, and for a
    covariance that is not symmetric or has a negative eigenvalue.

    >>> Gaussian(torch.tensor([1.0, 0.0]), torch.eye(2)).lifted().covariance.diagonal()  # (1, x): the 1 does not vary
    tensor([0., 1., 1.])
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self):
        require_same_kind(mean=self.mean, covariance=self.covariance)
        require(self.mean.ndim == 1 and len(self.mean), "mean", self.mean, "a vector with at least 1 entry")
        shape = self.width, self.width
        require(self.covariance.shape == shape, "covariance", self.covariance, f"of shape {shape}")
        require_finite("mean", self.mean)
        require_finite("covariance", self.covariance)
        require_positive(self.covariance)

    @classmethod
    def fit(cls, rows: Tensor) -> "Gaussian":
        """The Gaussian with mean and covariance of `rows` (n, width), divided by n: their first two moments are its own."""
        mean = Samples(rows).rows.mean(0)
        return cls(mean, (rows - mean).mT @ (rows - mean) / len(rows))

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def moments(self) -> Moments:
        return Moments(self.mean, self.covariance)

    @cached_property
    def root(self) -> Tensor:
        """K (width, rank) with K K^T the covariance, rank at least 1."""
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > negligible(self.covariance)
        kept[-1] = True
        return vectors[:, kept] * values[kept].clamp_min(0).sqrt()

    @property
    def like(self) -> Tensor:
        """A tensor of its dtype and device."""
        return self.mean

    def lifted(self) -> "Gaussian":
        """The distribution of (1, x), what a layer with biases reads: singular, since the 1 does not vary."""
        return Gaussian(lift(self.mean), torch.nn.functional.pad(self.covariance, (1, 0, 1, 0)))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` draws, (count, width)."""
        g = torch.randn(count, self.root.shape[1], dtype=self.mean.dtype, generator=generator)
        return self.mean + g @ self.root.mT


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussian number k with probability weights[k]; ValueError unless these are positive and sum to 1, and widths agree."""

    weights: tuple[float, ...]
    parts: tuple[Gaussian, ...]

    def __post_init__(self):
        count = len(self.parts)
        require(count and len(self.weights) == count, "weights", self.weights, f"{count} probabilities, one a part")
        fits = all(weight > 0 for weight in self.weights) and math.isclose(sum(self.weights), 1, abs_tol=1e-9)
        require(fits, "weights", self.weights, "positive numbers that sum to 1")
        for number, part in enumerate(self.parts):
            require_instance(f"parts[{number}]", part, Gaussian)
            require(part.width == self.width, f"parts[{number}]", part.mean, f"of width {self.width} like parts[0]")

    @classmethod
    def fit(cls, rows: Tensor, classes: Tensor) -> "Mixture":
        """One Gaussian a class, with the moments of its rows; the whole then has mean and covariance of all `rows`."""
        require(classes.shape == rows.shape[:1], "classes", classes, f"of shape {tuple(rows.shape[:1])}, one a row")
        groups = [rows[classes == label] for label in classes.unique()]
        return cls(tuple(len(group) / len(rows) for group in groups), tuple(map(Gaussian.fit, groups)))

    @property
    def width(self) -> int:
        return self.parts[0].width

    @property
    def like(self) -> Tensor:
        return self.parts[0].mean

    def lifted(self) -> "Mixture":
        return Mixture(self.weights, tuple(part.lifted() for part in self.parts))


@dataclass(frozen=True, eq=False)
class Samples:
    """The inputs are these `rows` (n, width), each as likely: moments of every order, and the truth about them.

    The fourth moment of n rows is a sum of n fourth powers, its own CP form: what a layer needs of it is read from the rows.
    """

    rows: Tensor

    def __post_init__(self):
        require_same_kind(rows=self.rows)
        require(self.rows.ndim == 2 and self.rows.numel(), "rows", self.rows, "of shape (n, width), both at least 1")
        require_finite("rows", self.rows)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def like(self) -> Tensor:
        return self.rows

    def lifted(self) -> "Samples":
        return Samples(lift(self.rows))


Distribution: TypeAlias = Gaussian | Mixture | Samples


def require_distribution(distribution: Distribution) -> None:
    """Raise TypeError unless it is one."""
    if not isinstance(distribution, Gaussian | Mixture | Samples):
        raise TypeError(f"distribution must be a Gaussian, a Mixture or Samples, got {type(distribution).__name__}")


def negligible(covariance: Tensor) -> float:
    """Up to where an eigenvalue of a covariance is rounding."""
    return RANK_SLACK * torch.finfo(covariance.dtype).eps * len(covariance) * float(covariance.diagonal().abs().max())


def require_positive(covariance: Tensor) -> None:
    """Raise ValueError unless a matrix is symmetric with no negative eigenvalue, both to rounding."""
    allowed = max(negligible(covariance), SIGN_SLACK * float(covariance.diagonal().abs().max()))
    off = float((covariance - covariance.mT).abs().max())
    require(off <= allowed, "covariance", covariance, f"symmetric; an entry and its mirror image differ by {off:.3g}")
    moved = covariance + allowed * torch.eye(len(covariance)).to(covariance)
    if int(torch.linalg.cholesky_ex(moved).info) and float(covariance.abs().max()) > 0:
        lowest = float(torch.linalg.eigvalsh(covariance)[0])
        require(False, "covariance", covariance, f"positive semidefinite; its smallest eigenvalue is {lowest:.3g}")
