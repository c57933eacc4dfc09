"""Factors far from 1: every result is the scaled right one, or one ValueError that names argument and range."""

import math

import pytest
import torch
from tensor_cases import close, random_cp

from tensorlm.tensors import (
    CPTensor,
    compose,
    cp_als,
    eigen,
    function_cosine,
    function_inner,
    hosvd,
    interaction,
    layer_hosvd,
    network_cosine,
    odt,
    rational_scores,
    same_function,
    symmetrise,
)
from tensorlm.tensors.composition import ComposedTensor, tree_distance

EXTREME = [(torch.float32, 1e-8), (torch.float32, 1e7), (torch.float64, 1e-60), (torch.float64, 1e60)]
extreme = pytest.mark.parametrize("dtype, factor", EXTREME)


def scaled(seed, dtype=torch.float64, factor=1.0, out=3, width=4) -> CPTensor:
    cp = random_cp(out=out, width=width, seed=seed)
    return CPTensor(*(matrix.to(dtype) * factor for matrix in (cp.D, cp.L, cp.R)))


def network(seed, *scale) -> ComposedTensor:
    return compose(scaled(seed, *scale), scaled(seed + 1, *scale, width=3))


def equal(got, expected, factor=1.0, power=0):
    """got == expected * factor^power to some hundred rounding errors, without forming what leaves the number range."""
    got = torch.as_tensor(got)
    rounding = 1e-4 if got.dtype == torch.float32 else 1e-10
    got, expected = got.double().flatten(), torch.as_tensor(expected).double().flatten()
    for _ in range(power):
        got = got / factor
    torch.testing.assert_close(got, expected, rtol=rounding, atol=rounding * float(expected.abs().max()))


SIZES = {
    "distance": lambda *scale: tree_distance(compose(scaled(0, *scale)).tree(), compose(scaled(1, *scale)).tree()),
    "interaction": lambda *scale: interaction(scaled(0, *scale)),
    "eigenvalues": lambda *scale: eigen(scaled(0, *scale)).values,
    "truncation": lambda *scale: eigen(scaled(0, *scale)).error(1),
    "layer_hosvd": lambda *scale: layer_hosvd(scaled(0, *scale)).values,
    "hosvd values": lambda *scale: torch.stack([values[0] for values in hosvd(scaled(0, *scale), 2).values]),
    "hosvd core": lambda *scale: torch.linalg.matrix_norm(hosvd(scaled(0, *scale), 2).core / factor_of(scale) ** 2) * factor_of(scale) ** 2,
    "hosvd error": lambda *scale: hosvd(scaled(0, *scale), 2).error,
    "odt error": lambda *scale: odt(scaled(0, *scale), 2).error,
    "odt bound": lambda *scale: odt(scaled(0, *scale), 2).error_bound,
    "odt values": lambda *scale: odt(scaled(0, *scale)).values[0],
    "cp_als": lambda *scale: cp_als(scaled(0, *scale), 2, 5).factors[0],
    "symmetrise": lambda *scale: symmetrise(scaled(0, *scale).dense()),
    "canonical": lambda *scale: scaled(0, *scale).canonical().D,
    "square_form": lambda *scale: layer_hosvd(scaled(0, *scale).square_form()).values,
    "from_dense": lambda *scale: layer_hosvd(CPTensor.from_dense(scaled(0, *scale).dense())).values,
}

RATIOS = {
    "cosine": lambda *scale: function_cosine(scaled(0, *scale), scaled(1, *scale)),
    "cosine with itself": lambda *scale: function_cosine(scaled(0, *scale), scaled(0, *scale)),
    "network_cosine": lambda *scale: network_cosine(network(0, *scale), network(5, *scale)),
    "function_cosine": lambda *scale: function_cosine(network(0, *scale), network(5, *scale)),
    "cp_als errors": lambda *scale: torch.tensor(cp_als(scaled(0, *scale), 2, 5).errors, dtype=(scale or [torch.float64])[0]),
    "canonical rows": lambda *scale: scaled(0, *scale).canonical().L,
    "scores": lambda *scale: rational_scores(*(rows for seed in (0, 1) for rows in (scaled(seed, *scale).L, scaled(seed, *scale).R))),
}

