"""HOSVD, ODT and CP-ALS of stacked layers: identities, bounds, agreement with TensorLy, degenerate tensors, errors."""

import math

import pytest
import tensorly
import torch
from hypothesis import given, settings, strategies as st
from tensor_cases import close, randn, random_network, unfolded
from tensorly.decomposition import parafac, tucker

from tensorlm.tensors import CPTensor, compose, cp_als, function_cosine, hosvd, odt
from tensorlm.tensors.als import CPFit
from tensorlm.tensors.composition import tree_distance

SETTINGS = settings(max_examples=20)
seed = st.integers(0, 2**16)


def identity(size):
    return torch.eye(size, dtype=torch.float64)


def evaluate(tensor, x):
    while tensor.ndim > 1:
        tensor = tensor @ x
    return tensor


def with_nan(network):
    first, *rest = network.layers
    return compose(CPTensor(first.D, first.L * torch.tensor(float("nan")), first.R), *rest)


def size(network):
    return float(network.squared_norm().sqrt())


def full(fit):
    """A CP fit, or a network, as a dense tensor."""
    if not isinstance(fit, CPFit):
        return fit.dense()
    axes = "abcdefghi"[: len(fit.factors)]
    return torch.einsum(",".join(axis + "r" for axis in axes) + f"->{axes}", *fit.factors)


networks = st.builds(random_network, widths=st.lists(st.integers(1, 4), min_size=2, max_size=3), hidden=st.integers(1, 5), seed=seed)


# HOSVD

@SETTINGS
@given(networks, st.integers(1, 4))
def test_hosvd_has_its_identities(network, rank):
    dense = network.dense()
    approximation = hosvd(network, min(rank, max(network.shape)))
    for mode, (factor, values) in enumerate(zip(approximation.factors, approximation.values)):
        close(factor.mT @ factor, identity(factor.shape[1]))
        close(values.square().sum(), dense.square().sum())
        exact = torch.linalg.svdvals(unfolded(dense, mode))
        close(values.square()[: len(exact)], exact.square(), scale=dense.square().sum())
    core = dense
    for factor in approximation.factors:
        core = torch.tensordot(core, factor, dims=([0], [0]))
    close(approximation.core, core, scale=dense.norm())
    close(approximation.core.norm(), approximation.dense().norm())
    error = (dense - approximation.dense()).norm()
    close(approximation.error, error, scale=dense.norm())
    close(approximation.core.square().sum() + approximation.error**2, dense.square().sum())
    dropped = sum(values[kept:].square().sum() for values, kept in zip(approximation.values, approximation.core.shape))
    assert float(approximation.error**2) <= float(dropped) + 1e-10 * float(dense.square().sum())
    x = randn(2, 3, network.width)
    close(approximation(x)[1, 2], evaluate(approximation.dense(), x[1, 2]), scale=1)


@SETTINGS
@given(networks)
def test_hosvd_at_full_ranks_is_exact(network):
    approximation = hosvd(network)
    close(approximation.dense(), network.dense())
    assert float(approximation.error) < 1e-13 * (1 + size(network))
    close(approximation(randn(5, network.width)), network(randn(5, network.width)))


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 5)])
def test_hosvd_agrees_with_tensorly(widths):
    network = random_network(widths, hidden=6)
    ranks = (2, 3, 2) if len(widths) == 2 else (2, 3, 2, 2, 3)
    ours = hosvd(network, ranks)
    with tensorly.backend_context("pytorch"):
        core, factors = tucker(network.dense(), rank=list(ranks), init="svd", n_iter_max=0)  # no iteration: the HOSVD
        close(ours.dense(), tensorly.tucker_to_tensor((core, factors)))
    close(ours.core.abs(), core.abs(), scale=core.norm())
    for factor, reference in zip(ours.factors, factors):
        close(factor @ factor.mT, reference @ reference.mT)


def test_inputs_of_a_raw_tree_cannot_share_a_factor():
    """L reads two directions and R two others: the left inputs' factor is exact for them and useless for the right ones."""
    layer = CPTensor(identity(2), identity(4)[:2], identity(4)[2:])
    approximation = hosvd(layer, (2, 2, 2))
    assert float(approximation.error) < 1e-14
    wrong = layer.dense() - torch.einsum("oij,ja,ba->oib", layer.dense(), approximation.factors[1], approximation.factors[1])
    assert float(wrong.norm()) == pytest.approx(float(layer.dense().norm()))


