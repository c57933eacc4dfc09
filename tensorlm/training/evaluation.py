"""Loss on held-out text: the mean over all of it, and the worst batch."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.model import ModelConfig

TOKEN_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8)
CPU_TOKENS_AT_ONCE = 2048  # more leave the cache: half as fast at 16k
GPU_LOGITS_AT_ONCE = 1 << 26


@torch.no_grad()
def window_losses(model: nn.Module, windows: Tensor, batch_size: int | None = None,
                  dtype: torch.dtype | None = None) -> Tensor:
    """Mean nats per token of every window: (n, time + 1) tokens -> (n,) float64.

    The forward pass runs in ``dtype`` (None: float32, whatever the training used). The model is in evaluation mode
    for the duration. ``batch_size`` windows at a time; None picks what is fast on the device.

    Raises ValueError unless ``windows`` is a non-empty (n, time + 1) tensor of token ids that the model has.
    """
    if not isinstance(windows, Tensor) or windows.dtype not in TOKEN_DTYPES or windows.ndim != 2 or windows.shape[0] == 0 \
            or windows.shape[1] < 2:
        kind = f"{windows.dtype} {tuple(windows.shape)}" if isinstance(windows, Tensor) else type(windows).__name__
        raise ValueError(f"windows must have shape (n, time + 1) with n, time at least 1, and hold whole numbers; got {kind}")
    _check_batch_size(batch_size)
    low, high, entries = int(windows.min()), int(windows.max()), getattr(getattr(model, "config", None), "vocab_size", None)
    if low < 0 or entries is not None and high >= entries:
        raise ValueError(f"windows must hold token ids from 0 to {entries and entries - 1}; got {low} to {high}")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        pieces = windows.split(batch_size or _batch_size(model, windows, device))
        return torch.cat([_losses(model, piece.to(device).long(), dtype) for piece in pieces])
    finally:
        model.train(was_training)


def evaluate(model: nn.Module, windows: Tensor, batch_size: int | None = None,
             dtype: torch.dtype | None = None) -> float:
    """Mean nats per token over all windows, every position counted: -1/(n T) sum log p(token | tokens before it).

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(vocab_size=65, context=8, width=16, layers=1))
    >>> windows = torch.arange(45).view(5, 9)
    >>> round(evaluate(model, windows), 4)        # a zero head gives every token the same chance: log 65
    4.1744
    """
    return window_losses(model, windows, batch_size, dtype).mean().item()


def evaluate_worst(model: nn.Module, windows: Tensor, batch_size: int = 16, seed: int = 0,
                   dtype: torch.dtype | None = None) -> float:
    """Largest batch mean (nats per token) when the windows are shuffled into batches of ``batch_size``.

    A model whose mean is good can still blow up on rare inputs; only the worst batch shows it. The order is random
    (fixed by ``seed``): neighbouring windows share the difficulty of their passage. Windows that do not fill a last
    batch are left out, unless there is no full batch.
    """
    _check_batch_size(batch_size)
    losses = window_losses(model, windows, dtype=dtype).cpu()
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
    full = len(losses) // batch_size * batch_size
    if full == 0:
        return losses.mean().item()
    return losses[order[:full]].view(-1, batch_size).mean(1).max().item()


def _losses(model: nn.Module, tokens: Tensor, dtype: torch.dtype | None) -> Tensor:
    logits, targets = model(tokens[:, :-1], dtype=dtype).float(), tokens[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).double().mean(1)


def _batch_size(model: nn.Module, windows: Tensor, device: torch.device) -> int:
    if device.type == "cpu":
        return max(1, CPU_TOKENS_AT_ONCE // windows.shape[1])
    return max(1, GPU_LOGITS_AT_ONCE // (windows.shape[1] * cast(ModelConfig, model.config).vocab_size))


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
