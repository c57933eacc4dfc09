"""The certificate is the attack: nothing nearer changes the class, and the point that it names does."""

import math

import pytest
import torch
from hypothesis import assume, example, given, settings, strategies as st
from proof_cases import KINDS, SEEDS, case, drawn, layer_of
from tensor_cases import close, differ

from tensorlm.layers import GatedMLP
from tensorlm.proofs import Quadratic, attack_radius, certificate, quadratic_forms, worst_margin
from tensorlm.tensors import CPTensor, lift

MANY = settings(max_examples=60)
CASES = dict(kind=st.sampled_from(KINDS), width=st.integers(1, 6), classes=st.integers(2, 4), seed=SEEDS)


def label_of(layer, x):
    return layer(lift(x)).argmax(-1)


def ray_distance(margin: Quadratic, x, directions):
    """The exact distance to the first zero of a margin along each direction."""
    form = margin.around(x)
    square, slope = (directions @ form.Q * directions).sum(1), directions @ form.b
    root = (slope.square() - square * form.c0).clamp_min(0).sqrt()
    roots = torch.stack([form.c0 / (root - slope), form.c0 / (-root - slope)])
    return torch.where((roots > 0) & (slope.square() >= square * form.c0), roots, torch.inf).amin(0)


def only_touches(layer, x, found) -> bool:
    """Whether no image twice as far has another class either: the margin is zero there, and nowhere below zero."""
    return bool(worst_margin(layer, x, 2 * found.radius).margin > -1e-9 * layer(lift(x)).abs().max())


@MANY
@given(**CASES)
@example(kind="hard", width=2, classes=2, seed=0)
@example(kind="without bias", width=1, classes=2, seed=4)
def test_the_point_flips_the_label_a_millionth_further_and_keeps_it_a_millionth_nearer(kind, width, classes, seed):
    layer, x = case(kind, width, classes, seed)
    label, found = label_of(layer, x), certificate(layer, x)
    assume(0 < found.radius.item() < math.inf and not only_touches(layer, x, found))
    step = found.nearest - x
    assert label_of(layer, x + (1 + 1e-6) * step) == found.rival != label
    assert label_of(layer, x + (1 - 1e-6) * step) == label
    assert step.norm().item() == pytest.approx(found.radius.item(), rel=1e-10)
    assert found.distances[0, found.rival] == found.radius


@MANY
@given(**CASES)
@example(kind="hard", width=3, classes=2, seed=1)
def test_no_attack_beats_a_certificate(kind, width, classes, seed):
    """The first zero along each of 300 directions is known in closed form, and random images inside keep the label."""
    layer, x = case(kind, width, classes, seed)
    label, found, forms = label_of(layer, x).item(), certificate(layer, x), quadratic_forms(layer, width)
    draw = drawn(seed + 1)
    directions = torch.nn.functional.normalize(torch.cat([draw(300, width), found.nearest - x + 0.01 * draw(50, width)]), dim=1)
    for rival in set(range(classes)) - {label}:
        assert found.distances[0, rival] <= ray_distance(forms.margin(label, rival), x[0], directions).min() * (1 + 1e-7)
    inside = min(found.radius.item(), 1e3) * (1 - 1e-6)
    assert (label_of(layer, x + inside * directions) == label).all()


@MANY
@given(**CASES, share=st.sampled_from([0.1, 0.9, 1.0, 1.1, 3.0]))
def test_the_least_margin_in_a_ball_agrees_with_the_certificate(kind, width, classes, seed, share):
    """Two algorithms, one truth: positive inside the radius, zero at it, negative beyond; and the point has the margin stated."""
    layer, x = case(kind, width, classes, seed)
    label, found = label_of(layer, x).item(), certificate(layer, x)
    radius = share * found.radius.item() if found.radius.isfinite() else 10 * share
    worst = worst_margin(layer, x, radius)
    values = layer(lift(worst.point))[0]
    size = float(layer(lift(x)).abs().max() + values.abs().max())
    close(values[label] - values[worst.rival], worst.margin, scale=size)
    assert (worst.point - x).norm() <= radius * (1 + 1e-9)
    if share == 1.0 and found.radius.isfinite():
        assert abs(worst.margin.item()) <= 1e-9 * size
    elif share < 1 or found.radius.isinf():
        assert worst.margin > 0
    elif not only_touches(layer, x, found):
        assert worst.margin < 0
    sampled = layer(lift(x + radius * torch.nn.functional.normalize(drawn(seed)(200, width), dim=1)))
    others = sampled.masked_fill(torch.arange(classes) == label, -torch.inf).amax(1)
    assert (sampled[:, label] - others).min() >= worst.margin - 1e-9 * size


def test_the_hard_case_adds_a_step_along_the_lowest_eigenvector():
    """1 + x2 - x1^2 at (0, 0): no slope along x1, and the parabola x2 = x1^2 - 1 is nearest at x1 = +-sqrt(1/2)."""
    layer = layer_of(torch.stack([torch.diag(torch.tensor([-1.0, 0.0])), torch.zeros(2, 2)]).double(),
                     torch.tensor([[0.0, 0.5], [0.0, 0.0]]).double(), torch.tensor([1.0, 0.0]).double())
    found = certificate(layer, torch.zeros(1, 2))
    close(found.radius[0], math.sqrt(0.75))
    close(found.nearest.abs(), torch.tensor([[math.sqrt(0.5), 0.5]], dtype=torch.float64))
    differ(found.radius, torch.ones(1).double())  # the zero straight down the slope, what a method without the hard case finds