def test_the_error_does_not_cancel():
    lower, upper = random_network((5, 5, 3), hidden=4).layers
    small = CPTensor(lower.D, lower.L @ torch.diag(torch.tensor([1, 1, 1, 1, 1e-11]).double()), lower.R)
    network = compose(small, upper)
    approximation = hosvd(network, (3, 4, 5, 4, 5))
    exact = (network.dense() - approximation.dense()).norm()
    assert float(approximation.error) == pytest.approx(float(exact), rel=1e-3) and float(exact) < 1e-9
    by_norms = (network.squared_norm() - approximation.core.square().sum()).clamp_min(0).sqrt()
    assert abs(float(by_norms / exact) - 1) > 0.5


# ODT

def stacks(network):
    return [compose(*network.layers[:depth]).symmetrised() for depth in range(1, len(network.layers))]


@SETTINGS
@given(st.builds(random_network, widths=st.lists(st.integers(1, 4), min_size=2, max_size=4), hidden=st.integers(2, 5), seed=seed))
def test_orthogonalisation_changes_no_network_and_makes_isometries(network):
    result = odt(network)
    difference = tree_distance(network.symmetrised().tree(), result.orthogonal.symmetrised().tree())
    assert float(difference) < 1e-10 * size(network.symmetrised())
    close(result.orthogonal(randn(3, network.width)), network(randn(3, network.width)))
    for below in stacks(result.orthogonal):
        gram = below.mode_grams()[0]
        torch.testing.assert_close(gram, identity(len(gram)), rtol=0, atol=1e-7)  # of ill-conditioned layers too
    for values in result.values:
        close(values.square().sum(), network.symmetrised().squared_norm())
    assert float(result.error) < 1e-10 * size(network) and float(result.error_bound) == 0


def test_what_is_below_a_wire_is_an_isometry_to_rounding_and_was_none_before():
    network = random_network((6, 5, 4, 3), hidden=20)
    for before, after in zip(stacks(network), stacks(odt(network).orthogonal)):
        gram = after.mode_grams()[0]
        close(gram, identity(len(gram)))
        before = before.mode_grams()[0]
        assert float((before / before.diagonal().mean() - identity(len(before))).abs().max()) > 0.1


def test_wire_values_are_singular_values_of_the_dense_tensor():
    network = random_network((3, 4, 2), hidden=6)
    dense, result = network.symmetrised().dense(), odt(network)
    close(result.values[0], torch.linalg.svdvals(unfolded(dense, 1)))
    wire = torch.linalg.svdvals(dense.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1))
    close(result.values[1], wire[:4])
    assert float(wire[4:].max()) < 1e-12 * float(wire[0])


@SETTINGS
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3), seed, st.data())
def test_truncation_stays_within_the_dropped_mass(widths, seed, data):
    network = random_network(widths, hidden=4, seed=seed)
    ranks = tuple(data.draw(st.integers(1, width)) for width in widths[:-1])
    result = odt(network, ranks)
    dense, truncated = network.symmetrised().dense(), result.stack.symmetrised().dense()
    error = (dense - truncated).norm()
    close(result.error, error, scale=dense.norm())
    assert float(error) <= float(result.error_bound) + 1e-10 * float(dense.norm())
    assert [layer.width for layer in result.stack.layers[1:]] == [min(rank, len(v)) for rank, v in zip(ranks, result.values)][1:]
    assert result.stack.width == network.width
    if len(ranks) == 1:  # one wire of two copies: projected by a rank-r projector
        both = torch.cat([result.stack.layers[0].L, result.stack.layers[0].R])
        close(torch.linalg.svdvals(both)[ranks[0] :], torch.zeros(min(both.shape)).double()[ranks[0] :], scale=1)


def test_the_bound_needs_the_copies_of_a_wire():
    network = random_network((4, 4, 4), hidden=8)
    result = odt(network, ranks=(2, 4))
    dropped = sum(values[rank:].square().sum() for values, rank in zip(result.values, result.ranks))
    assert float(result.error) ** 2 > 1.1 * float(dropped)
    assert float(result.error) <= float(result.error_bound)


def test_odt_finds_the_rank_of_a_wire_and_survives_zero():
    lower, upper = random_network((3, 2, 4), hidden=6).layers
    widened = CPTensor(randn(5, 2) @ lower.D, lower.L, lower.R)  # a wire of 5, of rank 2
    wide = compose(widened, CPTensor(upper.D, randn(6, 5), randn(6, 5, seed=2)))
    result = odt(wide)
    assert result.ranks == (3, 2) and result.orthogonal.layers[0].out == 2
    close(result.stack(randn(4, 3)), wide(randn(4, 3)))
    zero = compose(CPTensor(torch.zeros_like(lower.D), lower.L, lower.R), upper)
    assert float(odt(zero).values[0].max()) == 0 and float(odt(zero).error) == 0
    one = random_network((1, 1, 1), hidden=1)
    close(odt(one, ranks=1).stack(randn(2, 1)), one(randn(2, 1)))


