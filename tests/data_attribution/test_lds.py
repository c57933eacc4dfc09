"""The linear datamodelling score: perfect and random scores, the ceiling, intervals, noise against the number of subsets, errors."""

import numpy as np
import pytest
import scipy.stats
import torch

from tensorlm.data_attribution.lds import (
    OVER,
    RESAMPLINGS,
    draw_subsets,
    group_scores,
    lds,
    lds_ceiling,
    ranks,
    resampling_counts,
    spearman,
)

TRAIN, TEST, SUBSETS = 120, 30, 200
CLASSES = torch.arange(TRAIN) % 6


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scores():
    return randn(TRAIN, TEST)


@pytest.fixture(scope="module")
def subsets():
    return draw_subsets(CLASSES, 0.5, SUBSETS)


@pytest.fixture(scope="module")
def truth(scores, subsets):
    """Six seeds whose noise is as large as what the scores explain, half of it shared by all test points."""
    effects = group_scores(scores, subsets)
    return effects + effects.std(0) * (randn(6, SUBSETS, TEST, seed=1) + randn(6, SUBSETS, 1, seed=2)) / 2**0.5


@pytest.mark.parametrize("draw", ["uniform", "stratified"])
@pytest.mark.parametrize("kept", [0.35, 0.5, 0.9, 119 / 120])
def test_subsets_keep_their_share(draw, kept):
    y = torch.cat([CLASSES, torch.full((11,), 2)])
    found = draw_subsets(y, kept, 50, draw, seed=4)
    assert found.dtype == torch.bool and found.sum(1).eq(round(kept * len(y))).all()
    shares = torch.stack([found[:, y == label].sum(1) - found[0].sum() * (y == label).sum() / len(y) for label in range(6)])
    assert (shares.abs() < 1).all() == (draw == "stratified" or kept > 0.99)
    assert torch.equal(found, draw_subsets(y, kept, 50, draw, seed=4)) and len(found.unique(dim=0)) > 30
    assert not torch.equal(found, draw_subsets(y, kept, 50, draw, seed=5))


def test_every_example_is_kept_equally_often():
    y = (torch.arange(131) > 70).long()
    for draw in ("uniform", "stratified"):
        for kept in (52 / 131, 129 / 131):
            often = draw_subsets(y, kept, 4000, draw).double().mean(0)
            assert (often - kept).abs().max() < 5 * (kept * (1 - kept) / 4000) ** 0.5


def test_a_class_without_examples_is_named():
    y = torch.tensor([0] * 50 + [1] * 2)
    with pytest.raises(ValueError, match="none of class 1 in subset"):
        draw_subsets(y, 0.2, 100)
    with pytest.raises(ValueError, match="none of class 1 in subset 0"):
        draw_subsets(y, 0.1, 100, "stratified")
    assert draw_subsets(y, 0.5, 100, "stratified")[:, -2:].sum(1).eq(1).all()


def test_groups_are_sums_over_what_is_left_out(scores, subsets):
    predicted = group_scores(scores, subsets)
    assert torch.allclose(predicted[7], scores[~subsets[7]].sum(0))
    assert torch.allclose(predicted + subsets.double() @ scores, scores.sum(0).expand_as(predicted))


def test_ranks_are_those_of_scipy():
    tied = torch.randint(0, 6, (50, 7), generator=torch.Generator().manual_seed(0)).double()
    assert np.array_equal(ranks(tied), scipy.stats.rankdata(tied, axis=0))
    other = tied + randn(50, 7)
    expected = [scipy.stats.spearmanr(one, two).statistic for one, two in zip(tied.mT, other.mT)]
    assert torch.allclose(spearman(tied, other), torch.tensor(expected), atol=1e-12)


def test_perfect_scores_reach_one_and_random_ones_nothing(scores, subsets):
    effects = group_scores(scores, subsets)
    assert torch.allclose(lds(scores, subsets, effects).values, torch.ones(TEST, dtype=torch.float64))
    assert torch.allclose(lds(scores, subsets, torch.exp(3 * effects / effects.std(0))).values, torch.ones(TEST, dtype=torch.float64))
    assert torch.allclose(lds(-scores, subsets, effects).values, -torch.ones(TEST, dtype=torch.float64))
    nothing = lds(randn(TRAIN, TEST, seed=9), subsets, effects)
    assert abs(nothing.mean) < 4 / (SUBSETS * TEST) ** 0.5
    low, high = nothing.interval("both")
    assert low < 0 < high and high - low < 0.15


def test_perfect_scores_reach_the_ceiling_of_a_noisy_truth(scores, subsets, truth):
    for seeds in (1, 2, 6):
        result, ceiling = lds(scores, subsets, truth[:seeds]), float(lds_ceiling(truth, seeds).mean())
        assert result.mean == pytest.approx(ceiling, abs=0.02)
        assert ceiling == pytest.approx((seeds / (seeds + 1)) ** 0.5, abs=0.03)
    assert lds(scores, subsets, truth[:1]).mean < float(lds_ceiling(truth).mean()) - 0.15  # one seed against the ceiling of six


