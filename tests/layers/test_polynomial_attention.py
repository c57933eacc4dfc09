"""Polynomial attention: three algorithms, one function; causality, scale, features, memory, cost, errors."""

import functools
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tensorlm.layers import Pattern, Positions, attend, choose, features, multiply_adds, working_memory
from tensorlm.layers.costs import ALGORITHMS
from tensorlm.layers.polynomial_attention import quadratic, recurrent, row_blocks

SETTINGS = settings(max_examples=25)
SLOPES = (0.0, 0.3, 2.0, 900.0)
WAYS = {"quadratic": quadratic, "row_blocks": row_blocks, "recurrent": recurrent}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def case(time=20, branches=2, lead=(2,), heads=2, head_dim=3, value_dim=3, seed=0, dtype=torch.float64):
    """Queries, keys and values."""
    sizes = [head_dim] * (2 * branches) + [value_dim]
    parts = [draw(*lead, heads, time, size, seed=seed + n, dtype=dtype) for n, size in enumerate(sizes)]
    return parts[:branches], parts[branches:-1], parts[-1]


def by_the_formula(queries, keys, values, slopes, row_power, table):
    """z_i = sum_j c_ij s_ij v_j, token by token from the definitions."""
    time, rows = values.shape[-2], []
    for i in range(time):
        row_sum = torch.exp(-slopes[:, None] * torch.arange(i + 1)).sum(-1)
        z = 0.0
        for j in range(i + 1):
            weight = torch.exp(-slopes * (i - j)) / row_sum**row_power
            if table is not None and i - j < table.shape[1]:
                weight = weight * (1 + table[:, i - j])
            scores = [(query[..., i, :] * key[..., j, :]).sum(-1) for query, key in zip(queries, keys)]
            z = z + (weight * scores[0] * scores[-1])[..., None] * values[..., j, :]
        rows.append(z)
    return torch.stack(rows, dim=-2)


def with_gradients(way, queries, keys, values, slopes, row_power, table):
    """The output, and its gradients with respect to everything, down to slopes and table."""
    leaves = [leaf.clone().requires_grad_() for leaf in (*queries, *keys, values, slopes) + (() if table is None else (table,))]
    count = len(queries)
    pattern = (leaves[2 * count + 1], row_power, leaves[-1] if table is not None else None)
    out = way(leaves[:count], leaves[count : 2 * count], leaves[2 * count], *pattern)
    gradients = torch.autograd.grad((out * draw(*out.shape, seed=99)).sum(), leaves, allow_unused=True)
    return out, *(gradient for gradient in gradients if gradient is not None)


def on_pattern(way):
    return lambda queries, keys, values, *pattern: way(queries, keys, values, Pattern(*pattern))


@SETTINGS
@given(st.integers(1, 30), st.sampled_from([1, 2]), st.sampled_from([(), (2,), (2, 1), (0,)]), st.integers(1, 4), st.integers(1, 4),
       st.sampled_from([0, 0.5, 1]), st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**16))
def test_three_algorithms_are_one_function_gradients_included(time, branches, lead, head_dim, value_dim, power, window, block, seed):
    parts = case(time, branches, lead, 4, head_dim, value_dim, seed)
    slopes = torch.tensor(SLOPES, dtype=torch.float64)
    table = draw(4, window, seed=seed + 9) if window else None
    expected = with_gradients(by_the_formula, *parts, slopes, power, table)
    for way in (quadratic, row_blocks, recurrent, functools.partial(row_blocks, block=block), functools.partial(recurrent, chunk=block)):
        for one, other in zip(expected, with_gradients(on_pattern(way), *parts, slopes, power, table), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-12 * one.abs().max().item() if one.numel() else 0)


@pytest.mark.parametrize("change", [dict(slopes=torch.tensor([0.1, 0.2])), dict(row_power=1.0), dict(table=None)])
def test_every_constant_of_the_pattern_matters(change):
    settings = dict(slopes=torch.tensor([0.1, 0.3]), row_power=0.5, table=draw(2, 30))
    parts = case(time=40)
    for way in WAYS.values():
        assert not torch.allclose(way(*parts, Pattern(**settings)), way(*parts, Pattern(**{**settings, **change})), rtol=1e-3)


