"""What leaving one example out does: measured by training again, and exactly where the model is linear in its weights.

Every table of effects has one shape and one sign: entry (i, t) is the outcome of test example t without training example i, minus that
with it. Models are paired by seed: without and with differ by the example alone, and not by first values and order of the examples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_finite, require_number, require_one_of, require_rows, require_same_kind, require_whole, unfit
from tensorlm.data_attribution.bank import train_bank
from tensorlm.data_attribution.classifiers import Examples, Recipe, outcomes

PAIRINGS = ("paired", "unpaired")
FULL_LEVERAGE = 1e-10  # how far below 1 a leverage must be


class LeftOut(NamedTuple):
    """What the models of one seed say of the test examples: tables (1 + left out, test examples), in row 0 the model of all examples."""

    loss: Tensor
    margin: Tensor

    def effects(self, kind: str = "margin") -> Tensor:
        """Without minus with: (left out, test examples). ValueError for another kind than "loss" and "margin"."""
        require_one_of("kind", kind, self._fields)
        table = getattr(self, kind)
        return table[1:] - table[0]


def without(count: int, left_out: Iterable[int | Sequence[int]] | None = None) -> Tensor:
    """Weights on `count` examples (1 + models, count): the first row has all of them, each other one leaves an example, or several, out.

    None leaves out every one in turn. Raises ValueError for an index out of range, and for a set that is empty or names one twice.

    >>> without(3, [0, [1, 2]])
    tensor([[1., 1., 1.],
            [0., 1., 1.],
            [1., 0., 0.]])
    """
    require_whole("count", count, 1)
    sets = [list(given) if isinstance(given, Iterable) else [given] for given in (range(count) if left_out is None else left_out)]
    weights = torch.ones(1 + len(sets), count)
    for row, members in zip(weights[1:], sets):
        for index in members:
            require_whole("an example to leave out", index, 0, count - 1)
        require(members and len(set(members)) == len(members), "examples to leave out", members, "at least one, and each of them once")
        row[members] = 0
    return weights


def leave_one_out(data: Examples, recipe: Recipe, seed: int = 0, left_out: Iterable[int | Sequence[int]] | None = None, *,
                  pairing: str = "paired", **settings: Any) -> LeftOut:
    """Train the model of all examples and one without each of `left_out` (`without`), and ask them about the test examples.

    `pairing` "unpaired" gives each model a seed of its own, from `seed` on: what one measures without care.
    `settings` go to `train_bank` (folder, progress, memory).

    >>> x = torch.nn.functional.pad(torch.eye(8), (0, 1), value=1.0)
    >>> y = torch.arange(8) % 2
    >>> effects = leave_one_out(Examples(x, y, x, y), Recipe(hidden=4, batch=4, epochs=60)).effects("loss")
    >>> effects.shape, bool((effects.diagonal() > 0).all())  # an example is worse explained without itself
    (torch.Size([8, 8]), True)
    """
    require_one_of("pairing", pairing, PAIRINGS)
    weights = without(len(data.x), left_out)
    seeds = seed if pairing == "paired" else range(seed, seed + len(weights))
    models = train_bank(data.x, data.y, weights, recipe, seeds, **settings)
    return LeftOut(*(outcomes(models, data.test_x.to(recipe.dtype), data.test_y, kind) for kind in LeftOut._fields))


# How much of an effect is the example, and how much the seed

@dataclass(frozen=True)
class Variances:
    """Of a table over seeds and left-out examples (points), for each test example or pooled.

    outcome = mean + point + seed + interaction: what the point does in every run, what the seed does to every model alike, and
    what the point does in this run only. Between models of one seed the seed's part cancels: `pairing` "paired". If every model
    has a seed of its own it is noise: "unpaired". The estimates are unbiased, so that one may be negative by chance; pool them.
    """

    point: Tensor
    seed: Tensor
    interaction: Tensor

    def pooled(self) -> "Variances":
        """The means over the test examples."""
        return Variances(self.point.mean(), self.seed.mean(), self.interaction.mean())

    def noise(self, pairing: str = "paired") -> Tensor:
        """The variance of one measurement of one point around what the point does in every run."""
        require_one_of("pairing", pairing, PAIRINGS)
        return self.interaction if pairing == "paired" else self.interaction + self.seed

    def signal_to_noise(self, pairing: str = "paired") -> Tensor:
        return self.point / self.noise(pairing)

    def reliability(self, seeds: int = 1, pairing: str = "paired") -> Tensor:
        """Of a table that is the mean over `seeds`: the correlation of two such tables over the points, in expectation."""
        require_whole("seeds", seeds, 1)
        return self.point / (self.point + self.noise(pairing) / seeds)

    def seeds_needed(self, reliability: float = 0.8, pairing: str = "paired") -> Tensor:
        """How many seeds a table of that reliability takes: reliability / (1 - reliability) / signal to noise; infinite without signal."""
        require(require_number("reliability", reliability, above=0) < 1, "reliability", reliability, "below 1")
        ratio = self.signal_to_noise(pairing)
        return torch.where(ratio > 0, reliability / (1 - reliability) / ratio, torch.inf)


def two_way(table: Tensor) -> Variances:
    """Components of variance of a table (seeds, points, ...) without replication, for each entry of the further axes.

    With mean squares M of points, seeds and residual: interaction = M_residual, point = (M_points - M_residual) / seeds,
    seed = (M_seeds - M_residual) / points. Give it outcomes, so that `seed` is what unpaired models differ by; effects
    have the same point and interaction, and the variance of the common shift as seed. Raises ValueError for fewer than two
    seeds or points, and where an entry is not finite. Source: Searle, Casella and McCulloch, Variance Components (1992), chapter 4.

    >>> points, seeds = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 5.0])
    >>> parts = two_way(points + seeds[:, None])
    >>> parts.point, parts.seed, parts.interaction
    (tensor(4.), tensor(8.), tensor(0.))
    """
    require_same_kind(table=table)
    fits = table.ndim >= 2 and min(table.shape[:2]) >= 2
    require(fits, "table", table, "a tensor (seeds, points, ...) of at least two seeds and two points")
    require_finite("table", table)
    seeds, points = table.shape[:2]
    means = table.mean((0, 1), keepdim=True)
    of_points, of_seeds = table.mean(0, keepdim=True) - means, table.mean(1, keepdim=True) - means
    rest = table - means - of_points - of_seeds
    residual = rest.square().sum((0, 1)) / ((seeds - 1) * (points - 1))
    point = of_points.square().sum((0, 1)) / (points - 1) - residual / seeds
    seed = of_seeds.square().sum((0, 1)) / (seeds - 1) - residual / points
    return Variances(point, seed, residual)


# Exact, without training again

class RidgeHead:
    """Ridge regression on fixed features, such as the products of a bilinear layer: leaving out is exact, and there is no seed.

    W = (F^T F + penalty I)^-1 F^T Y for features F (n, features) and targets Y (n, outputs), in float64. With the kernel
    k(x, i) = f(x)^T (F^T F + penalty I)^-1 f_i, the hat matrix H_ij = k(x_i, x_j) and residuals r = Y - F W, the prediction at x changes by

    | left out | change of the prediction |
    | --- | --- |
    | example i | -k(x, i) r_i / (1 - H_ii) |
    | a set R | -k(x, R) (I - H_RR)^-1 r_R |
    | example i, to first order (influence) | -k(x, i) r_i |

    Raises ValueError for shapes that do not fit, and for a penalty that leaves the matrix singular.
    Source: Cook and Weisberg, Residuals and Influence in Regression (1982), section 2.2.

    >>> head = RidgeHead(torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[0.0], [0.0], [3.0]]), 0.0)  # the mean of three numbers
    >>> x = torch.ones(1, 1)
    >>> torch.stack([head.leave_one_out(x)[2], head.influence(x)[2], head.leave_out([0, 1], x)]).flatten()
    tensor([-1.0000, -0.6667,  2.0000], dtype=torch.float64)
    """

    def __init__(self, features: Tensor, targets: Tensor, penalty: float) -> None:
        require_number("penalty", penalty, least=0)
        for name, value in (("features", features), ("targets", targets)):
            require(isinstance(value, Tensor) and value.ndim == 2 and value.numel(), name, value, "a matrix with a row for each example")
            require_finite(name, value)
        require(len(targets) == len(features), "targets", targets, f"a matrix of {len(features)} rows, as many as features has")
        self.features, self.penalty = features.double(), float(penalty)
        gram = self.features.mT @ self.features
        gram.diagonal().add_(penalty)
        self.factor, info = torch.linalg.cholesky_ex(gram)
        require(not info.any(), "penalty", penalty, "large enough to leave the matrix of the features positive definite")
        self.coefficients = torch.cholesky_solve(self.features.mT @ targets.double(), self.factor)
        self.residuals = targets.double() - self.predict(features)
        self.leverages = self.kernel(features).diagonal()

    def predict(self, features: Tensor) -> Tensor:
        """(n, features) -> (n, outputs)."""
        require_rows(features, self.features.shape[1], "features")
        return features.double() @ self.coefficients

    def kernel(self, features: Tensor) -> Tensor:
        """k(x, i) of given rows with all examples of the training: (n, features) -> (n, examples)."""
        require_rows(features, self.features.shape[1], "features")
        return features.double() @ torch.cholesky_solve(self.features.mT, self.factor)

    def leave_one_out(self, features: Tensor) -> Tensor:
        """How each prediction changes without each example: (n, features) -> (examples, n, outputs)."""
        self._require_dependent(self.leverages)
        return einsum(-self.kernel(features), self.residuals / (1 - self.leverages).unsqueeze(1), "n i, i o -> i n o")

    def influence(self, features: Tensor) -> Tensor:
        """The same to first order in the weight of the example, which is (1 - leverage) times as large: (examples, n, outputs)."""
        return einsum(-self.kernel(features), self.residuals, "n i, i o -> i n o")

    def leave_out(self, rows: Sequence[int], features: Tensor) -> Tensor:
        """How each prediction changes without a whole set of examples: (n, features) -> (n, outputs)."""
        members = (without(len(self.features), [rows])[1] == 0).nonzero().flatten()
        block = torch.eye(len(members)).to(self.features) - self.kernel(self.features[members])[:, members]
        self._require_dependent(1 - torch.linalg.eigvalsh(block))
        return -self.kernel(features)[:, members] @ torch.linalg.solve(block, self.residuals[members])

    def _require_dependent(self, leverages: Tensor) -> None:
        """Raise ValueError where an example, or a combination of those left out, is fitted by itself alone."""
        if leverages.max() > 1 - FULL_LEVERAGE:
            raise unfit("penalty", self.penalty, "large enough for what is left to determine the head (a leverage is 1)")
