"""Attention and positions: formulas, causality, degree, masks, rotation, errors."""

import copy
import functools

import pytest
import torch

from tensorlm.layers import Attention, Positions
from tensorlm.layers.attention import ATTENTION_KINDS, attention_parameters
from tensorlm.layers.costs import ALGORITHMS
from tensorlm.layers.polynomial_attention import attend

ALL_POSITIONS = ("rope", "decay", "toeplitz", "key_offset")


def make(kind="bilinear", positions=(), row_scale="none", qk_norm="none", width=32, head_dim=8, context=16):
    torch.manual_seed(0)
    layer = Attention(kind, width, head_dim, context, positions, row_scale, qk_norm).double()
    if "toeplitz" in positions:
        layer.positions.toeplitz.data.normal_(0, 0.5)
    return layer


def random_input(time=12, width=32):
    return torch.randn(2, time, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def split(flat, heads):
    return flat.unflatten(-1, (heads, -1)).transpose(1, 2)


def test_bilinear_attention_matches_its_formula():
    layer, x = make(), random_input()
    q1, q2, k1, k2, v = (split(x @ getattr(layer, name).T, 4) for name in ("q1", "q2", "k1", "k2", "v"))
    scores = (q1 @ k1.mT / 8**0.5) * (q2 @ k2.mT / 8**0.5)
    expected = (scores.tril() @ v).transpose(1, 2).flatten(-2) @ layer.o.T
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-11, atol=1e-12)


def test_squared_attention_is_bilinear_attention_with_equal_branches():
    squared, bilinear = make("squared"), make("bilinear")
    for name in ("q1", "q2", "k1", "k2"):
        getattr(bilinear, name).data.copy_(getattr(squared, name[0]))
    bilinear.v.data.copy_(squared.v), bilinear.o.data.copy_(squared.o)
    torch.testing.assert_close(squared(random_input())[0], bilinear(random_input())[0], rtol=1e-11, atol=1e-12)


def test_without_its_causal_mask_the_layer_is_another_function(monkeypatch):
    layer, x = make(), random_input()
    whole = layer(x)[0]
    monkeypatch.setattr("tensorlm.layers.polynomial_attention.Pattern.rows", lambda self, start, end, like: like.new_ones(4, end, end))
    assert not torch.allclose(layer(x)[0], whole)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("positions", [(), ALL_POSITIONS])
def test_the_future_changes_nothing(kind, positions):
    layer, x = make(kind, positions), random_input()
    changed = x.clone()
    changed[:, 7:] += 1
    before, after = layer(x)[0], layer(changed)[0]
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("kind", ["bilinear", "squared"])
def test_the_layer_is_one_function_by_every_algorithm(kind, monkeypatch):
    layer, x = make(kind, ALL_POSITIONS, "sqrt"), random_input(time=150)
    x.requires_grad_()
    results = []
    for algorithm in (*ALGORITHMS, "auto"):
        monkeypatch.setattr("tensorlm.layers.attention.attend", functools.partial(attend, algorithm=algorithm))
        out = layer(x)[0]
        wanted = [x, layer.q1 if kind == "bilinear" else layer.q, layer.positions.toeplitz]
        results.append((out, *torch.autograd.grad(out.square().sum(), wanted)))
    for others in results[1:]:
        for one, other in zip(results[0], others):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12 * one.abs().max().item())


@pytest.mark.parametrize("kind, qk_norm, holds", [
    ("bilinear", "none", True), ("squared", "none", True), ("softmax", "none", False), ("bilinear", "rms", False),
])
def test_degree_five(kind, qk_norm, holds):
    layer, x = make(kind, ALL_POSITIONS, "sqrt", qk_norm), random_input()
    assert (layer.degree == 5) == holds
    assert torch.allclose(layer(-1.5 * x)[0], (-1.5) ** 5 * layer(x)[0], rtol=1e-9) == holds


def test_parameter_counts():
    for kind, matrices in (("bilinear", 6), ("softmax", 4)):
        assert sum(p.numel() for p in make(kind).parameters()) == attention_parameters(kind, 32) == matrices * 32**2


def test_fused_and_hand_written_softmax_agree(monkeypatch):
    layer, x = make("softmax", ("rope", "decay", "toeplitz")), random_input()
    by_hand = layer(x)[0]
    monkeypatch.setattr("tensorlm.layers.attention.FLASH_FROM", 1)
    torch.testing.assert_close(layer(x)[0], by_hand, rtol=1e-10, atol=1e-12)


