"""Where a run computes: device, precision, threads, the processes that share its batches, and versions for the record."""

import contextlib
import functools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tensorlm.checks import require, require_one_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BF16_CAPABILITY, FP16_CAPABILITY, PROBE_SECONDS, PROBE_GAIN = (8, 0), (7, 0), 0.5, 1.15
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
LOST_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of the backends


def resolve_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device called `name`; "auto" is the GPU of this process, else the CPU. ValueError for one that is not there."""
    if name == "cuda" or name == "auto" and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        device = torch.device("meta")
    require(device.type in ("cpu", "cuda"), "device", name, "auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    require(device.type == "cpu" or (device.index or 0) < count, "device", name, f"one of the {count} CUDA devices here")
    return device


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the activations for `precision` ("auto", "float32", "bfloat16", "float16") on `device`.

    A named one is obeyed. "auto" on CUDA: bfloat16 from compute capability 8.0 on, float16 from 7.0 on, else float32
    (`torch.cuda.is_bf16_supported` counts emulation). On a CPU: bfloat16 where a probe of a second finds it faster.
    """
    require_one_of("precision", precision, ("auto", *DTYPES))
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        have = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if have >= BF16_CAPABILITY else torch.float16 if have >= FP16_CAPABILITY else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_bf16_faster() else torch.float32


@functools.cache
def cpu_bf16_faster() -> bool:
    """Whether this CPU runs a small bilinear layer, forward and backward, at least 15 % faster in bfloat16."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    start = time.perf_counter()
    for attempt in range(9):
        for dtype in best:
            seconds = _time_layer(dtype)
            best[dtype] = min(best[dtype], seconds) if attempt else best[dtype]
        if time.perf_counter() - start > PROBE_SECONDS:
            break
    return best[torch.bfloat16] * PROBE_GAIN < best[torch.float32]


def _time_layer(dtype: torch.dtype, tokens: int = 1024, width: int = 64) -> float:
    x = torch.ones(tokens, width, dtype=dtype, requires_grad=True)
    left, right = (torch.ones(width, 2 * width, dtype=dtype, requires_grad=True) for _ in range(2))
    start = time.perf_counter()
    ((x @ left) * (x @ right)).sum().backward()
    return time.perf_counter() - start


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory of a GPU, or of this machine or its container; None where it is not told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CONTAINER_LIMITS):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


class LostPeerError(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


class World(NamedTuple):
    """This process among its peers: rows of a batch are shared out, gradients averaged. `size` 1: no torch.distributed."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def rows(self, batch_size: int) -> slice | None:
        """This process's rows of the global batch (None: all); ValueError if they cannot be shared out equally."""
        if self.size == 1:
            return None
        require(batch_size % self.size == 0, "batch_size", batch_size, f"a multiple of the {self.size} processes")
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its mean over the processes."""
        return self.sum_(tensor).div_(self.size)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module whose backward pass averages gradients (not the buffers: `update_norms` does)."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


def current_world() -> World:
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size(), _torchrun_number("LOCAL_RANK", 0))


@contextlib.contextmanager
def joined_world(device: str = "auto") -> Iterator[World]:
    """The processes that `torchrun` started (NCCL where each has its own GPU, else gloo), or a world of one.

    Raises ValueError for a variable of `torchrun` that is no number, LostPeerError where a process is missing or was lost.
    """
    if _torchrun_number("WORLD_SIZE", 1) == 1:
        yield World()
        return
    _join(device, os.environ.get("MASTER_ADDR", "127.0.0.1"), _torchrun_number("LOCAL_RANK", 0))
    try:
        yield current_world()
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST_WORDS):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostPeerError(f"rank {dist.get_rank()}: another process of this run has ended or cannot be reached ({reason})") from None
    finally:
        dist.destroy_process_group()


def _join(device: str, host: str, local_rank: int) -> None:
    _torchrun_number("RANK", 0)
    port = _torchrun_number("MASTER_PORT", 0)
    try:
        socket.getaddrinfo(host, None)  # torch would try for minutes
    except OSError as error:
        raise ValueError(f"MASTER_ADDR={host!r}: is no address that this machine knows ({error.strerror})") from None
    gpu = device != "cpu" and torch.cuda.device_count() > local_rank
    if gpu:
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("nccl" if gpu else "gloo")
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostPeerError(f"the processes of this run cannot meet at {host}:{port} ({reason})") from None


def _torchrun_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r}: must be a whole number (torchrun sets it; unset it to train in one process)")
    return int(text)
