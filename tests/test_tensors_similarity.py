"""Similarities of layers from their factors: equal to the dense ones, to quadrature and to sampling; blind to gauges."""

import itertools

import numpy
import opt_einsum
import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, random_cp

from tensorlm.tensors import (
    CPTensor,
    canonical,
    cosine,
    distance,
    from_dense,
    gaussian_inner,
    inner,
    norm,
    permute,
    rescale,
    same_function,
    square_form,
    swap,
    symmetrised,
    with_input_bias,
)

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
    return rescale(permute(swap(cp), torch.randperm(cp.hidden, generator=torch.Generator().manual_seed(seed))), left, right)


def scale_of(a, b):
    return float(norm(a) * norm(b)) + 1e-3


pairs = st.builds(random_pair, size, size, size, size, seed)


# The inner product of the symmetric tensors

@SETTINGS
@given(pairs)
def test_inner_product_is_that_of_the_dense_symmetric_tensors(pair):
    a, b = pair
    close(inner(a, b), (a.symmetric() * b.symmetric()).sum(), scale_of(a, b))
    close(norm(a), a.symmetric().norm())
    close(cosine(a, b), inner(a, b) / norm(a) / norm(b))


@SETTINGS
@given(pairs)
def test_inner_product_agrees_with_opt_einsum(pair):
    a, b = (symmetrised(cp) for cp in pair)
    whole = opt_einsum.contract("ok,ki,kj,ol,li,lj->", a.D, a.L, a.R, b.D, b.L, b.R)
    close(inner(*pair), whole, scale_of(*pair))


@SETTINGS
@given(pairs)
def test_gauges_and_other_forms_change_no_similarity(pair):
    a, b = pair
    for same in (turned(a), square_form(a), symmetrised(a), canonical(a), from_dense(a.dense())):
        close(inner(same, b), inner(a, b), scale_of(a, b))
        close(gaussian_inner(same, b), gaussian_inner(a, b), 10 * scale_of(a, b))
        close(cosine(same, a), 1.0)


def test_the_inner_product_of_unsymmetrised_tensors_changes_under_swap():
    a, b = random_pair(3, 4, 5, 2, 0)
    before, after = ((a.dense() * other.dense()).sum() for other in (b, swap(b)))
    assert abs(before - after) > 0.1 * abs(before)
    close(inner(a, swap(b)), inner(a, b), scale_of(a, b))


def test_cosine_is_one_up_to_sign_for_multiples():
    a = random_cp()
    close(cosine(a, CPTensor(3 * a.D, a.L, a.R)), 1.0)
    close(cosine(a, CPTensor(-a.D, a.L, a.R)), -1.0)
    assert abs(cosine(a, random_cp(seed=1))) < 0.9


def test_similarity_is_differentiable():
    a, b = random_pair(3, 4, 5, 2, 0)
    b.D.requires_grad_()
    (gradient,) = torch.autograd.grad(inner(a, b), b.D)
    close((gradient * b.D).sum().detach(), inner(a, b).detach())


# Gaussian inputs

def gaussian_by_quadrature(a, b, mean, factor):
    """E f_a . f_b for mean + factor z by three Gauss-Hermite nodes an axis: exact up to degree 5 in each."""
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(3)
    grid = torch.tensor(list(itertools.product(nodes, repeat=a.width)), dtype=torch.float64)
    weight = torch.tensor(list(itertools.product(weights / weights.sum(), repeat=a.width)), dtype=torch.float64).prod(dim=1)
    x = mean + grid @ factor.mT
    return weight @ (a(x) * b(x)).sum(dim=1)


