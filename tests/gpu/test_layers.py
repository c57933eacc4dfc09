"""Layers and models on the device, forward and gradients, beside the same functions on a CPU in float64.

`TOLERANCE`: |found - exact| over |exact| (Euclidean norms) of the output and of every gradient. float32 keeps 24 bits, bfloat16 8 and
float16 11; some four of them go to products of rounded factors. ReLU's slope jumps where a sign is rounded away: three times as much.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from tensorlm.layers import Attention, Pattern, attend, build_mlp
from tensorlm.layers.attention import ATTENTION_KINDS
from tensorlm.layers.mlp import MLP_KINDS
from tensorlm.model import ModelConfig, TensorTransformer

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 1e-2}
TIME, WIDTH, HEAD_DIM = 100, 48, 16
ATTENTIONS = [
    *({"kind": kind, "positions": positions} for kind in ATTENTION_KINDS for positions in (("rope",), ("decay", "toeplitz", "key_offset"))),
    *({"kind": kind, "qk_norm": "rms"} for kind in ATTENTION_KINDS),
    {"kind": "bilinear", "qk_norm": "joint", "row_scale": "mean"}, {"kind": "bilinear", "positions": (), "row_scale": "none"},
]


def random(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**options)


def drawn(module):
    """Every parameter at random: a zero output matrix would hide all gradients before it."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=index + 1) / max(1, parameter.shape[-1]) ** 0.5)
    return module


def with_gradients(function, inputs, weights, seed=9):
    """Output of function(*inputs), and the gradients of <fixed random numbers, output> with respect to weights and inputs."""
    out = function(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    grads = torch.autograd.grad((out * random(*out.shape, seed=seed).to(out)).sum(), [*inputs, *weights])
    return [out, *grads]


def assert_close(found, exact, dtype, slack=1):
    for one, other in zip(found, exact, strict=True):
        assert one.isfinite().all()
        error = (one.detach().cpu().double() - other).norm() / other.norm()
        assert error <= slack * TOLERANCE[dtype], f"{error:.1e} of shape {tuple(other.shape)}"


def compare(module, x, device, dtype, slack=1):
    exact, here = copy.deepcopy(drawn(module)).double(), module.to(device)
    x = x.to(dtype).double()  # both start from the same rounded numbers
    found = with_gradients(here, [x.to(device, dtype).requires_grad_()], list(here.parameters()))
    assert found[0].dtype == dtype and found[0].device.type == device.type
    assert_close(found, with_gradients(exact, [x.requires_grad_()], list(exact.parameters())), dtype, slack)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("choices", ATTENTIONS, ids=str)
def test_attention(choices, dtype, device):
    compare(Attention(width=WIDTH, head_dim=HEAD_DIM, context=TIME, **choices), random(2, TIME, WIDTH), device, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", MLP_KINDS)
def test_mlp(kind, dtype, device):
    compare(build_mlp(kind, width=24), random(2, TIME, 24), device, dtype, slack=3 if kind in ("relu", "reglu") else 1)


ALGORITHMS = ("quadratic", "row_blocks", "recurrent", "fused")
HEADS = [(16, 1, 0), (16, 2, 150), (32, 2, 40), (64, 1, 150), (64, 2, 0), (128, 2, 0)]  # head size, branches, window


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head_dim, branches, window", HEADS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_the_quadratic_one(algorithm, head_dim, branches, window, dtype, device, time=150):
    parts = [random(2, 3, time, head_dim, seed=seed).to(dtype).double() for seed in range(2 * branches + 1)]
    table = [random(3, window, seed=11).to(dtype).double()] if window else []
    if algorithm == "recurrent" and dtype != torch.float32:
        pytest.skip("a sum carried over all tokens is refused in half precision")
    if algorithm == "fused" and device.type == "cpu":
        pytest.skip("on a CPU the kernel has tests of its own, in an interpreter")

    def attention(algorithm):
        def function(*parts):
            pattern = Pattern(torch.tensor([0.0, 0.05, 1.0], dtype=torch.float64), 0.5, parts[2 * branches + 1] if window else None)
            queries = [query * head_dim**-0.5 for query in parts[:branches]]
            return attend(queries, parts[branches : 2 * branches], parts[2 * branches], pattern, algorithm)
        return function

    here = [part.to(device, dtype).requires_grad_() for part in parts] + [part.to(device).float().requires_grad_() for part in table]
    exact = with_gradients(attention("quadratic"), [part.requires_grad_() for part in parts + table], [])
    assert_close(with_gradients(attention(algorithm), here, []), exact, dtype)


def test_long_texts_in_half_precision_take_the_fused_kernel(device):
    """The recurrent algorithm, which has the least work there, is refused in half precision."""
    if device.type == "cpu":
        pytest.skip("on a CPU the fused kernel is never chosen")
    q, k, v = (random(1, 1, 1 << 15, 16, seed=seed).to(device, torch.bfloat16) for seed in range(3))
    pattern = Pattern(torch.zeros(1, dtype=torch.float64, device=device))
    assert torch.equal(attend([q / 4], [k], v, pattern), attend([q / 4], [k], v, pattern, "fused"))


def test_more_heads_and_sequences_than_one_axis_of_a_grid_has_places(device):
    if device.type == "cpu":
        pytest.skip("on a CPU there is no grid")
    q, k, v = (random(70_000, 1, 4, 16, seed=seed).to(device, torch.float32) for seed in range(3))
    pattern = Pattern(torch.tensor([0.1], dtype=torch.float64, device=device))
    found, exact = (attend([q], [k], v, pattern, algorithm) for algorithm in ("fused", "quadratic"))
    assert_close([found], [exact.cpu().double()], torch.float32)


MODELS = [
    *({"attention": attention, "mlp": mlp} for attention, mlp in itertools.product(ATTENTION_KINDS, ("relu2", "bilinear"))),
    {"bigram": "table", "value_residual": "learned", "shortcut": "learned", "head": "tied"}, {"norm": "none", "layers": 1},
    {"attention": "softmax", "positions": ("rope",), "qk_norm": "rms"},
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("choices", MODELS, ids=str)
def test_logits_and_loss_gradients_of_models(choices, dtype, device):
    model = TensorTransformer(ModelConfig(vocab_size=17, context=64, width=32, output_init="normal", **choices), seed=0)
    tokens, exact = torch.arange(2 * 65).view(2, 65) % 17, copy.deepcopy(model).double()
    results = []
    for one, kind, where in ((model.to(device), dtype, device), (exact, torch.float64, "cpu")):
        logits = one(tokens[:, :-1].to(where), dtype=kind)
        loss = F.cross_entropy(logits.flatten(0, 1).to(torch.promote_types(kind, torch.float32)), tokens[:, 1:].flatten().to(where))
        matrices = [parameter for _, parameter in one.parameter_groups()["matrix"]]
        results.append([logits, loss, *torch.autograd.grad(loss * 2**8, matrices)])
    assert_close([part.float() for part in results[0]], results[1], dtype)