def test_small_values_are_accurate():
    """Values of 1 and 1e-10, from QR decompositions; the Gram matrix of the same mode has lost the second."""
    turn, sizes = torch.linalg.qr(randn(2, 2)).Q, torch.diag(torch.tensor([1.0, 1e-5]).double())
    network = compose(CPTensor(turn @ sizes, identity(2), identity(2)), CPTensor(turn, turn.mT, turn.mT))
    torch.testing.assert_close(odt(network).values[1], torch.tensor([1.0, 1e-10]).double(), rtol=1e-4, atol=0)
    assert float(hosvd(network).values[0][1]) != pytest.approx(1e-10, rel=0.01)


# CP-ALS

def starts(network, rank, seed=3):
    return [randn(size, rank, seed=seed + mode) for mode, size in enumerate(network.shape)]


@pytest.mark.parametrize(("widths", "rank"), [((6, 5), 4), ((5, 4, 6), 3), ((2, 3, 2, 3), 2)])
def test_als_agrees_with_tensorly_step_by_step(widths, rank):
    network = random_network(widths, hidden=6)
    start = starts(network, rank)
    for steps in (1, 2, 5):
        ours = cp_als(network, rank, steps, start)
        with tensorly.backend_context("pytorch"):
            initial = torch.ones(rank, dtype=torch.float64), [factor.clone() for factor in start]
            (_, factors), errors = parafac(network.dense(), rank, n_iter_max=steps, init=initial, tol=0, return_errors=True)
        for factor, reference in zip(ours.factors, factors):
            close(factor, reference)
        assert ours.errors == pytest.approx([float(error) for error in errors], rel=1e-10)


@SETTINGS
@given(networks, st.integers(1, 6), seed)
def test_a_fit_is_consistent_and_never_gets_worse(network, rank, seed):
    fit = cp_als(network, rank, steps=6, seed=seed)
    dense, size = network.dense(), float(network.dense().norm())
    columns = float(math.prod(factor.norm(dim=0) for factor in fit.factors).sum()) / size  # they may cancel
    assert fit.rank == rank and [tuple(factor.shape) for factor in fit.factors] == [(extent, rank) for extent in network.shape]
    assert float((full(fit) - dense).norm()) / size == pytest.approx(fit.errors[-1], rel=1e-6, abs=1e-9 * (1 + columns))
    for before, after in zip(fit.errors, fit.errors[1:]):
        assert after <= before + 1e-7 * (1 + columns)  # half of the digits, as normal equations have it
    x = randn(3, network.width)
    close(fit(x)[1], evaluate(full(fit), x[1]), scale=1)


def test_a_layer_is_fitted_exactly_at_its_own_rank_and_the_errors_show_it():
    network = random_network((6, 5), hidden=3, seed=4)
    fit = cp_als(network, rank=3, steps=200, seed=1)
    exact = float((full(fit) - network.dense()).norm() / network.dense().norm())
    assert fit.errors[-1] < 1e-12 and fit.errors[-1] == pytest.approx(exact, rel=0.5)  # 1e-15: both are rounding
    assert float((fit.layer().symmetric() - network.layers[0].symmetric()).norm()) < 1e-11
    near = next(step for step, error in enumerate(fit.errors) if error < 1e-9)
    partial = cp_als(network, rank=3, steps=near + 1, seed=1)
    dense, kept = network.dense(), full(partial)
    assert partial.errors[-1] == pytest.approx(float((kept - dense).norm() / dense.norm()), rel=1e-4)
    by_norms = math.sqrt(abs(float(dense.square().sum() + kept.square().sum() - 2 * (dense * kept).sum()))) / float(dense.norm())
    assert abs(by_norms / partial.errors[-1] - 1) > 0.5
    assert cp_als(network, rank=2, steps=200, seed=1).errors[-1] > 0.05


