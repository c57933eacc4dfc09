"""Permutations, symmetrisers, and inner products of networks and of functions: identities, the counter-example, errors."""

import itertools

import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, randn, random_network

from tensorlm.tensors import CPTensor, compose, function_cosine, function_inner, network_cosine, symmetrise

size = st.integers(1, 4)
seed = st.integers(0, 2**16)


def tree_permutations(leaves):
    """The permutations of the leaves of a binary tree that exchange the two subtrees of some nodes."""
    if leaves == 1:
        return [(0,)]
    half = [(order, tuple(leaves // 2 + leaf for leaf in order)) for order in tree_permutations(leaves // 2)]
    pairs = [(left, right) for left, _ in half for _, right in half]
    return [left + right for left, right in pairs] + [right + left for left, right in pairs]


def counterexample():
    """Two networks for x1 x2 x3 x4, (x1 x2)(x3 x4) and (x1 x3)(x2 x4): cosine 1 as functions, 0 as networks."""
    inputs, wires = torch.eye(4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    product = CPTensor(torch.ones(1, 1, dtype=torch.float64), wires[:1], wires[1:])
    (a, b) = (CPTensor(wires, inputs[first], inputs[second]) for first, second in (([0, 2], [1, 3]), ([0, 1], [2, 3])))
    return compose(a, product), compose(b, product)


def network_inner(a, b):
    """The inner product of tree-symmetrised tensors, from their cosine."""
    a, b = (compose(part) if isinstance(part, CPTensor) else part for part in (a, b))
    return network_cosine(a, b) * (a.symmetrised().squared_norm() * b.symmetrised().squared_norm()).sqrt()


@st.composite
def pairs(draw, layers=2):
    """Two networks of one input width and one output width, but other wires and hidden widths."""
    ends = draw(size), draw(size)
    wires = [[draw(size) for _ in range(layers - 1)] for _ in range(2)]
    return tuple(random_network((ends[0], *inside, ends[1]), draw(size), draw(seed)) for inside in wires)


def evaluate(tensor, x):
    while tensor.ndim > 1:
        tensor = tensor @ x
    return tensor


def mean_over(dense, permutations):
    axes = [tuple(1 + axis for axis in order) for order in permutations]
    return sum(dense.permute(0, *order) for order in axes) / len(axes)


# Symmetrisers

def test_tree_permutations_are_a_group_of_8_of_24_and_128_of_40320():
    for leaves, count in ((1, 1), (2, 2), (4, 8), (8, 128)):
        group = set(tree_permutations(leaves))
        assert len(group) == len(tree_permutations(leaves)) == count == 2 ** (leaves - 1)
        assert all(sorted(order) == list(range(leaves)) for order in group)
    four = set(tree_permutations(4))
    assert {tuple(a[i] for i in b) for a in four for b in four} == four
    assert (1, 0, 2, 3) in four and (2, 3, 0, 1) in four and (0, 2, 1, 3) not in four


@SETTINGS
@given(size, size, st.integers(1, 4), seed)
def test_symmetrisers_are_means_over_their_groups(out, width, inputs, seed):
    dense = randn(out, *(width,) * inputs, seed=seed)
    full = symmetrise(dense)
    close(full, mean_over(dense, list(itertools.permutations(range(inputs)))))
    if inputs != 3:
        close(symmetrise(dense, "tree"), mean_over(dense, tree_permutations(inputs)))
        close(symmetrise(symmetrise(dense, "tree")), full)  # the larger group absorbs the smaller
    close(symmetrise(full), full)
    for order in itertools.permutations(range(1, inputs + 1)):
        close(full.permute(0, *order), full)
    x = randn(width, seed=seed + 1)
    close(evaluate(full, x), evaluate(dense, x), scale=1)
    residue = (full * (dense - full)).sum()
    close(residue, torch.zeros_like(residue), scale=dense.square().sum())  # an orthogonal projection


def test_the_tree_symmetriser_of_eight_inputs():
    dense = randn(1, *(2,) * 8)
    close(symmetrise(dense, "tree"), mean_over(dense, tree_permutations(8)))


@SETTINGS
@given(pairs())
def test_layer_by_layer_symmetrisation_is_the_tree_group(networks):
    network = networks[0]
    close(network.symmetrised().dense(), symmetrise(network.dense(), "tree"))


def test_the_tree_group_does_not_determine_the_function():
    """Must fail: two networks of one function have different tensors after the 8 permutations, and one after all 24."""
    a, b = counterexample()
    x = randn(50, 4)
    close(a(x), b(x))
    eight, full = ([symmetrise(network.dense(), group) for network in (a, b)] for group in ("tree", "full"))
    close(*full)
    assert not torch.allclose(*eight)
    assert float((eight[0] * eight[1]).sum()) == 0.0
    generic = random_network((3, 3, 2)).symmetrised().dense()
    assert not torch.allclose(symmetrise(generic), generic)


def test_the_counterexample_has_cosines_0_and_1():
    a, b = counterexample()
    assert abs(float(network_cosine(a, b))) < 1e-10 and float(network_cosine(a, a)) == pytest.approx(1, abs=1e-10)
    assert float(function_cosine(a, b)) == pytest.approx(1, abs=1e-10)
    negative = compose(b.layers[0], CPTensor(-b.layers[1].D, b.layers[1].L, b.layers[1].R))
    assert float(function_cosine(a, negative)) == pytest.approx(-1, abs=1e-10)


# Inner products

@SETTINGS
@given(pairs())
def test_the_network_inner_product_is_that_of_tree_symmetrised_tensors(networks):
    a, b = networks
    expected = (symmetrise(a.dense(), "tree") * symmetrise(b.dense(), "tree")).sum()
    scale = symmetrise(a.dense(), "tree").norm() * symmetrise(b.dense(), "tree").norm()
    close(network_inner(a, b), expected, scale)
    close(network_inner(b, a), expected, scale)
    close(network_inner(a.symmetrised(), b), expected, scale)


@SETTINGS
@given(pairs())
def test_the_function_inner_product_is_that_of_fully_symmetrised_tensors(networks):
    a, b = networks
    expected = (symmetrise(a.dense()) * symmetrise(b.dense())).sum()
    scale = symmetrise(a.dense(), "tree").norm() * symmetrise(b.dense(), "tree").norm()
    close(function_inner(a, b), expected, scale)
    close(function_inner(b, a), expected, scale)


def test_networks_and_functions_have_different_inner_products_beyond_one_layer():
    a, b = random_network((3, 3, 2), seed=1), random_network((3, 4, 2), seed=2)
    assert abs(float(function_inner(a, b) - network_inner(a, b))) > 0.1 * abs(float(network_inner(a, b)))
    raw = (a.dense() * b.dense()).sum()
    assert abs(float(raw - network_inner(a, b))) > 0.1 * abs(float(network_inner(a, b)))


@SETTINGS
@given(pairs(layers=1))
def test_for_one_layer_both_are_the_inner_product_of_symmetric_parts(networks):
    a, b = networks
    expected = (a.layers[0].symmetric() * b.layers[0].symmetric()).sum()
    scale = a.layers[0].symmetric().square().sum() + b.layers[0].symmetric().square().sum()
    close(network_inner(a, b), expected, scale)
    close(function_inner(a.layers[0], b.layers[0]), expected, scale)


def test_three_layers_have_an_inner_product_of_networks():
    a, b = random_network((2, 3, 2, 2), seed=1), random_network((2, 2, 3, 2), seed=2)
    close(network_inner(a, b), (symmetrise(a.dense(), "tree") * symmetrise(b.dense(), "tree")).sum())


@SETTINGS
@given(pairs(), seed)
def test_gauges_change_no_cosine(networks, seed):
    a, b = networks
    scales = 0.5 + torch.rand(2, a.layers[0].hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lower = a.layers[0].rescale(*scales).swap().permute(torch.randperm(a.layers[0].hidden, generator=torch.Generator().manual_seed(seed)))
    upper = a.layers[1].swap()
    turn = torch.linalg.qr(randn(*(lower.out,) * 2, seed=seed)).Q  # a change of basis of the wire between the layers
    turned = compose(CPTensor(turn @ lower.D, lower.L, lower.R), CPTensor(upper.D, upper.L @ turn.mT, upper.R @ turn.mT))
    size = network_inner(a, a)
    close(network_inner(turned, a), size)
    close(function_inner(turned, b), function_inner(a, b), scale=(size * network_inner(b, b)).sqrt())
    mixed = randn(lower.hidden, lower.hidden, seed=seed) + torch.eye(lower.hidden)
    other = compose(CPTensor(lower.D @ mixed.inverse(), mixed @ lower.L, mixed @ lower.R), a.layers[1])
    if lower.hidden > 1 and lower.width > 1:  # mixing hidden units is no gauge
        assert not torch.allclose(network_inner(other, a), size, rtol=1e-6)


# Errors

def test_errors_name_the_argument():
    a, b = random_network((3, 2, 4)), random_network((3, 4))
    for product in (network_cosine, function_inner, function_cosine):
        with pytest.raises(ValueError, match=r"shape of b must be \(4, 3, 3, 3, 3\) like that of a, got \(4, 3, 3\)"):
            product(a, b)
        with pytest.raises(ValueError, match=r"shape of b must be .* got \(4, 2, 2, 2, 2\)"):
            product(a, random_network((2, 2, 4)))
        with pytest.raises(ValueError, match=r"shape of b must be .* got \(1, 3, 3, 3, 3\)"):
            product(a, random_network((3, 2, 1)))
        with pytest.raises(TypeError, match="b must be torch.float64 like a, got torch.float32"):
            product(a, random_network((3, 2, 4), dtype=torch.float32))
    deep = random_network((2, 2, 2, 2))
    with pytest.raises(ValueError, match="a and b must be networks of at most 2 layers, got ComposedTensor"):
        function_inner(deep, deep)
    wide = random_network((128, 128, 1), hidden=1)
    with pytest.raises(ValueError, match="multiply-adds of a and b must be at most .* narrower layers"):
        function_inner(wide, wide)
    zero = compose(*(CPTensor(layer.D * 0, layer.L, layer.R) for layer in a.layers))
    for cosine in (network_cosine, function_cosine):
        with pytest.raises(ValueError, match="b must be other than zero"):
            cosine(a, zero)
    with pytest.raises(ValueError, match="group must be one of .* got 'pairs'"):
        symmetrise(a.dense(), "pairs")
    with pytest.raises(ValueError, match="number of inputs must be a whole number from 1 to 4, got 5"):
        symmetrise(randn(1, 2, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="number of inputs must be a power of two, got 3"):
        symmetrise(randn(1, 2, 2, 2), "tree")
    with pytest.raises(ValueError, match=r"dense must be of shape \(out, width, width, ...\), got Tensor of shape \(2, 3, 4\)"):
        symmetrise(randn(2, 3, 4))
    with pytest.raises(ValueError, match="number of inputs must be a whole number from 1 to 8, got 16"):
        symmetrise(randn(1, *(1,) * 16), "tree")
    with pytest.raises(TypeError, match="float32 or torch.float64, got torch.int64"):
        symmetrise(torch.ones(1, 2, 2, dtype=torch.int64))


def test_a_symmetrised_layer_is_itself_in_every_product():
    layer = random_network((3, 4)).layers[0]
    close(function_cosine(layer, layer.symmetrised()), torch.ones((), dtype=torch.float64))
