"""The fused kernel, in Triton's interpreter: equal to the quadratic algorithm, values and gradients, in every precision."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="the fused kernel needs the package triton (the extra `kernels`)")

from tensorlm.layers import Pattern, attend, choose
from tensorlm.layers.polynomial_attention import fused, quadratic

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}  # of the largest; half an ulp is 4e-3 and 5e-4


def case(branches, head_dim, value_dim, time, dtype, window=0, lead=(2, 2), seed=0):
    """Arguments that `dtype` holds exactly, in float64: queries, keys, values, and a table or nothing."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    queries, keys = ([draw(*lead, time, head_dim) * head_dim**-0.25 for _ in range(branches)] for _ in range(2))
    table = [draw(lead[-1], window) / 4] if window else []
    return [x.to(dtype).double() for x in (*queries, *keys, draw(*lead, time, value_dim))] + [x.float().double() for x in table]


def run(algorithm, inputs, branches, slopes, dtype):
    """Values and all gradients, in float64, of an algorithm in `dtype`."""
    leaves = [x.to(torch.float32 if dtype != torch.float64 and place == 2 * branches + 1 else dtype).requires_grad_()
              for place, x in enumerate(inputs)]
    pattern = Pattern(torch.tensor(slopes, dtype=torch.float64), table=leaves[-1] if len(leaves) > 2 * branches + 1 else None)
    z = algorithm(leaves[:branches], leaves[branches : 2 * branches], leaves[2 * branches], pattern)
    weights = torch.linspace(-1, 1, z.numel(), dtype=torch.float64).view(z.shape).bfloat16().to(z.dtype)
    return [x.detach().double() for x in (z, *torch.autograd.grad((z * weights).sum(), leaves))]


@pytest.mark.parametrize("dtype, branches, window, sizes", [
    *((torch.float32, *rest) for rest in itertools.product((1, 2), (0, 20), ((16, 16), (24, 40)))),
    *((dtype, 2, 20, (64, 64)) for dtype in (torch.bfloat16, torch.float16)), (torch.bfloat16, 1, 0, (128, 128)),
    (torch.float32, 2, 90, (8, 4))])
def test_equal_to_the_quadratic_algorithm(dtype, branches, window, sizes):
    inputs, slopes = case(branches, *sizes, 75, dtype, window), [0.0, 0.3]
    for got, expected in zip(run(fused, inputs, branches, slopes, dtype), run(quadratic, inputs, branches, slopes, torch.float64)):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCES[dtype] * expected.abs().max().item())


@pytest.mark.parametrize("window", [0, 90])
def test_tiles_held_may_be_longer_than_tiles_met(window, monkeypatch):
    from tensorlm.layers import kernels

    monkeypatch.setattr(kernels, "choose_tiles", lambda kernel, *about: kernels.Tiles(64, 64 if kernel == "ages" else 16))
    inputs, slopes = case(2, 16, 16, 150, torch.float32, window), [0.0, 0.9]
    for got, expected in zip(run(fused, inputs, 2, slopes, torch.float32), run(quadratic, inputs, 2, slopes, torch.float64)):
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_a_head_that_fades_fast_loses_nothing():
    inputs, slopes = case(2, 16, 16, 200, torch.float32), [4.0, 1.5]  # all weight within 26 and 70 tokens
    for got, expected in zip(run(fused, inputs, 2, slopes, torch.float32), run(quadratic, inputs, 2, slopes, torch.float64)):
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("lead", [(2,), (3, 1, 2)])
def test_any_leading_axes_and_strides(lead):
    inputs = [x.float() for x in case(1, 16, 16, 20, torch.float32, lead=lead)]
    turned = [x.mT.contiguous().mT for x in inputs]  # features are not next to each other
    pattern = Pattern(torch.tensor([0.0, 0.1]))
    expected = quadratic([inputs[0]], [inputs[1]], inputs[2], pattern)
    torch.testing.assert_close(attend([turned[0]], [turned[1]], turned[2], pattern, "fused"), expected, rtol=1e-5, atol=1e-5)