def test_what_seeds_share_beside_the_scores_is_below_the_ceiling(scores, subsets, truth):
    shared = truth + 0.5 * truth.std(1, keepdim=True) * randn(SUBSETS, TEST, seed=3)
    assert lds(scores, subsets, shared).mean < float(lds_ceiling(shared).mean()) - 0.04


def test_a_resampling_is_the_spearman_of_the_rows_drawn(scores, subsets, truth):
    coarse = scores.round()  # with ties
    result = lds(coarse, subsets, truth)
    counts = resampling_counts(RESAMPLINGS, SUBSETS, 0)
    for draw in (0, 17):
        rows = torch.repeat_interleave(torch.arange(SUBSETS), counts[draw].long())
        assert torch.allclose(spearman(result.predicted[rows], result.truth[rows]), result.resampled[draw])


def test_intervals_cover_what_many_subsets_say(scores):
    """Intervals over subsets hold the value of all subsets about as often as they say; those over points alone do not."""
    subsets = draw_subsets(CLASSES, 0.5, 3000, seed=2)
    few = scores[:, :10]
    effects = group_scores(few, subsets)
    shared = randn(3000, 1, seed=5)  # one noise for all test points, as of a seed
    truth = effects + effects.std(0) * (0.3 * randn(3000, 10, seed=6) + shared)
    whole, covered = lds(few, subsets, truth).mean, dict.fromkeys(OVER, 0)
    for block in range(30):
        rows = slice(100 * block, 100 * block + 100)
        part = lds(few, subsets[rows], truth[rows], seed=block)
        for over in OVER:
            low, high = part.interval(over)
            covered[over] += low < whole < high
    assert covered["subsets"] >= 26 and covered["both"] >= 26 and covered["points"] <= 24


def test_the_noise_falls_with_the_root_of_the_subsets_not_of_the_points(scores):
    subsets = draw_subsets(CLASSES, 0.5, 2000, seed=2)
    effects = group_scores(scores, subsets)
    truth = effects + effects.std(0) * (randn(2000, TEST, seed=6) + randn(2000, 1, seed=5))
    result = lds(scores, subsets, truth)
    table = {row[0]: row for row in result.noise([10, 40, 160])}
    assert [row[1] for row in table.values()] == [200, 50, 12]
    assert table[10][4] / table[40][4] == pytest.approx(2, rel=0.35)
    assert table[10][3] < table[40][3] < 0.01 and table[10][3] < -0.01  # few subsets give too little
    alone = {row[0]: row[4] for row in result.noise([40], points=1)}
    assert 1.2 * table[40][4] < alone[40] < 6 * table[40][4]  # forty test points are not worth forty times as many subsets


def test_a_paired_difference_is_told_apart_where_two_values_are_not(scores, subsets, truth):
    good = lds(scores + 0.25 * randn(TRAIN, TEST, seed=7), subsets, truth)
    better = lds(scores, subsets, truth)
    difference = better - good
    assert torch.equal(difference.values, better.values - good.values) and difference.mean == pytest.approx(better.mean - good.mean)
    assert difference.interval("both")[0] > 0 and difference.won > 0.7 and difference.points_needed() < TEST
    width = [high - low for low, high in (difference.interval("both"), better.interval("both"))]
    assert width[0] < 0.7 * width[1]
    assert (good - better).won == pytest.approx(1 - difference.won)
    nothing = better - lds(scores * (1 + 1e-3 * randn(TRAIN, 1, seed=8)), subsets, truth)
    assert nothing.points_needed() > 5 * difference.points_needed()
    assert difference.noise([50])[0][2] == pytest.approx(difference.mean, abs=0.02)


def test_what_cannot_be_ranked_is_refused(scores, subsets, truth):
    broken = truth.clone()
    broken[3, 17, 5] = torch.nan
    for call in (lambda: lds(scores, subsets, broken), lambda: lds_ceiling(broken)):
        with pytest.raises(ValueError, match="truth must be finite, got NaN or infinity in 1 subsets: 17"):
            call()
    with pytest.raises(ValueError, match="scores must be finite"):
        lds(scores * torch.inf, subsets, truth)
    with pytest.raises(ValueError, match="scores must differ between subsets at every test point, got .* at .3."):
        lds(scores * (torch.arange(TEST) != 3), subsets, truth)
    with pytest.raises(ValueError, match="truth must be outcomes .200, 30. or .seeds, 200, 30. of at least 3 subsets"):
        lds(scores, subsets, truth[:, :-1])
    with pytest.raises(ValueError, match="subsets must be booleans .count, 120."):
        lds(scores, subsets[:, 1:], truth)
    with pytest.raises(ValueError, match="truth must be outcomes .seeds, subsets, test. of at least 2 seeds"):
        lds_ceiling(truth[:1])
    result = lds(scores, subsets, truth)
    for other in (lds(scores, subsets, truth[1:]), lds(scores, subsets, truth, seed=1), result - result):
        with pytest.raises(ValueError, match="other must be the LDS of a method on the same truth"):
            result - other
    with pytest.raises(ValueError, match="a size must be a whole number from 3 to 100"):
        result.noise([101])
    for value, name in (({"kept": 1.0}, "kept"), ({"kept": 0.001}, "kept"), ({"count": 0}, "count"), ({"draw": "random"}, "draw")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            draw_subsets(CLASSES, **({"kept": 0.5, "count": 3} | value))
