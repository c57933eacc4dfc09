"""The transformer: configuration, determinism, causality, degree, folding, groups."""

import dataclasses
import json

import pytest
import torch

from tensorlm.model import ModelConfig, TensorTransformer, preset
from tensorlm.model.config import PRESETS

SMALL = dict(vocab_size=11, context=8, width=16, layers=2, head_dim=8)


def randomised(config, scale=0.3):
    torch.manual_seed(0)
    model = TensorTransformer(config).double()
    for parameter in model.parameters():
        parameter.data.normal_(0, scale)
    return model


def tokens(count=8, batch=2, vocab=11):
    return torch.randint(0, vocab, (batch, count), generator=torch.Generator().manual_seed(0))


def test_config_round_trips_through_json():
    config = ModelConfig(positions=("rope", "decay"), bigram="table")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"unknown ModelConfig fields \['depth'\]"):
        ModelConfig.from_dict({"depth": 3})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3


@pytest.mark.parametrize("change, message", [
    (dict(mlp="silu"), "mlp must be one of .*'silu'"),
    (dict(attention="linear"), "attention must be one of"),
    (dict(width=0), "width must be a whole number of at least 1, got 0"),
    (dict(layers=2.0), "layers must be a whole number"),
    (dict(layers=1001), "layers must be at most 1,000, got 1001"), (dict(encoders=10**9), "encoders must be at most 1,000"),
    (dict(head_dim=7), "head_dim must be a divisor of width"),
    (dict(head_dim=1, positions=("rope",)), "head_dim must be even"),
    (dict(positions=("alibi",)), "positions must be a tuple of distinct names"),
    (dict(positions="rope"), "positions must be a tuple"),
    (dict(positions=("rope", "rope")), "positions must be a tuple of distinct"),
    (dict(vocab_size=50_304, bigram="table"), "bigram='table' would need"),
    (dict(mlp_hidden=0), "mlp_hidden must be"),
])
def test_config_errors_name_field_value_and_what_is_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**change)


def test_presets_and_unknown_names():
    assert set(PRESETS) == {"nano", "micro", "colab", "small", "base", "gpt2"}
    with pytest.raises(ValueError, match="preset must be one of .* got 'tiny'"):
        preset("tiny")
    with pytest.raises(ValueError, match="unknown ModelConfig fields"):
        preset("nano", depth=1)


@pytest.mark.parametrize("attention", ["softmax", "squared", "bilinear"])
@pytest.mark.parametrize("mlp", ["relu2", "swiglu", "bilinear", "product"])
def test_every_block_has_twelve_width_squared_parameters(attention, mlp):
    config = preset("micro", attention=attention, mlp=mlp, positions=())
    model = TensorTransformer(config)
    blocks = sum(parameter.numel() for _, parameter in model.parameter_groups()["matrix"])
    assert blocks == pytest.approx(12 * config.width**2 * config.layers, rel=0.01)


