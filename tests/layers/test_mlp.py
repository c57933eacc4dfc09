"""MLPs: formulas, degrees, counts, matching, initialisation, errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from tensorlm.layers import build_mlp, init_weights, matched_hidden, mlp_parameters
from tensorlm.layers.mlp import MLP_KINDS, TENSOR_KINDS

POLYNOMIAL = {"bilinear": 2, "square": 2, "full": 2, "symmetric": 2, "product": 3}


def make(kind, width=6, hidden=5, out=4, encoders=3):
    torch.manual_seed(0)
    return build_mlp(kind, width, hidden, out, encoders).double()


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_shape_and_parameter_count(kind):
    layer = make(kind)
    assert layer(torch.randn(2, 3, 6, dtype=torch.float64)).shape == (2, 3, 4)
    counted = sum(parameter.numel() for parameter in layer.parameters())
    assert layer.parameter_count == counted == mlp_parameters(kind, 6, 5, 4, 3)


@pytest.mark.parametrize("kind", MLP_KINDS)
@settings(max_examples=20)
@given(a=st.floats(-8, 8).filter(lambda a: abs(a) > 0.1 and abs(abs(a) - 1) > 0.1))
def test_scaling_law_holds_exactly_where_a_degree_is_stated(kind, a):
    layer, x = make(kind), torch.randn(10, 6, dtype=torch.float64)
    degree = layer.degree or 2
    holds = torch.allclose(layer(a * x), a**degree * layer(x), rtol=1e-10, atol=1e-12)
    assert holds == (layer.degree is not None or (kind in ("relu2", "reglu") and a > 0))
    assert layer.degree == POLYNOMIAL.get(kind)


def test_gated_kinds_match_their_formula():
    x = torch.randn(7, 6, dtype=torch.float64)
    maps = {"swiglu": F.silu, "geglu": F.gelu, "reglu": F.relu, "glu": torch.sigmoid, "bilinear": lambda u: u}
    for kind, activation in maps.items():
        layer = make(kind)
        expected = (activation(x @ layer.L.T) * (x @ layer.R.T)) @ layer.D.T
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_full_tensor_contains_the_bilinear_layer_and_not_the_other_way_round():
    bilinear, full = make("bilinear"), make("full")
    tensor = torch.einsum("ok,ki,kj->oij", bilinear.D, bilinear.L, bilinear.R)
    full.T.data.copy_(tensor.flatten(1))
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(full(x), bilinear(x), rtol=1e-12, atol=1e-12)
    full.T.data.add_(0.1)
    assert not torch.allclose(full(x), bilinear(x))


def test_product_of_two_encoders_is_the_bilinear_layer():
    product, bilinear = make("product", encoders=2), make("bilinear")
    for target, source in ((product.E[0], bilinear.L), (product.E[1], bilinear.R), (product.D, bilinear.D)):
        target.data.copy_(source)
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(product(x), bilinear(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in MLP_KINDS if kind not in TENSOR_KINDS])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 384])
def test_matched_hidden_is_the_nearest_multiple_of_eight(kind, width):
    target = 8 * width * width
    hidden = matched_hidden(kind, width, target)
    distance = [abs(mlp_parameters(kind, width, h) - target) for h in (hidden - 8, hidden, hidden + 8)]
    assert distance[1] <= min(distance) and hidden % 8 == 0


@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_matched_hidden_refuses_the_full_tensor(kind):
    with pytest.raises(ValueError, match="kind must be one of"):
        matched_hidden(kind, 8, 512)


@pytest.mark.parametrize("arguments, message", [
    (("silu", 4), "kind must be one of .* got 'silu'"),
    (("bilinear", 0), "at least 1"),
    (("product", 4, 4, 4, 0), "encoders must be a whole number of at least 1, got 0"),
])
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_mlp(*arguments)


def test_wrong_width_names_both_shapes():
    with pytest.raises(ValueError, match=r"must have 6 features.*\(2, 5\)"):
        make("bilinear")(torch.zeros(2, 5, dtype=torch.float64))


def test_init_gives_unit_variance_hidden_values_and_unit_output():
    torch.manual_seed(0)
    x = torch.randn(4096, 64)
    for kind in ("bilinear", "full", "symmetric"):
        assert build_mlp(kind, 64, 128)(x).var().item() == pytest.approx(1.0, rel=0.15)


def test_init_refuses_an_unknown_parameter():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mystery = torch.nn.Parameter(torch.zeros(2))

    with pytest.raises(ValueError, match="no initialisation rule for parameter 'mystery'"):
        init_weights(Odd())


def test_zero_output_init_still_learns_and_zeroing_both_factors_does_not():
    layer = make("bilinear")
    init_weights(layer, output_init="zero")
    x = torch.randn(8, 6, dtype=torch.float64)
    layer(x).sum().backward()
    assert layer.D.grad.abs().max() > 0 and layer.L.grad.abs().max() == 0
    layer.zero_grad()
    layer.L.data.zero_(), layer.R.data.zero_()
    layer(x).sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_choose_the_precision_and_weights_keep_theirs(dtype):
    layer = build_mlp("bilinear", 8, 8)
    assert layer(torch.randn(2, 8, dtype=dtype)).dtype == dtype
    assert layer.L.dtype == torch.float32


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_whole_numbers_are_refused_since_they_would_turn_the_weights_into_whole_numbers(kind):
    with pytest.raises(TypeError, match="x must be a tensor of floating-point numbers, got torch.int64"):
        build_mlp(kind, 4, 8)(torch.tensor([[3, 1, 4, 1]]))


@pytest.mark.parametrize("name, value", [("width", 2.5), ("hidden", "8"), ("out", 0), ("encoders", True)])
@pytest.mark.parametrize("kind", ["relu", "bilinear", "product", "symmetric"])
def test_sizes_are_whole_numbers(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value!r}"):
        build_mlp(kind, **{"width": 4, "hidden": 8, name: value})
