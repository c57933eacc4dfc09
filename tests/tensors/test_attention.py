"""One attention head as a sixth-order tensor: evaluation, symmetry, mask, rotation and row scale as constants, errors."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tensorlm.layers import Attention
from tensorlm.tensors import head_output, head_tensor, head_weights

SETTINGS = settings(max_examples=25)
NAMES = ("q1", "k1", "q2", "k2", "v", "o")


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(head_dim=2, width=3, out=3, seed=0):
    return {name: draw(*((out, head_dim) if name == "o" else (head_dim, width)), seed=seed + n) for n, name in enumerate(NAMES)}


def make(kind="bilinear", positions=(), width=4, head_dim=4, row_scale="sqrt", **settings):
    torch.manual_seed(0)
    layer = Attention(kind, width, head_dim, 6, positions, row_scale, **settings).double()
    if "toeplitz" in positions:
        layer.positions.toeplitz.data.normal_(0, 0.5)
    return layer


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**16))
def test_the_tensor_on_five_vectors_is_the_product_of_scores_and_value(head_dim, width, out, seed):
    head = weights(head_dim, width, out, seed)
    a, b, c, d, e = draw(5, width, seed=seed + 7)
    expected = (head["q1"] @ a) @ (head["k1"] @ c) * ((head["q2"] @ b) @ (head["k2"] @ d)) * (head["o"] @ head["v"] @ e)
    actual = torch.einsum("oabcde,a,b,c,d,e->o", head_tensor(**head), a, b, c, d, e)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_exchanging_the_branches_exchanges_axes_and_leaves_the_function():
    head = weights()
    exchanged = {**head, "q1": head["q2"], "k1": head["k2"], "q2": head["q1"], "k2": head["k1"]}
    assert torch.allclose(head_tensor(**exchanged), head_tensor(**head).permute(0, 2, 1, 4, 3, 5))
    assert not torch.allclose(head_tensor(**exchanged), head_tensor(**head))
    x, y = draw(2, 3, seed=9)
    outputs = [torch.einsum("oabcde,a,b,c,d,e->o", head_tensor(**h), x, x, y, y, y) for h in (exchanged, head)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["bilinear", "squared"])
@pytest.mark.parametrize("positions", [(), ("decay", "toeplitz"), ("rope",), ("rope", "decay", "toeplitz")])
def test_the_tensor_with_its_constants_is_the_layer(kind, positions):
    layer, x = make(kind, positions), draw(5, 4, seed=3)
    coefficients = layer.positions.multiplier(5, torch.float64, x.device)[0].detach()
    expected = layer(x[None])[0][0].detach()
    rotations = layer.positions.rotation_matrices(5)
    torch.testing.assert_close(head_output(x, head_weights(layer), coefficients, rotations), expected, rtol=1e-10, atol=1e-12)
    if "rope" in positions:
        assert not torch.allclose(head_output(x, head_weights(layer), coefficients), expected, rtol=1e-3)


def test_heads_add_up_to_the_layer():
    layer, x = make(head_dim=2, positions=("decay",)), draw(5, 4, seed=3)
    constants = layer.positions.mask(5, torch.float64)
    total = sum(head_output(x, head_weights(layer, head), constants[head]) for head in range(2))
    torch.testing.assert_close(total, layer(x[None])[0][0].detach(), rtol=1e-10, atol=1e-12)


def test_equal_branches_make_squared_attention_symmetric_in_its_queries():
    squared = head_tensor(**head_weights(make("squared")))
    assert torch.allclose(squared, squared.permute(0, 2, 1, 4, 3, 5))
    bilinear = head_tensor(**head_weights(make("bilinear")))
    assert not torch.allclose(bilinear, bilinear.permute(0, 2, 1, 4, 3, 5))


@pytest.mark.parametrize("call, message", [
    (lambda: head_tensor(**{**weights(), "k2": draw(3, 3)}), r"k2 must be of shape \(2, 3\) like q1, got Tensor of shape \(3, 3\)"),
    (lambda: head_tensor(**{**weights(), "o": draw(3, 5)}), r"o must be \(out, 2\), got Tensor of shape \(3, 5\)"),
    (lambda: head_tensor(**{**weights(), "v": draw(3)}), "v must be a matrix"),
    (lambda: head_tensor(**weights(width=100)), "would need 223.5 GiB, more than the limit of 1.0 GiB; use attend"),
    (lambda: head_output(draw(4, 3), weights(), draw(3, 4)), r"coefficients must be of shape \(4, 4\)"),
    (lambda: head_output(draw(4, 5), weights(), draw(4, 4)), "x must have 3 entries in its last axis"),
    (lambda: head_output(draw(4, 3), {"q1": draw(2, 3)}, draw(4, 4)), r"names of the weights must be those of .* got \('q1',\)"),
    (lambda: head_output(draw(4, 3), weights(), draw(4, 4), draw(3, 2, 2)), r"rotations must be of shape \(4, 2, 2\)"),
    (lambda: head_weights(make("softmax")), "layer must be bilinear or squared attention .* got 'softmax'"),
    (lambda: head_weights(make(qk_norm="rms")), "qk_norm 'none'"),
    (lambda: head_weights(make(positions=("key_offset",))), "no key_offset"),
    (lambda: head_weights(make(), 1), "index must be a whole number from 0 to 0, got 1"),
    (lambda: head_weights(torch.nn.Linear(2, 2)), "layer must be an? Attention, got Linear"),
])
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
