"""The linear datamodelling score: do summed scores rank retrainings on subsets as these came out?

    LDS of test example t = Spearman over subsets S ( sum of scores[i, t] over the removed i, outcome of t when trained on S )

and a method's LDS is the mean over test examples. They all share the subsets, and all methods the truth: its error comes from
subsets more than from test examples, and its ceiling is what the noise of the retrainings leaves.

Sources: Ilyas et al. arXiv 2202.00622 and Park et al. arXiv 2303.14186 (the score); Spearman (1910) and Brown (1910), how
reliable a mean is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import torch
from torch import Tensor

from tensorlm.checks import require, require_counts, require_finite, require_number, require_one_of, require_whole
from tensorlm.data_attribution.classifiers import require_labels
from tensorlm.tables import Table

DRAWS, OVER = ("uniform", "stratified"), ("points", "subsets", "both")
RESAMPLINGS = 1000
NAMED_SUBSETS = 5  # how many subsets an error names one by one


def draw_subsets(y: Tensor, kept: float, count: int, draw: str = "uniform", seed: int = 0) -> Tensor:
    """Random subsets that keep a fraction of the examples, True for what is kept: (count, n).

    "uniform" draws from all subsets of round(kept n) examples; "stratified" keeps the same share of each class of y, rounded up
    or down by chance. Every example is kept equally often. Raises ValueError for a subset without any example of a class.

    >>> subsets = draw_subsets(torch.arange(100) % 10, kept=0.75, count=3, draw="stratified")
    >>> subsets.sum(1).tolist(), subsets.view(3, 10, 10).sum(1).unique().tolist()
    ([75, 75, 75], [7, 8])
    """
    require_labels(y, len(y))
    require_one_of("draw", draw, DRAWS)
    require_counts(count=count)
    require_number("kept", kept, above=0)
    size = round(kept * len(y))
    require(0 < size < len(y), "kept", kept, f"a fraction that leaves some of {len(y)} examples out and some in")
    subsets = _systematic(y if draw == "stratified" else torch.zeros_like(y), size, count, torch.Generator().manual_seed(seed))
    _require_every_class(y, subsets, kept)
    return subsets


def _systematic(strata: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Subsets of `size` of n examples: in random order, stratum after stratum, those where a sum of size / n passes a whole
    number, from a random start. Every example is kept equally often, and of one stratum all subsets are equally likely.
    """
    n = len(strata)
    place = torch.rand(count, int(strata.max()) + 1, generator=generator).argsort(1)[:, strata]
    order = (place + torch.rand(count, n, dtype=torch.float64, generator=generator)).argsort(1)
    passed = (size * torch.arange(n + 1) + torch.randint(n, (count, 1), generator=generator)) // n
    return torch.zeros(count, n, dtype=torch.bool).scatter_(1, order, passed.diff(dim=1) > 0)


def _require_every_class(y: Tensor, subsets: Tensor, kept: float) -> None:
    labels = y.unique()
    absent = subsets.double() @ (y[:, None] == labels).double() == 0
    if absent.any():
        subset, place = absent.nonzero()[0].tolist()
        raise ValueError(f"kept must leave every subset an example of every class, got {kept}, and none of class "
                         f"{int(labels[place])} in subset {subset}; keep more, or draw='stratified'")


def group_scores(scores: Tensor, subsets: Tensor) -> Tensor:
    """What scores (train, test) predict for subsets (count, train): their sum over what a subset leaves out, (count, test).

    >>> group_scores(torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[True, False, False], [False, True, True]]))
    tensor([[110.],
            [  1.]], dtype=torch.float64)
    """
    fits = subsets.dtype == torch.bool and subsets.ndim == scores.ndim == 2 and subsets.shape[1] == len(scores)
    require(fits, "subsets", subsets, f"booleans (count, {len(scores)}), True for each example with scores that is kept")
    require_finite("scores", scores)
    return (~subsets).double() @ scores.double()


