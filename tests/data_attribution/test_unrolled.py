"""The derivative through a whole training equals central differences of retraining; what is left out of it shows."""

import importlib
from dataclasses import replace

import pytest
import torch

from tensorlm.data_attribution.bank import Examples, Recipe, centred_digits, outcomes, train_bank
from tensorlm.data_attribution.gradients import example_gradients
from tensorlm.data_attribution.influence import tracin
from tensorlm.data_attribution.unrolled import Directions, along, unrolled

module = importlib.import_module("tensorlm.data_attribution.unrolled")  # its name on the face is the function
RECIPE = Recipe(epochs=6, batch=16, hidden=5, dtype=torch.float64, weight_decay=0.01)
EXAMPLES = (0, 3, 41, 99)


@pytest.fixture(scope="module")
def data():
    digits = centred_digits(100, torch.float64)  # the last batch of an epoch has 4 examples
    return Examples(digits.x, digits.y, digits.test_x[:12], digits.test_y[:12])


def by_differences(data, recipe, kind, seed=0, step=1e-4):
    weights = torch.ones(2 * len(EXAMPLES), len(data.x), dtype=torch.float64)
    for row, example in enumerate(EXAMPLES):
        weights[2 * row, example] += step
        weights[2 * row + 1, example] -= step
    ends = outcomes(train_bank(data.x, data.y, weights, recipe, seed), data.test_x, data.test_y, kind)
    return (ends[1::2] - ends[0::2]) / (2 * step)


def relative(found, expected):
    return float((found[list(EXAMPLES)] - expected).norm() / expected.norm())


@pytest.mark.parametrize("divide", ["present", "batch"])
@pytest.mark.parametrize("kind", ["loss", "margin"])
def test_it_is_the_derivative_of_retraining(kind, divide, data):
    recipe = replace(RECIPE, divide=divide)
    expected = by_differences(data, recipe, kind)
    found = unrolled(data, recipe, kind=kind)
    assert (found[list(EXAMPLES)] - expected).abs().max() < 1e-8 and expected.abs().max() > 0.05
    other = replace(recipe, divide="batch" if divide == "present" else "present")
    assert relative(unrolled(data, other, kind=kind), expected) > 0.05
    assert relative(unrolled(data, recipe, seed=1, kind=kind), expected) > 0.3


def test_without_momentum_or_curvature_it_is_another(data, monkeypatch):
    """The same training, but a derivative that forgets the momentum, the weight decay, or that gradients move with the parameters."""
    expected, whole = by_differences(data, RECIPE, "margin"), module._backwards
    assert relative(unrolled(data, RECIPE), expected) < 1e-7
    for setting in ({"momentum": 0.0}, {"weight_decay": 0.0}, {"momentum": 0.89}):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_backwards", lambda *parts: whole(*parts[:-1], replace(parts[-1], **setting)))
            assert relative(unrolled(data, RECIPE), expected) > 0.01
    with monkeypatch.context() as patch:
        still = lambda *parts: (along(*parts)[0], Directions(*map(torch.zeros_like, parts[-1])))
        patch.setattr(module, "along", still)
        assert relative(unrolled(data, RECIPE), expected) > 0.2


def test_plain_descent_of_one_step_is_the_gradient_dot(data):
    recipe = replace(RECIPE, epochs=1, batch=100, momentum=0.0)
    start = module.trajectory(data.x, data.y, torch.ones(1, 100), recipe, steps=(0, 1))
    dot = example_gradients(start[0], data.x, data.y, "loss").products(example_gradients(start[1], data.test_x, data.test_y, "margin"))
    assert torch.allclose(unrolled(data, recipe), recipe.rate * (dot - dot.mean(0)) / 100, atol=1e-14)
    nearly = replace(recipe, rate=1e-6)
    first = module.trajectory(data.x, data.y, torch.ones(1, 100), nearly, steps=(0,))[0]
    assert torch.allclose(unrolled(data, nearly), tracin(first, [1e-6], data, nearly), rtol=1e-3, atol=1e-13)


def test_derivatives_along_directions_are_those_of_autograd(data):
    model = train_bank(data.x, data.y, torch.ones(1, 100), RECIPE)
    directions = Directions(*(torch.randn(rows, 3, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
                              for rows, columns in ((10, 65), (10, 5))))
    slopes, turned = along(model, data.x, data.y, directions)

    def losses(lower, upper):
        logits = (data.x @ lower[:5].mT) * (data.x @ lower[5:].mT) @ upper.mT
        return torch.nn.functional.cross_entropy(logits, data.y, reduction="none")

    point = (torch.cat([model.left[0], model.right[0]]), model.down[0])
    for index in range(3):
        direction = tuple(part[:, index] for part in directions)
        assert torch.allclose(torch.func.jvp(losses, point, direction)[1], slopes[:, index], atol=1e-12)
        mean = lambda *parts: losses(*parts).mean()
        product = torch.func.jvp(torch.func.grad(mean, argnums=(0, 1)), point, direction)[1]
        assert all(torch.allclose(one, other[:, index], atol=1e-12) for one, other in zip(product, turned))


def test_outcomes_in_blocks_are_the_same_and_the_dtype_of_the_recipe_does_not_matter(data, monkeypatch):
    whole = unrolled(data, RECIPE)
    assert torch.equal(unrolled(data, replace(RECIPE, dtype=torch.float32)), whole) and whole.shape == (100, 12)
    monkeypatch.setattr(module, "BLOCK_OUTCOMES", 5)
    assert torch.allclose(unrolled(data, RECIPE), whole, atol=1e-13)


def test_another_optimiser_is_refused(data):
    with pytest.raises(ValueError, match="recipe.optimiser must be 'sgd'.*got 'adam'"):
        unrolled(data, replace(RECIPE, optimiser="adam", rate=0.02))
