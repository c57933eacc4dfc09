"""Several processes as one: rows of the global batch are shared out, gradients are averaged."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in the words of the backends


class LostPeerError(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class World:
    """This process among its peers. ``size`` 1 means no torch.distributed at all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice | None:
        """This process's rows of the global batch; ValueError if they cannot be shared out equally.

        >>> World(rank=1, size=2).rows(8)
        slice(4, 8, None)
        """
        if self.size == 1:
            return None
        if batch_size % self.size:
            raise ValueError(f"batch_size = {batch_size} cannot be shared equally among {self.size} processes")
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def average_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its mean over the processes."""
        return self.sum_(tensor).div_(self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module whose backward pass averages gradients over the processes.

        Buffers are not broadcast: the running constants of the norms are averaged by ``model.update_norms``.
        """
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The processes that ``torchrun`` started, or a world of one; leaves the group at the end.

    NCCL where this process has its own GPU and ``device`` is not "cpu", gloo otherwise. Raises ValueError for a
    variable of ``torchrun`` that is no number, and LostPeerError where the processes cannot meet, or one was lost.
    """
    if _variable("WORLD_SIZE", 1) == 1:
        yield World()
        return
    local_rank, host = _variable("LOCAL_RANK", 0), os.environ.get("MASTER_ADDR", "127.0.0.1")
    for name in ("RANK", "MASTER_PORT"):
        _variable(name, 0)
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
        place, reason = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}", str(error).partition("\n")[0]
        raise LostPeerError(f"the processes of this run cannot meet at {place} ({reason})") from None
    try:
        yield current()
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise LostPeerError(f"rank {current().rank}: another process of this run has ended or cannot be reached ({reason})") from None
    finally:
        dist.destroy_process_group()


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r}: must be a whole number (torchrun sets it; unset it to train in one process)")
    return int(text)


def current() -> World:
    """The world that this process already belongs to."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size(), _variable("LOCAL_RANK", 0))
