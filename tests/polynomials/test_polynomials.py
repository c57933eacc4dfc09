"""Coefficient arrays, polynomials, Chebyshev series and roots: the arithmetic that steering stands on."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, differ, randn

from tensorlm.polynomials.chebyshev import ChebyshevSeries, PiecewiseSeries, lead_changes, nodes, real_roots, resolve
from tensorlm.polynomials.powers import Monomials, Polynomial, Ratio

ALPHAS = torch.linspace(-3, 3, 13, dtype=torch.float64)


def polynomial(degree=3, *shape, seed=0, unit=1.0, centre=0.0):
    return Polynomial(randn(degree + 1, *shape, seed=seed), unit, centre)


# Coefficient arrays

@SETTINGS
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9), st.integers(0, 2**16))
def test_products_are_those_of_the_values_and_jets_are_their_beginnings(n, m, order, seed):
    a, b = randn(n + 1, 2, 3, seed=seed), randn(m + 1, 2, 3, seed=seed + 1)
    whole = Monomials().multiply(a, b)
    close(Polynomial(whole)(ALPHAS), Polynomial(a)(ALPHAS) * Polynomial(b)(ALPHAS))
    close(Monomials(1, order).multiply(a, b), whole[: order + 1])
    matrices = Monomials().multiply(a, b, "ik,jk->ij")
    close(Polynomial(matrices)(ALPHAS), torch.einsum("aik,ajk->aij", Polynomial(a)(ALPHAS), Polynomial(b)(ALPHAS)))
    close(Monomials(1, order).multiply(a, b, "ik,jk->ij"), matrices[: order + 1])


def test_large_products_are_summed_in_parts(monkeypatch):
    a, b = randn(7, 2, 3), randn(9, 2, 3, seed=2)
    whole = [Monomials(1, order).multiply(a, b, "ik,jk->ij") for order in (None, 3)]
    monkeypatch.setattr("tensorlm.polynomials.powers.CHUNK_SIZE", 60)
    for order, expected in zip((None, 3), whole):
        close(Monomials(1, order).multiply(a, b, "ik,jk->ij"), expected)


@pytest.mark.parametrize("order", [None, 3])
@pytest.mark.parametrize("shapes", [((7, 2, 3), (9, 2, 3)), ((9, 2, 1), (7, 3)), ((1, 2), (4, 2))])
def test_small_products_are_those_of_row_after_row(monkeypatch, shapes, order):
    a, b = randn(*shapes[0]), randn(*shapes[1], seed=2)
    if a.ndim > b.ndim:
        b = b.unsqueeze(1)
    whole = Monomials(1, order).multiply(a, b)
    monkeypatch.setattr("tensorlm.polynomials.powers.FEW_NUMBERS", 0)
    close(Monomials(1, order).multiply(a, b), whole)


@pytest.mark.parametrize("variables, order", [(2, 4), (3, 3)])
def test_several_strengths_multiply_as_their_values_do(variables, order):
    algebra = Monomials(variables, order)
    a, b = randn(algebra.rows(order), 2, 2), randn(algebra.rows(1), 2, 2, seed=2)
    exponents = torch.tensor(algebra.exponents)
    points = 0.1 * randn(5, variables, seed=3)

    def value(rows):
        return torch.einsum("pm,mij->pij", points[:, None].pow(exponents[: len(rows)]).prod(-1), rows)

    low = a[: algebra.rows(order - 1)]
    close(value(algebra.multiply(low, b)), value(low) * value(b))
    close(value(algebra.multiply(low, b, "ik,kj->ij")), value(low) @ value(b))
    differ(value(algebra.multiply(a, b)), value(a) * value(b) + 1)
    assert algebra.rows(order) == math.comb(order + variables, variables) == len(algebra.exponents)
    assert sorted(algebra.exponents) == sorted(e for e in itertools.product(range(order + 1), repeat=variables) if sum(e) <= order)


@pytest.mark.parametrize("arguments, message", [((0,), "variables must be"), ((1, -1), "order must be"),
                                                ((2,), "order must be given for 2")])
def test_impossible_monomials_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Monomials(*arguments)


# Polynomials

@SETTINGS
@given(st.integers(0, 8), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.0, -1.5]), st.integers(0, 2**16))
def test_values_near_and_far_are_those_of_the_plain_sum(degree, unit, centre, seed):
    p = polynomial(degree, 2, seed=seed, unit=unit, centre=centre)
    points = (ALPHAS - centre) / unit
    close(p(ALPHAS), sum(c * points[:, None] ** k for k, c in enumerate(p.coefficients)))
    close(p.rescaled(0.7)(ALPHAS), p(ALPHAS), scale=p.coefficients.abs().max() * 100**degree)


def test_far_values_do_not_overflow_before_they_must():
    p = Polynomial(torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(200))
    values, growth = p.reduced(torch.tensor([1e3, -1e3], dtype=torch.float64))
    near = 1e-3 + 1e-9  # of 2 t^399 + t^398 + 2 t^397 + ...
    close(values, torch.tensor([near + 2 + 2e-6 + 2e-12, near - 2 - 2e-6 - 2e-12], dtype=torch.float64))
    assert torch.isinf(growth).all() and torch.isfinite(p.reduced(ALPHAS)[0]).all()


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_derivatives_are_those_of_autograd(order):
    p = polynomial(4, 3, unit=2.0, centre=0.5)
    alpha = torch.tensor(0.8, dtype=torch.float64)

    def expected(a):
        points = (a - 0.5) / 2.0
        return sum(c * points**k for k, c in enumerate(p.coefficients))

    for _ in range(order):
        function = expected
        expected = (lambda inner: lambda a: torch.func.jvp(inner, (a,), (torch.ones_like(a),))[1])(function)
    close(p.derivative(order)(alpha), expected(alpha).expand(3) if order < 5 else torch.zeros(3, dtype=torch.float64))


def test_a_linear_map_of_the_values_is_one_of_the_coefficients():
    p = polynomial(4, 2)
    close(p.mapped(lambda rows: rows @ torch.ones(2, 1, dtype=torch.float64))(ALPHAS)[:, 0], p(ALPHAS).sum(1))


def test_cancellation_is_the_factor_that_the_error_grows_by():
    roots = torch.arange(1.0, 16.0, dtype=torch.float64)  # (a - 1)(a - 2)...(a - 15), after Wilkinson
    p = Polynomial(torch.ones(1, dtype=torch.float64))
    for root in roots:
        p = Polynomial(Monomials().multiply(p.coefficients, torch.tensor([-float(root), 1.0], dtype=torch.float64)))
    alphas = torch.tensor([0.5, 12.5], dtype=torch.float64)
    truth = (alphas[:, None] - roots).prod(-1)
    errors, expected = ((p(alphas) - truth) / truth).abs(), 2e-16 * p.cancellation(alphas)
    assert errors[1] > 1e-9 and bool((errors < expected).all()) and expected[0] < 1e-13


def test_bad_polynomials_are_refused():
    with pytest.raises(ValueError, match="dtype of coefficients must be torch.float32 or torch.float64, got torch.bfloat16"):
        Polynomial(torch.ones(2).bfloat16())
    for arguments in ((torch.ones(0, 2),), (torch.ones(2), 0.0), (torch.ones(2), 1.0, math.inf)):
        with pytest.raises(ValueError):
            Polynomial(*arguments)


# Ratios

@SETTINGS
@given(st.integers(0, 6), st.integers(0, 3), st.sampled_from([1.0, 0.5]), st.integers(0, 2**16))
def test_ratios_and_their_derivatives_are_those_of_autograd(degree, order, power, seed):
    bottom = Polynomial(Monomials().add(torch.ones(1, dtype=torch.float64), Monomials().multiply(*[randn(3, seed=seed)] * 2)), 2.0)
    ratio = Ratio(polynomial(degree, 3, seed=seed, unit=2.0), bottom, power)

    def expected(a):
        t = a[:, None] / 2.0
        values = [sum(c * t**k for k, c in enumerate(side.coefficients)) for side in (ratio.numerator, ratio.denominator)]
        return values[0] / values[1] ** power

    for _ in range(order):
        function = expected
        expected = (lambda inner: lambda a: torch.func.jvp(inner, (a,), (torch.ones_like(a),))[1])(function)
    truth = expected(ALPHAS).expand(len(ALPHAS), 3)
    close(ratio.derivative(ALPHAS, order), truth, scale=10**order * truth.abs().max() + 1)
    assert ratio.degrees == (degree, 4) and bool((ratio.cancellation(ALPHAS) >= 1 - 1e-12).all())


# Beside numpy

@SETTINGS
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**16))
def test_powers_agree_with_numpy(n, m, seed):
    a, b = randn(n + 1, seed=seed), randn(m + 1, seed=seed + 1)
    one, other = np.polynomial.Polynomial(a.numpy()), np.polynomial.Polynomial(b.numpy())
    for ours, theirs in ((Polynomial(a), one), (Polynomial(Monomials().multiply(a, b)), one * other),
                         (Polynomial(Monomials().add(a, b)), one + other), (Polynomial(a).derivative(2), one.deriv(2))):
        close(ours(ALPHAS), torch.from_numpy(theirs(ALPHAS.numpy())))


@SETTINGS
@given(st.integers(0, 12), st.integers(0, 3), st.integers(0, 2**16))
def test_series_agree_with_numpy(degree, order, seed):
    ours = ChebyshevSeries(randn(degree + 1, seed=seed), -1.5, 3.0)
    theirs = np.polynomial.Chebyshev(ours.coefficients.numpy(), domain=(-1.5, 3.0))
    points = torch.linspace(-1.5, 3.0, 23, dtype=torch.float64)
    close(ours.derivative(order)(points), torch.from_numpy(theirs.deriv(order)(points.numpy())))
    interpolated = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=(-1.5, 3.0))
    close(ChebyshevSeries.of(torch.exp, -1.5, 3.0, degree).coefficients, torch.from_numpy(interpolated.coef), scale=20)
    roots = theirs.roots()
    real = roots.real[(abs(roots.imag) < 1e-12) & (roots.real > -1.5) & (roots.real < 3.0)]
    found = real_roots(ours)
    assert all(float((found - root).abs().min()) < 1e-9 for root in real)


# Chebyshev series

@SETTINGS
@given(st.integers(0, 20), st.integers(0, 2**16))
def test_degree_plus_one_nodes_are_enough_and_one_less_is_not(degree, seed):
    p = polynomial(degree, 2, seed=seed)
    series = ChebyshevSeries.of(p, -1.5, 2.0, degree)
    points = torch.linspace(-1.5, 2.0, 37, dtype=torch.float64)
    close(series(points), p(points), scale=p(points).abs().max())
    close(series.derivative()(points), p.derivative()(points), scale=p(points).abs().max() * 100)
    if degree:
        differ(ChebyshevSeries.of(p, -1.5, 2.0, degree - 1)(points), p(points))


def test_functions_are_resolved_in_as_many_pieces_as_they_need():
    smooth, tail = resolve(lambda a: torch.stack([a.sin(), a.exp()], -1), -2.0, 2.0)
    assert len(smooth.pieces) == 1 and tail < 1e-13
    close(smooth(ALPHAS[2:-2]), torch.stack([ALPHAS[2:-2].sin(), ALPHAS[2:-2].exp()], -1))
    close(smooth.derivative(2)(ALPHAS[2:-2])[:, 0], -ALPHAS[2:-2].sin(), scale=100)
    kink, tail = resolve(lambda a: (a - 0.3).relu().square()[:, None] + 1, -2.0, 2.0)
    assert len(kink.pieces) > 5 and 0 < tail < 1e-6
    steep, _ = resolve(lambda a: (a**40 + 1)[:, None], -4.0, 4.0, degree=40)
    values = torch.tensor([0.1, 1.0, 3.9], dtype=torch.float64)
    assert float(((steep(values)[:, 0] - values**40 - 1) / (values**40 + 1)).abs().max()) < 1e-12
    whole = ChebyshevSeries.of(lambda a: (a**40 + 1)[:, None], -4.0, 4.0, degree=40)
    assert float((whole(values)[0, 0] - 1).abs()) > 1e-3  # one piece for all sizes loses the small ones


def test_what_a_series_does_not_know_is_refused():
    series = PiecewiseSeries((ChebyshevSeries(torch.ones(1, 1, dtype=torch.float64), -1.0, 1.0),))
    with pytest.raises(ValueError, match=r"strengths must lie in the interval \(-1, 1\).*got -1 to 1.5"):
        series(torch.tensor([-1.0, 1.5], dtype=torch.float64))
    with pytest.raises(ValueError, match="values must be finite, got some that are not"):
        resolve(lambda a: 1 / (a - a), -1.0, 1.0)
    close(nodes(2, 0.0, 2.0), torch.tensor([1 - 0.5**0.5, 1 + 0.5**0.5], dtype=torch.float64))


# Roots

def series_of(*roots, low=-2.0, high=2.0, extra=lambda a: 1.0):
    return ChebyshevSeries.of(lambda a: math.prod((a - root) for root in roots) * extra(a), low, high, len(roots) + 2)


def strengths(values, degree, low=-2.0, high=2.0):
    return [point.strength for point in lead_changes(resolve(values, low, high, degree)[0], values)]


@pytest.mark.parametrize(("roots", "scale"), [((), 1), ((0.5,), 1), ((-1.9, 0.3, 1.7), 1), ((-2.5, 0.1), 1),
                                               ((0.5, 0.5 + 1e-5), 100)])  # rounding moves a root by about 1e-16 over the gap to the next
def test_real_roots_in_the_interval_are_found(roots, scale):
    series = series_of(*roots, extra=lambda a: a**2 + 0.5) if roots else ChebyshevSeries.of(lambda a: a**2 + 0.5, -2.0, 2.0, 2)
    close(torch.tensor(strengths(lambda a: torch.stack([series(a), 0 * a], -1), series.degree), dtype=torch.float64),
          torch.tensor([root for root in roots if abs(root) < 2], dtype=torch.float64), scale=scale)


def test_a_root_that_only_touches_zero_is_no_change():
    one, other = (Polynomial(torch.tensor(c, dtype=torch.float64)) for c in ([1.0, 0.0, 0.0, 1.0], [1.0625, -0.5625, 1.5]))
    gap = ChebyshevSeries.of(lambda a: one(a) - other(a), -2.0, 2.0, 3)  # (a - 1/4)^2 (a - 1)
    assert len(real_roots(gap)) == 3
    assert strengths(lambda a: torch.stack([one(a), other(a)], -1), 3) == pytest.approx([1.0], abs=1e-12)


def test_changes_of_the_lead_are_those_of_a_dense_sweep():
    p = polynomial(6, 40, seed=5)
    curve, _ = resolve(p, -2.0, 2.0, degree=6)
    found = lead_changes(curve, p)
    sweep = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    leaders = p(sweep).argmax(-1)
    places = torch.nonzero(leaders[:-1] != leaders[1:])[:, 0]
    assert len(found) >= 4 and [(t.before, t.after) for t in found] == [(int(leaders[i]), int(leaders[i + 1])) for i in places]
    assert all(float(sweep[i]) <= t.strength <= float(sweep[i + 1]) for t, i in zip(found, places))
    for point in found:
        values = p(torch.tensor(point.strength, dtype=torch.float64))
        assert abs(float(values[point.before] - values[point.after])) < 1e-12 * float(values.abs().max())


def test_equal_values_have_no_lead_to_change():
    p = Polynomial(torch.cat([polynomial(3, 1).coefficients.expand(4, 5), -1 - polynomial(3, 1).coefficients.abs()], dim=1)[:, :5])
    assert lead_changes(resolve(p, -2.0, 2.0, degree=3)[0], p) == []


@pytest.mark.parametrize("place", [-2.0, -1.3, 0.0, 0.3, 2.0])
@pytest.mark.parametrize("copies", [1, 3])
def test_squares_that_touch_the_leader_take_no_lead(place, copies):
    def values(alphas):  # token 0 (and its copies) touches token `copies` at `place`, and both stay above the last one
        low = 2 + alphas - (alphas - place) ** 2
        return torch.stack([low] * copies + [2 + alphas, -1 + 0 * alphas], -1)

    points = lead_changes(resolve(values, -2.0, 2.0, degree=2)[0], values)
    assert len(points) == (abs(place) == 2)  # at an end, where both are equal, argmax takes the first
    assert all(abs(point.strength - place) < 1e-7 for point in points)


def test_many_that_cross_in_one_place_change_the_lead_once():
    slopes = torch.linspace(-1, 1, 50, dtype=torch.float64)
    values = lambda alphas: 1 + (alphas - 0.1)[:, None] * slopes
    (point,) = lead_changes(resolve(values, -2.0, 2.0, degree=1)[0], values)
    assert point[1:] == (0, 49) and abs(point.strength - 0.1) < 1e-12
    fan = lambda alphas: values(alphas) - 1e-4 * slopes.square()  # and where they cross apart, close together, each leads in turn
    points = lead_changes(resolve(fan, -2.0, 2.0, degree=1)[0], fan)
    assert [point[1:] for point in points] == [(n, n + 1) for n in range(49)]
    assert all(one.strength < two.strength for one, two in zip(points, points[1:]))
