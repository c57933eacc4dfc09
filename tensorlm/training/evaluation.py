"""What is measured on a trained model: the loss on held-out text, and probes of tails, other lengths, rules and weights."""

from collections.abc import Callable
from statistics import fmean as mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require_whole
from tensorlm.data.toy.corpus import kl_by_rule
from tensorlm.model import TensorTransformer
from tensorlm.tensors import CPTensor

TOKEN_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8)
CPU_TOKENS_AT_ONCE = 2048  # more leave the cache: half as fast at 16k
GPU_LOGITS_AT_ONCE = 1 << 26
TAIL_BATCH, RANDOM_WINDOWS = 16, 32


@torch.no_grad()
def window_losses(model: nn.Module, windows: Tensor, batch_size: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Mean nats per token of every window: (n, time + 1) tokens -> (n,) float64.

    The forward pass runs in `dtype` (None: float32), `batch_size` windows at a time (None: what is fast on the device).
    Raises ValueError unless `windows` is a non-empty (n, time + 1) tensor of token ids that the model has.
    """
    entries = getattr(getattr(model, "config", None), "vocab_size", None)
    tokens = isinstance(windows, Tensor) and windows.dtype in TOKEN_DTYPES
    if not tokens or windows.ndim != 2 or windows[:1, 1:].numel() == 0:
        kind = f"{windows.dtype} {tuple(windows.shape)}" if isinstance(windows, Tensor) else type(windows).__name__
        raise ValueError(f"windows must have shape (n, time + 1), n and time at least 1, and hold whole numbers; got {kind}")
    low, high = int(windows.min()), int(windows.max())
    if low < 0 or entries is not None and high >= entries:
        raise ValueError(f"windows must hold token ids from 0 to {entries and entries - 1}; got {low} to {high}")
    device, was_training, found = next(model.parameters()).device, model.training, []
    at_once = CPU_TOKENS_AT_ONCE if device.type == "cpu" or entries is None else GPU_LOGITS_AT_ONCE // entries
    size = max(1, at_once // windows.shape[1]) if batch_size is None else require_whole("batch_size", batch_size, 1)
    model.eval()
    try:
        for piece in windows.split(size):
            piece = piece.to(device).long()
            logits, targets = model(piece[:, :-1], dtype=dtype).float(), piece[:, 1:]
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            found.append(losses.view(targets.shape).double().mean(1))
        return torch.cat(found)
    finally:
        model.train(was_training)


def evaluate(model: nn.Module, windows: Tensor, batch_size: int | None = None, dtype: torch.dtype | None = None) -> float:
    """Mean nats per token over all windows, every position counted: -1/(n T) sum log p(token | tokens before it).

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(vocab_size=65, context=8, width=16, layers=1))
    >>> round(evaluate(model, torch.arange(45).view(5, 9)), 4)        # a zero head gives every token the same chance: log 65
    4.1744
    """
    return window_losses(model, windows, batch_size, dtype).mean().item()


def tails(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`worst batch`: the largest mean loss of 16 held-out windows in random order, minus the mean of all, in nats."""
    losses = window_losses(model, data.valid_windows(model.config.context)).cpu()
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(0))
    full = len(losses) // TAIL_BATCH * TAIL_BATCH
    worst = losses[order[:full]].view(-1, TAIL_BATCH).mean(1).max() if full else losses.mean()
    return {"worst batch": worst.item() - losses.mean().item()}


def lengths(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`loss at 2x`, `loss at 4x`: change of the loss when the same text is cut into windows of so many contexts."""
    one, two, four = (evaluate(model, data.valid_windows(times * model.config.context)) for times in (1, 2, 4))
    return {"loss at 2x": two - one, "loss at 4x": four - one}


@torch.no_grad()
def random_tokens(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`random logit`: the largest absolute logit on uniformly random tokens, at the trained context and at four times it."""
    generator, sizes = torch.Generator().manual_seed(0), []
    for times in (1, 4):
        tokens = torch.randint(data.vocab_size, (RANDOM_WINDOWS, times * model.config.context), generator=generator)
        sizes.append(max(model(part).abs().max().item() for part in tokens.split(4)))
    return {"random logit": sizes[0], "random logit at 4x": sizes[1]}


@torch.no_grad()
def rules(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`rule NAME`: mean exact divergence from the toy language's distribution where that rule applies, in nats."""
    batch = data.annotated_batch(step=10**6, batch_size=512, context=model.config.context, seed=123)
    return {f"rule {name}": float(value) for name, value in kl_by_rule(model(batch.tokens[:, :-1]), batch).items()}


def weights(model: TensorTransformer, data: Any) -> dict[str, float]:
    """Of the bilinear MLPs, the mean over layers: share of zeros in the factors, their Hoyer sparsity, effective ranks.

    The effective ranks are of |D_k| |L_k| |R_k| over the hidden units, and of the squared singular values of the symmetric
    tensor unfolded along its output ("tensor rank").
    """
    layers = [CPTensor.from_layer(block.mlp).double() for block in model.blocks if block.mlp is not None]
    found = [{"zeros": mean((w == 0).double().mean().item() for w in cp.factors().values()),
              "hoyer": mean(hoyer(w) for w in cp.factors().values()),
              "units": effective_rank(cp.D.norm(dim=0) * cp.L.norm(dim=1) * cp.R.norm(dim=1)),
              "tensor rank": effective_rank(torch.linalg.svdvals(cp.symmetric().flatten(1)).square())} for cp in layers]
    return {name: mean(one[name] for one in found) for name in found[0]}


def hoyer(weight: Tensor) -> float:
    """Hoyer's (2004) sparsity of n entries, (sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1): 0 for equal ones, 1 for a single one."""
    root = weight.numel() ** 0.5
    return ((root - weight.abs().sum() / weight.norm().clamp(min=1e-300)) / (root - 1)).item()


def effective_rank(sizes: Tensor) -> float:
    """exp of the entropy of sizes / sum: n for n equal ones, 1 for a single one (Roy & Vetterli 2007)."""
    return torch.special.entr(sizes / sizes.sum()).sum().exp().item()


PROBES: dict[str, Callable[[TensorTransformer, Any], dict[str, float]]] = {
    "tails": tails, "lengths": lengths, "random": random_tokens, "rules": rules, "weights": weights}