def test_rope_scores_depend_on_distance_only():
    positions = Positions(("rope",), heads=1, head_dim=8, context=16)
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    score = [(positions.rotate(q, i) @ positions.rotate(k, j).T).item() for i, j in ((3, 1), (9, 7), (3, 2))]
    assert score[0] == pytest.approx(score[1], rel=1e-12) and score[0] != pytest.approx(score[2], rel=1e-3)


@pytest.mark.parametrize("row_scale, power", [("none", 0), ("sqrt", 0.5), ("mean", 1)])
def test_mask_is_decay_over_row_sums(row_scale, power):
    mask = Positions(("decay",), 4, 8, 16, row_scale).mask(6, torch.float64)
    slopes = [1.0, 0.25, 0.0625, 0.015625]
    for head, slope in enumerate(slopes):
        row = torch.exp(-slope * torch.arange(6, dtype=torch.float64).flip(0))
        torch.testing.assert_close(mask[head, 5], row / row.sum() ** power, rtol=1e-12, atol=0)
    assert mask.triu(1).abs().max() == 0


def test_toeplitz_matrix_is_toeplitz_and_zero_beyond_the_context():
    positions = Positions(("toeplitz",), heads=2, head_dim=4, context=5, row_scale="none")
    positions.toeplitz.data.normal_()
    matrix = positions.multiplier(8, torch.float64, torch.device("cpu"))
    for i in range(8):
        for j in range(8):
            expected = 0.0 if j > i else 1.0 + (positions.toeplitz[1, i - j].item() if i - j < 5 else 0.0)
            assert matrix[1, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_key_offset_takes_half_of_each_key_from_the_position_before():
    positions = Positions(("key_offset",), heads=1, head_dim=4, context=8)
    keys = torch.arange(12.0).view(1, 3, 4)
    assert positions.offset(keys)[0].tolist() == [[0, 1, 0, 0], [4, 5, 2, 3], [8, 9, 6, 7]]


def test_value_mix_starts_as_absent_and_then_mixes():
    layer = Attention("bilinear", 16, 8, 8, (), value_residual="learned").double()
    x, first = random_input(8, 16), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x, first)[0], layer(x)[0])
    layer.value_mix.data.copy_(torch.tensor([0.5, 0.5]))
    assert not torch.allclose(layer(x, first)[0], layer(x)[0])


@pytest.mark.parametrize("call, message", [
    (lambda: Attention("linear", 32, 8, 8), "kind must be one of .* got 'linear'"),
    (lambda: Attention("bilinear", 30, 8, 8), "multiple of head_dim"),
    (lambda: Positions(("alibi",), 2, 8, 8), "positions must be a tuple of names among"),
    (lambda: Positions((), 2, 8, 8, "median"), "row_scale must be one of"),
    (lambda: Positions(("rope",), 2, 7, 8), "head_dim must be even"),
])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_constants_cached_in_inference_mode_can_be_trained_with():
    layer, x = make(positions=("decay", "toeplitz")), random_input()
    with torch.inference_mode():
        layer(x)
    layer(x)[0].sum().backward()
    assert layer.positions.toeplitz.grad is not None


def test_a_layer_first_called_inside_a_derivative_can_be_copied():
    layer = Attention("bilinear", width=8, head_dim=4, context=8).requires_grad_(False)
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.func.jvp(lambda t: layer(x + t)[0], (torch.zeros(()),), (torch.ones(()),))
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])


@pytest.mark.parametrize("x, first_values, error, message", [
    (torch.ones(1, 3, 8, dtype=torch.long), None, TypeError, "x must be a tensor of floating-point numbers, got torch.int64"),
    (torch.ones(3, 8), None, ValueError, r"x must have shape \(batch, time, 8\) with time at least 1, got \(3, 8\)"),
    (torch.ones(1, 3, 6), None, ValueError, r"x must have 8 features in its last axis, got shape \(1, 3, 6\)"),
    (torch.ones(1, 3, 8), torch.ones(1, 2, 2, 4), ValueError, r"first_values must be .*\(batch, 2, 3, 4\), got .*\(1, 2, 2, 4\)"),
])
def test_bad_input_is_named(x, first_values, error, message):
    layer = Attention("bilinear", width=8, head_dim=4, context=8, value_residual="learned")
    with pytest.raises(error, match=message):
        layer(x, first_values)
