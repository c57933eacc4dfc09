"""The compositionality spectrum: which parts of a model are polynomial, which rational, which neither, and how large."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from tensorlm.checks import require_instance, require_number, require_one_of
from tensorlm.layers import build_mlp
from tensorlm.layers.attention import BRANCHES, attention_parameters
from tensorlm.layers.norm import TOKEN_KINDS
from tensorlm.model.config import Degree, ModelConfig, degree_of
from tensorlm.tensors.rational import remaining_root

KINDS = ("polynomial", "rational", "neither")
SCORE_READS = {  # how often a score reads a normed query or key
    "softmax": (None, "inside an exponential"),
    "squared": (2, "the squared score reads it twice"),
    "bilinear": (1, "each score reads its own query and key once"),
}


@dataclass(frozen=True)
class Part:
    """One part, summed over its `count` occurrences; `multiply_adds` are per token, `degree` that in what the part reads."""

    name: str
    kind: str
    why: str
    count: int = 1
    parameters: int = 0
    multiply_adds: float = 0.0
    degree: int | None = None
    parameter_share: float = 0.0
    work_share: float = 0.0


@dataclass(frozen=True)
class Compositionality:
    """The parts of a model, and the degree of the whole in its input rows. `print` shows them as a table."""

    parts: tuple[Part, ...]
    degree: Degree

    def shares(self, kind: str) -> tuple[float, float]:
        require_one_of("kind", kind, KINDS)
        mine = [part for part in self.parts if part.kind == kind]
        return sum(part.parameter_share for part in mine), sum(part.work_share for part in mine)

    def __getitem__(self, name: str) -> Part:
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"no part {name!r}; there are {[part.name for part in self.parts]}")

    def __str__(self) -> str:
        lines = [f"{'part':23} {'':>4} {'kind':10} {'parameters':>12} {'':>6} {'multiply-adds':>13} {'':>6} {'degree':>6}  why"]
        for part in self.parts:
            lines.append(f"{part.name:23} {f'x{part.count}':>4} {part.kind:10} {part.parameters:12,} {part.parameter_share:6.1%} "
                         f"{part.multiply_adds:13,.0f} {part.work_share:6.1%} {part.degree or '':>6}  {part.why}")
        for kind in KINDS:
            parameters, work = self.shares(kind)
            lines.append(f"{'all that is ' + kind:54} {parameters:6.1%} {work:20.1%}")
        return "\n".join([*lines, str(self.degree)])


def compositionality(config: ModelConfig, anneal_fraction: float = 0.0) -> Compositionality:
    """Sort the parts of a model at evaluation; `anneal_fraction` is a of the annealed sites, constants at 1 only.

    A part is a polynomial in what it reads, or a ratio of polynomials, or neither. A norm's kind depends on its reader: read
    an even number of times its square root is squared away (`tensorlm.tensors.remaining_root`).

    Multiply-adds per token count products of numbers (the elementwise work on a pair of query and key as one) for sequences
    of T = `context` tokens, each token with (T + 1) / 2 keys on average:

    | part | multiply-adds per token |
    | --- | --- |
    | attention, b branches (softmax: 1), width d, head_dim e | (2b + 2) d^2 + (d / e) (T + 1) / 2 ((b + 1) e + 1) |
    | MLP of k encoders, hidden h; full; symmetric | h (k + 1) d + (k - 1) h, a square h more; d^3 + d^2; d (d + 1)^2 / 2 |
    | rotary positions | 4 b d |
    | norm site; row norm; shortcut; value residual; smear | 2d each, smear d; QK-norm 4 b d |
    | head | vocabulary x d |

    >>> table = compositionality(ModelConfig(norm="anneal"), anneal_fraction=1.0)
    >>> table.shares("polynomial"), int(table.degree)
    ((1.0, 1.0), 100)
    >>> print(compositionality(ModelConfig())["norm before MLP"].why)
    read twice, so the root is squared away: x + f(norm x) is of degree 3 over 2
    """
    require_instance("config", config, ModelConfig)
    require_number("anneal_fraction", anneal_fraction, 0.0, most=1.0)
    parts = [replace(one, parameters=one.count * one.parameters, multiply_adds=one.count * one.multiply_adds)
             for make in (_input_parts, _attention_parts, _mlp_parts, _output_parts) for one in make(config, anneal_fraction)]
    parameters, work = sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)
    shared = [replace(part, parameter_share=part.parameters / parameters, work_share=part.multiply_adds / work) for part in parts]
    return Compositionality(tuple(shared), degree_of(config, anneal_fraction))


def _input_parts(config: ModelConfig, fraction: float) -> Iterator[Part]:
    """Like the next three functions, parts with the parameters and the work of one occurrence."""
    size, width = config.vocab_size, config.width
    yield Part("input table", "polynomial", "a row for each token: linear in one-hot tokens", 1, size * width, degree=1)
    if config.bigram == "table":
        yield Part("bigram table", "polynomial", "a row for each pair of tokens: a product of two one-hot tokens", 1,
                   (size + 1) * size * width, degree=2)
    if config.input_norm == "rows":
        yield Part("row norm", "polynomial", "a property of the table: each row is normed once and for all", 1, 0, 2 * width, 1)
    if config.smear == "learned":
        yield Part("smear", "polynomial", "linear: a learned multiple of the row before", 1, 1, width, 1)
    reader = "the residual stream reads it once" + ("" if config.smear == "learned" else " (of the table's rows, so it could be folded in)")
    yield from _norm("norm of the input", config.norm, fraction, 1, 1, reader, 2 * width)


def _attention_parts(config: ModelConfig, fraction: float) -> Iterator[Part]:
    if config.attention == "none":
        return
    kind, width, layers, branches = config.attention, config.width, config.layers, BRANCHES[config.attention]
    reads, reader = (None, "inside an exponential") if kind == "softmax" else (3, "keys and values of a token read it 3 times")
    yield from _norm("norm before attention", config.norm, fraction, layers - 1, reads, reader, 2 * width)
    joint = kind == "bilinear" and config.qk_norm == "joint"
    reads, reader = (2, "both scores of a pair share one length") if joint else SCORE_READS[kind]
    yield from _norm("QK-norm", config.qk_norm, fraction, layers, reads, reader, 4 * branches * width)
    table = config.heads * config.context if "toeplitz" in config.positions else 0
    turning = 4 * branches * width if "rope" in config.positions else 0
    yield Part("positions", "polynomial", f"constants ({', '.join(('mask', *config.positions))})", layers, table, turning, 1)
    pairs = config.heads * (config.context + 1) / 2 * ((branches + 1) * config.head_dim + 1)
    parameters = attention_parameters(kind, width)
    softmax = kind == "softmax"
    why = "exponentials, divided by their sum" if softmax else "degree 2 in the query's token, 3 in the keys'"
    yield Part("attention", "neither" if softmax else "polynomial", why, layers, parameters, parameters + pairs, None if softmax else 5)
    if config.value_residual == "learned" and layers > 1:
        yield Part("value residual", "polynomial", "linear: values of the first layer mixed in", layers - 1, 2, 2 * width, 1)


def _mlp_parts(config: ModelConfig, fraction: float) -> Iterator[Part]:
    if config.mlp == "none":
        return
    with torch.device("meta"):
        layer = build_mlp(config.mlp, config.width, config.hidden or None, encoders=config.encoders)
    degree, reads = layer.degree, layer.reads
    reader = "inside a nonlinear function" if reads is None else f"the {config.mlp} MLP reads it {_times(reads)}"
    then = f": x + f(norm x) is of degree {degree + 1} over {degree}" if degree else ""
    yield from _norm("norm before MLP", config.norm, fraction, config.layers, reads, reader, 2 * config.width, then)
    kind, why = ("polynomial", f"degree {degree}") if degree else ("neither", f"{config.mlp} is no polynomial")
    yield Part("MLP", kind, why, config.layers, layer.parameter_count, layer.parameter_count + layer.products, degree)


def _output_parts(config: ModelConfig, fraction: float) -> Iterator[Part]:
    width, layers = config.width, config.layers
    sums = layers * ((config.attention != "none") + (config.mlp != "none"))
    if sums:
        yield Part("residual sums", "polynomial", "x + f(x): sums only", sums, degree=1)
    if config.shortcut == "learned" and layers > 1:
        yield Part("shortcut", "polynomial", "linear: the first block's input mixed in", layers - 1, 2, 2 * width, 1)
    if config.head_norm == "same":
        reader = "the head reads it once (a temperature for each token)"
        yield from _norm("norm before head", config.norm, fraction, 1, 1, reader, 2 * width)
    tied = config.head == "tied"
    yield Part("head", "polynomial", "linear" + (", with the matrix of the input table" if tied else ""), 1,
               0 if tied else config.vocab_size * width, config.vocab_size * width, 1)


def _norm(name: str, site: str, fraction: float, count: int, reads: int | None, reader: str, work: int, then: str = "") -> Iterator[Part]:
    """A norm site, if there is one, whose output enters each term `reads` times (None: not as a power)."""
    if site == "none" or not count:
        return
    kind, why = "neither", f"{reader}: a square root remains"
    learned = {"scale": 1, "channel": work // 2}.get(site, 0)
    if site not in (*TOKEN_KINDS, "anneal"):
        kind, why = "polynomial", f"linear ({site}): it folds into the matrices that follow"
    elif site == "anneal" and fraction == 1.0:
        kind, why = "polynomial", "a constant by now: it folds into the matrices that follow"
    elif site == "anneal" and fraction > 0.0:
        why = f"{1 - fraction:.0%} of a norm for each token: a fractional power"
    elif reads is None:
        why = f"a square root, {reader}"
    elif not remaining_root(reads):
        kind, why = "rational", f"read {_times(reads)}, so the root is squared away{then}"
    yield Part(name, kind, why, count, learned, work, 1 if kind == "polynomial" else None)


def _times(reads: int) -> str:
    return {1: "once", 2: "twice"}.get(reads, f"{reads} times")