@SETTINGS
@given(size, st.integers(1, 4), size, seed, st.integers(0, 4))
def test_gaussian_inner_product_is_exact(out, width, hidden, seed, rank):
    a, b = random_pair(out, width, hidden, hidden + 1, seed)
    mean, factor = draw((width,), (width, width), seed=seed + 2)
    factor[:, rank:] = 0  # also singular covariances, and none at all
    zero, identity = torch.zeros_like(mean), torch.eye(width, dtype=torch.float64)
    scale = 100 * scale_of(a, b)
    close(gaussian_inner(a, b, mean, factor @ factor.mT), gaussian_by_quadrature(a, b, mean, factor), scale)
    close(gaussian_inner(a, b, mean=mean), gaussian_by_quadrature(a, b, mean, identity), scale)
    close(gaussian_inner(a, b), gaussian_by_quadrature(a, b, zero, identity), scale)
    traces = (torch.einsum("oii->o", cp.dense()) for cp in (a, b))
    close(gaussian_inner(a, b), 2 * inner(a, b) + next(traces) @ next(traces), scale)
    close(gaussian_inner(a, b, mean, torch.zeros_like(identity)), a(mean) @ b(mean), scale)


@pytest.mark.parametrize("centred", [True, False])
def test_gaussian_inner_product_agrees_with_sampling(centred):
    a, b = random_pair(3, 4, 5, 2, 0)
    mean, factor, z = draw((4,), (4, 4), (200_000, 4), seed=3)
    moments = {} if centred else {"mean": mean, "covariance": factor @ factor.mT}
    x = z if centred else mean + z @ factor.mT
    samples = (a(x) * b(x)).sum(dim=1)
    assert abs(samples.mean() - gaussian_inner(a, b, **moments)) < 3 * samples.std() / len(samples) ** 0.5


def test_a_lifted_input_is_not_centred():
    """The constant is no Gaussian: the naive formula takes E 1^4 for 3."""
    a, b = random_pair(3, 3, 5, 5, 0)
    a, b = (with_input_bias(cp, *draw((5,), (5,), seed=seed)) for cp, seed in ((a, 1), (b, 2)))
    first = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    others = torch.diag(1 - first)
    right = gaussian_inner(a, b, first, others)
    close(right, gaussian_by_quadrature(a, b, first, others), scale_of(a, b))
    naive = gaussian_inner(a, b)
    close(naive - right, 2 * (a.symmetric()[:, 0, 0] @ b.symmetric()[:, 0, 0]), scale_of(a, b))
    assert abs(naive - right) > 0.03 * abs(right)
    one = CPTensor(*(torch.ones(1, 1, dtype=torch.float64) for _ in range(3)))  # f(1) = 1
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    assert gaussian_inner(one, one, torch.ones(1, dtype=torch.float64), nothing) == 1 and gaussian_inner(one, one) == 3


# One function or two

@SETTINGS
@given(pairs)
def test_distance_is_that_of_the_dense_symmetric_tensors(pair):
    a, b = pair
    close(distance(a, b), (a.symmetric() - b.symmetric()).norm(), scale_of(a, b))


@pytest.mark.parametrize("out, hidden, width", [(9, 2, 3), (3, 2, 20), (12, 2, 20), (3, 5, 4)])
def test_distance_in_bases_and_in_slices(out, hidden, width, monkeypatch):
    a, b = random_cp(out, hidden, width), random_cp(out, hidden, width, seed=1)
    expected = (a.symmetric() - b.symmetric()).norm()
    for slices in (2**26, 1):
        monkeypatch.setattr("tensorlm.tensors.similarity.CHUNK", slices)
        close(distance(a, b), expected, expected)


def test_distance_where_a_dense_slice_would_not_fit():
    a, b = (random_cp(2, 3, 100_000, seed) for seed in (0, 1))
    close(distance(a, b), (inner(a, a) - 2 * inner(a, b) + inner(b, b)).sqrt(), norm(a))


@SETTINGS
@given(pairs)
def test_other_factors_of_one_function_are_the_same_function(pair):
    a, b = pair
    for same in (turned(a), square_form(a), symmetrised(a), canonical(a), from_dense(a.dense())):
        assert same_function(a, same)
    assert not same_function(a, b)
    single = a.to(torch.float32)
    assert same_function(single, square_form(single)) and not same_function(single, b.to(torch.float32))


@pytest.mark.parametrize("change, same", [(0.0, True), (1e-12, True), (1e-9, False), (1e-3, False)])
def test_same_function_sees_changes_that_the_gram_formula_cannot(change, same):
    a = random_cp()
    b = turned(CPTensor(a.D * (1 + change), a.L, a.R))
    assert same_function(a, b) == same
    if change == 1e-9:
        expected = 1e-9 * norm(a).item()
        assert distance(a, b).item() == pytest.approx(expected, rel=1e-4)
        gram = (inner(a, a) - 2 * inner(a, b) + inner(b, b)).clamp(min=0).sqrt()
        assert gram.item() != pytest.approx(expected, rel=0.5)


