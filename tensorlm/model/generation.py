"""Text from a model, one token at a time, from a recurrent state."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.checks import require, require_number, require_whole
from tensorlm.layers.state import AttentionState


@dataclass
class ModelState:
    """What a model carries from token to token. Its size does not depend on the length of the text."""

    layers: list[AttentionState]
    last_token: Tensor | None = None  # for the bigram table
    last_row: Tensor | None = None  # the last input row, for the smear


@torch.no_grad()
def generate(model, prompt: Tensor, count: int, temperature: float = 1.0, top_k: int | None = None,
             generator: torch.Generator | None = None) -> Tensor:
    """Continue `prompt` (batch, time) by `count` sampled tokens: (batch, time + count).

    `temperature` 0 takes the most likely token; `top_k` keeps exactly k of the most likely, of equal ones the first.
    Bilinear and squared attention give the logits of the full forward pass, from a recurrent state and, with a Toeplitz
    table, the last `context` keys; softmax attention keeps a window of `context` keys. Raises ValueError on an empty prompt,
    a negative count or temperature, a top_k below 1, and logits that are not finite.
    """
    _check(model, prompt, count, temperature, top_k)
    was_training = model.training
    model.eval()
    state, tokens = model.empty_state(), list(prompt.split(1, dim=1))
    try:
        for position in range(prompt.shape[1] + count - 1):
            logits = model.step(tokens[position], state)
            if position >= prompt.shape[1] - 1:
                _require_finite(logits, position)
                tokens.append(sample(logits, temperature, top_k, generator))
    finally:
        model.train(was_training)
    return torch.cat(tokens, dim=1)


def sample(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """One token a row of `logits` (batch, vocab_size): (batch, 1). Raises ValueError where they are not finite."""
    _require_finite(logits)
    if temperature == 0.0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.double()
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # the largest is 0, so a tiny temperature is safe
    if top_k is not None and top_k < logits.shape[-1]:
        dropped = logits.argsort(dim=-1, descending=True, stable=True)[:, top_k:]
        logits = logits.scatter(-1, dropped, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def _require_finite(logits: Tensor, position: int | None = None) -> None:
    broken = ~torch.isfinite(logits).all(-1)
    if bool(broken.any()):
        where = "" if position is None else f" at position {position}"
        raise ValueError(f"logits must be finite{where}, got NaN or infinity in row {int(broken.int().argmax())} of the batch: the numbers "
                         "of the model have overflowed, as those of polynomials soon do; check its weights, use float64 or a shorter text")


def _check(model, prompt: Tensor, count: int, temperature: float, top_k: int | None) -> None:
    kind = prompt.dtype if isinstance(prompt, Tensor) else type(prompt).__name__
    if kind not in (torch.int64, torch.int32) or prompt.ndim != 2 or prompt.numel() == 0:
        raise ValueError(f"prompt must be whole numbers of shape (batch, time) with at least one token, got "
                         f"{kind} {tuple(getattr(prompt, 'shape', ()))}")
    low, high = map(int, prompt.aminmax())
    require(0 <= low and high < model.config.vocab_size, "prompt", (low, high), f"tokens from 0 to {model.config.vocab_size - 1}")
    require_whole("count", count)
    require_number("temperature", temperature, least=0)
    require_whole("top_k", 1 if top_k is None else top_k, 1)
