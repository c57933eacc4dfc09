"""One bilinear layer as a tensor: evaluation, scale, polar form, Jacobian, dense forms, layers and files, errors."""

import opt_einsum
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from tensor_cases import SETTINGS, close, differ, random_cp, single

from tensorlm.checks import require_affordable, require_whole
from tensorlm.layers import Attention, build_mlp
from tensorlm.tensors import CPTensor, lift

size = st.integers(1, 6)
seed = st.integers(0, 2**16)
number = st.floats(-8, 8)


def inputs(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


cps = st.builds(random_cp, out=size, hidden=size, width=size, seed=seed)


# The tensor and the function

@SETTINGS
@given(cps)
def test_dense_tensor_and_its_symmetric_part_are_the_function(cp):
    x = inputs(7, cp.width)
    for tensor in (cp.dense(), cp.symmetric()):
        close(torch.einsum("oij,bi,bj->bo", tensor, x, x), cp(x))
    antisymmetric = cp.dense() - cp.symmetric()
    close(torch.einsum("oij,bi,bj->bo", antisymmetric, x, x), torch.zeros(7, cp.out, dtype=torch.float64))
    assert torch.equal(cp.symmetric(), cp.symmetric().mT)


def test_the_tensor_is_not_its_symmetric_part():
    cp = random_cp()
    differ(cp.dense(), cp.symmetric())
    u, v = inputs(2, cp.width)
    differ(torch.einsum("oij,i,j->o", cp.dense(), u, v), cp.polar(u, v))


@SETTINGS
@given(cps)
def test_contractions_agree_with_opt_einsum(cp):
    x = inputs(5, cp.width)
    close(cp.dense(), opt_einsum.contract("ok,ki,kj->oij", cp.D, cp.L, cp.R))
    close(cp(x), opt_einsum.contract("ok,ki,kj,bi,bj->bo", cp.D, cp.L, cp.R, x, x))


@pytest.mark.parametrize("out, hidden, width", [(9, 4, 3), (3, 4, 9), (4, 4, 4), (1, 1, 1)])
def test_both_khatri_rao_routes_give_the_tensor(out, hidden, width):
    cp = random_cp(out, hidden, width)
    close(cp.dense(), torch.einsum("ok,ki,kj->oij", cp.D, cp.L, cp.R))


# Scale

@SETTINGS
@given(cps, number)
def test_scale_and_parity(cp, a):
    x = inputs(4, cp.width)
    close(cp(a * x), a**2 * cp(x))
    assert torch.equal(cp(-x), cp(x))


@SETTINGS
@given(st.integers(1, 4), size, size, seed, st.floats(0.5, 1.5))
def test_n_layers_scale_with_two_to_the_n(count, width, hidden, seed, a):
    def network(x):
        for k in range(count):
            x = random_cp(width, hidden, width, seed + k)(x)
        return x
    x = inputs(4, width)
    close(network(a * x), a ** (2**count) * network(x))


def test_a_residual_or_a_bias_breaks_the_scaling_law():
    cp, x = random_cp(out=4), inputs(4)
    for function in (lambda x: x + cp(x), lambda x: cp(x) + 1, lambda x: cp(x + 1)):
        differ(function(2 * x), 4 * function(x))


# The polar form

@SETTINGS
@given(cps, number)
def test_polar_form(cp, a):
    x, s = inputs(2, 3, cp.width)
    cross = cp.polar(x, s)
    assert torch.equal(cross, cp.polar(s, x))
    close(cross, torch.einsum("oij,bi,bj->bo", cp.symmetric(), x, s))
    close(cp.polar(x, x), cp(x))
    close(cross, (cp(x + s) - cp(x - s)) / 4)
    close(cp(x + a * s), cp(x) + 2 * a * cross + a**2 * cp(s))
    close((cp(x + a * s) - cp(x - a * s)) / 2, 2 * a * cross)
    close((cp(x + a * s) + cp(x - a * s)) / 2 - cp(x), a**2 * cp(s))


# Contributions of hidden units

def shares(contributions):
    return contributions.abs() / contributions.abs().sum(-1, keepdim=True)


@SETTINGS
@given(cps, number.filter(lambda a: abs(a) > 0.01))
def test_contributions_sum_to_the_output_and_their_shares_do_not_move_with_the_scale(cp, a):
    x = inputs(5, cp.width)
    close(cp.contributions(x).sum(-1), cp(x))
    close(cp.contributions(a * x), a**2 * cp.contributions(x))
    close(shares(cp.contributions(a * x)), shares(cp.contributions(x)))
    close(shares(cp.swap().rescale(inputs(cp.hidden, seed=2), inputs(cp.hidden, seed=3)).contributions(x)), shares(cp.contributions(x)))


def test_shares_move_with_a_bias_with_a_residual_and_with_the_factorisation():
    cp, x = random_cp(out=4), inputs(4)
    biased = cp.with_input_bias(inputs(5, seed=2), inputs(5, seed=3))
    differ(shares(biased.contributions(lift(3 * x))), shares(biased.contributions(lift(x))))
    block = cp.with_input_bias(torch.zeros(5).double(), torch.zeros(5).double()).with_output_bias(torch.zeros(4).double()).with_residual()
    differ(shares(block.contributions(lift(3 * x))), shares(block.contributions(lift(x))))
    squares = cp.square_form()
    close(squares(x), cp(x))
    paired = squares.contributions(x).unflatten(-1, (2, -1)).abs().sum(-2)
    differ(paired / paired.sum(-1, keepdim=True), shares(cp.contributions(x)))


def test_polar_form_broadcasts():
    cp = random_cp()
    u, v = inputs(5, 1, 4), inputs(3, 4, seed=2)
    assert cp.polar(u, v).shape == (5, 3, 3)
    close(cp.polar(u, v)[4, 2], cp.polar(u[4, 0], v[2]))


@SETTINGS
@given(cps, number)
def test_three_strengths_predict_a_fourth(cp, a):
    x, s = inputs(2, cp.width)
    below, at, above = cp(x - s), cp(x), cp(x + s)
    close(cp(x + a * s), at + a * (above - below) / 2 + a**2 * ((above + below) / 2 - at))


def test_three_strengths_do_not_predict_a_fourth_of_two_layers():
    cp, (x, s) = random_cp(out=4), inputs(2, 4)
    below, at, above = (cp(cp(x + a * s)) for a in (-1, 0, 1))
    differ(cp(cp(x + 2 * s)), at + (above - below) + 4 * ((above + below) / 2 - at))


# The Jacobian

@SETTINGS
@given(cps)
def test_jacobian(cp):
    x, y = inputs(2, cp.width)
    close(cp.jacobian(x), torch.func.jacrev(cp)(x))
    close(cp.jacobian(x), 2 * torch.einsum("oij,j->oi", cp.symmetric(), x))
    close(cp.jacobian(x) @ x, 2 * cp(x))
    gram = 4 * torch.einsum("oij,oik->jk", cp.symmetric(), cp.symmetric())
    close((cp.jacobian(x) * cp.jacobian(y)).sum(), x @ gram @ y)


def test_the_unsymmetrised_tensor_has_another_jacobian():
    cp, x = random_cp(), inputs(4)
    wrong = 2 * torch.einsum("oij,j->oi", cp.dense(), x)
    close(wrong @ x, 2 * cp(x))  # Euler's identity cannot tell
    differ(wrong, cp.jacobian(x))


def test_jacobian_keeps_leading_axes_and_empty_batches():
    cp = random_cp()
    assert cp.jacobian(inputs(2, 5, 4)).shape == (2, 5, 3, 4)
    assert cp(inputs(0, 4)).shape == (0, 3) and cp.jacobian(inputs(0, 4)).shape == (0, 3, 4)


# Counts, dtypes, layers, files

@SETTINGS
@given(cps)
def test_counts(cp):
    assert cp.parameter_count == sum(factor.numel() for factor in cp.factors().values())
    assert cp.shape == tuple(cp.dense().shape) and cp.dense_count == cp.dense().numel()
    free = torch.ones(cp.shape, dtype=torch.bool).triu()
    assert cp.symmetric_count == int(free.sum())


def test_parameter_count_is_that_of_the_layer():
    layer = build_mlp("bilinear", width=4, hidden=6, out=3)
    assert CPTensor.from_layer(layer).parameter_count == layer.parameter_count


def test_double_precision_keeps_every_number():
    cp = single(random_cp())
    assert cp.double().dtype == torch.float64 and all(torch.equal(factor.float(), cp.factors()[name])
                                                      for name, factor in cp.double().factors().items())


def test_factors_survive_a_file(tmp_path):
    cp = random_cp()
    strided = CPTensor(cp.D, cp.L.mT.contiguous().mT, cp.R)
    for name, stored in (("plain", cp), ("shared", CPTensor(cp.D, cp.L, cp.L)), ("strided", strided)):
        save_file(stored.factors(), tmp_path / name)
        loaded = CPTensor(**load_file(tmp_path / name))
        assert all(torch.equal(getattr(loaded, factor), getattr(stored, factor)) for factor in "DLR")


@pytest.mark.parametrize("kind, encoders", [("bilinear", 2), ("square", 1), ("product", 2), ("full", 2), ("symmetric", 2)])
def test_a_layer_and_its_tensor_are_one_function(kind, encoders):
    layer = build_mlp(kind, width=4, hidden=6, out=3, encoders=encoders).double()
    weight = getattr(layer, {"full": "T", "symmetric": "S"}.get(kind, "D")).data.normal_()
    cp, x = CPTensor.from_layer(layer), inputs(5, 4)
    close(cp(x), layer(x).detach())
    weight.zero_()
    assert cp.D.abs().sum() > 0 and not cp.L.requires_grad, "the tensor has copies"


def test_factors_can_be_trained_through():
    parts = {name: factor.requires_grad_() for name, factor in random_cp().factors().items()}
    CPTensor(**parts)(inputs(4)).sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in parts.values())


