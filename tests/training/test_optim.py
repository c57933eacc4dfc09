"""Muon equals torch's; the groups cover the model; the schedule is what it says."""

import math

import pytest
import torch

from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.scaling import newton_schulz
from tensorlm.training import TrainConfig
from tensorlm.training.optim import Muon, Optimizers, anneal_at, assert_covered, lr_scale

SHAPES = [(16, 16), (16, 16), (32, 16), (16, 48), (32, 16)]
SMALL = ModelConfig(context=8, width=16, layers=2, head_dim=8, bigram="table", value_residual="learned")


def three_steps(make, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = make(weights)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return [weight.detach() for weight in weights]


needs_torch_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


@needs_torch_muon
def test_own_muon_is_the_function_of_torch_muon():
    settings = dict(lr=0.05, momentum=0.9, weight_decay=0.3)
    ours = three_steps(lambda w: Muon(w, ns_dtype=torch.bfloat16, **settings))
    theirs = three_steps(lambda w: torch.optim.Muon(w, adjust_lr_fn="original", **settings))
    start = three_steps(lambda w: Muon(w, lr=0.0))
    for a, b, s in zip(ours, theirs, start):
        assert (a - b).abs().max() < 0.02 * (b - s).abs().max()  # bfloat16 rounds the iteration


@needs_torch_muon
@pytest.mark.parametrize("change", [dict(momentum=0.8), dict(weight_decay=0.0), dict(ns_steps=4)])
def test_the_comparison_would_notice_another_setting(change):
    settings = dict(lr=0.05, momentum=0.9, weight_decay=0.3)
    ours = three_steps(lambda w: Muon(w, ns_dtype=torch.bfloat16, **{**settings, **change}))
    theirs = three_steps(lambda w: torch.optim.Muon(w, adjust_lr_fn="original", **settings))
    start = three_steps(lambda w: Muon(w, lr=0.0))
    assert any((a - b).abs().max() > 0.05 * (b - s).abs().max() for a, b, s in zip(ours, theirs, start))


def test_batching_matrices_of_one_shape_changes_nothing():
    together = three_steps(lambda w: Muon(w, lr=0.05))

    def alone(weights):
        members = [Muon([weight], lr=0.05) for weight in weights]
        return type("Each", (), {"step": lambda self: [member.step() for member in members]})()

    for a, b in zip(together, three_steps(alone)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_newton_schulz_flattens_the_spectrum_and_keeps_the_directions():
    x = torch.randn(4, 12, 20, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    core = torch.diag_embed(torch.ones_like(s))
    rotated = u.mT @ newton_schulz(x) @ v.mT
    assert (rotated - torch.diag_embed(torch.diagonal(rotated, dim1=1, dim2=2))).abs().max() < 1e-3
    assert (rotated - core).abs().max() < 0.4 and (newton_schulz(x, steps=0) - x).abs().max() > 0.4


@pytest.mark.parametrize("factor, dtype", [(1e-12, torch.float32), (1e-30, torch.float32), (1e19, torch.float32), (1e200, torch.float64)])
def test_newton_schulz_does_not_depend_on_scale(factor, dtype):
    x = torch.randn(4, 12, 20, generator=torch.Generator().manual_seed(1), dtype=dtype)
    torch.testing.assert_close(newton_schulz(factor * x), newton_schulz(x), rtol=1e-3, atol=1e-4)
    assert not newton_schulz(0 * x).any()
    torch.testing.assert_close(newton_schulz(torch.stack([x[0], 0 * x[1]]))[0], newton_schulz(x)[0], rtol=1e-4, atol=1e-5)


def test_muon_refuses_what_is_not_a_matrix():
    vector, matrix = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match="a parameter must be a matrix"):
        Muon([vector])
    optimizer = Muon([matrix])
    with pytest.raises(ValueError, match=r"a parameter must be a matrix, got Parameter of shape \(3,\)"):
        optimizer.add_param_group({"params": [vector]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("settings, message", [
    (dict(lr=-1.0), "lr must be a finite number of at least 0, got -1.0"), (dict(lr=math.nan), "lr must be .* got nan"),
    (dict(momentum=1.5), "momentum must be at least 0 and below 1, got 1.5"), (dict(momentum=math.nan), "momentum must be"),
    (dict(weight_decay=-0.1), "weight_decay must be"), (dict(ns_steps=0), "ns_steps must be a whole number of at least 1, got 0"),
])
def test_muon_refuses_settings_that_are_none(settings, message):
    matrix, other = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    with pytest.raises(ValueError, match=message):
        Muon([matrix], **settings)
    with pytest.raises(ValueError, match=message):
        Muon([matrix]).add_param_group({"params": [other], **settings})


@pytest.mark.parametrize("name, kinds", [("muon-batched", [Muon, torch.optim.AdamW]), ("adamw", [torch.optim.AdamW])])
def test_every_parameter_has_its_own_rate(name, kinds):
    model = TensorTransformer(SMALL)
    config = TrainConfig(optimizer=name, lr_matrix=0.1, lr_embedding=0.2, lr_bigram=0.3, lr_head=0.4, lr_scalar=0.5)
    both = Optimizers(model, config)
    assert [type(member) for member in both.members] == kinds
    both.set_scale(0.5)
    rates = {p: g["lr"] for member in both.members for g in member.param_groups for p in g["params"]}
    for group, pairs in model.parameter_groups().items():
        for _, p in pairs:
            assert rates.pop(p) == 0.5 * getattr(config, f"lr_{group}")
    assert not rates


def test_adamw_does_not_drown_small_gradients():
    both = Optimizers(TensorTransformer(SMALL), TrainConfig())
    assert both.members[1].defaults["eps"] == 1e-10
    assert all(group["weight_decay"] == 0 for group in both.members[1].param_groups)


def test_torch_muon_is_taken_where_asked_for_and_present(monkeypatch):
    model = TensorTransformer(SMALL)
    if hasattr(torch.optim, "Muon"):
        assert isinstance(Optimizers(model, TrainConfig(optimizer="muon")).members[0], torch.optim.Muon)
        monkeypatch.delattr(torch.optim, "Muon")
    own = Optimizers(model, TrainConfig(optimizer="muon")).members[0]
    assert isinstance(own, Muon) and own.ns_dtype == torch.bfloat16


def test_a_parameter_left_out_or_doubled_is_named():
    model = TensorTransformer(SMALL)
    groups = {name: [p for _, p in pairs] for name, pairs in model.parameter_groups().items()}
    assert_covered(model, groups)
    with pytest.raises(ValueError, match="parameter head must be in exactly 1 optimiser group, got 0"):
        assert_covered(model, {**groups, "head": []})
    with pytest.raises(ValueError, match="parameter head must be in exactly 1 optimiser group, got 2"):
        assert_covered(model, {**groups, "scalar": groups["scalar"] + [model.head]})
    with pytest.raises(ValueError, match="parameter group must be one of 'matrix', .*, got 'other'"):
        assert_covered(model, {**groups, "other": []})


def test_schedule_warms_up_stays_and_falls_to_zero():
    config = TrainConfig(steps=100, warmup=10, cooldown=0.4)
    scales = [lr_scale(step, config) for step in range(101)]
    assert scales[0] == 0.1 and scales[9] == 1 == scales[60] and scales[80] == pytest.approx(0.5) and scales[100] == 0
    assert all(a <= b for a, b in zip(scales[:10], scales[1:11])) and min(scales[:100]) > 0
    assert lr_scale(99, TrainConfig(steps=100, cooldown=0.0)) == 1


def test_annealing_starts_and_ends_where_it_should():
    config = TrainConfig(steps=100, anneal=(0.1, 0.8))
    assert [anneal_at(step, config) for step in (0, 10, 80, 100)] == [0, 0, 1, 1]
    assert anneal_at(45, config) == pytest.approx(0.5)
    jump = TrainConfig(steps=100, anneal=(0.5, 0.5))
    assert [anneal_at(step, jump) for step in (0, 49, 50, 100)] == [0, 0, 1, 1]