@dataclass(frozen=True, eq=False)
class LDS:
    """The LDS of a method, or how far it is above that of a `baseline`, pair by pair. Made by `lds`, and by one minus another.

    `predicted` and `truth` (subsets, test) are what is compared; `seed` is that of the resamplings.
    """

    predicted: Tensor
    truth: Tensor
    seed: int
    baseline: "LDS | None" = None

    def __repr__(self) -> str:
        kind, (subsets, points) = "difference of LDS" if self.baseline else "LDS", self.truth.shape
        return f"{kind} {self.mean:.3f}: {points} test points, {subsets} subsets"

    @cached_property
    def values(self) -> Tensor:
        """The rank correlation of each test point: (test,)."""
        return spearman(self.predicted, self.truth) - (self.baseline.values if self.baseline else 0)

    @cached_property
    def resampled(self) -> Tensor:
        """The values again for random subsets of the subsets, drawn with replacement: (resamplings, test)."""
        counts = resampling_counts(RESAMPLINGS, len(self.truth), self.seed).mT.contiguous()
        pairs = zip(self.predicted.unbind(1), self.truth.unbind(1))
        found = torch.stack([_weighted_spearman(one, other, counts) for one, other in pairs], dim=1)
        return found - (self.baseline.resampled if self.baseline else 0)

    def block_values(self, size: int) -> Tensor:
        """The values from each disjoint block of `size` subsets alone: (blocks, test)."""
        require_whole("a size", size, 3, len(self.truth) // 2)
        rows = len(self.truth) // size * size
        parts = zip(self.predicted[:rows].split(size), self.truth[:rows].split(size))
        found = torch.stack([spearman(predicted, truth) for predicted, truth in parts])
        return found - (self.baseline.block_values(size) if self.baseline else 0)

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def won(self) -> float:
        """Share of the test points with a value above 0: of a difference, those at which the first is better."""
        return float((self.values > 0).double().mean())

    def points_needed(self, level: float = 0.95) -> float:
        """Test points from which the mean is told from 0 at this level: (z sd / mean)^2, the subsets being what they are."""
        z = NormalDist().inv_cdf((1 + require_number("level", level, above=0, most=1 - 1e-9)) / 2)
        return float((z * self.values.std() / self.values.mean()) ** 2)

    def interval(self, over: str = "both", level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval (low, high) of the mean, over the test "points", the "subsets" that they share, or "both".

        The basic one, quantiles mirrored at the mean: resampling leaves fewer different subsets and lowers a rank correlation
        as few subsets do, which the mirror takes back once where the quantiles themselves would count it twice.
        """
        require_one_of("over", over, OVER)
        require_number("level", level, above=0, most=1)
        table = self.values.expand(RESAMPLINGS, -1) if over == "points" else self.resampled
        if over == "subsets":
            means = table.mean(1)
        else:
            means = (table * resampling_counts(RESAMPLINGS, table.shape[1], self.seed + 1)).mean(1)
        low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)).tolist()
        return 2 * self.mean - high, 2 * self.mean - low

    def noise(self, sizes: Sequence[int], points: int | None = None) -> Table:
        """What fewer subsets would have given: all of them cut into disjoint blocks of each size, a value from each block.

        `sd` is the spread over blocks of a mean over `points` test points (None: all), groups of which are taken side by side;
        `bias` the mean over blocks less the value from all subsets. Raises ValueError for a size that does not fit twice.
        """
        count = len(self.values) if points is None else require_whole("points", points, 1, len(self.values))
        rows = []
        for size in sizes:
            blocks = self.block_values(size)
            groups = [part.mean(1) for part in blocks.split(count, dim=1) if part.shape[1] == count]
            spread, value = torch.stack(groups).var(1).mean().sqrt(), float(blocks.mean())
            rows.append((size, len(blocks), value, value - self.mean, float(spread)))
        return Table(("subsets", "blocks", "value", "bias", "sd"), tuple(rows))

    def __sub__(self, other: "LDS") -> "LDS":
        fits = isinstance(other, LDS) and other.seed == self.seed and torch.equal(other.truth, self.truth)
        methods = not self.baseline and not getattr(other, "baseline", None)
        require(fits and methods, "other", other, "the LDS of a method on the same truth with the same seed")
        return replace(self, baseline=other)


def lds(scores: Tensor, subsets: Tensor, truth: Tensor, seed: int = 0) -> LDS:
    """The linear datamodelling score of scores (train, test) on subsets (count, train), True for what is kept.

    `truth` has the outcomes of the retrained models, (count, test) or (seeds, count, test), of which the mean over seeds is
    taken. `seed` is that of the resamplings. Raises ValueError, before anything is ranked, for NaN, infinity and other
    shapes, and for a test point at which prediction or truth is the same in every subset.

    >>> scores = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> subsets = draw_subsets(torch.zeros(50, dtype=torch.long), 0.5, 40)
    >>> result = lds(scores, subsets, group_scores(scores, subsets))
    >>> result, [round(end, 6) for end in result.interval("subsets")]
    (LDS 1.000: 8 test points, 40 subsets, [1.0, 1.0])
    """
    predicted = group_scores(scores, subsets)
    fits = truth.ndim in (2, 3) and truth.shape[-2:] == predicted.shape and len(truth) and len(predicted) > 2
    count, points = predicted.shape
    require(fits, "truth", truth, f"outcomes ({count}, {points}) or (seeds, {count}, {points}) of at least 3 subsets")
    _require_ranked(truth)
    truth = truth.double() if truth.ndim == 2 else truth.double().mean(0)
    for name, table in (("scores", predicted), ("truth", truth)):
        constant = (table == table[0]).all(0).nonzero().flatten().tolist()
        if constant:
            raise ValueError(f"{name} must differ between subsets at every test point, got one number for all at {constant}")
    return LDS(predicted, truth, seed)


def _require_ranked(truth: Tensor) -> None:
    """Raise ValueError, which names the subsets, for outcomes that are not finite: ranked last, they give a plausible LDS."""
    bad = (~truth.isfinite()).any(-1).nonzero()[:, -1].unique().tolist()
    if bad:
        named = ", ".join(map(str, bad[:NAMED_SUBSETS])) + (", ..." if len(bad) > NAMED_SUBSETS else "")
        raise ValueError(f"truth must be finite, got NaN or infinity in {len(bad)} subsets: {named}; leave them out")


def lds_ceiling(truth: Tensor, seeds: int | None = None) -> Tensor:
    """The LDS of perfect scores against the mean of as many seeds, given truth (seeds, count, test): (test,).

    The root of the reliability k r / (1 + (k - 1) r) of a mean of k = `seeds` (None: of all given), where r is the mean rank
    correlation of the retrainings of two seeds over the subsets; where r < 0 it is 0. Raises ValueError for a single seed.

    >>> signal, noise = torch.randn(8, 500, 20, generator=torch.Generator().manual_seed(0)).split([1, 7])
    >>> round(float(lds_ceiling(signal + noise).mean()), 2), round((7 / 8) ** 0.5, 2)
    (0.93, 0.94)
    """
    require(truth.ndim == 3 and len(truth) > 1, "truth", truth, "outcomes (seeds, subsets, test) of at least 2 seeds")
    _require_ranked(truth)
    count = len(truth) if seeds is None else require_whole("seeds", seeds, 1)
    standard = torch.stack([_standard_ranks(table) for table in truth])
    alike = (standard.sum(0).square().sum(0) - len(truth)) / (len(truth) * (len(truth) - 1))
    alike = alike.clamp_min(0)
    return (count * alike / (1 + (count - 1) * alike)).sqrt()


# Ranks

def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 on within each column, the mean rank where values are equal: (n, columns) -> (n, columns), float64."""
    columns = values.mT.contiguous()
    ordered = columns.sort(1).values
    first, last = (torch.searchsorted(ordered, columns, side=side) for side in ("left", "right"))
    return (first + last + 1).double().mT / 2


def _standard_ranks(values: Tensor) -> Tensor:
    """Ranks within each column, of mean 0 and length 1."""
    found = ranks(values)
    found = found - found.mean(0)
    return found / torch.linalg.vector_norm(found, dim=0)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Rank correlations of two tables column by column: (n, columns) twice -> (columns,)."""
    return (_standard_ranks(one) * _standard_ranks(other)).sum(0)


def resampling_counts(draws: int, size: int, seed: int) -> Tensor:
    """How often each of `size` things comes up in draws with replacement: (draws, size), float64, rows with sum `size`."""
    chosen = torch.randint(size, (draws, size), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(draws, size, dtype=torch.float64).scatter_add_(1, chosen, torch.ones(draws, size, dtype=torch.float64))


def _weighted_spearman(one: Tensor, other: Tensor, counts: Tensor) -> Tensor:
    """Spearman of n pairs where pair i is there counts[i, draw] times, counts (n, draws): (draws,). No sorting for each draw.

    In units of n, mid-ranks are the counts below plus half the counts at a value; their mean is n / 2 whatever is drawn.
    """
    first, second = (_counted_ranks(values, counts) for values in (one, other))
    weighted = counts * first
    centre = (len(one) / 2) ** 2
    product = torch.linalg.vecdot(weighted, second, dim=0) / len(one) - centre
    sizes = [torch.linalg.vecdot(part, ranked, dim=0) / len(one) - centre
             for part, ranked in ((weighted, first), (counts * second, second))]
    return product / (sizes[0] * sizes[1]).sqrt()


def _counted_ranks(values: Tensor, counts: Tensor) -> Tensor:
    levels, place = values.unique(return_inverse=True)
    at = torch.zeros(len(levels), counts.shape[1], dtype=counts.dtype).index_add_(0, place, counts)
    return (at.cumsum(0) - at / 2)[place]
