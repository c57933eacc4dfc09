"""Modular addition: each model of a bank is the one that is trained alone, TracIn is a sum of products of gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tensorlm.data_attribution import Adder, grok, modular, split_pairs, without

ADDER = Adder(p=7, hidden=8, steps=12, every=4)


@pytest.fixture(scope="module")
def pairs():
    return split_pairs(7)


def answers(parts, pairs):
    A, B, D = parts
    return (A[pairs[:, 0]] * B[pairs[:, 1]]) @ D.T


def alone(weights, pairs, seed: int):
    """The path of one model by plain autograd and torch's AdamW."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(torch.randn(7, 8, generator=generator) / 8**0.5).requires_grad_() for _ in range(3)]
    optimiser, path = torch.optim.AdamW(parts, ADDER.rate, modular.BETAS, weight_decay=ADDER.decay), []
    for step in range(ADDER.steps + 1):
        if step % ADDER.every == 0:
            path.append([part.detach().clone() for part in parts])
        optimiser.zero_grad()
        (weights * cross_entropy(answers(parts, pairs.train), pairs.train_sum, reduction="none")).mean().backward()
        optimiser.step()
    return path


def test_each_model_is_the_one_that_is_trained_alone(pairs):
    weights = without(len(pairs.train), [5])
    whole, left = (alone(row.float(), pairs, seed=3) for row in weights)
    run = grok(ADDER, pairs, weights, seed=3)
    for found, expected in zip(run.path, whole):
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    shares = [(answers(parts, pairs.test).argmax(1) == pairs.test_sum).float().mean() for parts in left]
    assert torch.allclose(run.accuracy[1], torch.stack(shares), atol=0.05)
    assert not torch.allclose(whole[-1][0], left[-1][0], atol=1e-4)


def test_trace_is_the_sum_of_products_of_gradients(pairs):
    path = grok(ADDER, pairs, torch.ones(1, len(pairs.train))).path
    total = torch.zeros(len(pairs.train))
    for parts in path:
        own = [part.clone().requires_grad_() for part in parts]
        test = torch.autograd.grad(cross_entropy(answers(own, pairs.test), pairs.test_sum), own)
        for place in range(len(pairs.train)):
            loss = cross_entropy(answers(own, pairs.train[place : place + 1]), pairs.train_sum[place : place + 1])
            total[place] += sum((one * other).sum() for one, other in zip(torch.autograd.grad(loss, own), test))
    torch.testing.assert_close(modular.trace(path, pairs), total, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(total, total.flip(0), atol=1e-3)


def test_the_step_at_a_level_is_interpolated():
    accuracy = torch.tensor([[0.0, 0.25, 0.75, 1.0], [0.6, 0.7, 0.8, 0.9], [0.0, 0.1, 0.2, 0.3]])
    steps = modular.Grokked(accuracy, ()).step_at(0.5, every=10)
    assert steps[:2].tolist() == [15.0, 0.0]
    assert steps[2].isnan()


@pytest.mark.parametrize(("weights", "message"), [
    (torch.ones(1, 3), r"weights must be a matrix \(models, 24\)"), (-torch.ones(1, 24), "weights must be at least 0"),
    (torch.full((1, 24), torch.nan), "weights")])
def test_weights_that_do_not_fit_are_refused(pairs, weights, message):
    with pytest.raises(ValueError, match=message):
        grok(ADDER, pairs, weights)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="rate"):
        Adder(rate=0.0)
    with pytest.raises(ValueError, match="share"):
        split_pairs(7, share=1.5)
