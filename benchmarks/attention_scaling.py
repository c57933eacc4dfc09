"""Growth of attention with the length of the sequence: three algorithms of one polynomial, beside torch's fused softmax.

    python -m benchmarks.attention_scaling [--out FILE.csv] [--times 256 512 ...] [--head-dims 16 ...] [--repeats 7]

float32, 4 heads, batch 1, one thread, decaying pattern, everything interleaved in one process; medians and quartiles of
CPU time, forward alone and forward with backward. `ratio` is the time of the fused causal softmax over that of the row:
above 1 the row is the faster. The softmax has one pair of queries and keys, the bilinear kind two. An algorithm is left out
where its arrays of scores take more than 1 GiB. `error` is the largest difference from the same function in float64, relative
to its largest value, over the output or over all gradients; the float64 result comes from `reference`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.files import write_csv
from tensorlm.layers import Pattern, attend, choose, multiply_adds, working_memory
from tensorlm.layers.costs import ALGORITHMS

HEADS = 4
TIMES = {16: (256, 512, 1024, 2048, 4096, 8192), 8: (512, 2048, 8192), 32: (512, 2048, 8192), 64: (512, 2048, 8192)}
LONGEST_BACKWARD = 2048  # of head sizes other than 16
KINDS = {"bilinear": (2, 0), "squared": (1, 0), "bilinear, table of 64 ages": (2, 64)}  # branches, window
PASSES = ("forward", "forward+backward")
MEMORY_LIMIT = 2**30
FIELDS = ["head_dim", "time", "pass", "kind", "algorithm", "milliseconds", "low", "high", "ratio", "error", "reference",
          "multiply_adds", "working_memory", "chosen"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, nargs="+", help="only these lengths")
    parser.add_argument("--head-dims", type=int, nargs="+", default=list(TIMES), choices=list(TIMES))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = [(head_dim, time, way) for head_dim in options.head_dims for time in TIMES[head_dim] for way in PASSES
                if (not options.times or time in options.times) and (way == "forward" or head_dim == 16 or time <= LONGEST_BACKWARD)]
    rows = [row for setting in settings for row in measure(*setting, repeats=options.repeats)]
    if options.out:
        write_csv(options.out, FIELDS, rows)
        write_provenance(options.out, "python -m benchmarks.attention_scaling", heads=HEADS, batch=1, dtype="float32",
                         repeats=options.repeats)


def measure(head_dim: int, time: int, way: str, repeats: int) -> list[dict]:
    """Rows of one head size, length and pass: every kind and algorithm that fits, and the softmax, in turns."""
    sides: dict[tuple[str, str], Side] = {("softmax", "fused kernel"): Side(head_dim, time, way, 1, None)}
    for kind, (branches, window) in KINDS.items():
        if head_dim == 16 or kind == "bilinear":
            sides |= {(kind, name): Side(head_dim, time, way, branches, name, window) for name in ALGORITHMS
                      if fits(name, time, head_dim, branches, way) and (name != "quadratic" or kind == "bilinear")}
    times = interleave(sides, repeats)
    softmax = times["softmax", "fused kernel"][1]
    return [report(side, kind, times[kind, name], softmax) for (kind, name), side in sides.items()]


def fits(algorithm: str, time: int, head_dim: int, branches: int, way: str) -> bool:
    """Whether an algorithm's arrays stay below the limit; with gradients kept, row blocks keep half the pattern too."""
    if way == "forward":
        return working_memory(algorithm, time, head_dim, branches, heads=HEADS) <= MEMORY_LIMIT
    whole = working_memory("quadratic", time, head_dim, branches, heads=HEADS)
    return {"quadratic": whole, "row_blocks": whole / 2, "recurrent": 0}[algorithm] <= MEMORY_LIMIT


