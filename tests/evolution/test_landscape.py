"""Smoothing, variance and hit probabilities in closed form, against sampling and against what they must not be."""

import math

import pytest
import torch
from scipy.stats import norm

from tensorlm.evolution import Landscape, hill_and_hack, hit_probability

DRAWS = 200_000


@pytest.fixture
def landscape():
    generator = torch.Generator().manual_seed(0)
    heights, centres, widths = (torch.rand(size, generator=generator, dtype=torch.float64) for size in ((3,), (3, 4), (3, 4)))
    return Landscape(heights + 1, centres, widths / 2 + 0.4)


def sampled(landscape, x, sigma):
    noise = torch.randn(DRAWS, landscape.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return landscape(x + sigma * noise)


def test_the_reward_is_the_sum_of_its_bumps(landscape):
    x = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    rows = zip(landscape.heights.tolist(), landscape.centres.tolist(), landscape.widths.tolist())
    bumps = [h * math.exp(-sum((at - c) ** 2 / (2 * w**2) for at, c, w in zip(x.tolist(), centre, width))) for h, centre, width in rows]
    assert landscape(x).item() == pytest.approx(sum(bumps), rel=1e-12)
    assert landscape(x.expand(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_smoothed_reward_and_variance_are_those_of_samples(landscape, sigma):
    x = torch.full((4,), 0.5, dtype=torch.float64)
    found = sampled(landscape, x, sigma)
    error = found.std().item() / DRAWS**0.5
    assert abs(landscape.smoothed(x, sigma).item() - found.mean().item()) < 5 * error
    assert abs(landscape(x).item() - found.mean().item()) > 20 * error, "the reward itself is another number"
    assert landscape.variance(x, sigma).item() == pytest.approx(found.var().item(), rel=0.03)


def test_the_square_of_a_landscape_is_one(landscape):
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(landscape.squared()(x), landscape(x) ** 2, rtol=1e-12, atol=0)


def test_smoothing_twice_adds_variances(landscape):
    x = torch.zeros(4, dtype=torch.float64)
    once = landscape.smoothed(x, 0.5)
    torch.testing.assert_close(landscape.smoothing(0.3).smoothed(x, 0.4), once, rtol=1e-12, atol=0)
    assert abs(landscape.smoothing(0.3).smoothed(x, 0.2) - once) > 1e-3


def test_the_gradient_is_that_of_autograd(landscape):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(landscape(x).sum(), x)
    torch.testing.assert_close(landscape.gradient(x.detach()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_spike_keeps_the_stated_share_of_its_height(n):
    zeros = torch.zeros(1, n, dtype=torch.float64)
    spike = Landscape(zeros[:, 0] + 100, zeros, zeros + 0.05)
    assert spike.smoothed(zeros[0], 0.3).item() == pytest.approx(100 * (1 + 36) ** (-n / 2), rel=1e-12)


def test_only_the_codimension_of_a_hack_counts():
    at_hack = [hill_and_hack(n, 3).smoothing(0.0).contributions(hill_and_hack(n, 3).centres[1])[1] for n in (4, 32)]
    assert at_hack[0] == at_hack[1] == 100
    few, many = (hill_and_hack(32, k).smoothing(0.7).heights[1].item() for k in (1, 8))
    wide = (1 + 0.7**2 / 4) ** 0.5
    assert few / many == pytest.approx(((1 + 0.7**2 / 0.2**2) ** 0.5 / wide) ** 7, rel=1e-9)


@pytest.mark.parametrize("codimension", [1, 2, 3])
def test_hits_of_a_ball_are_counted(codimension):
    centre = torch.zeros(codimension).double()
    centre[0] = 1.0
    noise = 0.7 * torch.randn(DRAWS, codimension, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    share = ((noise - centre).norm(dim=-1) <= 0.5).double().mean().item()
    p = hit_probability(0.7, 1.0, 0.5, codimension)
    assert abs(share - p) < 5 * (p * (1 - p) / DRAWS) ** 0.5
    assert abs(share - hit_probability(0.7, 1.0, 0.5, codimension + 1)) > 20 * (p * (1 - p) / DRAWS) ** 0.5


def test_a_half_space_is_hit_whatever_the_dimension_and_more_often_with_sigma():
    assert hit_probability(0.7, 2.0) == pytest.approx(norm.cdf(-2 / 0.7)) == hit_probability(0.7, 2.0, codimension=64)
    assert hit_probability(0.7, 2.0) < hit_probability(1.5, 2.0)
    balls = [hit_probability(sigma, 2.0, 0.2, 16) for sigma in (0.5, 1.5)]
    assert balls[1] < balls[0] < 1e-12


@pytest.mark.parametrize(("change", "message"), [
    (dict(widths=torch.zeros(1, 2)), "widths must be above 0"),
    (dict(widths=torch.ones(1, 3)), "widths must be of shape"),
    (dict(heights=torch.ones(2)), "heights must be of shape"),
    (dict(centres=torch.zeros(2), widths=torch.ones(2)), "centres must be a matrix"),
])
def test_landscapes_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Landscape(**{**dict(heights=torch.ones(1), centres=torch.zeros(1, 2), widths=torch.ones(1, 2)), **change})


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="codimension must be a whole number from 1 to 4"):
        hill_and_hack(4, 5)
    with pytest.raises(ValueError, match="sigma must be"):
        hit_probability(0, 1)
    with pytest.raises(ValueError, match="sigma must be"):
        hill_and_hack(4, 1).smoothing(-1)
    with pytest.raises(ValueError, match="x must have 4 entries"):
        hill_and_hack(4, 1)(torch.zeros(3).double())