@pytest.mark.parametrize("branches", [1, 2])
def test_the_state_carries_what_lies_before_the_chunk(branches):
    queries, keys, values = case(time=40, branches=branches, heads=2)
    moved = values.clone()
    moved[..., 0, :] += 1
    pattern = Pattern(torch.tensor([0.0, 900.0]))  # one head remembers all, one nothing
    change = recurrent(queries, keys, moved, pattern, chunk=8) - recurrent(queries, keys, values, pattern, chunk=8)
    assert change[:, 0, -1].abs().max() > 1e-3 and change[:, 1, 1:].abs().max() == 0


def test_no_decay_is_too_strong():
    queries, keys, values = case(time=300, dtype=torch.float32)
    pattern = Pattern(torch.tensor([1e4, 3.0]))
    for way in WAYS.values():
        assert torch.isfinite(way(queries, keys, values, pattern)).all()
    ages = torch.arange(300.0)
    factors = torch.exp(-3.0 * ages)[:, None] * torch.exp(3.0 * ages)  # the same decay as a product of two vectors
    assert not torch.isfinite(factors).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("window", [0, 12])
def test_the_future_changes_nothing(algorithm, window):
    queries, keys, values = case(time=300)
    pattern = Pattern(torch.tensor([0.0, 0.1]), table=draw(2, window) if window else None)
    before = attend(queries, keys, values, pattern, algorithm)
    for part in (*queries, *keys, values):
        part[..., 150:, :] += 1
    after = attend(queries, keys, values, pattern, algorithm)
    assert torch.equal(before[..., :150, :], after[..., :150, :]) and not torch.allclose(before[..., 150:, :], after[..., 150:, :])


def test_multiplying_by_the_mask_is_filling_the_scores_with_zeros():
    queries, keys, values = case()
    scores = (queries[0] @ keys[0].mT) * (queries[1] @ keys[1].mT)
    future = torch.ones(20, 20).triu(1).bool()
    pattern = Pattern(torch.zeros(2), row_power=0.0)
    torch.testing.assert_close(quadratic(queries, keys, values, pattern), scores.masked_fill(future, 0.0) @ values)
    filled = scores.masked_fill(future, -1e3) @ values  # what a softmax would need
    assert not torch.allclose(quadratic(queries, keys, values, pattern), filled)


def test_exchanging_the_branches_changes_nothing():
    queries, keys, values = case()
    pattern = Pattern(torch.tensor([0.1, 0.2]))
    plain = attend(queries, keys, values, pattern)
    torch.testing.assert_close(attend(queries[::-1], keys[::-1], values, pattern), plain, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attend(queries[::-1], keys, values, pattern), plain)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("branches", [1, 2])
def test_attention_is_of_degree_five(algorithm, branches):
    queries, keys, values = case(time=200, branches=branches)
    way = functools.partial(attend, pattern=Pattern(torch.tensor([0.0, 0.1]), table=draw(2, 9)), algorithm=algorithm)

    def at(a, shift=0.0):
        return way([a * query for query in queries], [a * key + shift for key in keys], a * values)
    torch.testing.assert_close(at(-1.5), (-1.5) ** 5 * at(1.0), rtol=1e-10, atol=1e-9)
    assert not torch.allclose(at(-1.5, shift=1.0), (-1.5) ** 5 * at(1.0, shift=1.0), rtol=1e-3)


