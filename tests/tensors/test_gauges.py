"""Gauges leave the function as it is, other mixings do not, and the canonical form is one for all that gauges reach."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensor_cases import SETTINGS, random_cp, single

from tensorlm.tensors import CPTensor

size = st.integers(1, 6)
seed = st.integers(0, 2**16)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def integer_cp(out, hidden, width, seed) -> CPTensor:
    """Small whole numbers: full of equal sizes, equal units, zero rows."""
    source = generator(seed)
    shapes = ((out, hidden), (hidden, width), (hidden, width))
    return CPTensor(*(torch.randint(-1, 2, shape, generator=source).double() for shape in shapes))


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()) + 1e-13)


def factors_close(a: CPTensor, b: CPTensor):
    for name in "DLR":
        close(getattr(a, name), getattr(b, name))


def random_gauge(cp: CPTensor, seed) -> CPTensor:
    """Units permuted, rescaled over many orders of magnitude with signs, and swapped one by one."""
    source = generator(seed)
    scale = 10 ** torch.empty(2, cp.hidden, dtype=torch.float64).uniform_(-4, 4, generator=source)
    scale *= torch.randint(0, 2, (2, cp.hidden), generator=source) * 2 - 1
    turned = cp.rescale(*scale).permute(torch.randperm(cp.hidden, generator=source))
    exchanged = torch.randint(0, 2, (cp.hidden, 1), generator=source).bool()
    return CPTensor(turned.D, torch.where(exchanged, turned.R, turned.L), torch.where(exchanged, turned.L, turned.R))


cps = st.builds(random_cp, out=size, hidden=size, width=size, seed=seed)


@SETTINGS
@given(cps, seed)
def test_permutation_and_rescaling_leave_the_tensor(cp, seed):
    source = generator(seed)
    close(cp.permute(torch.randperm(cp.hidden, generator=source)).dense(), cp.dense())
    left, right = torch.randn(2, cp.hidden, dtype=torch.float64, generator=source)
    close(cp.rescale(left, right).dense(), cp.dense())


@SETTINGS
@given(cps)
def test_swap_transposes_the_tensor_and_leaves_the_function(cp):
    close(cp.swap().dense(), cp.dense().mT)
    close(cp.swap().symmetric(), cp.symmetric())


@SETTINGS
@given(cps, seed)
def test_any_gauge_leaves_the_function(cp, seed):
    x = torch.randn(5, cp.width, dtype=torch.float64, generator=generator(seed))
    turned = random_gauge(cp, seed)
    close(turned(x), cp(x))
    close(turned.symmetric(), cp.symmetric())


def test_swap_does_not_leave_the_tensor():
    cp = random_cp()
    assert not torch.allclose(cp.swap().dense(), cp.dense(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_mixing_hidden_units_is_no_gauge(orthogonal):
    cp = random_cp()
    mixing = torch.randn(5, 5, dtype=torch.float64, generator=generator(1))
    mixing = torch.linalg.qr(mixing).Q if orthogonal else mixing
    mixed = CPTensor(cp.D @ torch.linalg.inv(mixing), mixing @ cp.L, mixing @ cp.R)
    assert not torch.allclose(mixed.symmetric(), cp.symmetric(), rtol=1e-3, atol=1e-3)


def test_permute_says_where_each_unit_comes_from():
    cp = random_cp(hidden=3)
    assert torch.equal(cp.permute([2, 0, 1]).L, cp.L[[2, 0, 1]])
    back = cp.permute([2, 0, 1]).permute(torch.tensor([2, 0, 1]).argsort())
    assert all(torch.equal(getattr(back, name), getattr(cp, name)) for name in "DLR")


# The canonical form

@SETTINGS
@given(cps, seed)
def test_gauges_meet_in_one_canonical_form(cp, seed):
    factors_close(random_gauge(cp, seed).canonical(), cp.canonical())
    factors_close(cp.swap().canonical(), cp.canonical())


@settings(max_examples=100)
@given(st.builds(integer_cp, out=size, hidden=size, width=size, seed=seed), seed)
def test_gauges_meet_in_one_canonical_form_where_units_are_equal_or_zero(cp, seed):
    factors_close(random_gauge(cp, seed).canonical(), cp.canonical())


@SETTINGS
@given(cps)
def test_canonical_form_is_the_same_function_in_the_stated_form(cp):
    fixed = cp.canonical()
    close(fixed.symmetric(), cp.symmetric())
    factors_close(fixed.canonical(), fixed)
    sizes = fixed.D.norm(dim=0)
    assert (sizes.diff() <= 1e-7 * sizes.max()).all()
    for encoder in (fixed.L, fixed.R):
        close(encoder.norm(dim=1), torch.ones(cp.hidden, dtype=torch.float64))
        assert (encoder.gather(1, encoder.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_units_that_contribute_nothing_become_zero_and_last():
    cp = random_cp(hidden=4)
    cp.L[0], cp.R[1], cp.D[:, 2] = 0, 0, 0
    fixed = cp.canonical()
    assert fixed.hidden == 4 and all(factor.isfinite().all() for factor in fixed.factors().values())
    assert not any(part.any() for part in (fixed.D[:, 1:], fixed.L[1:], fixed.R[1:]))
    close(fixed.symmetric(), cp.symmetric())


def test_all_units_zero():
    fixed = CPTensor(*(torch.zeros(2, 2) for _ in range(3))).canonical()
    assert not any(factor.any() for factor in fixed.factors().values())


def test_tiny_and_huge_rows_do_not_underflow():
    cp = random_cp()
    scale = torch.full((5,), 1e200, dtype=torch.float64)
    factors_close(cp.rescale(scale, 1 / scale).canonical(), cp.canonical())


def test_entries_that_differ_by_rounding_alone_decide_nothing():
    """0.49 and the number after it become equal where both are scaled; and 0.6 comes out of two norms differently."""
    L = [[-0.49, math.nextafter(0.49, 1), 0], [3, 4, 0]]
    cp = CPTensor(*(torch.tensor(rows, dtype=torch.float64) for rows in ([[1, 2]], L, [[1, 0, 0], [3, 0, 4]])))
    for scale in torch.linspace(0.1, 3, 30, dtype=torch.float64):
        factors_close(cp.rescale(scale.expand(2), 1 / scale.expand(2)).swap().canonical(), cp.canonical())


def test_single_precision():
    cp = single(random_cp())
    fixed, turned = cp.canonical(), single(random_gauge(cp.double(), 3)).canonical()
    for name in "DLR":
        torch.testing.assert_close(getattr(turned, name), getattr(fixed, name), rtol=1e-5, atol=1e-5)


def test_other_functions_have_other_canonical_forms():
    cp = random_cp()
    assert not torch.allclose(cp.canonical().D, CPTensor(-cp.D, cp.L, cp.R).canonical().D)


def test_one_function_can_have_cp_forms_that_no_gauge_connects():
    """x1^2 + x2^2 from any orthonormal pair: the reason why functions are compared by S and never by factors."""
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64, generator=generator(0))).Q
    a, b = (CPTensor(torch.ones(1, 2, dtype=torch.float64), rows, rows) for rows in (torch.eye(2, dtype=torch.float64), turn))
    close(a.symmetric(), b.symmetric())
    assert not torch.allclose(a.canonical().L, b.canonical().L, atol=1e-3)


CP = random_cp(hidden=2)
ONES = torch.ones(2, dtype=torch.float64)
CALLS = [
    (lambda: CPTensor(CP.D, CP.L * float("nan"), CP.R).canonical(), ValueError, "L of cp must be finite, got 8 of 8 entries"),
    (lambda: CP.permute([0, 0]), ValueError, r"order must be a permutation of 0 .. 1, got \[0, 0\]"),
    (lambda: CP.permute([0]), ValueError, "order must be a permutation"),
    (lambda: CP.permute([-1, 0]), ValueError, "order must be a permutation"),
    (lambda: CP.permute(torch.tensor([[0, 1]])), ValueError, "order must be a permutation"),
    (lambda: CP.permute([]), ValueError, "order must be a permutation"),
    (lambda: CP.permute([0.0, 1.0]), ValueError, r"order must be a permutation of 0 .. 1, got \[0.0, 1.0\]"),
    (lambda: CP.permute([True, False]), ValueError, r"order must be a permutation of 0 .. 1, got \[True, False\]"),
    (lambda: CP.permute("01"), ValueError, "order must be a permutation of 0 .. 1, got '01'"),
    (lambda: CP.permute(None), ValueError, "order must be a permutation of 0 .. 1, got None"),
    (lambda: CP.rescale(ONES, ONES[:1]), ValueError, r"right must be a vector of shape \(2,\), got Tensor of shape \(1,\)"),
    (lambda: CP.rescale(ONES, torch.tensor([1.0, 0.0]).double()), ValueError, r"right must be other than 0 for every unit, got \[1"),
    (lambda: CP.rescale(ONES * float("inf"), ONES), ValueError, "left must be finite"),
    (lambda: CP.rescale(ONES.float(), ONES), TypeError, "left must be torch.float64 like D, got torch.float32"),
    (lambda: CP.rescale(2.0, ONES), TypeError, "left must be a Tensor, got float"),
]


@pytest.mark.parametrize("call, error, message", CALLS)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
