"""Tails of quadratic forms against closed forms and quadrature, digits relative down to 1e-20, and where they are refused."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import integrate, stats
from tensor_cases import close, differ, randn, random_cp

from tensorlm.proofs import tails
from tensorlm.proofs.distributions import Gaussian, Mixture, Samples
from tensorlm.proofs.forms import Quadratic
from tensorlm.proofs.moments import output_moments
from tensorlm.proofs.tails import chi_squares, tail_probability
from tensorlm.tensors import interaction


def normal(width):
    return Gaussian(torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64))


def diagonal(weights, slopes=None, constant=0.0):
    weights = torch.tensor(weights, dtype=torch.float64)
    slopes = torch.zeros_like(weights) if slopes is None else torch.tensor(slopes, dtype=torch.float64)
    return Quadratic(torch.diag(weights), slopes, torch.tensor(constant, dtype=torch.float64))


def normal_and_square(weight, slope, t):
    """P(weight z^2 + 2 slope y > t) by quadrature over z."""
    def inner(z):
        return stats.norm.sf((t - weight * z * z) / (2 * slope)) * 2 * stats.norm.pdf(z)
    return integrate.quad(inner, 0, 38, epsabs=0, epsrel=1e-12, points=[1, 2, 4, 8], limit=400)[0]


@pytest.mark.parametrize("form, thresholds, truth", [
    (diagonal([1.0]), [0.01, 1, 25, 60], lambda t: stats.chi2.sf(t, 1)),
    (diagonal([1.0] * 5), [0.1, 5, 5.0001, 20, 100], lambda t: stats.chi2.sf(t, 5)),
    (diagonal([1.0] * 3, [1, 2, 0], 5.0), [1.0, 8, 20, 80], lambda t: stats.ncx2.sf(t, 3, 5)),
    (diagonal([-1.0, -1.0]), [-20.0, -2, -0.1, -1e-4], lambda t: -math.expm1(t / 2)),
    (diagonal([0.0, 0.0], [1.0, 2.0]), [-10.0, 0, 3, 30], lambda t: stats.norm.sf(t / math.sqrt(20))),
    (diagonal([0.5, 0.5, -0.5, -0.5]), [-10.0, 0, 1, 30], lambda t: stats.laplace.sf(t)),
    (diagonal([1.0, 0.0], [0.0, 1.0]), [-3.0, 1, 5, 40], lambda t: normal_and_square(1, 1, t)),
    (diagonal([-1.0, 0.0], [0.0, 1.0]), [-3.0, 1, 8], lambda t: normal_and_square(-1, 1, t)),
    (diagonal([-1e-6, 0.0], [0.0, 1.0]), [-3.0, 1, 8], lambda t: normal_and_square(-1e-6, 1, t)),
])
def test_tails_agree_with_closed_forms_in_relative_digits(form, thresholds, truth):
    found = tail_probability(form, normal(len(form.b)), torch.tensor(thresholds, dtype=torch.float64))
    expected = torch.tensor([truth(t) for t in thresholds], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    rough = tail_probability(form, normal(len(form.b)), torch.tensor(thresholds, dtype=torch.float64), "saddle")
    torch.testing.assert_close(rough, expected, rtol=0.12, atol=0)


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3).filter(lambda w: abs(w) > 0.2), min_size=1, max_size=4).filter(
    lambda ws: all(abs(1 - a / b) > 0.1 for i, a in enumerate(ws) for b in ws[:i])), st.floats(0.01, 20))
def test_pairs_of_equal_weights_are_sums_of_exponentials(weights, t):
    """Each weight twice: lambda (z^2 + z'^2) is exponential of mean 2 lambda, and the tail of a sum is one of partial fractions."""
    law = diagonal([w for w in weights for _ in range(2)])
    expected = sum(math.exp(-t / (2 * w)) / math.prod(1 - v / w for v in weights if v != w) for w in weights if w > 0)
    assert float(tail_probability(law, normal(2 * len(weights)), t)) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_a_threshold_that_cannot_be_reached():
    below = diagonal([-1.0, -2.0], [1.0, 0.0], 3.0)  # at most 4
    found = tail_probability(below, normal(2), torch.tensor([3.9, 4.0, 5.0], dtype=torch.float64))
    assert 0 < float(found[0]) < 0.2 and found[1:].tolist() == [0.0, 0.0]
    above = Quadratic(*(-part for part in below))
    assert tail_probability(above, normal(2), torch.tensor([-4.0, -9.0])).tolist() == [1.0, 1.0]


def margin_form(cp, mean=None):
    Q = interaction(cp, torch.tensor([1.0, -1.0] + [0.0] * (cp.out - 2), dtype=torch.float64))
    return Quadratic(Q, torch.zeros(cp.width, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))


@pytest.mark.parametrize("rank", [2, 4])
def test_the_tail_of_a_layers_logit_difference_is_that_of_its_samples(rank):
    cp, root = random_cp(out=3, hidden=5, width=4), randn(4, rank, seed=3)
    distribution = Gaussian(randn(4, seed=5) / 2, root @ root.mT)
    form = margin_form(cp)
    law, exact = chi_squares(form, distribution), output_moments(cp, distribution)
    assert law.mean == pytest.approx(float(exact.mean[0] - exact.mean[1]))
    difference = exact.covariance[0, 0] + exact.covariance[1, 1] - 2 * exact.covariance[0, 1]
    assert law.variance == pytest.approx(float(difference))
    y = cp(distribution.sample(200_000, torch.Generator().manual_seed(0)))
    values = y[:, 0] - y[:, 1]
    for t in torch.quantile(values, torch.tensor([0.2, 0.9, 0.999], dtype=torch.float64)):
        exact, seen = float(tail_probability(form, distribution, float(t))), float((values > t).double().mean())
        assert abs(exact - seen) < 5 * math.sqrt(exact * (1 - exact) / len(values))
    differ(tail_probability(form, distribution, float(t), "gaussian") / exact, torch.ones((), dtype=torch.float64))


def test_mixtures_and_rows():
    form, parts = margin_form(random_cp(width=3)), (Gaussian(randn(3), torch.eye(3, dtype=torch.float64)), normal(3))
    t = torch.tensor([0.5, 3.0], dtype=torch.float64)
    close(tail_probability(form, Mixture((0.25, 0.75), parts), t),
          0.25 * tail_probability(form, parts[0], t) + 0.75 * tail_probability(form, parts[1], t))
    rows = randn(50, 3)
    values = torch.stack([row @ form.Q @ row for row in rows])
    assert tail_probability(form, Samples(rows), t).tolist() == [float((values > each).double().mean()) for each in t]


@pytest.mark.parametrize("form, distribution, message", [
    (diagonal([0.0, 0.0]), normal(2), "a form that varies under the distribution"),
    (diagonal([1.0, 0.0]), Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([0.0, 1.0]).double())), "a form that varies"),
    (diagonal([1.0]), normal(2), "Q must be of shape"),
    (Quadratic(torch.eye(2), torch.zeros(1), torch.zeros(())), normal(2), "b must be of shape"),
    (Quadratic(torch.eye(2), torch.zeros(2), torch.zeros(1)), normal(2), "c0 must be one number"),
    (diagonal([math.nan]), normal(1), "Q must be finite"),
])
def test_what_does_not_fit_is_named(form, distribution, message):
    with pytest.raises(ValueError, match=message):
        tail_probability(form, distribution)


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        tail_probability(diagonal([1.0]), normal(1), method="davies")
    with pytest.raises(TypeError, match="form must be a Quadratic"):
        tail_probability(torch.eye(2), normal(2))
    with pytest.raises(ValueError, match="threshold must be"):
        tail_probability(diagonal([1.0]), normal(1), "high")


def test_digits_that_do_not_settle_are_not_returned(monkeypatch):
    monkeypatch.setattr(tails, "NODES", 17)
    with pytest.raises(RuntimeError, match="method='saddle'"):
        tail_probability(diagonal([1.0, -0.3, 0.1]), normal(3), 4.0)
