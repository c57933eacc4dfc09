"""Stacked layers as a tree: order, function, dense tensor, Gram matrices, contractions, trees and distances, errors."""

import cotengra
import opt_einsum
import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, randn, random_network, unfolded

from tensorlm.tensors import CPTensor, compose, function_inner, hosvd
from tensorlm.tensors.composition import tree_distance

depth = st.integers(1, 2)
seed = st.integers(0, 2**16)


def evaluate(tensor, x):
    """A dense tensor (out, width, ...) at one point."""
    while tensor.ndim > 1:
        tensor = tensor @ x
    return tensor


networks = st.builds(random_network, widths=st.lists(st.integers(1, 4), min_size=2, max_size=3), hidden=st.integers(1, 5), seed=seed)


@SETTINGS
@given(networks)
def test_the_dense_tensor_is_the_function(network):
    dense = network.dense()
    assert dense.shape == network.shape and 8 * dense.numel() == network.dense_bytes
    for x in randn(3, network.width):
        close(evaluate(dense, x), network(x))
        close(network(x), layers_in_turn(network, x))


def layers_in_turn(network, x):
    for layer in network.layers:
        x = torch.einsum("oij,i,j->o", layer.dense(), x, x)
    return x


@SETTINGS
@given(networks)
def test_the_tensor_of_two_layers_is_the_sum_over_both_wires(network):
    if len(network.layers) == 1:
        return close(network.dense(), network.layers[0].dense())
    lower, upper = (layer.dense() for layer in network.layers)
    close(network.dense(), torch.einsum("omn,mij,nkl->oijkl", upper, lower, lower))


@pytest.mark.parametrize(("layers", "order"), [(1, 3), (2, 5), (3, 9)])
def test_the_order_doubles_with_every_layer(layers, order):
    network = random_network((2,) * (layers + 1), hidden=2)
    assert (network.order, network.degree) == (order, 2**layers) == (2**layers + 1, order - 1)
    assert network.dense().ndim == order
    assert (order == 2 * layers + 1) == (layers < 3)  # counting two more inputs a layer is right only for one and two
    x = randn(2)
    close(network(3 * x), 3.0**network.degree * network(x))
    if layers == 3:
        assert not torch.allclose(network(3 * x), 3.0 ** (2 * layers) * network(x))


def test_changing_the_order_of_the_layers_changes_the_tensor():
    network = random_network((3, 3, 3))
    assert not torch.allclose(compose(*reversed(network.layers)).dense(), network.dense())


@SETTINGS
@given(networks)
def test_gram_matrices_are_those_of_the_dense_tensor(network):
    dense = network.dense()
    expected = [unfolded(dense, mode) @ unfolded(dense, mode).mT for mode in range(network.order)]
    for gram, reference in zip(network.mode_grams(), expected, strict=True):
        close(gram, reference)
    close(network.squared_norm(), dense.square().sum())


def test_three_layers_have_nine_gram_matrices():
    network = random_network((2, 3, 2, 2), hidden=3)
    dense = network.dense()
    for mode, gram in enumerate(network.mode_grams()):
        close(gram, unfolded(dense, mode) @ unfolded(dense, mode).mT)


def test_the_inputs_of_a_raw_tree_have_different_gram_matrices_of_a_symmetrised_one_equal_ones():
    network = random_network((3, 2, 4))
    assert not torch.allclose(*network.mode_grams()[1:3])
    grams = network.symmetrised().mode_grams()[1:]
    for gram in grams[1:]:
        close(gram, grams[0])


@SETTINGS
@given(networks)
def test_symmetrised_layers_are_the_same_function_with_another_tensor(network):
    symmetric, x = network.symmetrised(), randn(5, network.width)
    close(symmetric(x), network(x))
    for before, after in zip(network.layers, symmetric.layers):
        close(after.dense(), before.symmetric())


@SETTINGS
@given(networks, st.integers(1, 3))
def test_projection_to_bases_is_that_of_the_dense_tensor(network, rank):
    bases = [randn(size, rank, seed=mode) for mode, size in enumerate(network.shape)]
    projected = network.dense()
    for basis in bases:
        projected = torch.tensordot(projected, basis @ basis.mT, dims=([0], [0]))
    close(tree_distance(network.tree(), network.tree(bases)), (network.dense() - projected).norm(), scale=projected.norm())


@SETTINGS
@given(networks, seed)
def test_tree_distance_is_that_of_the_dense_tensors(network, other):
    widths = [network.width, *(1 + (layer.out + other) % 3 for layer in network.layers[:-1]), network.out]
    other = random_network(widths, hidden=4, seed=other)
    close(tree_distance(network.tree(), other.tree()), (network.dense() - other.dense()).norm())


def test_tree_distance_does_not_cancel_where_squared_norms_do():
    network = random_network((6, 5, 4), hidden=8)
    first, *rest = network.layers
    nearly = compose(CPTensor(first.D * (1 + 1e-11), first.L, first.R), *rest)
    expected = (network.dense() - nearly.dense()).norm()
    assert abs(float(tree_distance(network.tree(), nearly.tree()) / expected) - 1) < 1e-3
    inner = (network.dense() * nearly.dense()).sum()
    by_norms = (network.squared_norm() + nearly.squared_norm() - 2 * inner).clamp_min(0).sqrt()
    assert abs(float(by_norms / expected) - 1) > 0.5
    assert float(tree_distance(network.tree(), network.tree())) < 1e-14 * float(network.squared_norm().sqrt())


