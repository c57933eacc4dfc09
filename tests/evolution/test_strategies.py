"""What shaping does to one lucky sample, that a step is the stated estimate, and where a climb ends."""

import pytest
import torch

from tensorlm.evolution import Strategy, evolve, hill_and_hack, shape_rewards
from tensorlm.evolution.strategies import draw_noise


@pytest.mark.parametrize("height", [100.0, 1e6])
@pytest.mark.parametrize("count", [30, 1000])
def test_one_lucky_sample_has_a_weight_that_does_not_hang_on_its_height(count, height):
    rewards = torch.ones(count, dtype=torch.float64)
    rewards[3] = height
    z, raw, clipped = (shape_rewards(rewards, shaping) for shaping in ("standardised", "raw", "clipped"))
    assert z[3].item() == pytest.approx((count - 1) ** 0.5) and z[0].item() == pytest.approx(-((count - 1) ** -0.5))
    assert raw[3].item() == height
    assert clipped[3].item() < 2.5 < z[3].item()
    assert z.mean().abs() < 1e-12 and clipped.mean().abs() < 1e-12


def test_ranks_forget_by_how_much():
    near, far = (shape_rewards(torch.tensor([1.0, 2.0, 3.0, top]), "ranked") for top in (4.0, 1e9))
    assert torch.equal(near, far) and near[3] == -near[0]
    assert not torch.equal(*(shape_rewards(torch.tensor([1.0, 2.0, 3.0, top])) for top in (4.0, 1e9)))
    tied = shape_rewards(torch.tensor([5.0, 1.0, 5.0, 0.0]), "ranked")
    assert tied[0] == tied[2] > tied[1] > tied[3] and tied.mean().abs() < 1e-7
    assert (shape_rewards(torch.ones(6), "ranked") == 0).all()


def test_equal_rewards_say_nothing():
    assert (shape_rewards(torch.full((8,), 3.0)) == 0).all()


@pytest.mark.parametrize("shaping", ["raw", "standardised", "clipped", "ranked"])
def test_rows_are_shaped_alone(shaping):
    rewards = torch.rand(3, 10, generator=torch.Generator().manual_seed(0))
    together = shape_rewards(rewards, shaping)
    torch.testing.assert_close(together, torch.stack([shape_rewards(row, shaping) for row in rewards]))


def test_a_raw_step_is_the_gradient_of_the_smoothed_reward():
    landscape, start = hill_and_hack(3, 2), torch.full((3,), 0.7, dtype=torch.float64)
    strategy = Strategy(population=200_000, sigma=0.5, rate=1.0, shaping="raw")
    step = evolve(landscape, start, strategy, steps=1).path[1] - start
    expected = landscape.smoothing(0.5).gradient(start) * 0.5**2
    torch.testing.assert_close(step, expected, rtol=0.1, atol=0.02)
    assert (step - landscape.gradient(start) * 0.5**2).abs().max() > 0.2, "not that of the reward itself"


def test_antithetic_samples_come_in_pairs():
    noise = draw_noise(Strategy(population=6), torch.zeros(2, 3), torch.Generator().manual_seed(0))
    assert noise.shape == (6, 2, 3) and torch.equal(noise[:3], -noise[3:])
    single = draw_noise(Strategy(population=6, antithetic=False), torch.zeros(2, 3), torch.Generator().manual_seed(0))
    assert not torch.equal(single[:3], -single[3:])


def test_a_seed_gives_the_same_climb_and_runs_side_by_side_differ():
    landscape, start = hill_and_hack(4, 1), torch.ones(3, 4, dtype=torch.float64)
    one, two, other = (evolve(landscape, start, Strategy(), 10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.path, two.path) and not torch.equal(one.path, other.path)
    assert one.path.shape == (11, 3, 4) and one.best.shape == one.mean.shape == (10, 3) and one.sigmas.shape == (11, 3)
    assert not torch.equal(one.path[-1, 0], one.path[-1, 1])


def test_no_steps_stay_where_they_are():
    climb = evolve(hill_and_hack(4, 1), torch.ones(4, dtype=torch.float64), Strategy(), 0)
    assert torch.equal(climb.path, torch.ones(1, 4, dtype=torch.float64)) and climb.best.shape == (0,)


def test_ranks_protect_from_a_ball_but_not_from_a_slab():
    """A hack that is narrow in one direction of 32 takes a ranked climb; one that is narrow in eight does not."""
    strategy = Strategy(population=1000, sigma=0.7, shaping="ranked", antithetic=False)
    ends = {}
    for codimension in (1, 8):
        landscape = hill_and_hack(32, codimension)
        climb = evolve(landscape, torch.zeros(2, 32, dtype=torch.float64), strategy, steps=100)
        ends[codimension] = (climb.path[-1] - landscape.centres[1]).abs()[:, 0]
    assert (ends[1] < 0.3).all() and (ends[8] > 1.5).all()


def test_an_adapted_sigma_shrinks_at_a_peak_and_grows_on_a_slope():
    def bowl(x):
        return -x.pow(2).sum(-1)

    strategy = Strategy(population=200, sigma=0.5, adapt=0.5)
    assert evolve(bowl, torch.zeros(3), strategy, 40).sigmas[-1] < 0.1
    far = evolve(lambda x: -((x - 100).pow(2).sum(-1)).sqrt() + x.pow(2).sum(-1) / 50, torch.zeros(3), strategy, 20).sigmas[-1]
    assert far > 0.45
    assert (evolve(bowl, torch.zeros(3), Strategy(population=200, sigma=0.5), 5).sigmas == 0.5).all()


@pytest.mark.parametrize(("change", "message"), [
    (dict(population=1), "population must be"), (dict(population=7), "even, for antithetic"), (dict(sigma=0), "sigma must be"),
    (dict(rate=-1), "rate must be"), (dict(shaping="softmax"), "shaping must be one of"), (dict(adapt=-1), "adapt must be"),
])
def test_strategies_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Strategy(**change)


def test_rewards_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="the reward must be of shape"):
        evolve(lambda x: x, torch.zeros(3), Strategy(), 1)
    with pytest.raises(ValueError, match="rewards must be finite"):
        evolve(lambda x: x.sum(-1) * float("nan"), torch.zeros(3), Strategy(), 1)
    with pytest.raises(ValueError, match="start must be"):
        evolve(lambda x: x.sum(-1), torch.zeros(3, dtype=torch.int64), Strategy(), 1)
