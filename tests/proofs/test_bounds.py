"""Bounds are sound: no attack and no sample of images inside finds another class; each is measured against what attains it."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from proof_cases import KINDS, SEEDS, case, drawn
from tensor_cases import close
from torch import nn

from tensorlm.layers import GatedMLP
from tensorlm.proofs import attack_radius, box_radius, certificate, logits, radius_bound
from tensorlm.proofs.bounds import CURVATURES, METHODS, eigenvalue_curvature, interval_curvature, semidefinite_curvature
from tensorlm.tensors import CPTensor, lift

MANY, FEW = settings(max_examples=30), settings(max_examples=12)


def network(depth, seed, width=3, middle=3, hidden=4, classes=3):
    """Bilinear layers with biases."""
    draw = drawn(seed)
    widths = [width] + [middle] * (depth - 1) + [classes]
    return [CPTensor(draw(out, hidden), draw(hidden, 1 + into) / 2, draw(hidden, 1 + into) / 2) for into, out in zip(widths, widths[1:])]


def head(weight, bias):
    layer = nn.Linear(*reversed(weight.shape), dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight, bias
    return layer.requires_grad_(False)


@MANY
@given(kind=st.sampled_from(KINDS), width=st.integers(1, 5), classes=st.integers(2, 4), seed=SEEDS,
       method=st.sampled_from(sorted(CURVATURES)))
def test_no_image_in_the_certified_box_has_another_class(kind, width, classes, seed, method):
    layer, x = case(kind, width, classes, seed)
    radius = min(box_radius(layer, x, method=method).item(), 1e3) * (1 - 1e-9)
    draw = drawn(seed + 1)
    inside = torch.cat([draw(200, width).sign(), draw(200, width).clamp(-1, 1)])
    assert (layer(lift(x + radius * inside)).argmax(-1) == layer(lift(x)).argmax(-1)).all()
    assert box_radius(layer, x, method=method) <= certificate(layer, x).radius * (1 + 1e-9), "a ball of that radius lies in the box"


def test_the_box_of_a_linear_classifier_is_exact():
    weight, bias, x = drawn(1)(3, 5), drawn(2)(3), drawn(3)(6, 5)
    values = x @ weight.T + bias
    label = values.argmax(1)
    slopes = (weight[label].unsqueeze(1) - weight).abs().sum(-1)
    distances = ((values.gather(1, label.unsqueeze(1)) - values) / slopes).nan_to_num(nan=torch.inf)
    for method in CURVATURES:
        close(box_radius(head(weight, bias), x, method=method), distances.amin(1))


def test_the_semidefinite_curvature_is_the_least_of_the_three_and_known_where_q_is_diagonal():
    Q = drawn(5)(6, 12, 12)
    Q = Q + Q.mT
    least = semidefinite_curvature(Q)
    assert (least < 0.9 * torch.minimum(interval_curvature(Q), eigenvalue_curvature(Q))).all()
    values = drawn(6)(1, 8)
    close(semidefinite_curvature(torch.diag_embed(values)), values.clamp(max=0).abs().sum(1))
    assert eigenvalue_curvature(torch.diag_embed(values)) > 1.5 * values.clamp(max=0).abs().sum(1)
    assert semidefinite_curvature(torch.eye(3).double().unsqueeze(0)) == 0


def test_the_semidefinite_curvature_bounds_every_corner():
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
    Q = drawn(7)(5, 8, 8)
    Q = Q + Q.mT
    worst = -torch.einsum("ni,mij,nj->mn", corners, Q, corners).amin(1)
    least = semidefinite_curvature(Q)
    assert (least >= worst).all() and (least < 1.6 * worst).all()
    assert (0.5 * least < worst).any(), "half of it would be beaten by a corner"


@FEW
@given(depth=st.integers(2, 3), seed=SEEDS, method=st.sampled_from(sorted(METHODS)))
def test_no_image_in_the_certified_ball_of_more_layers_has_another_class(depth, seed, method):
    layers, x = network(depth, seed), drawn(seed + 1)(4, 3)
    radius = radius_bound(layers, x, method=method)
    steps = torch.nn.functional.normalize(drawn(seed + 2)(200, 4, 3), dim=-1) * radius.unsqueeze(-1) * (1 - 1e-9)
    assert (logits(layers, x + steps).argmax(-1) == logits(layers, x).argmax(-1)).all()


def test_attacks_stay_outside_of_every_bound():
    layers, x = network(2, seed=1), drawn(2)(24, 3)
    label = logits(layers, x).argmax(-1)
    attack = attack_radius(lambda points: logits_of(layers, points), x, label, reach=8.0, aims=2)
    for method in METHODS:
        bound = radius_bound(layers, x, method=method)
        assert (bound > 0).all() and (bound <= attack.radius * (1 + 1e-9)).all()
        assert (bound > 0.02 * attack.radius).all(), "and they are not empty"


def test_a_bound_of_two_layers_half_again_as_large_would_be_beaten():
    layers, x = network(2, seed=3), drawn(4)(20, 3)
    label, bound = logits(layers, x).argmax(-1), radius_bound(layers, x)
    attack = attack_radius(lambda points: logits_of(layers, points), x, label, reach=4.0)
    assert (attack.radius < 1.5 * bound).any() and (attack.radius >= bound).all()
    assert (radius_bound(layers, x, method="interval") < bound).double().mean() > 0.9


def logits_of(layers, x):
    for layer in layers:
        x = layer(lift(x))
    return x


@pytest.mark.parametrize("method", METHODS)
def test_with_one_layer_nothing_is_left_to_bound(method):
    layer, x = GatedMLP("bilinear", 6, 8, 4), drawn(5)(2, 5, 5)
    found = certificate(layer, x)
    torch.testing.assert_close(radius_bound(layer, x, method=method), found.radius, rtol=1e-6, atol=1e-7)
    wrong = (found.rival + 0).clone()
    assert not radius_bound(layer, x, wrong, method).any()


def test_the_radius_through_two_squares_is_known():
    """x^4 against 16 at x = 3: the class changes at 2."""
    square = CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    both = [square, square, head(torch.eye(2, 1).double(), torch.tensor([0.0, 16.0]).double())]
    found = {method: radius_bound(both, torch.tensor([[3.0]]), method=method).item() for method in METHODS}
    assert found["interval"] == pytest.approx(1, abs=1e-6), "a monotonous function is its values at the ends"
    assert 0.5 < found["norm"] < found["taylor"] < 1


def test_a_curved_margin_of_two_layers_is_bounded_better_by_its_second_order():
    layers, x = network(2, seed=8, width=8, middle=6, hidden=8), drawn(9)(16, 8)
    taylor, ball, box = (radius_bound(layers, x, method=method).median() for method in ("taylor", "norm", "interval"))
    assert taylor > 1.2 * ball and taylor > 1.2 * box


@pytest.mark.parametrize("function", [box_radius, radius_bound])
def test_methods_that_are_not_there_and_shapes_that_do_not_fit_are_named(function):
    layer = GatedMLP("bilinear", 5, 6, 3)
    with pytest.raises(ValueError, match="method must be one of"):
        function(layer, torch.ones(2, 4), method="crown")
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        function(layer, torch.ones(2, 4), torch.zeros(3, dtype=torch.long))
    assert function(layer, torch.ones(0, 4)).shape == (0,)
    assert function(layer, torch.ones(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_finds_the_edge_of_a_linear_classifier(norm):
    weight, bias, x = drawn(1)(3, 5), drawn(2)(3), drawn(3)(8, 5)
    line = head(weight, bias)
    label = line(x).argmax(1)
    truth = certificate(line, x, label).radius if norm == "l2" else box_radius(line, x, label)
    found = attack_radius(line, x, label, norm)
    assert (found.radius >= truth * (1 - 1e-9)).all() and (found.radius < truth * 1.01).all()
    assert (line(found.nearest).argmax(1) != label).all()
    assert not attack_radius(line, x, (label + 1) % 3, norm).radius.any(), "misclassified images need no step"


def test_an_attack_that_cannot_reach_says_infinity():
    found = attack_radius(lambda x: torch.cat([x, -x], dim=1), torch.tensor([[5.0]]), torch.tensor([0]), reach=1.0)
    assert found.radius.isinf().all() and found.nearest.item() == 5.0
    with pytest.raises(ValueError, match="norm must be one of 'l2', 'linf'"):
        attack_radius(lambda x: x, torch.ones(1, 2), torch.tensor([0]), norm="l1")
    with pytest.raises(ValueError, match="reach must be"):
        attack_radius(lambda x: x, torch.ones(1, 2), torch.tensor([0]), reach=0)
