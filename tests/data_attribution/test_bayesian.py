"""Langevin draws near a minimum have the covariance of the quadratic there, and give the influence function with its damping."""

from dataclasses import replace

import pytest
import torch

from tensorlm.data_attribution.bayesian import Langevin, bayesian_influence, langevin
from tensorlm.data_attribution.classifiers import Classifiers, Examples, Recipe
from tensorlm.data_attribution.curvature import curvature_matrix
from tensorlm.data_attribution.influence import influence

RECIPE = Recipe(hidden=2, weight_decay=0.05, divide="batch")
CALM = Langevin(beta=2e4, gamma=1e4, step=4e-6, draws=80, thin=8, burn_in=100, chains=400)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data():
    return Examples(randn(20, 3), torch.arange(20) % 2, randn(4, 3, seed=1), torch.arange(4) % 2)


@pytest.fixture(scope="module")
def model(data):
    """A minimum, by gradient descent with the weight decay in it."""
    weights = [torch.nn.Parameter(randn(1, *shape, seed=seed)) for seed, shape in enumerate(((2, 3), (2, 3), (2, 2)))]
    optimiser = torch.optim.LBFGS(weights, max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def objective():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(Classifiers(*weights).logits(data.x)[0], data.y)
        loss = loss + RECIPE.weight_decay / 2 * sum(weight.square().sum() for weight in weights)
        loss.backward()
        return loss

    optimiser.step(objective)
    assert max(float(weight.grad.abs().max()) for weight in weights) < 1e-6
    return Classifiers(*(weight.detach() for weight in weights))


def flat(models):
    return torch.cat([weight.flatten(1) for weight in models], dim=1)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_draws_have_the_covariance_of_the_quadratic(data, model):
    draws = torch.cat([flat(chains) for chains in langevin(model, data.x, data.y, RECIPE, CALM, seed=0)])
    assert len(draws) == CALM.draws * CALM.chains
    precision = CALM.beta * curvature_matrix(model, data.x, data.y, "hessian")
    precision.diagonal().add_(CALM.beta * RECIPE.weight_decay + CALM.gamma)
    expected = torch.linalg.inv(precision)
    assert relative(torch.cov(draws.mT), expected) < 0.1
    assert relative(draws.mean(0), flat(model)[0]) < 0.01
    wrong = torch.linalg.inv(precision - CALM.gamma * torch.eye(len(precision), dtype=torch.float64))
    assert relative(torch.cov(draws.mT), wrong) > 0.3


@pytest.mark.parametrize(("kind", "divide"), [("loss", "batch"), ("margin", "present")])
def test_it_is_the_damped_influence_function(kind, divide, data, model):
    recipe = replace(RECIPE, divide=divide)
    found = bayesian_influence(model, data, recipe, kind, sampler=CALM)
    assert CALM.damping == 0.5
    assert relative(found, influence(model, data, recipe, kind, "hessian", damping=0.5)) < 0.1
    for damping in (0.2, 1.0):
        assert relative(found, influence(model, data, recipe, kind, "hessian", damping=damping)) > 0.2


def test_batches_several_models_and_seeds(data, model):
    short = replace(CALM, draws=20, chains=8)
    one = bayesian_influence(model, data, RECIPE, sampler=short)
    assert torch.equal(one, bayesian_influence(model, data, RECIPE, sampler=short))
    other = bayesian_influence(model, data, RECIPE, sampler=replace(short, seed=1))
    assert not torch.equal(one, other)
    both = Classifiers(*(weight.repeat(2, 1, 1) for weight in model))
    assert torch.allclose(bayesian_influence(both, data, RECIPE, sampler=short), (one + other) / 2)
    in_batches = bayesian_influence(model, data, RECIPE, sampler=replace(CALM, batch=16, step=1e-6, draws=60))
    assert relative(in_batches, influence(model, data, RECIPE, "margin", "hessian", damping=0.5)) < 0.6
    single = Classifiers(*(weight.float() for weight in model))
    assert relative(bayesian_influence(single, data, RECIPE, sampler=short), one) < 2


def test_what_does_not_fit_is_named(data, model):
    with pytest.raises(ValueError, match="sampler.step must be small enough that no chain diverges, got 1.0"):
        bayesian_influence(model, data, RECIPE, sampler=replace(CALM, step=1.0, draws=300))
    for name in ("beta", "gamma", "step", "draws", "batch", "chains", "thin"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            replace(CALM, **{name: 0})
    with pytest.raises(ValueError, match="burn_in must be"):
        replace(CALM, burn_in=-1)