def test_same_seed_same_weights_and_another_seed_others():
    one, two, other = (TensorTransformer(ModelConfig(**SMALL), seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not torch.equal(one.embedding, other.embedding)


def test_a_new_model_predicts_the_uniform_distribution():
    assert TensorTransformer(ModelConfig(**SMALL))(tokens()).abs().max() == 0


@pytest.mark.parametrize("attention", ["softmax", "squared", "bilinear", "none"])
def test_causality(attention):
    config = ModelConfig(**SMALL, attention=attention, bigram="table", value_residual="learned", shortcut="learned",
                         positions=("rope", "decay", "toeplitz", "key_offset"))
    model, text = randomised(config), tokens()
    changed = text.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    assert torch.equal(model(text)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(text)[:, 5:], model(changed)[:, 5:])


def along_a_ray(model, points, low=-1.0, high=1.0):
    """Logits as the input rows move along a line: (points,), one logit, float64."""
    rows = torch.randn(2, 1, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    nodes = torch.cos(torch.pi * (torch.arange(points, dtype=torch.float64) + 0.5) / points)
    values = []
    for t in low + (nodes + 1) * (high - low) / 2:
        x = x0 = rows[0] + t * rows[1]
        first = None
        for block in model.blocks:
            x, v, _ = block(x, x0, first)
            first = v if first is None else first
        values.append(model.unembed(x)[0, -1, 0])
    return nodes, torch.stack(values).detach()


def top_coefficients(model, degree, points=64):
    """Chebyshev coefficients of one logit along a ray: largest up to the degree, largest beyond it."""
    nodes, values = along_a_ray(model, points)
    angles = torch.arccos(nodes)
    coefficients = 2 / points * torch.stack([(values * torch.cos(n * angles)).sum() for n in range(points)])
    return coefficients[: degree + 1].abs().max().item(), coefficients[degree + 1 :].abs().max().item()


@pytest.mark.parametrize("change, degree", [
    (dict(layers=1), 10), (dict(layers=1, mlp="product", encoders=3), 15), (dict(layers=1, attention="none"), 2),
    (dict(layers=2, attention="none"), 4), (dict(layers=1, mlp="none", attention="squared"), 5),
])
def test_stated_degree_is_the_measured_one(change, degree):
    model = randomised(ModelConfig(**{**SMALL, **change}, norm="none"), scale=0.5)
    assert int(model.polynomial_degree()) == degree
    below, beyond = top_coefficients(model, degree)
    assert beyond < 1e-10 * below
    assert top_coefficients(model, degree - 1)[1] > 1e-9 * below


@pytest.mark.parametrize("change, reason", [
    (dict(norm="rms"), "root mean square"), (dict(norm="none", attention="softmax"), "exponentials"),
    (dict(norm="none", mlp="swiglu"), "swiglu MLP is no polynomial"), (dict(norm="none", qk_norm="rms"), "qk_norm"),
    (dict(norm="anneal"), "still 100% a per-token norm"),
])
def test_no_degree_comes_with_a_reason_and_with_coefficients_of_every_order(change, reason):
    model = randomised(ModelConfig(**{**SMALL, "layers": 1, **change}), scale=0.5)
    assert model.polynomial_degree().value is None and reason in str(model.polynomial_degree())
    with pytest.raises(ValueError, match=reason):
        int(model.polynomial_degree())
    below, beyond = top_coefficients(model, 10)
    assert beyond > 1e-9 * below


def annealed_model(**changes):
    model = randomised(ModelConfig(**SMALL, norm="anneal", qk_norm="anneal", bigram="table", shortcut="learned", **changes))
    model.train()
    for seed in range(3):
        model(torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(seed)))
        model.update_norms()
    return model


def test_folding_keeps_the_logits_and_leaves_no_norm():
    model = annealed_model()
    assert model.norm_penalty() >= 0
    with pytest.raises(ValueError, match="only constant norm sites can be folded"):
        model.fold_norms()
    model.set_anneal(1.0)
    model.eval()
    folded = model.fold_norms()
    assert folded.config.norm == folded.config.qk_norm == "none"
    torch.testing.assert_close(folded(tokens()), model(tokens()), rtol=1e-9, atol=1e-9)
    assert folded.polynomial_degree().value == 100
    assert not torch.allclose(TensorTransformer(folded.config).double()(tokens()), model(tokens()))


@pytest.mark.parametrize("norm, qk_norm", [("batch", "batch"), ("channel", "none"), ("scale", "anneal"), ("anneal", "batch")])
@pytest.mark.parametrize("mlp", ["bilinear", "full", "product"])
def test_every_kind_that_is_constant_at_evaluation_folds(norm, qk_norm, mlp, tmp_path):
    model = randomised(ModelConfig(**{**SMALL, "layers": 2}, norm=norm, qk_norm=qk_norm, mlp=mlp)).train()
    generator = torch.Generator().manual_seed(3)
    for site in model.norm_sites():
        for parameter in site.parameters():
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    for _ in range(3):
        model(tokens())
        model.update_norms()
    model.set_anneal(1.0)
    folded, model = model.eval().fold_norms(), model.eval()
    torch.testing.assert_close(folded(tokens()), model(tokens()), rtol=1e-9, atol=1e-9)
    assert model.polynomial_degree().value == folded.polynomial_degree().value is not None
    again = TensorTransformer(folded.config).double()
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(tokens()), folded(tokens()))
    folded.input_scale.mul_(1.01)
    assert not torch.allclose(folded(tokens()), model(tokens()))


@pytest.mark.parametrize("qk_norm", ["rms", "none"])
def test_a_normed_model_can_let_its_norms_fade(qk_norm):
    model = randomised(ModelConfig(**SMALL, norm="rms", qk_norm=qk_norm)).eval()
    copy = model.with_fading_norms(tokens())
    assert (copy.config.norm, copy.config.qk_norm) == ("anneal", "anneal" if qk_norm == "rms" else "none")
    torch.testing.assert_close(copy(tokens()), model(tokens()), rtol=1e-3, atol=1e-3)    # both keep a tiny number in the root
    site, seen = copy.blocks[1].mlp_norm, []
    site.register_forward_hook(lambda _, x, y: seen.append(x[0]))
    copy(tokens())
    r = seen[0].square().mean(-1).sqrt()
    assert r.std() > 1e-3 and site.log_constant.item() == pytest.approx(r.log().mean().item(), abs=1e-6)
    copy.set_anneal(1.0)
    assert not torch.allclose(copy(tokens()), model(tokens()), rtol=1e-3, atol=1e-3)
    assert copy.fold_norms().polynomial_degree().value == copy.polynomial_degree().value is not None


@pytest.mark.parametrize("name, changes", [("norm", dict(norm="none")), ("norm", dict(norm="anneal")), ("qk_norm", dict(qk_norm="joint"))])
def test_other_norms_cannot_fade(name, changes):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        TensorTransformer(ModelConfig(**SMALL, **changes)).with_fading_norms(tokens())


def test_folding_a_model_with_token_norms_is_refused():
    with pytest.raises(ValueError, match="sites of kinds \\['rms'\\]"):
        TensorTransformer(ModelConfig(**SMALL)).fold_norms()


def test_parameter_groups_cover_everything_once():
    config = ModelConfig(**SMALL, bigram="table", value_residual="learned", shortcut="learned")
    model = TensorTransformer(config)
    grouped = [name for group in model.parameter_groups().values() for name, _ in group]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    model.register_parameter("odd", torch.nn.Parameter(torch.zeros(2, 2, 2)))
    with pytest.raises(ValueError, match="no optimiser group for parameter 'odd'"):
        model.parameter_groups()


def test_precision_of_activations_leaves_the_masters_alone():
    model = TensorTransformer(ModelConfig(**SMALL))
    assert model(tokens(), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("bad, message", [
    (torch.zeros(8, dtype=torch.long), "be whole numbers of shape .*got torch.int64 .8,."), (torch.zeros(1, 8), "got torch.float32"),
    (torch.zeros(1, 0, dtype=torch.long), "got torch.int64 .1, 0."), ([[1, 2]], "got list"),
    (torch.ones(1, 8, dtype=torch.bool), "got torch.bool .1, 8."),
    (torch.tensor([[0, 11]]), "lie in 0 .. 10, the rows of the embedding; got 0 to 11"), (torch.tensor([[-1, 3]]), "got -1 to 3"),
    (torch.zeros(1, 8, dtype=torch.long, device="meta"), "on the model's device, cpu; got them on meta"),
])
def test_bad_tokens_are_named(bad, message):
    for bigram in ("none", "table"):
        model = TensorTransformer(ModelConfig(**SMALL, bigram=bigram))
        for use in (model, model.embed):
            with pytest.raises(ValueError, match=f"tokens must .*{message}"):
                use(bad)
    with pytest.raises(ValueError, match="dtype must be a floating-point dtype or None, got torch.int64"):
        model(tokens(), dtype=torch.int64)


def test_tied_head_has_no_matrix_of_its_own():
    tied = TensorTransformer(ModelConfig(**SMALL, head="tied"))
    assert not hasattr(tied, "head") and tied(tokens()).abs().max() > 0
