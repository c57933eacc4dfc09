"""Forms are the classifier, whatever it is built from; what is no polynomial is named, with what can be done."""

import pytest
import torch
from proof_cases import drawn
from tensor_cases import close, differ
from torch import nn

from tensorlm.layers import GatedMLP, Norm, build_mlp
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.proofs import certificate, logits, quadratic_forms, radius_bound
from tensorlm.tensors import CPTensor, compose, lift

X = drawn(1)(7, 4)


def linear(inputs, outputs, seed=5):
    layer = nn.Linear(inputs, outputs, dtype=torch.float64)
    layer.weight.data, layer.bias.data = drawn(seed)(outputs, inputs), drawn(seed + 1)(outputs)
    return layer.requires_grad_(False)


def scaled(width):
    norm = Norm("channel", features=width).double()
    norm.gain.data = drawn(9)(width)
    return norm.requires_grad_(False)


@pytest.mark.parametrize("kind", ["bilinear", "square", "full", "symmetric"])
@pytest.mark.parametrize("lifted", [False, True])
def test_outputs_are_forms_of_every_mlp_of_degree_2(kind, lifted):
    layer = build_mlp(kind, width=4 + lifted, hidden=6, out=3).double().requires_grad_(False)
    close(quadratic_forms(layer, 4)(X), layer(lift(X) if lifted else X))


def test_linear_maps_and_constant_norms_become_part_of_the_layer():
    mlp = GatedMLP("bilinear", width=6, hidden=5, out=3).double().requires_grad_(False)
    first, norm, last = linear(4, 5), scaled(5), linear(3, 2)
    forms = quadratic_forms(nn.Sequential(first, norm, mlp, last), 4)
    close(forms(X), last(mlp(lift(norm(first(X))))))
    first.bias.data.zero_()
    differ(forms(X), last(mlp(lift(norm(first(X))))))


def test_a_linear_classifier_is_a_form_without_curvature():
    head = linear(4, 3)
    forms = quadratic_forms(head, 4)
    close(forms(X), head(X))
    assert not forms.Q.any()


def test_biases_and_a_residual_come_in_through_the_factors():
    draw = drawn(3)
    cp = CPTensor(draw(4, 5), draw(5, 4), draw(5, 4)).with_input_bias(draw(5), draw(5)).with_residual()
    close(quadratic_forms([cp, linear(4, 3)], 4)(X), linear(4, 3)(cp(lift(X))))


def test_layers_on_layers_are_what_they_compute():
    draw = drawn(4)
    first, second = CPTensor(draw(3, 5), draw(5, 5), draw(5, 5)), CPTensor(draw(2, 5), draw(5, 4), draw(5, 4))
    close(logits([first, second], X), second(lift(first(lift(X)))))
    close(logits(compose(first.with_constant(), second), X), second(lift(first(lift(X)))))


def test_margins_and_steps_of_a_form():
    forms = quadratic_forms(build_mlp("bilinear", width=5, hidden=6, out=3).double(), 4)
    margin, step = forms.margin(2, 0), drawn(2)(4)
    close(margin(X), forms(X)[:, 2] - forms(X)[:, 0])
    close(margin.around(X[0])(step), margin(X[0] + step))
    differ(forms.margin(0, 2)(X), margin(X))


@pytest.mark.parametrize("part, advice", [
    (nn.Softmax(-1), "Softmax: leave it out"), (nn.GELU(), "GELU: an activation is no polynomial"),
    (nn.LayerNorm(4), "LayerNorm: it divides"), (TensorTransformer(ModelConfig()), "TensorTransformer: it reads tokens"),
    (torch.relu, "of unknown form"), ("bilinear", "of unknown form")])
def test_a_part_that_is_no_polynomial_is_named_with_what_can_be_done(part, advice):
    with pytest.raises(TypeError, match=advice):
        certificate([GatedMLP("bilinear", 4, 5, 4), part], X)


@pytest.mark.parametrize("classifier, message", [
    (GatedMLP("swiglu", 4, 5, 3), "swiglu of degree None"), (build_mlp("product", 4, 5, 3), "product of degree 3"),
    (nn.Sequential(Norm("rms"), GatedMLP("bilinear", 4, 5, 3)), "divides by what depends on the input"),
    (GatedMLP("bilinear", 7, 5, 3), "reads 4 numbers x, or 5 as"), (linear(5, 3), "reads 4 numbers"), ([], "at least one part"),
    ([GatedMLP("bilinear", 4, 5, 4), GatedMLP("bilinear", 4, 5, 3)], "one bilinear layer: .*radius_bound"),
    (GatedMLP("bilinear", 4, 5, 1), "at least 2 outputs"),
    (CPTensor(torch.full((2, 1), torch.nan), torch.ones(1, 4), torch.ones(1, 4)), "must be finite")])
def test_what_does_not_fit_is_said(classifier, message):
    with pytest.raises(ValueError, match=message):
        certificate(classifier, X)


def test_one_output_is_no_classifier_of_many_layers_either():
    with pytest.raises(ValueError, match="at least 2 outputs"):
        radius_bound([GatedMLP("bilinear", 4, 5, 4), GatedMLP("bilinear", 4, 5, 1)], X)
