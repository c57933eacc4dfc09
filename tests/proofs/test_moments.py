"""Exact expectations against exact quadrature, for every distribution and depth, and where they stop being exact."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensor_cases import close, differ, randn, random_cp, random_network

from tensorlm.layers import Norm, build_mlp
from tensorlm.proofs.distributions import Gaussian, Mixture, Samples
from tensorlm.proofs.moments import output_mean, output_moments, relu_moments
from tensorlm.tensors import CPTensor, compose, lift

NODES = 9  # of a Gauss-Hermite rule that is exact up to degree 17, and three layers of it are of degree 8


def gaussian(width=3, rank=3, seed=4, shift=0.7):
    root = randn(width, rank, seed=seed)
    return Gaussian(shift * randn(width, seed=seed + 1), root @ root.mT)


def by_quadrature(network, distribution):
    """Mean and covariance by a rule with product nodes in the directions that vary."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    rank = distribution.root.shape[1]
    g = torch.tensor(list(itertools.product(nodes, repeat=rank)), dtype=torch.float64)
    shares = torch.tensor([np.prod(each) for each in itertools.product(weights / weights.sum(), repeat=rank)])
    y = network(distribution.mean + g @ distribution.root.mT)
    mean = shares @ y
    return mean, (y - mean).mT @ (shares.unsqueeze(1) * (y - mean))


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([0.0, 0.7]), st.integers(1, 2))
def test_mean_and_covariance_of_one_and_two_layers_are_those_of_an_exact_rule(seed, rank, shift, layers):
    network = random_network((3, 2, 4)[: layers + 1], hidden=4, seed=seed)
    distribution = gaussian(rank=rank, seed=seed + 1, shift=shift)
    found, expected = output_moments(network, distribution), by_quadrature(network, distribution)
    close(found.mean, expected[0], scale=expected[1].diagonal().max().sqrt())
    close(found.covariance, expected[1])
    close(output_mean(network, distribution), expected[0], scale=expected[1].diagonal().max().sqrt())


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_mean_of_three_layers_is_exact_and_the_closure_is_not(shift):
    network, distribution = random_network((2, 3, 2, 2), hidden=3, seed=2), gaussian(2, 2, shift=shift)
    mean, covariance = by_quadrature(network, distribution)
    close(output_mean(network, distribution), mean, scale=covariance.diagonal().max().sqrt())
    differ(output_mean(network, distribution, "closure") / mean, torch.ones_like(mean))
    differ(output_moments(compose(*network.layers[:2]), distribution, "closure").covariance,
           by_quadrature(compose(*network.layers[:2]), distribution)[1])


def test_a_block_of_units_more_or_less_is_the_same(monkeypatch):
    cp, distribution = random_cp(out=2, hidden=7, width=3), gaussian()
    whole = output_moments(cp, distribution)
    monkeypatch.setattr("tensorlm.proofs.moments.UNIT_BLOCK", 3)
    close(output_moments(cp, distribution).covariance, whole.covariance)


def test_biases_and_residual_are_read_from_a_lifted_input():
    cp, left, right, bias = random_cp(out=3, hidden=4, width=3), randn(4, seed=5), randn(4, seed=6), randn(3, seed=7)
    lifted = cp.with_input_bias(left, right).with_output_bias(bias).with_residual()
    distribution = gaussian()

    def layer(x):
        return x + ((x @ cp.L.mT + left) * (x @ cp.R.mT + right)) @ cp.D.mT + bias

    found, expected = output_moments(lifted, distribution.lifted()), by_quadrature(layer, distribution)
    close(found.mean, expected[0])
    close(found.covariance, expected[1])
    close(output_moments(lifted, distribution).covariance, expected[1])
    above = random_cp(out=2, hidden=3, width=4, seed=8)
    whole = by_quadrature(lambda x: above(lift(layer(x))), distribution)
    close(output_mean(compose(lifted.with_constant(), above), distribution.lifted()), whole[0])
    close(output_moments([lifted, above], distribution).covariance, whole[1])
    differ(output_moments(lifted, Gaussian(distribution.lifted().mean, torch.eye(4, dtype=torch.float64))).mean, expected[0])


def test_linear_maps_with_bias_and_constant_norms_are_part_of_a_network():
    first, last, norm = torch.nn.Linear(3, 2).double(), torch.nn.Linear(4, 2).double(), Norm("scale").double()
    norm.gain.data.fill_(0.7)
    mlp, distribution = build_mlp("bilinear", 2, 3, 4).double(), gaussian()
    found = output_moments([first, norm, mlp, last], distribution)
    with torch.no_grad():
        expected = by_quadrature(lambda x: last(mlp(0.7 * first(x))), distribution)
    close(found.mean, expected[0])
    close(found.covariance, expected[1])


def test_a_mixture_has_the_moments_of_all_its_parts():
    network, parts = random_network((3, 2, 2), hidden=3), (gaussian(seed=1), gaussian(rank=1, seed=7))
    mixture, each = Mixture((0.3, 0.7), parts), [by_quadrature(network, part) for part in parts]
    mean = 0.3 * each[0][0] + 0.7 * each[1][0]
    second = sum(w * (covariance + torch.outer(m, m)) for w, (m, covariance) in zip((0.3, 0.7), each))
    close(output_mean(network, mixture), mean)
    close(output_moments(network, mixture).covariance, second - torch.outer(mean, mean))
    close(mixture.lifted().parts[1].mean[1:], parts[1].mean)


