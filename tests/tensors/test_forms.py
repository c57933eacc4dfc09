"""Other CP forms of a layer: one encoder, the symmetric part, lifts of biases and residuals, from a dense tensor."""

import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, differ, random_cp

from tensorlm.tensors import CPTensor, lift

size = st.integers(1, 6)
seed = st.integers(0, 2**16)


def draw(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


def zero_lifted(cp: CPTensor) -> CPTensor:
    zeros = torch.zeros(cp.hidden, dtype=cp.dtype)
    return cp.with_input_bias(zeros, zeros)


cps = st.builds(random_cp, out=size, hidden=size, width=size, seed=seed)
squares = st.builds(lambda width, hidden, seed: random_cp(width, hidden, width, seed), size, size, seed)


# One encoder, and the symmetric part

@SETTINGS
@given(cps)
def test_square_form_has_one_encoder_and_the_symmetric_tensor(cp):
    form, (x,) = cp.square_form(), draw((5, cp.width), seed=1)
    assert torch.equal(form.L, form.R) and form.hidden == 2 * cp.hidden
    close(form(x), cp(x))
    close((x @ form.L.mT).square() @ form.D.mT, cp(x))
    close(form.dense(), cp.symmetric())


@SETTINGS
@given(cps)
def test_symmetrised_has_the_symmetric_tensor(cp):
    form = cp.symmetrised()
    assert form.hidden == 2 * cp.hidden
    close(form.dense(), cp.symmetric())
    close(form.dense(), form.dense().mT)


def test_the_form_itself_has_another_tensor():
    differ(random_cp().dense(), random_cp().symmetrised().dense())


def test_unsigned_output_weights_make_no_square_form():
    cp, (x,) = random_cp(), draw((5, 4), seed=1)
    form = cp.square_form()
    differ(CPTensor(form.D.abs(), form.L, form.R)(x), cp(x))


# Lifts

@SETTINGS
@given(cps)
def test_input_bias(cp):
    x, left, right = draw((5, cp.width), (cp.hidden,), (cp.hidden,), seed=1)
    lifted = cp.with_input_bias(left, right)
    assert lifted.shape == (cp.out, cp.width + 1, cp.width + 1)
    close(lifted(lift(x)), ((x @ cp.L.mT + left) * (x @ cp.R.mT + right)) @ cp.D.mT)
    close(zero_lifted(cp)(lift(x)), cp(x))


@SETTINGS
@given(cps)
def test_output_bias(cp):
    x, bias = draw((5, cp.width), (cp.out,), seed=1)
    close(zero_lifted(cp).with_output_bias(bias)(lift(x)), cp(x) + bias)


@SETTINGS
@given(squares)
def test_residual(cp):
    x, left, right = draw((5, cp.width), (cp.hidden,), (cp.hidden,), seed=1)
    layer = cp.with_input_bias(left, right).with_residual()
    assert layer.hidden == cp.hidden + cp.width
    close(layer(lift(x)), x + cp.with_input_bias(left, right)(lift(x)))


@SETTINGS
@given(cps)
def test_constant(cp):
    (x,) = draw((5, cp.width), seed=1)
    close(zero_lifted(cp).with_constant()(lift(x)), lift(cp(x)))


def block(width, hidden, seed):
    """A residual layer with all three biases: as a function of x, and as one CP tensor of (1, x)."""
    cp = random_cp(width, hidden, width, seed)
    left, right, bias = draw((hidden,), (hidden,), (width,), seed=seed + 1)
    tensor = cp.with_input_bias(left, right).with_output_bias(bias).with_residual()
    return lambda x: x + ((x @ cp.L.mT + left) * (x @ cp.R.mT + right)) @ cp.D.mT + bias, tensor


@SETTINGS
@given(size, size, seed)
def test_the_constant_is_carried_through_stacked_lifted_layers(width, hidden, seed):
    (first, first_tensor), (second, second_tensor) = block(width, hidden, seed), block(width, hidden, seed + 2)
    (x,) = draw((5, width), seed=seed + 4)
    stacked = second_tensor(first_tensor.with_constant()(lift(x)))
    close(stacked, second(first(x)))
    close(second_tensor.with_constant()(first_tensor.with_constant()(lift(x))), lift(second(first(x))))


def test_without_the_constant_lifted_layers_do_not_stack():
    (first, first_tensor), (second, second_tensor) = block(4, 5, 0), block(4, 5, 2)
    (x,) = draw((5, 4), seed=4)
    with pytest.raises(ValueError, match="x must have 5 entries in its last axis"):
        second_tensor(first_tensor(lift(x)))
    zeroed = torch.cat([torch.zeros(5, 1, dtype=torch.float64), first_tensor(lift(x))], dim=-1)
    differ(second_tensor(zeroed), second(first(x)))


def test_a_lifted_layer_scales_as_no_bare_one_does():
    (_, tensor), (x,) = block(4, 5, 0), draw((5, 4), seed=1)
    differ(tensor(lift(2 * x)), 4 * tensor(lift(x)))
    close(tensor(2 * lift(x)), 4 * tensor(lift(x)))


# From a dense tensor

@SETTINGS
@given(size, size, seed)
def test_from_dense_has_the_symmetric_part(out, width, seed):
    (tensor,) = draw((out, width, width), seed=seed)
    cp = CPTensor.from_dense(tensor)
    close(cp.dense(), (tensor + tensor.mT) / 2)
    assert cp.hidden <= out * width and torch.equal(cp.L, cp.R)


@SETTINGS
@given(cps)
def test_cp_to_dense_and_back(cp):
    (x,) = draw((5, cp.width), seed=1)
    close(CPTensor.from_dense(cp.dense())(x), cp(x))
    close(CPTensor.from_dense(cp.symmetric()).symmetric(), cp.symmetric())


def test_from_dense_drops_zero_eigenvalues_and_keeps_a_unit():
    assert CPTensor.from_dense(random_cp(out=1, hidden=1, width=6).dense()).hidden == 2
    zero = CPTensor.from_dense(torch.zeros(2, 3, 3))
    assert zero.shape == (2, 3, 3) and zero.hidden == 1 and not zero.dense().any()
    assert not CPTensor.from_dense(torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])).dense().any()