def cancelling(cp: CPTensor, seed=5) -> CPTensor:
    """The zero function: every unit beside its negative in another gauge, so that nothing is left but rounding."""
    other = turned(cp, seed)
    return CPTensor(torch.cat([cp.D, -other.D], 1), torch.cat([cp.L, other.L]), torch.cat([cp.R, other.R]))


def test_zero_functions_are_one_function():
    a, b = cancelling(random_cp(hidden=2)), cancelling(random_cp(hidden=3, seed=1))
    assert same_function(a, b) and not same_function(a, random_cp())
    assert same_function(a, CPTensor(0 * a.D, a.L, a.R), tolerance=0)


def test_the_norm_of_what_cancels_is_small_and_no_nan():
    for seed in range(20):
        cp = random_cp(seed=seed)
        assert 0 <= norm(cancelling(cp, seed)) < 1e-6 * norm(cp)


NAN = CPTensor(torch.full((3, 5), float("nan"), dtype=torch.float64), *draw((5, 4), (5, 4)))
A = random_cp()
CALLS = [
    (lambda f: f(A, random_cp(out=2)), ValueError, "b must have out=3 and width=4 like a, got out=2 and width=4"),
    (lambda f: f(A, random_cp(width=5)), ValueError, "got out=3 and width=5"),
    (lambda f: f(A, random_cp().to(torch.float32)), TypeError, "D of b must be torch.float64 like D of a, got torch.float32"),
    (lambda f: f(A, random_cp().to(device="meta")), ValueError, "D of b must be on cpu like D of a, got meta"),
    (lambda f: f(NAN, A), ValueError, "D of a must be finite, got 15 of 15"),
    (lambda f: f(A, NAN), ValueError, "D of b must be finite"),
    (lambda f: f(A, A.dense()), TypeError, "b must be a CPTensor, got Tensor"),
    (lambda f: f(3, A), TypeError, "a must be a CPTensor, got int"),
]


@pytest.mark.parametrize("function", [inner, cosine, gaussian_inner, distance, same_function])
@pytest.mark.parametrize("call, error, message", CALLS)
def test_pairs_that_do_not_fit_are_named(function, call, error, message):
    with pytest.raises(error, match=message):
        call(function)


EYE, ZERO = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
MORE_CALLS = [
    (lambda: norm(NAN), ValueError, "D of a must be finite"),
    (lambda: cosine(A, CPTensor(0 * A.D, A.L, A.R)), ValueError, "b must not be the zero function"),
    (lambda: cosine(CPTensor(0 * A.D, A.L, A.R), A), ValueError, "a must not be the zero function"),
    (lambda: same_function(A, A, tolerance=-1), ValueError, "tolerance must be a finite number of at least 0, got -1"),
    (lambda: gaussian_inner(A, A, mean=ZERO[:3]), ValueError, r"mean must have shape \(4,\), got \(3,\)"),
    (lambda: gaussian_inner(A, A, covariance=ZERO), ValueError, r"covariance must have shape \(4, 4\), got \(4,\)"),
    (lambda: gaussian_inner(A, A, mean=ZERO.float()), TypeError, "mean must be torch.float64 like D, got torch.float32"),
    (lambda: gaussian_inner(A, A, mean=0.0), TypeError, "mean must be a Tensor, got float"),
    (lambda: gaussian_inner(A, A, mean=ZERO / 0), ValueError, "mean must be finite"),
    (lambda: gaussian_inner(A, A, covariance=EYE / 0), ValueError, "covariance must be finite"),
    (lambda: gaussian_inner(A, A, covariance=EYE.triu() + EYE.roll(1, 1)), ValueError, "covariance must be symmetric"),
    (lambda: gaussian_inner(A, A, covariance=-EYE), ValueError, "covariance must be positive semi-definite, got least eigenvalue -1"),
]


@pytest.mark.parametrize("call, error, message", MORE_CALLS)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