def test_a_margin_that_only_touches_zero_ends_in_a_tie():
    """x^2 against 0 at x = 3: both are zero at 0, and the label never changes."""
    layer = layer_of(torch.tensor([[[1.0]], [[0.0]]]).double(), torch.zeros(2, 1).double(), torch.zeros(2).double())
    found = certificate(layer, torch.tensor([[3.0]]))
    close(found.radius, torch.tensor([3.0]).double())
    close(found.nearest + 1, torch.ones(1, 1).double())
    assert worst_margin(layer, torch.tensor([[3.0]]), 5.0).margin == pytest.approx(0, abs=1e-12)


def test_without_a_zero_the_radius_is_infinite():
    layer = layer_of(torch.stack([torch.eye(2), torch.zeros(2, 2)]).double(), torch.zeros(2, 2).double(), torch.tensor([1.0, 0.0]).double())
    found = certificate(layer, torch.ones(1, 2), torch.tensor([0]))
    assert found.radius.isinf().all() and found.correct.all() and found.accuracy([1e9]) == [1.0]
    assert certificate(layer, torch.ones(1, 2), torch.tensor([1])).radius.item() == 0


def test_misclassified_and_tied_images_have_radius_0_and_stay_where_they_are():
    layer, x = case("indefinite", 4, 3, seed=2)
    label = label_of(layer, x).item()
    wrong = torch.tensor([(label + 1) % 3])
    found = certificate(layer, x, wrong)
    assert found.radius.item() == 0 and not found.correct.any() and found.rival.item() == label
    close(found.nearest, x)
    tied = CPTensor(torch.ones(2, 1), torch.ones(1, 2), torch.ones(1, 2))
    assert certificate(tied, torch.ones(3, 2), torch.zeros(3, dtype=torch.long)).radius.tolist() == [0, 0, 0]


def test_equal_rivals_and_equal_eigenvalues_change_nothing():
    """|x|^2 < 1 against two equal rivals: the circle is everywhere at the same distance from its centre."""
    layer = layer_of(torch.stack([-torch.eye(3), torch.zeros(3, 3), torch.zeros(3, 3)]).double(), torch.zeros(3, 3).double(),
                     torch.tensor([1.0, 0.0, 0.0]).double())
    found = certificate(layer, torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    close(found.radius, torch.tensor([1.0, 0.5]).double())
    close(found.nearest[1], torch.tensor([1.0, 0.0, 0.0]).double())
    assert found.rival.tolist() == [1, 1] and found.nearest[0].norm().item() == pytest.approx(1)


def test_a_wide_image_is_solved_in_the_few_directions_that_the_layer_reads():
    draw = drawn(7)
    narrow = CPTensor(draw(3, 2), draw(2, 5), draw(2, 5))
    frame = torch.linalg.qr(draw(40, 5)).Q
    wide, x = CPTensor(narrow.D, narrow.L @ frame.mT, narrow.R @ frame.mT), draw(6, 40)
    close(certificate(wide, x).radius, certificate(narrow, x @ frame).radius)


def test_shapes_dtypes_and_labels_of_the_layer_itself():
    layer, x = GatedMLP("bilinear", 5, 6, 3), drawn(8)(2, 3, 4).float()
    found = certificate(layer, x)
    assert found.radius.shape == found.rival.shape == (2, 3) and found.nearest.shape == x.shape and found.distances.shape == (2, 3, 3)
    assert found.radius.dtype == torch.float64 and found.correct.all()
    close(found.radius, certificate(layer, x, layer(lift(x)).argmax(-1)).radius)
    close(certificate(layer, x[1, 2]).radius, found.radius[1, 2])
    assert certificate(layer, x[:, :0]).radius.shape == (2, 0)
    close(worst_margin(layer, x, found.radius).margin, torch.zeros(2, 3).double(), scale=1e-2)
    radii = [0.0, found.radius.median().item(), 1e9]
    assert found.accuracy(radii) == [1.0, 0.5, 0.0]


def test_gradient_descent_finds_the_certificate_and_never_less():
    layer, x = GatedMLP("bilinear", 9, 12, 4).double().requires_grad_(False), drawn(3)(40, 8)
    found = certificate(layer, x)
    attack = attack_radius(lambda points: layer(lift(points)), x, layer(lift(x)).argmax(-1), reach=2 * found.radius.max().item())
    ratio = attack.radius / found.radius
    assert (ratio >= 1 - 1e-9).all() and ratio.median() < 1.01
    assert (attack.radius < found.radius * 1.5).any(), "a certificate half again as large would be beaten"


@pytest.mark.parametrize("change, message", [
    (dict(x=torch.ones(3, 4, dtype=torch.long)), "floating-point"), (dict(x=torch.full((3, 4), torch.nan)), "x must be finite"),
    (dict(labels=torch.tensor([0, 1])), r"labels must be whole numbers in a tensor of shape \(3,\)"),
    (dict(labels=torch.tensor([0.0, 1.0, 2.0])), "labels must be whole"), (dict(labels=torch.tensor([0, 1, 3])), "classes from 0 to 2"),
    (dict(radius=-0.1), "radius must be a finite number of at least 0, got -0.1"), (dict(radius=math.inf), "radius must be"),
    (dict(radius=torch.tensor([1.0, -1.0, 1.0])), "radius must be finite numbers of at least 0"),
    (dict(radius=torch.ones(2)), r"radius must be one number or a tensor of shape \(3,\)")])
def test_images_labels_and_radii_that_do_not_fit_are_named(change, message):
    given_ = dict(x=torch.ones(3, 4), radius=0.1, labels=None) | change
    with pytest.raises((ValueError, TypeError), match=message):
        worst_margin(GatedMLP("bilinear", 5, 6, 3), **given_)