def test_wide_inputs_of_few_units_need_no_wide_unfolding():
    network = random_network((4000, 3, 2), hidden=2)
    other = compose(*(CPTensor(0 * layer.D, layer.L, layer.R) for layer in network.layers))
    close(tree_distance(network.tree(), other.tree()), network.squared_norm().sqrt())


def test_the_inner_product_of_two_networks_agrees_with_path_searching_libraries():
    """<T_a, T_b> of two unsymmetrised networks: 18 factor matrices in one contraction."""
    a, b = random_network((4, 3, 2), hidden=5, seed=1), random_network((4, 2, 2), hidden=3, seed=2)
    terms, factors = [], []
    for (lower, upper), units in ((a.layers, "abcde"), (b.layers, "uvwxy")):
        top, left, right, m, n = units
        terms += ["o" + top, top + left, top + right, left + m, m + "i", m + "j", right + n, n + "k", n + "l"]
        factors += [upper.D, upper.L, upper.R, *(lower.D, lower.L, lower.R) * 2]
    equation = ",".join(terms) + "->"
    assert len(factors) == 18
    expected = (a.dense() * b.dense()).sum()
    close(opt_einsum.contract(equation, *factors), expected, scale=1)
    found = cotengra.einsum(equation, *(factor.numpy() for factor in factors), optimize="greedy")
    close(torch.as_tensor(found), expected, scale=1)
    squared = cotengra.einsum(",".join(terms[:9] + [term.translate(str.maketrans("abcde", "uvwxy")) for term in terms[:9]]) + "->",
                              *(factor.numpy() for factor in factors[:9] * 2), optimize="greedy")
    close(a.squared_norm(), torch.as_tensor(squared))


# Steering through two layers, f(x + a s)

def fitted(points, values):
    """Coefficients of the polynomial of degree len(points) - 1 through the points."""
    return torch.linalg.solve(torch.vander(points, increasing=True), values)


@SETTINGS
@given(seed)
def test_five_points_fix_the_response_of_two_layers_and_its_top_coefficient_is_the_weights_alone(seed):
    network = random_network((4, 3, 2), hidden=5, seed=seed)
    x, s = randn(2, 4, seed=seed + 1)
    points = torch.linspace(-1, 1, 5, dtype=torch.float64)
    coefficients = fitted(points, network(x + points.unsqueeze(1) * s))
    sixth = torch.tensor(1.7, dtype=torch.float64)
    predicted = (sixth ** torch.arange(5)) @ coefficients
    close(predicted, network(x + sixth * s), scale=1e2 * network(x + sixth * s).abs().max())
    close(coefficients[-1], network(s), scale=1e2 * coefficients.abs().max())
    cubic = fitted(points[:4], network(x + points[:4].unsqueeze(1) * s))  # degree 3 is not enough
    assert not torch.allclose((sixth ** torch.arange(4)) @ cubic, network(x + sixth * s), rtol=1e-6)


# Sizes and errors

def test_counts_and_limits():
    network = random_network((128, 128, 128), hidden=256)
    assert network.parameter_count == 2 * 256 * 3 * 128 and network.dense_bytes == 2**38
    with pytest.raises(ValueError, match=r"would need 256.0 GiB, more than the limit of 1.0 GiB; use the factors: .* mode_grams"):
        network.dense()
    with pytest.raises(ValueError, match="lower ranks"):
        hosvd(network)


def test_numbers_and_single_precision():
    one = random_network((1, 1, 1), hidden=1, dtype=torch.float32)
    x = torch.full((1,), 2.0)
    torch.testing.assert_close(evaluate(one.dense(), x), one(x))
    assert one.dtype == torch.float32 and one.mode_grams()[0].dtype == torch.float32


def test_errors_name_the_argument():
    a, b = random_network((3, 2)).layers[0], random_network((3, 4)).layers[0]
    with pytest.raises(ValueError, match=r"layers\[1\] must be of width 2, .* got CPTensor of shape \(4, 3, 3\)"):
        compose(a, b)
    with pytest.raises(ValueError, match=r"layers must be a tuple of at least one CPTensor, got \(\)"):
        compose()
    with pytest.raises(TypeError, match=r"layers\[0\] must be a CPTensor, got Tensor"):
        compose(torch.eye(2))
    with pytest.raises(TypeError, match=r"layers\[1\] must be torch.float64"):
        compose(a, random_network((2, 2), dtype=torch.float32).layers[0])
    tree = random_network((4000, 2000, 1), hidden=4001, dtype=torch.float32).tree()
    with pytest.raises(ValueError, match=r"a dense tensor of shape \(4000, 4000, 4000\) .* squared norms"):
        tree_distance(tree, tree)


def test_norms_agree_with_those_of_one_layer():
    network = random_network((4, 3))
    close(network.symmetrised().squared_norm(), function_inner(network, network))