@pytest.mark.parametrize("form", [CPTensor.square_form, CPTensor.symmetrised, zero_lifted])
def test_forms_keep_dtype_and_smallest_sizes(form):
    assert form(CPTensor(*(torch.ones(1, 1) for _ in range(3)))).dtype == torch.float32


def test_lift_keeps_leading_axes():
    assert lift(torch.zeros(2, 3, 4)).shape == (2, 3, 5) and lift(torch.zeros(0, 4)).shape == (0, 5)
    assert lift(torch.zeros(0)).tolist() == [1.0]


CP = random_cp()
ONES = torch.ones(5, dtype=torch.float64)
CALLS = [
    (lambda: lift(torch.tensor(1.0)), ValueError, r"x must be a tensor with at least 1 axis, got Tensor of shape \(\)"),
    (lambda: lift(torch.ones(3).int()), TypeError, "x must be torch.float32 or torch.float64, got torch.int32"),
    (lambda: CP.with_input_bias(ONES[:3], ONES), ValueError, r"left must be a vector of shape \(5,\), got Tensor of shape \(3,\)"),
    (lambda: CP.with_input_bias(ONES, ONES.float()), TypeError, "right must be torch.float64 like D, got torch.float32"),
    (lambda: CP.with_input_bias(ONES, 0.0), TypeError, "right must be a Tensor, got float"),
    (lambda: CP.with_output_bias(ONES), ValueError, r"bias must be a vector of shape \(3,\), got Tensor of shape \(5,\)"),
    (lambda: random_cp(out=4).with_residual(), ValueError, r"cp must be lifted with out = width - 1, .* got CPTensor of shape \(4, 4, 4\)"),
    (lambda: CPTensor.from_dense(torch.ones(2, 3, 4)), ValueError, r"tensor must be a tensor of shape .* got Tensor of shape \(2, 3, 4\)"),
    (lambda: CPTensor.from_dense(torch.ones(3, 3)), ValueError, r"got Tensor of shape \(3, 3\)"),
    (lambda: CPTensor.from_dense(torch.ones(0, 3, 3)), ValueError, r"all at least 1, got Tensor of shape \(0, 3, 3\)"),
    (lambda: CPTensor.from_dense(torch.full((1, 2, 2), float("nan"))), ValueError, "tensor must be finite, got 4 of 4 entries"),
    (lambda: CPTensor.from_dense(torch.ones(1, 2, 2).half()), TypeError, "got torch.float16"),
    (lambda: CPTensor.from_dense([[[1.0]]]), TypeError, "tensor must be a Tensor, got list"),
]


@pytest.mark.parametrize("call, error, message", CALLS)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
