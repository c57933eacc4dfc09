"""One line that makes a chapter reproducible: threads, default dtype, seeds, style, and what it runs on."""

from __future__ import annotations

import random

import numpy as np
import torch

import tensorlm
from tensorlm.notebook import figures
from tensorlm.notebook.arguments import require, whole


def setup(threads: int = 1, seed: int = 0) -> torch.device:
    """Fix what a reader's machine would otherwise decide, and print one line that says what is left.

    Sets ``threads`` torch threads, float32 as the default dtype, the seeds of ``random``, NumPy and torch to ``seed``,
    and the book's figure style. Returns the device that a chapter may use: the first GPU where there is one, else the CPU.
    Raises ``ValueError`` for fewer than one thread, and for a seed that is not from 0 to 2^32 - 1.

    >>> device = setup(threads=1, seed=0)    # doctest: +ELLIPSIS
    tensorlm ..., torch ..., numpy ..., 1 thread, float32, ...
    >>> torch.initial_seed()
    0
    """
    threads, seed = whole("threads", threads, 1, 2**15), whole("seed", seed, 0, 2**32 - 1)
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    figures.style()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(describe(device, threads))
    return device


def describe(device: torch.device, threads: int) -> str:
    """The line that :func:`setup` prints: versions, threads, dtype and device.

    >>> describe(torch.device("cpu"), 2).endswith("2 threads, float32, CPU")
    True
    """
    whole("threads", threads, 1, 2**15)
    require(isinstance(device, torch.device), "device", device, "a torch.device")
    torch_version = torch.__version__.partition("+")[0]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    plural = "thread" if threads == 1 else "threads"
    return f"tensorlm {tensorlm.__version__}, torch {torch_version}, numpy {np.__version__}, {threads} {plural}, float32, {name}"