BEYOND = {
    "function_inner of layers": lambda *scale: function_inner(scaled(0, *scale), scaled(1, *scale)),
    "squared_norm": lambda *scale: network(0, *scale).squared_norm(),
    "mode_grams": lambda *scale: network(0, *scale).mode_grams(),
    "hosvd": lambda *scale: hosvd(network(0, *scale), 2),
    "odt": lambda *scale: odt(network(0, *scale), 2),
    "cp_als": lambda *scale: cp_als(network(0, *scale), 2, 2),
    "distance": lambda *scale: tree_distance(network(0, *scale).tree(), network(5, *scale).tree()),
    "function_inner": lambda *scale: function_inner(network(0, *scale), network(5, *scale)),
}


def factor_of(scale) -> float:
    return scale[1] if scale else 1.0


@extreme
@pytest.mark.parametrize("name", SIZES)
def test_sizes_scale_with_the_three_factors(name, dtype, factor):
    equal(SIZES[name](dtype, factor), SIZES[name](), factor, power=3)


@extreme
@pytest.mark.parametrize("name", RATIOS)
def test_ratios_do_not_depend_on_scale(name, dtype, factor):
    equal(RATIOS[name](dtype, factor), RATIOS[name]())


@extreme
@pytest.mark.parametrize("name", BEYOND)
def test_what_no_number_of_the_dtype_can_hold_is_one_error(name, dtype, factor):
    with pytest.raises(ValueError, match=rf"^(a|b|a and b|tensor|core|tree) must have .* within the range of {dtype}, got about 1e-?\d+; "):
        BEYOND[name](dtype, factor)


@extreme
def test_functions_are_told_apart_at_every_scale(dtype, factor):
    cp = scaled(0, dtype, factor)
    assert same_function(cp, cp.swap()) and not same_function(cp, CPTensor(2 * cp.D, cp.L, cp.R))
    assert not same_function(cp, scaled(1, dtype, factor)) and not same_function(cp, scaled(0, dtype, 1.0))


@pytest.mark.parametrize("power", [-100, 100])
def test_factors_that_make_up_for_each_other_change_nothing(power):
    cp, other = scaled(0), scaled(1)
    far = CPTensor(cp.D * 2.0 ** (-2 * power), cp.L * 2.0**power, cp.R * 2.0**power)
    units = cp.rescale(10.0 ** torch.arange(-40.0, 60.0, 20.0).double(), 10.0 ** torch.arange(40.0, -60.0, -20.0).double())
    for turned in (far, units):
        assert same_function(turned, cp)
        close(function_inner(turned, other), function_inner(cp, other))
        close(eigen(turned).values, eigen(cp).values)
        for got, expected in zip(compose(turned).mode_grams(), compose(cp).mode_grams()):
            close(got, expected)
        close(hosvd(turned, 2).error, hosvd(cp, 2).error)


def test_deep_networks_keep_their_cosine_where_no_inner_product_fits():
    layers = [scaled(seed, torch.float32, 1e-3, width=3) for seed in range(5)]
    deep, other = compose(*layers), compose(*layers[:4], CPTensor(layers[4].D, layers[4].L + 1e-4, layers[4].R))
    assert math.isclose(float(network_cosine(deep, deep)), 1.0, rel_tol=1e-5)
    wide = [compose(*(CPTensor(*(1e3 * part.double() for part in (cp.D, cp.L, cp.R))) for cp in net.layers)) for net in (deep, other)]
    equal(network_cosine(deep, other), network_cosine(*wide))


def test_a_sum_of_orders_does_not_overflow():
    dense = torch.full((1, 2, 2, 2, 2), 1.5e308, dtype=torch.float64)
    assert torch.equal(symmetrise(dense), dense) and torch.equal(symmetrise(dense, "tree"), dense)


def test_a_start_outside_the_range_is_named():
    tensor = scaled(0)
    for factor in (1e-90, 1e90):
        with pytest.raises(ValueError, match="start must have columns .* within the range of torch.float64"):
            cp_als(tensor, 2, start=[torch.full((size, 2), factor, dtype=torch.float64) for size in (3, 4, 4)])


def test_a_gauge_may_not_leave_the_range():
    one = torch.full((5,), 1e-200, dtype=torch.float64)
    with pytest.raises(ValueError, match="left and right must leave D within the range of torch.float64, got sizes of 1e-200"):
        scaled(0).rescale(one, one)


def test_scores_of_zero_vectors_are_zero():
    q = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert rational_scores(q, q, q, q)[0].tolist() == [0.0, 0.0]