def test_of_given_rows_the_mean_needs_two_moments_and_the_covariance_four():
    rows = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 3
    cp = random_cp(out=2, hidden=4, width=3)
    truth, fitted = output_moments(cp, Samples(rows)), output_moments(cp, Gaussian.fit(rows))
    outputs = cp(rows)
    close(truth.mean, outputs.mean(0))
    close(truth.covariance, torch.cov(outputs.mT, correction=0))
    close(fitted.mean, truth.mean)
    differ(fitted.covariance, truth.covariance)
    classes = (rows[:, 0] > 0.3).long()
    close(output_mean(cp, Mixture.fit(rows, classes)), truth.mean)
    close(output_mean(compose(cp, random_cp(out=2, hidden=3, width=2)), Samples(rows)),
          compose(cp, random_cp(out=2, hidden=3, width=2))(rows).mean(0))


def test_singular_and_zero_covariances_are_fitting():
    cp, mean = random_cp(), randn(4)
    close(output_moments(cp, Gaussian(mean, torch.zeros(4, 4, dtype=torch.float64))).mean, cp(mean))
    assert float(output_moments(cp, Gaussian(mean, torch.zeros(4, 4, dtype=torch.float64))).covariance.abs().max()) < 1e-12
    two = compose(random_cp(3, 5, 4), random_cp(2, 3, 3))
    found = output_moments(two, Gaussian(mean, torch.zeros(4, 4, dtype=torch.float64)))
    close(found.mean, two(mean))
    assert gaussian(3, 1).root.shape == (3, 1)
    root = randn(5, 2)
    assert Gaussian(randn(5), (root @ root.mT).float().double()).width == 5  # negative by single-precision rounding only


def test_gradients_flow_to_the_factors_and_float32_is_taken():
    D, L, R = (part.requires_grad_() for part in (randn(2, 3), randn(3, 3, seed=2), randn(3, 3, seed=3)))
    distribution = gaussian()
    assert torch.autograd.gradcheck(lambda D, L, R: output_moments(CPTensor(D, L, R), distribution), (D, L, R))
    single = output_moments(CPTensor(*(part.detach().float() for part in (D, L, R))),
                            Gaussian(distribution.mean.float(), distribution.covariance.float()))
    assert single.covariance.dtype == torch.float32
    torch.testing.assert_close(single.covariance.double(), output_moments(CPTensor(D, L, R), distribution).covariance, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("order, tolerance", [(1, 0.4), (16, 2e-3)])
def test_rectified_units_have_exact_means_and_more_terms_bring_the_covariance_nearer(order, tolerance):
    encoder, distribution = randn(4, 3, seed=3), gaussian(shift=0.3)
    found = relu_moments(encoder, torch.eye(4, dtype=torch.float64), distribution.moments, order)
    y = (distribution.sample(400_000, torch.Generator().manual_seed(0)) @ encoder.mT).relu()
    size = y.var(0).sqrt()
    assert float(((found.mean - y.mean(0)) / size).abs().max()) < 6e-3
    other = relu_moments(encoder, torch.eye(4, dtype=torch.float64), distribution.moments, 3)
    close(found.covariance.diagonal(), other.covariance.diagonal())
    off = float(((found.covariance - torch.cov(y.mT)) / torch.outer(size, size)).abs().max())
    assert off < tolerance + 8e-3
    assert order > 1 or off > 0.02


@pytest.mark.parametrize("make, message", [
    (lambda: Gaussian(torch.zeros(2), torch.eye(3)), "covariance must be of shape"),
    (lambda: Gaussian(torch.zeros(2, 2), torch.eye(2)), "mean must be a vector"),
    (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.4, 1.0]])), "symmetric; an entry and its mirror image differ by 0.1"),
    (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "positive semidefinite; its smallest eigenvalue is -1"),
    (lambda: Gaussian(torch.zeros(1), torch.tensor([[-1.0]])), "its smallest eigenvalue is -1"),
    (lambda: Gaussian(torch.tensor([torch.nan]), torch.eye(1)), "mean must be finite"),
    (lambda: Mixture((0.5, 0.4), (gaussian(), gaussian())), "weights must be positive numbers that sum to 1"),
    (lambda: Mixture((1.0,), (gaussian(), gaussian())), "weights must be 2 probabilities"),
    (lambda: Mixture((0.5, 0.5), (gaussian(), gaussian(2, 2))), r"parts\[1\] must be of width 3"),
    (lambda: Mixture.fit(randn(4, 2), torch.zeros(3)), "classes must be of shape"),
    (lambda: Samples(randn(4)), "rows must be of shape"),
    (lambda: output_mean(random_cp(width=5), gaussian()), "a layer that reads 3 numbers x, or 4 as"),
    (lambda: output_mean(build_mlp("relu", 3), gaussian()), r"polynomial parts of degree 2; train with GatedMLP\('bilinear'"),
    (lambda: output_mean([random_cp(width=3), Norm("rms")], gaussian()), "this one divides by what depends on the input"),
    (lambda: output_moments(random_network((3, 2, 2, 2)), gaussian()), "method must be 'closure' for the covariance of 3 layers"),
    (lambda: output_mean(random_network((3, 2, 2, 2, 2)), gaussian()), "method must be 'closure'"),
    (lambda: output_mean(random_cp(width=3), gaussian(), "guess"), "method must be one of"),
    (lambda: relu_moments(torch.eye(1), torch.eye(1), gaussian(1, 1).moments, order=0), "order must be"),
])
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="distribution must be a Gaussian"):
        output_mean(random_cp(width=3), torch.eye(3))
    with pytest.raises(TypeError, match="got ReLU: an activation is no polynomial"):
        output_mean(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()), gaussian())
    with pytest.raises(TypeError, match="float64 like"):
        output_mean(random_cp(width=3), Gaussian(torch.zeros(3), torch.eye(3)))
