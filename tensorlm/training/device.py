"""Where a run computes and in which precision: one policy, in one place."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

DEVICES = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BF16_CAPABILITY = (8, 0)
FP16_CAPABILITY = (7, 0)
PROBE_SECONDS = 1.0
PROBE_GAIN = 1.15
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Precision:
    """Dtype of the activations (parameters stay float32) and whether the loss is scaled against underflow."""

    dtype: torch.dtype
    scale_loss: bool = False

    @property
    def name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def newton_schulz(self) -> torch.dtype:
        """Dtype of Muon's iteration: bfloat16 where that is the compute dtype, else float32."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32


def resolve_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device called ``name``; "auto" is the GPU of this process where there is one, else the CPU.

    Raises ValueError for a device that is neither a CPU nor a GPU under CUDA, or that is not there.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    elif name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise ValueError(f"device {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def choose_precision(precision: str, device: torch.device, capability: tuple[int, int] | None = None) -> Precision:
    """The compute dtype for ``precision`` ("auto", "float32", "bfloat16", "float16") on ``device``.

    A named precision is obeyed. "auto" means: bfloat16 on CUDA from compute capability 8.0 on; float16 with a
    scaled loss from 7.0 on (T4, V100); float32 on anything older. On a CPU bfloat16 only where a probe of at most
    a second, made once per process, finds it faster. ``capability`` defaults to the device's own. The question
    is never put to ``torch.cuda.is_bf16_supported``, which says yes where bfloat16 is only emulated.

    >>> choose_precision("auto", torch.device("cuda"), capability=(7, 5))
    Precision(dtype=torch.float16, scale_loss=True)
    """
    if precision in DTYPES:
        return Precision(DTYPES[precision], scale_loss=precision == "float16")
    if precision != "auto":
        raise ValueError(f"precision {precision!r}: must be auto, {', '.join(DTYPES)}")
    if device.type == "cuda":
        capability = capability or torch.cuda.get_device_capability(device)
        if capability >= BF16_CAPABILITY:
            return Precision(torch.bfloat16)
        return choose_precision("float16" if capability >= FP16_CAPABILITY else "float32", device)
    faster = device.type == "cpu" and cpu_bf16_faster()
    return Precision(torch.bfloat16 if faster else torch.float32)


@functools.cache
def cpu_bf16_faster() -> bool:
    """Whether this CPU runs a small bilinear layer, forward and backward, at least 15 % faster in bfloat16.

    Takes at most about a second, once per process.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    start = time.perf_counter()
    for attempt in range(9):
        for dtype in best:
            seconds = _time_layer(dtype)
            best[dtype] = min(best[dtype], seconds) if attempt else best[dtype]
        if time.perf_counter() - start > PROBE_SECONDS / 2:
            break
    return best[torch.bfloat16] * PROBE_GAIN < best[torch.float32]


def _time_layer(dtype: torch.dtype, tokens: int = 1024, width: int = 64) -> float:
    x = torch.ones(tokens, width, dtype=dtype, requires_grad=True)
    left, right = (torch.ones(width, 2 * width, dtype=dtype, requires_grad=True) for _ in range(2))
    start = time.perf_counter()
    ((x @ left) * (x @ right)).sum().backward()
    return time.perf_counter() - start


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory of a GPU, or of this machine (at most what its container may use); None where it is not told.

    >>> memory_of(torch.device("cpu")) > 2**28
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CONTAINER_LIMITS):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run the body with exactly ``count`` torch threads; the former number comes back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