def test_non_finite_values_pass_through_evaluation():
    assert random_cp()(torch.full((4,), float("nan"), dtype=torch.float64)).isnan().all()


# Errors

def test_a_dense_tensor_beyond_the_limit_names_bytes_and_the_other_route():
    factor = torch.zeros(1, 1).expand(1, 20_000)
    cp = CPTensor(torch.ones(1, 1), factor, factor)
    for build in (cp.dense, cp.symmetric):
        with pytest.raises(ValueError, match=r"\(1, 20000, 20000\) would need 1.5 GiB, .* 1.0 GiB; use the factors"):
            build()
    with pytest.raises(ValueError, match=r"256.0 GiB, .* use hosvd"):
        require_affordable((128,) * 5, torch.float64, "hosvd")


E = torch.eye(3)
WRONG_FACTORS = [
    ((E, E, [[1.0]]), TypeError, "R must be a Tensor, got list"),
    ((E.int(), E.int(), E.int()), TypeError, "D must be torch.float32 or torch.float64, got torch.int32"),
    ((E.half(), E.half(), E.half()), TypeError, "got torch.float16"),
    ((E + 0j, E + 0j, E + 0j), TypeError, "got torch.complex64"),
    ((E, E.double(), E), TypeError, "L must be torch.float32 like D, got torch.float64"),
    ((E, E, E.to_sparse()), TypeError, "R must be a dense tensor, got layout torch.sparse_coo"),
    ((E, E, E.to("meta")), ValueError, "R must be on cpu like D, got meta"),
    ((E, E[0], E), ValueError, r"L must be a matrix with at least 1 row and 1 column, got shape \(3,\)"),
    ((E[:, :0], E[:0], E[:0]), ValueError, r"D must be a matrix .* got shape \(3, 0\)"),
    ((E, E, E[:2]), ValueError, r"got D \(3, 3\), L \(3, 3\), R \(2, 3\)"),
    ((E[:, :2], E, E), ValueError, r"D, L and R must be \(out, hidden\), .* got D \(3, 2\)"),
]