@pytest.mark.parametrize("widths", [(3, 4), (3, 2, 4)])
def test_dependent_columns_do_no_harm(widths):
    network = random_network(widths)
    once, twice = starts(network, 1), [torch.cat([column, column], dim=1) for column in starts(network, 1)]
    same, single = cp_als(network, 2, 5, twice), cp_als(network, 1, 5, once)
    close(full(same), full(single))
    dead = [torch.cat([column, torch.zeros_like(column)], dim=1) for column in once]
    assert cp_als(network, 2, 5, dead).errors == pytest.approx(single.errors)
    over = cp_als(network, 40, 3, seed=1)  # more columns than the Gram matrices have room for
    assert all(math.isfinite(error) for error in over.errors) and float(torch.stack([f.abs().max() for f in over.factors]).max()) < 1e6
    plain = random_network(widths, hidden=1)  # rank 1: the second column comes to depend on the first, and the fit stays exact
    assert max(max(cp_als(plain, 2, 8, seed=seed).errors[2:]) for seed in range(20)) < 1e-6
    scaled = [factor * torch.tensor([1.0, 1e-9]) for factor in starts(network, 2)]
    assert cp_als(network, 2, 4, scaled).errors == pytest.approx(cp_als(network, 2, 4, starts(network, 2)).errors)


def test_zero_tensors_numbers_and_single_precision():
    zero = CPTensor(torch.zeros(2, 1), torch.ones(1, 3), torch.ones(1, 3))
    assert cp_als(zero, 2, 2).errors == (0.0, 0.0)
    one = random_network((1, 1, 1), hidden=1)
    assert cp_als(one, 1, 1).errors[0] < 1e-15
    single = random_network((4, 3, 2), dtype=torch.float32)
    fit = cp_als(single, 3, 5)
    assert fit.factors[0].dtype == torch.float32
    exact = (full(fit) - full(single)).norm() / full(single).norm()
    assert fit.errors[-1] == pytest.approx(float(exact), rel=1e-3)
    assert not fit.factors[0].is_inference()


def test_a_fit_depends_on_its_seed_alone():
    network = random_network()
    assert cp_als(network, 2, 3, seed=5).errors == cp_als(network, 2, 3, seed=5).errors != cp_als(network, 2, 3, seed=6).errors


# Errors

@pytest.mark.parametrize("decompose", [hosvd, odt, lambda tensor: cp_als(tensor, 2, 1), lambda tensor: function_cosine(tensor, tensor)])
def test_nan_is_refused(decompose):
    with pytest.raises(ValueError, match=r"L of layers\[0\] must be finite, got 9 of 9 entries"):
        decompose(with_nan(random_network()))
    with pytest.raises(TypeError, match="tensor must be a ComposedTensor, got Tensor"):
        decompose(torch.ones(2, 2, 2))


def test_overflow_is_told_from_nan():
    first, last = random_network(dtype=torch.float32).layers
    huge = compose(CPTensor(first.D * 1e30, first.L, first.R), last)
    for decompose in (hosvd, lambda tensor: cp_als(tensor, 2, 1)):
        with pytest.raises(ValueError, match=r"tensor must have \|T\| within the range of torch.float32, got about 1e"):
            decompose(huge)


def test_errors_name_the_argument():
    network = random_network()
    with pytest.raises(ValueError, match=r"ranks\[1\] must be a whole number from 1 to 3, got 4"):
        hosvd(network, (1, 4, 1, 1, 1))
    with pytest.raises(ValueError, match="ranks must be a whole number from 1 to 4, got 5"):
        hosvd(network, 5)
    with pytest.raises(ValueError, match=r"ranks must be an int or 5 of them, one for each mode, got \(1, 1\)"):
        hosvd(network, (1, 1))
    with pytest.raises(ValueError, match=r"ranks must be an int or 2 of them, one for each wire, got \(1, 1, 1\)"):
        odt(network, (1, 1, 1))
    with pytest.raises(ValueError, match=r"ranks\[1\] must be a whole number from 1 to 2, got 3"):
        odt(network, (1, 3))
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to .* got 0"):
        cp_als(network, 0)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        cp_als(network, 1, 1.5)
    with pytest.raises(ValueError, match="start must be a list with a matrix for each of 5 modes"):
        cp_als(network, 1, start=[randn(4, 1)])
    with pytest.raises(ValueError, match=r"start\[1\] must be \(3, 2\), got Tensor of shape \(3, 1\)"):
        cp_als(network, 2, start=[randn(4, 2), *[randn(3, 1)] * 4])
    with pytest.raises(ValueError, match=r"start\[2\] must be finite"):
        cp_als(network, 2, start=[randn(4, 2), randn(3, 2), randn(3, 2) * float("inf"), randn(3, 2), randn(3, 2)])
    with pytest.raises(ValueError, match="order of the fit must be 3, that of one bilinear layer, got 5"):
        CPFit(tuple(starts(network, 1)), ()).layer()
    with pytest.raises(ValueError, match="x must have 3 entries"):
        hosvd(network)(randn(2))
