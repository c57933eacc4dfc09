"""Deterministic batches: which window of the text stands in which row, as a pure function of (seed, step).

A corpus is a tuple of *parts* (arrays of tokens). A window is `context + 1` consecutive tokens of one part: the first
`context` are inputs, the last `context` targets; windows start `context` apart. An epoch shifts all windows by one random
offset a part and visits each once, in random order; row `r` of step `s` is number `s * batch_size + r` of endless epochs.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from tensorlm.checks import require_counts, require_whole


def window_count(length: int, context: int) -> int:
    """Number of windows of one epoch in a part of `length` tokens, the same for every offset below `context`."""
    return max(0, (length - context) // context)


@lru_cache(maxsize=4)
def epoch_order(lengths: tuple[int, ...], context: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The shuffled windows of one epoch: `part` and `start` (windows,), from PCG64's raw stream, which stays the same."""
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw
    offsets = raw(len(lengths)) % np.uint64(context)
    counts = [window_count(length, context) for length in lengths]
    part = np.repeat(np.arange(len(lengths)), counts)
    start = np.concatenate([int(o) + context * np.arange(n) for o, n in zip(offsets, counts)])
    order = np.argsort(raw(len(start)), kind="stable")
    part, start = part[order], start[order]
    part.flags.writeable = start.flags.writeable = False
    return part, start


def train_batch(parts: Sequence[np.ndarray], step: int, batch_size: int, context: int, seed: int,
                rows: slice | None = None) -> torch.Tensor:
    """Rows of the batch of one step, (rows, context + 1) int64: inputs `[:, :-1]`, targets `[:, 1:]`.

    `rows` picks rows of the *global* batch: rank r of n takes `slice(r, None, n)` or a contiguous slice. Raises ValueError
    naming the argument that is out of range, or a text too short for one window.
    """
    check_batch(step, batch_size, context, seed)
    numbers = step * batch_size + np.arange(batch_size, dtype=np.int64)[rows or slice(None)]
    lengths = tuple(len(part) for part in parts)
    per_epoch = sum(window_count(length, context) for length in lengths)
    if per_epoch == 0:
        raise ValueError(f"context must leave a window, got context={context} for a text of {sum(lengths)} tokens in {len(lengths)} "
                         f"part(s); one part must have at least 2 * context = {2 * context} tokens")
    epochs, places = np.divmod(numbers, per_epoch)
    batch, offsets = np.empty((len(numbers), context + 1), dtype=np.int64), np.arange(context + 1)
    for epoch in np.unique(epochs):
        which, starts = epoch_order(lengths, context, seed, int(epoch))
        for row in np.flatnonzero(epochs == epoch):
            batch[row] = parts[which[places[row]]][starts[places[row]] + offsets]
    return torch.from_numpy(batch)


def check_batch(step: int, batch_size: int, context: int, seed: int) -> None:
    """Raise ValueError unless step and seed are whole numbers of at least 0, the sizes of at least 1."""
    require_whole("step", step)
    require_whole("seed", seed)
    require_counts(batch_size=batch_size, context=context)


def all_windows(parts: Sequence[np.ndarray], context: int) -> torch.Tensor:
    """Every window of every part, in order: (n, context + 1) int64, n = sum of (length - 1) // context, at least 1."""
    require_counts(context=context)
    views = [np.lib.stride_tricks.sliding_window_view(p, context + 1)[::context] for p in parts if len(p) > context]
    if not views:
        raise ValueError(f"context={context}: no part of the text has context + 1 = {context + 1} tokens")
    return torch.from_numpy(np.concatenate([view.astype(np.int64) for view in views]))
