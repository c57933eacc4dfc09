"""What noise on the weights does: the mean of one bilinear layer stays, its covariance is exact, curvature is a slope."""

import pytest
import torch

from tensorlm.evolution import hill_and_hack, noisy_layer, reward_spread
from tensorlm.tensors import CPTensor

DRAWS = 100_000


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    return CPTensor(*(torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 5), (5, 3), (5, 3))))


@pytest.fixture
def noise():
    return torch.Generator().manual_seed(1)


def drawn(matrix, sigma, generator):
    return matrix + sigma * torch.randn(DRAWS, *matrix.shape, generator=generator, dtype=torch.float64)


def test_mean_and_covariance_of_a_noisy_layer_are_those_of_samples(layer, noise):
    x, sigma = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 0.3
    D, L, R = (drawn(matrix, sigma, noise) for matrix in (layer.D, layer.L, layer.R))
    found = torch.einsum("nok,nk->no", D, (L @ x) * (R @ x))
    mean, covariance = noisy_layer(layer, x, sigma)
    torch.testing.assert_close(mean, layer(x), rtol=1e-12, atol=1e-12)
    assert ((found.mean(0) - mean).abs() < 5 * found.std(0) / DRAWS**0.5).all()
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0.03, atol=0.02)
    assert (noisy_layer(layer, x, 0.2)[1] - covariance).abs().max() > 1


def test_two_noisy_layers_do_move_their_mean(layer, noise):
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    D, L, R = (drawn(matrix, 0.3, noise) for matrix in (layer.D, layer.L, layer.R))
    square = torch.einsum("nok,nk->no", D, (L @ x) * (R @ x)).pow(2)  # a second layer without noise: y * y
    assert ((square.mean(0) - layer(x) ** 2).abs() > 20 * square.std(0) / DRAWS**0.5).all()


def test_without_noise_nothing_spreads(layer):
    assert noisy_layer(layer, torch.ones(4, 3, dtype=torch.float64), 0.0)[1].abs().max() < 1e-10


def test_the_slope_in_sigma_squared_is_minus_half_the_trace():
    curvatures = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    at = torch.zeros(3, dtype=torch.float64)
    found = reward_spread(lambda x: -(curvatures * x**2).sum(-1) / 2, at, [0.0, 0.1, 0.4], draws=DRAWS)
    expected = -torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64) ** 2 * curvatures.sum() / 2
    assert ((found.mean - expected).abs() <= 5 * found.error + 1e-12).all()
    variance = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64) ** 4 * curvatures.pow(2).sum() / 2
    torch.testing.assert_close(found.variance, variance, rtol=0.05, atol=1e-12)


def test_the_spread_around_two_optima_is_that_of_the_closed_form():
    landscape = hill_and_hack(3, 2)
    for centre, sigmas in zip(landscape.centres, ((0.1, 0.2), (0.1, 0.5))):  # from the hill a wider noise meets the hack too seldom
        found = reward_spread(landscape, centre, sigmas, draws=DRAWS)
        for sigma, mean, variance, error in zip(sigmas, *found):
            assert abs(mean - landscape.smoothed(centre, sigma)) < 5 * error
            assert variance.item() == pytest.approx(landscape.variance(centre, sigma).item(), rel=0.1)


def test_arguments_that_do_not_fit_are_named(layer):
    with pytest.raises(ValueError, match="draws must be"):
        reward_spread(lambda x: x.sum(-1), torch.zeros(2), [0.1], draws=1)
    with pytest.raises(ValueError, match="sigmas must be"):
        reward_spread(lambda x: x.sum(-1), torch.zeros(2), [-0.1])
    with pytest.raises(ValueError, match="3 features"):
        noisy_layer(layer, torch.zeros(2, dtype=torch.float64), 0.1)
