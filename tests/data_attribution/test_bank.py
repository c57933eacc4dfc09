"""A bank of models equals models trained one by one by autograd; it resumes bit for bit and names what is wrong."""


import pytest
import torch
import torch.nn.functional as F

from tensorlm.data_attribution import Classifiers, Recipe, centred_digits, train_bank
from tensorlm.data_attribution.block import batches, first_values
from tensorlm.training import Muon

RATES = {"sgd": 0.5, "adam": 0.02, "muon": 0.05}
SMALL = dict(epochs=2, batch=32, hidden=5, dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    return centred_digits(150, torch.float64)


@pytest.fixture(scope="module")
def weights():
    """All examples, one left out, half of them, and fractions."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.ones(4, 150, dtype=torch.float64)
    rows[1, 7] = 0
    rows[2, torch.randperm(150, generator=generator)[:75]] = 0
    rows[3] = torch.rand(150, generator=generator, dtype=torch.float64)
    return rows


def by_autograd(x, y, weights, recipe, seed, divide=None):
    """One model, with torch's own optimisers, losses and gradients; only first values and batches are those of the bank."""
    first = first_values(seed, x.shape[1], int(y.max()) + 1, recipe)
    left, right, down = (torch.nn.Parameter(factor[0].clone()) for factor in first)
    settings = dict(lr=recipe.rate, weight_decay=recipe.weight_decay)
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD([left, right, down], momentum=recipe.momentum, **settings)
    elif recipe.optimiser == "adam":
        optimiser = torch.optim.Adam([left, right, down], betas=(recipe.momentum, 0.999), **settings)
    else:
        optimiser = Muon([left, right, down], lr=recipe.rate, momentum=recipe.momentum, weight_decay=0, ns_dtype=recipe.dtype)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps(len(x)))
    for rows in batches(seed, len(x), recipe):
        losses = F.cross_entropy(((x[rows] @ left.T) * (x[rows] @ right.T)) @ down.T, y[rows], reduction="none")
        loss = (weights[rows] * losses).sum() / (weights[rows].sum() if (divide or recipe.divide) == "present" else len(rows))
        if recipe.optimiser == "muon":
            loss = loss + recipe.weight_decay / 2 * sum(factor.square().sum() for factor in (left, right, down))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Classifiers(*(factor.detach()[None] for factor in (left, right, down)))


def distance(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one, other))


@pytest.mark.parametrize("divide", ["present", "batch"])
@pytest.mark.parametrize("optimiser", RATES)
def test_a_bank_equals_models_trained_one_by_one_by_autograd(digits, weights, optimiser, divide):
    x, y = digits.x, digits.y
    recipe = Recipe(optimiser, RATES[optimiser], divide=divide, **SMALL)
    other = "batch" if divide == "present" else "present"
    bank = train_bank(x, y, weights, recipe, 1)
    for number, row in enumerate(weights):
        assert distance(bank.model(number), by_autograd(x, y, row, recipe, 1)) < 1e-10
    assert distance(bank.model(0), by_autograd(x, y, weights[0], recipe, 1, other)) < 1e-10  # nothing is left out
    assert distance(bank.model(1), by_autograd(x, y, weights[1], recipe, 1, other)) > 1e-6  # another normalisation of the batch
    assert distance(bank.model(0), by_autograd(x, y, weights[0], recipe, 2)) > 1e-2  # another seed
