"""Similarities of layers from their factors: equal to the dense ones, to quadrature and to sampling; blind to gauges."""

import opt_einsum
import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, random_cp, single

from tensorlm.tensors import CPTensor, function_cosine, function_inner, same_function

size = st.integers(1, 6)
seed = st.integers(0, 2**16)


def draw(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


def random_pair(out, width, hidden_a, hidden_b, seed) -> tuple[CPTensor, CPTensor]:
    return random_cp(out, hidden_a, width, seed), random_cp(out, hidden_b, width, seed + 1)


def turned(cp: CPTensor, seed=5) -> CPTensor:
    """The same function after all three gauges."""
    left, right = draw((cp.hidden,), (cp.hidden,), seed=seed)
    return cp.swap().permute(torch.randperm(cp.hidden, generator=torch.Generator().manual_seed(seed))).rescale(left, right)


def norm(a):
    return a.symmetric().norm()


def scale_of(a, b):
    return float(norm(a) * norm(b)) + 1e-3


pairs = st.builds(random_pair, size, size, size, size, seed)


# The inner product of the symmetric tensors

@SETTINGS
@given(pairs)
def test_inner_product_is_that_of_the_dense_symmetric_tensors(pair):
    a, b = pair
    close(function_inner(a, b), (a.symmetric() * b.symmetric()).sum(), scale_of(a, b))
    close(function_inner(a, a), norm(a).square())
    close(function_cosine(a, b), function_inner(a, b) / norm(a) / norm(b))


@SETTINGS
@given(pairs)
def test_inner_product_agrees_with_opt_einsum(pair):
    a, b = (cp.symmetrised() for cp in pair)
    whole = opt_einsum.contract("ok,ki,kj,ol,li,lj->", a.D, a.L, a.R, b.D, b.L, b.R)
    close(function_inner(*pair), whole, scale_of(*pair))


@SETTINGS
@given(pairs)
def test_gauges_and_other_forms_change_no_similarity(pair):
    a, b = pair
    for same in (turned(a), a.square_form(), a.symmetrised(), a.canonical(), CPTensor.from_dense(a.dense())):
        close(function_inner(same, b), function_inner(a, b), scale_of(a, b))
        close(function_cosine(same, a), 1.0)


def test_the_inner_product_of_unsymmetrised_tensors_changes_under_swap():
    a, b = random_pair(3, 4, 5, 2, 0)
    before, after = ((a.dense() * other.dense()).sum() for other in (b, b.swap()))
    assert abs(before - after) > 0.1 * abs(before)
    close(function_inner(a, b.swap()), function_inner(a, b), scale_of(a, b))


def test_cosine_is_one_up_to_sign_for_multiples():
    a = random_cp()
    close(function_cosine(a, CPTensor(3 * a.D, a.L, a.R)), 1.0)
    close(function_cosine(a, CPTensor(-a.D, a.L, a.R)), -1.0)
    assert abs(function_cosine(a, random_cp(seed=1))) < 0.9


def test_similarity_is_differentiable():
    a, b = random_pair(3, 4, 5, 2, 0)
    b.D.requires_grad_()
    (gradient,) = torch.autograd.grad(function_inner(a, b), b.D)
    close((gradient * b.D).sum().detach(), function_inner(a, b).detach())


# One function or two

@pytest.mark.parametrize("out, hidden, width", [(9, 2, 3), (3, 2, 20), (12, 2, 20), (3, 5, 4)])
def test_functions_are_told_apart_in_bases_and_in_slices(out, hidden, width, monkeypatch):
    a, b = random_cp(out, hidden, width), random_cp(out, hidden, width, seed=1)
    share = float((a.symmetric() - b.symmetric()).norm() / max(norm(a), norm(b)))
    for slices in (2**26, 1):
        monkeypatch.setattr("tensorlm.tensors.similarity.SLICE_BYTES", slices)
        for factor, same in ((1 + 1e-12, True), (1 - 1e-12, False)):
            monkeypatch.setattr("tensorlm.tensors.similarity.SAME_SHARE", share * factor)
            assert same_function(a, b) == same  # so the distance is measured to 1e-12


def test_functions_are_told_apart_where_a_dense_slice_would_not_fit():
    a, b = (random_cp(2, 3, 100_000, seed) for seed in (0, 1))
    assert same_function(a, turned(a)) and not same_function(a, b)


@SETTINGS
@given(pairs)
def test_other_factors_of_one_function_are_the_same_function(pair):
    a, b = pair
    for same in (turned(a), a.square_form(), a.symmetrised(), a.canonical(), CPTensor.from_dense(a.dense())):
        assert same_function(a, same)
    assert not same_function(a, b)
    assert same_function(single(a), single(a).square_form()) and not same_function(single(a), single(b))


@pytest.mark.parametrize("change, same", [(0.0, True), (1e-12, True), (1e-9, False), (1e-3, False)])
def test_same_function_sees_changes_that_the_gram_formula_cannot(change, same, monkeypatch):
    a = random_cp()
    b = turned(CPTensor(a.D * (1 + change), a.L, a.R))
    assert same_function(a, b) == same
    if change == 1e-9:
        expected = 1e-9 * norm(a).item()
        for share, within in ((1.0001e-9, True), (0.9999e-9, False)):
            monkeypatch.setattr("tensorlm.tensors.similarity.SAME_SHARE", share)
            assert same_function(a, b) == within
        gram = (function_inner(a, a) - 2 * function_inner(a, b) + function_inner(b, b)).clamp(min=0).sqrt()
        assert gram.item() != pytest.approx(expected, rel=0.5)


def cancelling(cp: CPTensor, seed=5) -> CPTensor:
    """The zero function: every unit beside its negative in another gauge, so that nothing is left but rounding."""
    other = turned(cp, seed)
    return CPTensor(torch.cat([cp.D, -other.D], 1), torch.cat([cp.L, other.L]), torch.cat([cp.R, other.R]))


def test_zero_functions_are_one_function():
    a, b = cancelling(random_cp(hidden=2)), cancelling(random_cp(hidden=3, seed=1))
    assert same_function(a, b) and not same_function(a, random_cp())
    assert same_function(a, CPTensor(0 * a.D, a.L, a.R))


NAN = CPTensor(torch.full((3, 5), float("nan"), dtype=torch.float64), *draw((5, 4), (5, 4)))
A = random_cp()
CALLS = [
    (lambda f: f(A, random_cp(out=2)), ValueError, r"shape of b must be \(3, 4, 4\) like that of a, got \(2, 4, 4\)"),
    (lambda f: f(A, random_cp(width=5)), ValueError, r"got \(3, 5, 5\)"),
    (lambda f: f(A, single(random_cp())), TypeError, "b must be torch.float64 like a, got torch.float32"),
    (lambda f: f(NAN, A), ValueError, "D.* must be finite, got 15 of 15"),
    (lambda f: f(A, NAN), ValueError, "D.* must be finite"),
    (lambda f: f(A, A.dense()), TypeError, "must be a C.*Tensor, got Tensor"),
    (lambda f: f(3, A), TypeError, "must be a C.*Tensor, got int"),
]


@pytest.mark.parametrize("function", [function_inner, function_cosine, same_function])
@pytest.mark.parametrize("call, error, message", CALLS)
def test_pairs_that_do_not_fit_are_named(function, call, error, message):
    with pytest.raises(error, match=message):
        call(function)


MORE_CALLS = [
    (lambda: function_cosine(A, CPTensor(0 * A.D, A.L, A.R)), ValueError, "b must be other than zero, for which no cosine is defined"),
    (lambda: function_cosine(CPTensor(0 * A.D, A.L, A.R), A), ValueError, "a must be other than zero"),
]


@pytest.mark.parametrize("call, error, message", MORE_CALLS)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
