"""One training step of a tensor-transformer beside softmax models of the same shape, and the two softmax kernels.

    python -m benchmarks.training_step [--out FILE.csv]

Forward and backward of `nano`- and `micro`-shaped models, float32 and bfloat16, one thread, interleaved in one process;
medians of CPU-seconds. The ratio is softmax time / tensor time: above 1 the tensor-transformer is the faster one. The
softmax peer takes the faster of torch's fused kernel and two matrix products, both of which are timed here.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.provenance import write_provenance
from tensorlm.files import write_csv
from tensorlm.layers import attention as attention_layer
from tensorlm.model import ModelConfig, TensorTransformer

SHAPES = {"d=64, T=64, batch 32": (64, 64, 2, 32), "d=128, T=128, batch 16": (128, 128, 2, 16),
          "d=128, T=512, batch 4": (128, 512, 2, 4)}
SOFTMAX: dict[str, Any] = dict(attention="softmax", positions=("toeplitz",), qk_norm="rms")
ARMS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "softmax + bilinear, two products": dict(SOFTMAX),
    "softmax + bilinear, fused kernel": dict(SOFTMAX),
    "softmax + ReLU², two products": dict(SOFTMAX, mlp="relu2"),
    "softmax + ReLU², fused kernel": dict(SOFTMAX, mlp="relu2"),
}
FIELDS = ["shape", "dtype", "arm", "milliseconds", "low", "high", "ratio"]
NEVER, ALWAYS = 1 << 30, 1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for shape in SHAPES for dtype in options.dtypes for row in measure(shape, dtype, options.repeats)]
    if options.out:
        write_csv(options.out, FIELDS, rows)
        write_provenance(options.out, "python -m benchmarks.training_step")


def measure(shape: str, dtype: str, repeats: int) -> list[dict]:
    """Rows of one shape and dtype, arms interleaved."""
    width, context, layers, batch = SHAPES[shape]
    tokens = torch.randint(0, 65, (batch, context + 1), generator=torch.Generator().manual_seed(0))
    models = {arm: TensorTransformer(ModelConfig(width=width, context=context, layers=layers, **changes))
              for arm, changes in ARMS.items()}
    times: dict[str, list[float]] = {arm: [] for arm in models}
    for repeat in range(repeats + 2):
        for arm, model in models.items():
            seconds = time_step(model, tokens, getattr(torch, dtype), fused="fused" in arm)
            if repeat >= 2:
                times[arm].append(1e3 * seconds)
    tensor = statistics.median(times["tensor"])
    return [report(shape, dtype, arm, values, tensor) for arm, values in times.items()]


def time_step(model: TensorTransformer, tokens: torch.Tensor, dtype: torch.dtype, fused: bool) -> float:
    usual, attention_layer.FLASH_FROM = attention_layer.FLASH_FROM, ALWAYS if fused else NEVER
    try:
        started = time.process_time()
        logits = model(tokens[:, :-1], dtype=dtype)
        F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
        return time.process_time() - started
    finally:
        attention_layer.FLASH_FROM = usual


def report(shape: str, dtype: str, arm: str, values: list[float], tensor: float) -> dict:
    middle = statistics.median(values)
    row = dict(shape=shape, dtype=dtype, arm=arm, milliseconds=round(middle, 2), low=round(min(values), 2),
               high=round(max(values), 2), ratio=round(middle / tensor, 2))
    print(f"{shape:24} {dtype:9} {arm:34} {middle:8.2f} ms ({row['low']} to {row['high']})  {row['ratio']:.2f}", flush=True)
    return row


if __name__ == "__main__":
    main()