@pytest.mark.parametrize("factors, error, message", WRONG_FACTORS)
def test_wrong_factors_are_named(factors, error, message):
    with pytest.raises(error, match=message):
        CPTensor(*factors)


CP = CPTensor(E, E, E)
CALLS = [
    (lambda: CP(torch.ones(2)), ValueError, r"x must have 3 entries in its last axis, got shape \(2,\)"),
    (lambda: CP(torch.tensor(1.0)), ValueError, r"got shape \(\)"),
    (lambda: CP([1.0, 2.0, 3.0]), TypeError, "x must be a Tensor, got list"),
    (lambda: CP(torch.ones(3).double()), TypeError, "x must be torch.float32 like D, got torch.float64"),
    (lambda: CP(torch.ones(3).long()), TypeError, "x must be torch.float32 or torch.float64, got torch.int64"),
    (lambda: CP(torch.ones(3, device="meta")), ValueError, "x must be on cpu like D, got meta"),
    (lambda: CP.jacobian(torch.ones(4)), ValueError, "x must have 3 entries"),
    (lambda: CP.polar(torch.ones(3), torch.ones(4)), ValueError, "v must have 3 entries"),
    (lambda: CP.polar(torch.ones(2, 3), torch.ones(4, 3)), ValueError, r"u and v must have shapes that broadcast, got \(2, 3\) and"),
    (lambda: require_whole("rank", 0, 1, 4), ValueError, "rank must be a whole number from 1 to 4, got 0"),
    (lambda: require_whole("rank", True, 1, 4), ValueError, "rank must be a whole number from 1 to 4, got True"),
    (lambda: require_whole("k", 2.0, 1, 4), ValueError, "k must be a whole number from 1 to 4, got 2.0"),
    (lambda: CPTensor.from_layer(torch.nn.Linear(2, 2)), TypeError, "layer must be an? MLP, got Linear"),
    (lambda: CPTensor.from_layer(build_mlp("swiglu", 4, 5)), ValueError, "this MLP is of kind 'swiglu'"),
    (lambda: CPTensor.from_layer(build_mlp("product", 4, 5)), ValueError, "of kind 'product' and degree 3"),
    (lambda: CPTensor.from_layer(Attention("bilinear", 8, 4, 4)), TypeError, "layer must be an? MLP, got Attention"),
    (lambda: CPTensor.from_layer(build_mlp("bilinear", 4, 5).half()), TypeError, "got torch.float16"),
]


@pytest.mark.parametrize("call, error, message", CALLS)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