def test_one_graph_under_compile():
    inputs, pattern = [x.float() for x in case(2, 16, 16, 20, torch.float32)], Pattern(torch.tensor([0.0, 0.1]))

    def loss(*leaves):
        return attend(leaves[:2], leaves[2:4], leaves[4], pattern, "fused").square().sum()

    compiled, gradients = torch.compile(loss, backend="aot_eager", fullgraph=True), []
    for function in (loss, compiled):
        leaves = [x.clone().requires_grad_() for x in inputs]
        gradients.append(torch.autograd.grad(function(*leaves), leaves))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_operators_keep_torch_s_contract():
    from tensorlm.layers.kernels import BEYOND, fused_attention

    q, k, v = (x.float().requires_grad_() for x in case(1, 16, 16, 20, torch.float32))
    ages = torch.zeros(2, 20 + BEYOND, requires_grad=True)
    torch.library.opcheck(fused_attention, ([q], [k], v, torch.zeros(2), torch.ones(2, 20), ages))


def test_no_second_derivative_in_silence():
    q, k, v = (x.float().requires_grad_() for x in case(1, 16, 16, 20, torch.float32))
    (gradient,) = torch.autograd.grad(fused([q], [k], v, Pattern(torch.zeros(2))).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), q)


@pytest.mark.parametrize("change, message", [
    ({"dtype": torch.float64}, "needs float32, bfloat16 or float16, got torch.float64"),
    ({"size": 160}, "needs head_dim and value_dim of at most 128, got 160 and 160"),
    ({"learned": True}, "needs slopes without gradient"), ({"interpret": "0"}, "needs a GPU, got tensors on cpu")])
def test_what_it_cannot_do_is_said(monkeypatch, change, message):
    monkeypatch.setenv("TRITON_INTERPRET", change.get("interpret", "1"))
    x = torch.ones(1, 4, change.get("size", 16), dtype=change.get("dtype", torch.float32))
    with pytest.raises(ValueError, match=message):
        attend([x], [x], x, Pattern(torch.zeros(1, requires_grad=change.get("learned", False))), "fused")


def test_the_cost_table_takes_it_where_it_can_be_had_and_a_cpu_never_does():
    assert {choose(time, 16, 2, fused=True) for time in (64, 1024, 4096)} == {"fused"}
    assert choose(1024, 16, 2) != "fused"
    x = torch.ones(1, 200, 16, dtype=torch.float64)
    torch.testing.assert_close(attend([x], [x], x, Pattern(torch.zeros(1))), quadratic([x], [x], x, Pattern(torch.zeros(1))))


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tensorlm.layers import kernels

capability, kind, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for name, kernel in dict(forward=kernels._forward, queries=kernels._backward, keys=kernels._backward, ages=kernels._backward_ages).items():
    tiles = kernels.choose_tiles(name, size, 4 if kind == "*fp32" else 2, divmod(capability, 10))
    constants = dict(HEAD_DIM=size, VALUE_DIM=size, D=size, V=size, TWO=True, LEARNED=True, EXACT="ieee", FADED_AT=kernels.FADED,
                     BEYOND=kernels.BEYOND, HELD=tiles.held, MET=tiles.met, OF_KEYS=name == "keys")
    constants |= dict(OF_VALUES=None) if name == "queries" else {}
    constants = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    wide = {"SLOPES", "SCALE", "OF_AGES"}
    signature = {argument: "constexpr" if argument in constants else "i32" if argument.islower() else "*fp32" if argument in wide else kind
                 for argument in kernel.arg_names}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32),
                              options=dict(num_warps=tiles.warps, num_stages=tiles.stages))
    print(name, compiled.metadata.shared)
"""


@pytest.mark.parametrize("capability, kind, size, room", [(75, "*fp16", 64, 64), (89, "*bf16", 64, 99)])
def test_compiles_for_colab_s_t4_and_l4_without_either(capability, kind, size, room):
    command, environment = [sys.executable, "-c", COMPILE, str(capability), kind, str(size)], {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    shared = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(shared) == 4 and max(shared) <= room * 1024  # bytes of fast memory that a block of threads may take there