@SETTINGS
@given(st.integers(1, 6), st.integers(0, 2**16))
def test_features_turn_a_product_of_scores_into_one_inner_product(size, seed):
    q1, k1, q2, k2 = draw(4, 5, size, seed=seed)
    torch.testing.assert_close(features(q1, q2) @ features(k1, k2).mT, (q1 @ k1.mT) * (q2 @ k2.mT), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(features(q1) @ features(k1).mT, (q1 @ k1.mT).square(), rtol=1e-10, atol=1e-10)
    assert features(q1).shape == (5, size * (size + 1) // 2)


def test_features_without_their_weights_are_not_the_square():
    q, k = draw(2, 5, 3)
    upper = torch.triu_indices(3, 3)
    plain = [part[:, upper[0]] * part[:, upper[1]] for part in (q, k)]
    assert not torch.allclose(plain[0] @ plain[1].mT, (q @ k.mT).square(), rtol=1e-2)


def test_rotary_scores_depend_on_the_distance_only():
    rotations = Positions(("rope",), heads=1, head_dim=6, context=8).rotation_matrices(12)
    torch.testing.assert_close(rotations[5].mT @ rotations[2], rotations[11].mT @ rotations[8], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rotations[7].mT @ rotations[7], torch.eye(6, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(rotations[5].mT @ rotations[2], rotations[5].mT @ rotations[3], atol=1e-3)


def test_a_batch_norm_of_queries_folds_into_their_matrix_once_it_is_evaluated():
    x, weight, norm = draw(50, 4), draw(3, 4), torch.nn.BatchNorm1d(3).double()
    norm.weight.data, norm.bias.data = draw(3, seed=1), draw(3, seed=2)
    by_batch = norm(x @ weight.mT)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = torch.cat([(norm.bias - scale * norm.running_mean)[:, None], scale[:, None] * weight], dim=1)  # reads (1, x)
    lifted = torch.cat([torch.ones(50, 1, dtype=torch.float64), x], dim=1)
    assert not torch.allclose(by_batch, lifted @ folded.mT, rtol=1e-3)  # in training it depends on the batch
    torch.testing.assert_close(norm.eval()(x @ weight.mT), lifted @ folded.mT, rtol=1e-10, atol=1e-12)


def test_directional_derivatives_go_through_every_algorithm():
    queries, keys, values = case(time=9)
    pattern = Pattern(torch.tensor([0.0, 0.1]), table=draw(2, 4))
    results = [torch.func.jvp(lambda v: way(queries, keys, v * v, pattern), (values,), (torch.ones_like(values),))
               for way in (quadratic, functools.partial(row_blocks, block=4), functools.partial(recurrent, chunk=4))]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-11, atol=1e-11)


def test_half_precision_leaves_the_recurrent_algorithm_out():
    queries, keys, values = case(time=2000, lead=(1,), dtype=torch.float32)
    pattern = Pattern(torch.tensor([0.1, 0.2]))
    exact = attend(queries, keys, values, pattern, "recurrent")
    half = [[part.bfloat16() for part in parts] for parts in (queries, keys)]
    rounded = attend(*half, values.bfloat16(), pattern)
    assert rounded.dtype == torch.bfloat16 and (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    with pytest.raises(TypeError, match="float32 or torch.float64 for a sum carried over all tokens, got torch.bfloat16"):
        recurrent(*half, values.bfloat16(), pattern)


# Constants

def test_kept_constants_follow_size_and_precision():
    slopes, table, kept = torch.tensor([0.1, 0.5]), draw(2, 5), {}
    parts = case(time=70)
    for time, dtype in ((70, torch.float64), (33, torch.float64), (33, torch.float32), (70, torch.float64)):
        queries, keys, values = [[part[..., :time, :].to(dtype) for part in branch] for branch in (*parts[:2], [parts[2]])]
        for algorithm in ALGORITHMS:
            keeping = attend(queries, keys, values[0], Pattern(slopes, 0.5, table, kept), algorithm)
            assert torch.equal(keeping, attend(queries, keys, values[0], Pattern(slopes, 0.5, table), algorithm))
    assert 0 < len(kept) <= 4


def test_kept_constants_belong_to_one_set_of_slopes_and_one_power():
    parts, kept, slopes = case(time=70), {}, torch.tensor([0.1, 0.5])
    for power, change in ((0.5, 0.0), (1.0, 0.0), (1.0, 0.3), (0.5, 0.0)):
        slopes += change
        for own in (slopes, slopes.clone()):
            for algorithm in ALGORITHMS:
                keeping = attend(*parts, Pattern(own, power, None, kept), algorithm)
                assert torch.equal(keeping, attend(*parts, Pattern(own.clone(), power), algorithm))


def test_constants_kept_in_inference_mode_can_be_trained_with():
    queries, keys, values = case(time=70)
    table = draw(2, 5).requires_grad_()
    for algorithm in ALGORITHMS:
        pattern = Pattern(torch.tensor([0.1, 0.5]), 0.5, table, {})
        with torch.inference_mode():
            attend(queries, keys, values, pattern, algorithm)
        attend(queries, keys, values, pattern, algorithm).sum().backward()
    assert table.grad is not None


# Cost and memory

@pytest.mark.parametrize("algorithm", ["quadratic", "row_blocks"])
@pytest.mark.parametrize("branches", [1, 2])
def test_multiply_adds_are_those_of_the_matrix_products(algorithm, branches):
    queries, keys, values = case(time=200, branches=branches, lead=(3,), head_dim=5, value_dim=5)
    with FlopCounterMode(display=False) as counter:
        attend(queries, keys, values, Pattern(torch.zeros(2)), algorithm)
    pairs = multiply_adds(algorithm, 200, 5, branches) // ((branches + 1) * 5 + 1)
    assert counter.get_total_flops() == 2 * 6 * pairs * (branches + 1) * 5


@pytest.mark.parametrize("window", [0, 150])
@pytest.mark.parametrize("branches", [1, 2])
def test_multiply_adds_of_the_recurrent_algorithm_are_those_of_its_products(branches, window):
    time, size = 128 * 5, 6
    queries, keys, values = case(time=time, branches=branches, lead=(), head_dim=size, value_dim=size)
    with FlopCounterMode(display=False) as counter:
        recurrent(queries, keys, values, Pattern(torch.zeros(2), table=draw(2, window) if window else None))
    through_state = (time - 128) * 2 * (size**2 if branches == 2 else size * (size + 1) // 2)
    pairs = multiply_adds("recurrent", time, size, branches, window) - through_state * (size + 1)
    products = pairs // ((branches + 1) * size + 1) * (branches + 1) * size + through_state * size
    assert counter.get_total_flops() == 2 * 2 * products


def test_the_recurrent_algorithm_is_linear_in_time_and_the_others_are_not():
    def growth(name):
        return multiply_adds(name, 16384, 16, 2) / multiply_adds(name, 8192, 16, 2)
    assert growth("quadratic") == 4 and 3.9 < growth("row_blocks") < 4 and 1.9 < growth("recurrent") < 2.03


@pytest.mark.parametrize("branches, window", [*itertools.product([1, 2], [0, 64])])
def test_longer_sequences_never_leave_the_recurrent_algorithm(branches, window):
    chosen = [choose(2**power, 16, branches, window) for power in range(4, 16)]
    assert chosen == sorted(chosen, key=["quadratic", "row_blocks", "recurrent"].index) and set(chosen) == set(ALGORITHMS)


class Peak(TorchDispatchMode):
    """Bytes of the tensors that live at once, beside the known ones."""

    def __init__(self, known):
        super().__init__()
        self.known, self.live, self.peak = {part.untyped_storage()._cdata for part in known}, {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.known | self.live.keys():
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata, 0)
                self.peak = max(self.peak, sum(self.live.values()))
        return result


@pytest.mark.parametrize("algorithm, branches, lead, window", [*itertools.product(ALGORITHMS, [1, 2], [1, 3], [0, 200])])
def test_working_memory_is_what_lives_at_once(algorithm, branches, lead, window):
    queries, keys, values = case(time=1024, branches=branches, lead=(lead,), heads=4, head_dim=16, value_dim=16, dtype=torch.float32)
    pattern = Pattern(torch.tensor(SLOPES), table=draw(4, window) if window else None, kept={})
    attend(queries, keys, values, pattern, algorithm)  # fills what the pattern keeps
    with torch.no_grad(), Peak([*queries, *keys, values]) as measured:
        out = attend(queries, keys, values, pattern, algorithm)
    stated = working_memory(algorithm, 1024, 16, branches, window, heads=4, batch=lead)
    assert 0.6 < (measured.peak - out.nbytes) / stated < 1.5


# Errors

def attend_with(**changes):
    queries, keys, values = case()
    settings = dict(queries=queries, keys=keys, values=values, pattern=Pattern(torch.zeros(2)))
    return attend(**{**settings, **changes})


@pytest.mark.parametrize("call, error, message", [
    (lambda: attend_with(algorithm="linear"), ValueError, "algorithm must be one of 'auto', .*, got 'linear'"),
    (lambda: attend_with(queries=case()[0][:1]), ValueError, "both be lists of one tensor or of two, got keys list of 2"),
    (lambda: attend_with(queries=case()[0] * 2, keys=case()[1] * 2), ValueError, "got queries list of 4"),
    (lambda: attend_with(queries=case()[0][0]), ValueError, "lists of one tensor or of two, got queries Tensor"),
    (lambda: attend_with(keys=case(time=21)[1]), ValueError, r"keys must have shape \(2, 2, 20, 'head_dim'\) like values"),
    (lambda: attend_with(keys=case(head_dim=4)[1]), ValueError, "keys must have shape"),
    (lambda: attend_with(keys=case(dtype=torch.float32)[1]), TypeError, "keys must be torch.float64 on cpu like values, got torch.float32"),
    (lambda: attend_with(values=case()[2].long()), TypeError, "values must be a floating-point tensor, got torch.int64"),
    (lambda: attend_with(pattern=None), TypeError, "pattern must be a Pattern, got NoneType"),
    (lambda: attend_with(pattern=Pattern(torch.zeros(3))), ValueError, "with 3 heads like the pattern"),
    (lambda: attend(*case(time=0), Pattern(torch.zeros(2))), ValueError, "time and value_dim at least 1"),
    (lambda: attend(*case(value_dim=0), Pattern(torch.zeros(2))), ValueError, "time and value_dim at least 1"),
    (lambda: attend(*case(head_dim=0), Pattern(torch.zeros(2))), ValueError, "queries must have shape"),
    (lambda: recurrent(*case(), Pattern(torch.zeros(2)), chunk=0), ValueError, "chunk must be a whole number of at least 1, got 0"),
    (lambda: row_blocks(*case(), Pattern(torch.zeros(2)), block=2.5), ValueError, "block must be a whole number of at least 1, got 2.5"),
    (lambda: Pattern([0.0]), TypeError, "slopes must be a Tensor, got list"),
    (lambda: Pattern(torch.tensor([0.1, -1.0])), ValueError, r"slopes must be finite and at least 0, got \[0.1"),
    (lambda: Pattern(torch.tensor([float("nan")])), ValueError, "slopes must be finite"),
    (lambda: Pattern(torch.tensor([1])), ValueError, "slopes must be floating-point numbers of shape"),
    (lambda: Pattern(torch.zeros(2), row_power=-1), ValueError, "row_power must be a finite number of at least 0, got -1"),
    (lambda: Pattern(torch.zeros(2), row_power=True), ValueError, "row_power must be a finite number of at least 0, got True"),
    (lambda: Pattern(torch.zeros(2), kept=[]), TypeError, "kept must be a dict, got list"),
    (lambda: features([1.0]), TypeError, "branches must be a Tensor, got list"),
    (lambda: Pattern(torch.zeros(2), row_power="sqrt"), ValueError, "row_power must be a finite number of at least 0, got 'sqrt'"),
    (lambda: Pattern(torch.zeros(2), table=torch.zeros(3, 4)), ValueError, r"2 heads, .*, got Tensor of shape \(3, 4\)"),
    (lambda: Pattern(torch.zeros(2), table=torch.zeros(2, 0)), ValueError, "a window of at least 1"),
    (lambda: Pattern(torch.zeros(2)).rows(3, 3, torch.empty(())), ValueError, "0 <= start < end, got start=3, end=3"),
    (lambda: features(torch.zeros(3), torch.zeros(4)), ValueError, r"one or two tensors of one shape \(..., d\), got shapes"),
    (lambda: choose(0, 16, 2), ValueError, "time must be a whole number from 1"),
    (lambda: choose(64, 16, 3), ValueError, "branches must be a whole number from 1 to 2, got 3"),
    (lambda: choose(64.0, 16, 2), ValueError, "time must be a whole number"),
    (lambda: choose(64, 16, 2, window=-1), ValueError, "window must be a whole number of at least 0, got -1"),
    (lambda: multiply_adds("linear", 64, 16, 2), ValueError, "algorithm must be one of"),
    (lambda: working_memory("quadratic", 64, 16, 2, heads=0), ValueError, "heads must be a whole number from 1"),
])
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