class Side:
    """One thing to time: fixed random queries, keys and values, and a call that maps them to an output or to gradients."""

    def __init__(self, head_dim: int, time: int, way: str, branches: int, algorithm: str | None, window: int = 0, batch: int = 1,
                 heads: int = HEADS, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, decay: bool = True):
        self.head_dim, self.time, self.way, self.heads, self.decay = head_dim, time, way, heads, decay
        self.branches, self.algorithm, self.window = branches, algorithm, window
        random = partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)
        self.parts = [random(batch, heads, time, head_dim, dtype=dtype) for _ in range(2 * branches + 1)]
        self.table = random(heads, window) / 10 if window else None
        self.weight = random(batch, heads, time, head_dim, dtype=dtype)
        self.function = self.build(self.table, algorithm)
        self.leaves = [part.requires_grad_(way != "forward") for part in self.parts]

    def build(self, table: Tensor | None, algorithm: str | None) -> Callable[..., Tensor]:
        if algorithm is None:
            return partial(F.scaled_dot_product_attention, is_causal=True, scale=self.head_dim**-0.5)
        slopes = 2.0 ** (-8.0 * torch.arange(self.heads, dtype=torch.float64, device=self.weight.device) / self.heads) * self.decay
        pattern = Pattern(slopes, 0.5, table, kept={})

        def function(*parts: Tensor) -> Tensor:
            queries = [query * self.head_dim**-0.5 for query in parts[: self.branches]]
            return attend(queries, parts[self.branches : -1], parts[-1], pattern, algorithm)
        return function

    def __call__(self) -> tuple[Tensor, ...]:
        return self.evaluate(self.function, self.leaves, self.weight)

    def evaluate(self, function: Callable[..., Tensor], parts: list[Tensor], weight: Tensor) -> tuple[Tensor, ...]:
        """The output alone, or the gradients of <weight, output>."""
        if self.way == "forward":
            with torch.no_grad():
                return (function(*parts),)
        return torch.autograd.grad((function(*parts) * weight).sum(), parts)

    def reference(self) -> str:
        """The algorithm whose float64 result stands for the exact one: another one than this side's, if it fits."""
        if self.algorithm is None:
            return "fused kernel"
        others = [name for name in ("row_blocks", "recurrent") if name != self.algorithm]
        return next(name for name in (*others, "recurrent") if fits(name, 2 * self.time, self.head_dim, self.branches, self.way))

    def error(self) -> float:
        algorithm = None if self.algorithm is None else self.reference()
        parts = [part.detach().double().requires_grad_(self.way != "forward") for part in self.parts]
        table = None if self.table is None else self.table.double()
        exact = self.evaluate(self.build(table, algorithm), parts, self.weight.double())
        return max(((one - other).abs().max() / other.abs().max()).item() for one, other in zip(self(), exact))


def report(side: Side, kind: str, times: tuple[float, float, float], softmax: float) -> dict:
    low, middle, high = times
    sizes = side.time, side.head_dim, side.branches, side.window
    row = {"head_dim": side.head_dim, "time": side.time, "pass": side.way, "kind": kind, "algorithm": side.algorithm or "fused kernel",
           "milliseconds": round(middle, 3), "low": round(low, 3), "high": round(high, 3), "ratio": round(softmax / middle, 2),
           "error": f"{side.error():.1e}", "reference": side.reference(), "multiply_adds": "", "working_memory": "", "chosen": ""}
    if side.algorithm:
        row |= {"multiply_adds": HEADS * multiply_adds(side.algorithm, *sizes), "chosen": choose(*sizes) == side.algorithm,
                "working_memory": working_memory(side.algorithm, *sizes, heads=HEADS)}
    print(f"d={side.head_dim:<3} T={side.time:<5} {side.way:17} {kind:28} {row['algorithm']:13} {middle:10.2f} ms "
          f"({low:.2f} to {high:.2f})  {row['ratio']:6.2f}x softmax  error {row['error']} ({row['reference']})", flush=True)
    return row


if __name__ == "__main__":
    main()
