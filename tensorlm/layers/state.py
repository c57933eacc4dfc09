"""Attention one token at a time, in memory that does not grow with the text.

A polynomial score is <q1 x q2, k1 x k2>, so the sum over all past keys is a state S = sum_j (k1_j x k2_j) v_j that a decay
multiplies at each step. A learned Toeplitz table, and softmax, need a window of the last `context` keys and values.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tensorlm.layers.attention import Attention
from tensorlm.layers.polynomial_attention import features


@dataclass
class AttentionState:
    """What one attention layer carries from token to token: bounded by head_dim^3 and context numbers a head."""

    position: int = 0
    row_sums: Tensor | None = None  # (heads, 1, 1) of the decaying causal mask
    sums: Tensor | None = None  # S: (batch, heads, features, head_dim)
    last_keys: list[Tensor] | None = None  # before the key offset
    window_keys: list[Tensor] = field(default_factory=list)  # a branch: (batch, heads, <= context, head_dim)
    window_values: Tensor | None = None


def attention_step(layer: Attention, x: Tensor, state: AttentionState, first_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One token x (batch, 1, width) -> (output, values), the last ones of `layer(all tokens so far)`; changes `state`."""
    queries, keys, values, last_keys = layer.prepare(x, state.position, state.last_keys)
    mixed = layer.mix_values(values, first_values)
    if layer.kind == "softmax":
        window, log_decay, table = _push(layer, keys, mixed, state)
        z = torch.softmax(queries[0] @ state.window_keys[0].mT + log_decay + table, dim=-1) @ window
    else:
        z = _product_step(layer, queries, keys, mixed, state)
    state.last_keys, state.position = last_keys, state.position + 1
    return layer.merge_heads(z), values


def _product_step(layer: Attention, queries: list[Tensor], keys: list[Tensor], values: Tensor, state: AttentionState) -> Tensor:
    decay = torch.exp(-layer.positions.slopes(values)).view(-1, 1, 1)
    new = features(*keys).mT * values
    state.sums = new if state.sums is None else decay * state.sums + new
    state.row_sums = torch.ones_like(decay) if state.row_sums is None else decay * state.row_sums + 1
    z = features(*queries) @ state.sums
    if layer.positions.toeplitz is not None:
        window, log_decay, table = _push(layer, keys, values, state)
        first, *others = (query @ key.mT for query, key in zip(queries, state.window_keys))
        z = z + (first * (others[0] if others else first) * log_decay.exp() * table) @ window
    return z * state.row_sums.pow(-layer.positions.row_power)


def _push(layer: Attention, keys: list[Tensor], values: Tensor, state: AttentionState) -> tuple[Tensor, Tensor, Tensor]:
    """Take a key and a value into the window of the last `context`: its values, -m n and t[n] for its ages (heads, 1, window)."""
    kept = layer.positions.context
    if state.window_values is None:
        state.window_keys, state.window_values = list(keys), values
    else:
        state.window_keys = [torch.cat([old, key], -2)[..., -kept:, :] for old, key in zip(state.window_keys, keys)]
        state.window_values = torch.cat([state.window_values, values], -2)[..., -kept:, :]
    ages = torch.arange(state.window_values.shape[-2] - 1, -1, -1, device=values.device)
    table = layer.positions.toeplitz
    taught = values.new_zeros(()) if table is None else table[:, None, ages].to(values.dtype)
    return state.window_values, -layer.positions.slopes(values)[:, None, None] * ages.to(values), taught
