"""The compositionality table: parameters and work add up, kinds agree with the degree and with what the layers compute."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tensorlm.layers import Norm, build_mlp
from tensorlm.layers.mlp import MLP_KINDS
from tensorlm.model import ModelConfig, TensorTransformer, compositionality
from tensorlm.model.compositionality import KINDS
from tensorlm.model.config import CHOICES
from tensorlm.tensors import rational_misfit, remaining_root

SETTINGS = settings(max_examples=100)
SMALL = dict(vocab_size=7, context=8, width=8, head_dim=4)
POSITIONS = [(), ("decay",), ("rope", "toeplitz"), ("rope", "decay", "toeplitz", "key_offset")]
choices = {name: st.sampled_from(allowed) for name, allowed in CHOICES.items() if name not in ("output_init",)}
configs = st.builds(ModelConfig, **{name: st.just(value) for name, value in SMALL.items()}, **choices, layers=st.integers(1, 3),
                    mlp_hidden=st.sampled_from([None, 5]), encoders=st.integers(1, 4), positions=st.sampled_from(POSITIONS))
fraction = st.sampled_from([0.0, 0.4, 1.0])


@SETTINGS
@given(configs, fraction)
def test_parameters_and_shares_add_up(config, a):
    table = compositionality(config, a)
    assert sum(part.parameters for part in table.parts) == TensorTransformer(config).parameter_count()
    assert sum(part.parameter_share for part in table.parts) == pytest.approx(1, abs=1e-12)
    assert sum(part.work_share for part in table.parts) == pytest.approx(1, abs=1e-12)
    assert sum(table.shares(kind)[0] for kind in KINDS) == pytest.approx(1, abs=1e-12)
    assert len({part.name for part in table.parts}) == len(table.parts)


@SETTINGS
@given(configs, fraction)
def test_a_model_has_a_degree_exactly_when_every_part_is_a_polynomial(config, a):
    table = compositionality(config, a)
    model = TensorTransformer(config)
    model.set_anneal(a)
    if any(site.kind == "anneal" for site in model.norm_sites()):
        assert table.degree == model.polynomial_degree()
    assert (table.degree.value is not None) == all(part.kind == "polynomial" for part in table.parts)
    assert all((part.degree is not None) == (part.kind == "polynomial") for part in table.parts)
    per_layer = [part.degree or 1 for part in table.parts if part.name in ("attention", "MLP")]
    if table.degree.value is not None:
        assert table.degree.value == torch.tensor([1, *per_layer]).prod().item() ** config.layers


@SETTINGS
@given(configs)
def test_every_norm_site_has_its_row(config):
    table, model = compositionality(config), TensorTransformer(config)
    sites = sum(site.kind != "none" for block in model.blocks for name, site in block.named_children() if isinstance(site, Norm))
    sites += sum(site.kind != "none" for site in (model.input_site, model.head_site))
    assert sum(part.count for part in table.parts if part.name.startswith("norm ")) == sites
    assert ("QK-norm" in str(table)) == (config.attention != "none" and config.qk_norm != "none")


# Work

@settings(SETTINGS, max_examples=25)
@given(configs)
def test_work_is_that_of_the_matrix_products_and_little_else(config):
    table, model = compositionality(config), TensorTransformer(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 8, dtype=torch.long))
    flops = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    projections = sum(count for name, count in flops.items() if name in ("aten.mm", "aten.addmm")) / 2 / 8
    matrices = sum(p.numel() for _, p in model.parameter_groups()["matrix"]) + config.vocab_size * config.width
    assert projections == matrices  # each matrix once a token
    pairs = flops.get("aten.bmm", 0) / 2 / 8 * 9 / 16  # of the 8 keys that the whole pattern takes a token has 4.5 on average
    named = sum(part.multiply_adds for part in table.parts if part.name in ("attention", "MLP", "head"))
    assert 0 <= named - projections - pairs <= 0.25 * named


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_work_of_a_mlp_is_its_projections_and_its_products(kind):
    config = ModelConfig(**SMALL, mlp=kind, encoders=4, mlp_hidden=5)
    with FlopCounterMode(display=False) as counter:
        build_mlp(kind, 8, 5, encoders=4)(torch.zeros(1, 8))
    products = {"full": 64, "symmetric": 36, "product": 15, "relu": 0, "gelu": 0}.get(kind, 5)
    assert compositionality(config)["MLP"].multiply_adds == config.layers * (counter.get_total_flops() / 2 + products)


def test_work_of_a_token_grows_with_the_context_through_its_keys_alone():
    short, long = (compositionality(ModelConfig(context=context, positions=("decay",))) for context in (64, 1024))
    grown = {part.name for one, part in zip(short.parts, long.parts) if one.multiply_adds != part.multiply_adds}
    assert grown == {"attention"} and long["attention"].multiply_adds - short["attention"].multiply_adds == 2 * 4 * 480 * 49


# Kinds

def along_a_line(layer, width=4):
    x, s = torch.randn(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    norm = Norm("rms")
    return lambda alphas: layer.double()(norm(0.3 * x + alphas[:, None] * s))[..., 0].detach()


@pytest.mark.parametrize("mlp, encoders", [("bilinear", 3), ("square", 3), ("full", 3), ("symmetric", 3),
                                           *(("product", k) for k in (1, 2, 3, 4))])
def test_a_norm_before_a_polynomial_mlp_is_of_the_stated_kind(mlp, encoders):
    part = compositionality(ModelConfig(mlp=mlp, encoders=encoders))["norm before MLP"]
    torch.manual_seed(0)
    layer = build_mlp(mlp, 4, 6, encoders=encoders)
    even = 2 * ((layer.degree + 1) // 2)
    misfit = rational_misfit(along_a_line(layer), (even, even))
    assert (misfit < 1e-9) == (part.kind == "rational") == (not remaining_root(layer.degree))
    if part.kind == "rational":
        assert f"of degree {layer.degree + 1} over {layer.degree}" in part.why


@pytest.mark.parametrize("mlp", ["relu", "relu2", "reglu", "square", "product"])
def test_homogeneous_mlps_scale_as_stated(mlp):
    torch.manual_seed(0)
    layer, x = build_mlp(mlp, 4, 6), torch.randn(5, 4)
    torch.testing.assert_close(layer(3 * x), 3**layer.reads * layer(x), rtol=1e-4, atol=1e-5)
    kind = compositionality(ModelConfig(mlp=mlp))["norm before MLP"].kind
    assert kind == ("neither" if remaining_root(layer.reads) else "rational")
    swiglu = build_mlp("swiglu", 4, 6)
    assert not torch.allclose(swiglu(3 * x), 9 * swiglu(x), rtol=0.1)


@pytest.mark.parametrize("changes, a, name, kind, reason", [
    ({}, 0.0, "norm of the input", "neither", "reads it once: a square root remains"),
    (dict(smear="none"), 0.0, "norm of the input", "neither", "could be folded in"),
    ({}, 0.0, "norm before attention", "neither", "3 times: a square root remains"),
    ({}, 0.0, "norm before MLP", "rational", "degree 3 over 2"),
    ({}, 0.0, "norm before head", "neither", "once"),
    ({}, 0.0, "row norm", "polynomial", "property of the table"),
    (dict(norm="anneal"), 0.0, "norm before MLP", "rational", "degree 3 over 2"),
    (dict(norm="anneal"), 0.25, "norm before MLP", "neither", "75% of a norm for each token: a fractional power"),
    (dict(norm="anneal"), 1.0, "norm before head", "polynomial", "a constant by now"),
    (dict(qk_norm="rms"), 0.0, "QK-norm", "neither", "own query and key once: a square root remains"),
    (dict(qk_norm="rms", attention="squared"), 0.0, "QK-norm", "rational", "read twice"),
    (dict(qk_norm="rms", attention="softmax"), 0.0, "QK-norm", "neither", "inside an exponential"),
    (dict(qk_norm="anneal", norm="none"), 1.0, "QK-norm", "polynomial", "a constant by now"),
    (dict(attention="softmax"), 0.0, "attention", "neither", "exponentials"),
    (dict(attention="softmax"), 0.0, "norm before attention", "neither", "inside an exponential"),
    (dict(mlp="swiglu"), 0.0, "MLP", "neither", "swiglu is no polynomial"),
    (dict(mlp="gelu"), 0.0, "norm before MLP", "neither", "inside a nonlinear function"),
    (dict(mlp="relu2"), 0.0, "norm before MLP", "rational", "read twice, so the root is squared away"),
    (dict(mlp="product", encoders=3), 0.0, "norm before MLP", "neither", "reads it 3 times"),
    (dict(bigram="table"), 0.0, "bigram table", "polynomial", "each pair of tokens"),
    (dict(shortcut="learned", value_residual="learned"), 0.0, "shortcut", "polynomial", "linear"),
    (dict(head="tied"), 0.0, "head", "polynomial", "matrix of the input table"),
])
def test_kinds_and_their_reasons(changes, a, name, kind, reason):
    part = compositionality(ModelConfig(**changes), a)[name]
    assert part.kind == kind and reason in part.why


@pytest.mark.parametrize("changes, absent", [
    (dict(attention="none"), {"attention", "positions", "norm before attention", "QK-norm", "value residual"}),
    (dict(mlp="none"), {"MLP", "norm before MLP"}), (dict(norm="none"), {"norm of the input", "norm before head"}),
    (dict(layers=1, shortcut="learned", value_residual="learned"), {"shortcut", "value residual", "norm before attention"}),
    (dict(head_norm="none"), {"norm before head"}), (dict(input_norm="none", smear="none"), {"row norm", "smear"}),
])
def test_what_is_not_there_has_no_row(changes, absent):
    assert not absent & {part.name for part in compositionality(ModelConfig(**changes)).parts}


def test_the_table_prints_a_line_for_each_part_and_each_kind():
    table = compositionality(ModelConfig())
    lines = str(table).splitlines()
    assert len(lines) == 1 + len(table.parts) + 3 + 1 and lines[-1] == str(table.degree)
    assert all(line.startswith(part.name) and part.why in line for line, part in zip(lines[1:], table.parts))


@pytest.mark.parametrize("call, error, message", [
    (lambda: compositionality({"width": 64}), TypeError, "config must be a ModelConfig, got dict"),
    (lambda: compositionality(ModelConfig(), 1.5), ValueError, "anneal_fraction must be a finite number .* at most 1, got 1.5"),
    (lambda: compositionality(ModelConfig(), float("nan")), ValueError, "anneal_fraction must be a finite number"),
    (lambda: compositionality(ModelConfig(), "1"), ValueError, "anneal_fraction must be a finite number .*, got '1'"),
    (lambda: compositionality(ModelConfig())["gate"], KeyError, "no part 'gate'; there are"),
    (lambda: compositionality(ModelConfig()).shares("linear"), ValueError, "kind must be one of"),
])
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
