"""Compact proofs of modular addition: never more than the truth, all of it where the layer is exactly structured."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensor_cases import close, randn

from tensorlm.proofs import compact
from tensorlm.proofs.compact import fourier_layer, modular_proof, structured_part, train_modular, unstructured_share
from tensorlm.tensors import CPTensor


def random_layer(p, hidden, seed):
    return CPTensor(randn(p, hidden, seed=seed), randn(hidden, p, seed=seed + 1), randn(hidden, p, seed=seed + 2))


def added(one, other, scale=1.0):
    """The sum of two layers' tensors."""
    return CPTensor(torch.cat([one.D, scale * other.D], 1), torch.cat([one.L, other.L]), torch.cat([one.R, other.R]))


def by_shift(cp):
    """T_(a+b+r)ab as an array (r, a, b), the logits less their mean over c."""
    p, tensor = cp.out, cp.dense().view(cp.out, cp.out, cp.out)
    tensor = tensor - tensor.mean(0)
    a = torch.arange(p)
    return torch.stack([tensor[(a[:, None] + a + r) % p, a[:, None], a] for r in range(p)])


@settings(max_examples=30)
@given(st.sampled_from([3, 4, 5, 8, 11]), st.integers(1, 6), st.floats(0, 2), st.integers(0, 10_000))
def test_no_proof_claims_more_than_the_truth(p, hidden, noise, seed):
    """From exactly structured to fully random layers, even and odd moduli."""
    frequencies = tuple(range(1, (p - 1) // 2 + 1))
    cp = added(fourier_layer(p, frequencies), random_layer(p, hidden, seed), noise)
    every, shifts, norm = (modular_proof(cp, method) for method in compact.METHODS)
    answers = by_shift(cp)
    assert every.failing == int((answers[1:] >= answers[0]).any(0).sum())
    assert shifts.failing >= every.failing and norm.failing >= every.failing
    assert shifts.share <= every.share and norm.share <= every.share and every.inputs == p * p


def test_an_exactly_structured_layer_is_proven_whole_by_three_units_a_frequency():
    cp = fourier_layer(13, (1, 4))
    a = torch.arange(13)
    waves = sum((2 * math.pi * f * (a[:, None] + a - a[:, None, None]).double() / 13).cos() for f in (1, 4))
    close(cp.dense().view(13, 13, 13), waves, scale=1)
    assert cp.hidden == 6 and float(unstructured_share(cp)) < 1e-12
    assert [modular_proof(cp, method).share for method in compact.METHODS] == [1.0, 1.0, 1.0]
    assert modular_proof(fourier_layer(15, (3,))).share == 0.0  # cos has period 5: a tie with c + 5


def test_the_structured_part_is_a_mean_and_the_products_are_sums_over_pairs():
    cp = compact.centred(random_layer(7, 4, seed=3))
    answers, (own, crossed) = by_shift(cp), compact.shift_products(cp)
    close(structured_part(cp), answers.mean((1, 2)), scale=1)
    close(own, answers.square().sum((1, 2)))
    close(crossed, (answers * answers[0]).sum((1, 2)), scale=own.max())
    rest = answers - answers.mean((1, 2), keepdim=True)
    assert float(unstructured_share(cp)) == pytest.approx(float(rest.square().sum() / answers.square().sum()))


def test_half_the_constant_of_the_norm_proof_would_be_wrong():
    """The cheapest failure: one pair, the right logit lowered and another raised by half of the gap."""
    p, base = 11, fourier_layer(11, (1, 2, 3, 4, 5))
    g = structured_part(base)
    gap = float((g[0] - g[1:]).min())
    wrong = CPTensor(torch.zeros(p, 1).double(), torch.zeros(1, p).double(), torch.zeros(1, p).double())
    a, b, c = 2, 3, 8
    wrong.D[(a + b) % p, 0], wrong.D[c, 0] = -1, 1
    wrong.L[0, a] = wrong.R[0, b] = 1
    cp = added(base, wrong, gap / 2 * 1.05)
    proof = modular_proof(cp)
    assert modular_proof(cp, "every pair").failing == proof.failing == 1
    centred = compact.centred(cp)
    part = structured_part(centred)
    rest = float(compact.squared_norm(centred) - p**2 * part.square().sum())
    assert rest / float((part[0] - part[1:]).min()) ** 2 < 1  # so it would claim that none fails


def test_the_structured_part_alone_proves_nothing():
    cp = added(fourier_layer(7, (1, 2, 3)), random_layer(7, 5, seed=1), 1.0)
    part = structured_part(compact.centred(cp))
    assert float((part[0] - part[1:]).min()) > 0  # the right shift wins on average
    assert modular_proof(cp, "every pair").failing > 0 and modular_proof(cp).share == 0.0


def test_multiply_adds_fall_from_proof_to_proof_at_the_sizes_of_the_study():
    costs = [modular_proof(random_layer(59, 64, seed=1), method).multiply_adds for method in compact.METHODS]
    assert costs[0] == 59**2 * 64 * 60
    assert costs[0] > 2 * costs[1] > 8 * costs[2] > 0
    assert 3 * 64**2 * 59 < costs[2] < 4 * 64**2 * 59


def test_the_share_has_a_gradient():
    cp = random_layer(5, 3, seed=2)
    parts = [part.requires_grad_() for part in (cp.D, cp.L, cp.R)]
    assert torch.autograd.gradcheck(lambda *parts: unstructured_share(CPTensor(*parts)), parts)


def test_training_for_the_proof_makes_one():
    settings = dict(p=7, hidden=12, seed=0, steps=300)
    plain, proven = (train_modular(**settings, penalty=penalty) for penalty in (0.0, 3.0))
    assert float(unstructured_share(proven.layer)) < 0.05 < 0.2 < float(unstructured_share(plain.layer))
    assert modular_proof(proven.layer).share > 0.8 and modular_proof(plain.layer).share == 0.0
    again = train_modular(11, 18, seed=0, steps=20, penalty=3.0)
    assert torch.equal(again.layer.D, train_modular(11, 18, seed=0, steps=20, penalty=3.0).layer.D)
    late = train_modular(11, 18, seed=0, steps=50, penalty=3.0, penalty_from=50)
    assert torch.equal(late.layer.D, train_modular(11, 18, seed=0, steps=50).layer.D)
    whole = train_modular(5, 4, steps=2, share=1.0)
    assert math.isnan(whole.held_out_loss) and whole.generalised_at is None


@pytest.mark.parametrize("make, message", [
    (lambda: modular_proof(CPTensor(randn(3, 2), randn(2, 4), randn(2, 4))), "cp must be with out = width"),
    (lambda: modular_proof(random_layer(5, 2, 1), "guess"), "method must be one of"),
    (lambda: modular_proof(CPTensor(randn(3, 2), randn(2, 3) / 0, randn(2, 3))), "L of cp must be finite"),
    (lambda: fourier_layer(7, (4,)), "frequencies must be a whole number from 1 to 3"),
    (lambda: fourier_layer(7, ()), "frequencies must be at least one"),
    (lambda: train_modular(7, 4, share=0.0), "share must be a finite number above 0 and of at most 1"),
    (lambda: train_modular(7, 4, penalty=-1.0), "penalty must be"),
    (lambda: train_modular(0, 4), "p must be"),
])
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
