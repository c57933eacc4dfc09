"""Attention one token at a time, in memory that does not grow with the text.

A polynomial score is an inner product of products: (q1.k1)(q2.k2) = <q1 x q2, k1 x k2>, so the sum over all past keys
is a state S = sum_j (k1_j x k2_j) v_j that a decay multiplies at each step. Only the learned Toeplitz table needs the
keys one by one, and only those of the last `context` tokens. Softmax has no such state: it keeps a window of keys and
values.
"""

import math
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
    before: list[Tensor] = field(default_factory=list)  # last unshifted keys, for key_offset
    window_keys: list[Tensor] = field(default_factory=list)  # a branch: (batch, heads, <= context, head_dim)
    window_values: Tensor | None = None


def attention_step(layer: Attention, x: Tensor, state: AttentionState, first_values: Tensor | None = None):
    """One token through one attention layer: x (batch, 1, width) -> (output, values), changing `state`.

    Equal to the last position of `layer(all tokens so far)`; for softmax, while they fit into the window.
    """
    layer.check_input(x, first_values)
    queries, keys, values = layer.project_heads(x)
    queries = [layer.positions.rotate(query, state.position) for query in queries]
    rotated = [layer.positions.rotate(key, state.position) for key in keys]
    before: list[Tensor | None] = [*state.before] or [None] * len(rotated)
    keys = [layer.positions.offset(key, last) for key, last in zip(rotated, before)]
    mixed = layer.mix_values(values, first_values)
    step = _softmax_step if layer.kind == "softmax" else _product_step
    z = step(layer, queries, keys, mixed, state)
    state.before, state.position = rotated, state.position + 1
    return layer.merge_heads(z), values


def _product_step(layer: Attention, queries, keys, values: Tensor, state: AttentionState) -> Tensor:
    decay = torch.exp(-layer.positions.slopes(values)).view(-1, 1, 1)
    new = features(*keys).mT * values
    state.sums = new if state.sums is None else decay * state.sums + new
    state.row_sums = torch.ones_like(decay) if state.row_sums is None else decay * state.row_sums + 1
    z = features(*queries) @ state.sums
    if "toeplitz" in layer.positions.features:
        window = _push(layer, keys, values, state)
        scores = math.prod(query @ key.mT for query, key in zip(queries, state.window_keys))
        if len(queries) == 1:
            scores = scores.square()
        z = z + (scores * _table(layer, window)) @ window
    return z * state.row_sums.pow(-layer.positions.row_power)


def _softmax_step(layer: Attention, queries, keys, values: Tensor, state: AttentionState) -> Tensor:
    window = _push(layer, keys, values, state)
    ages = _ages(window)
    bias = -layer.positions.slopes(values)[:, None, None] * ages.to(values)
    if "toeplitz" in layer.positions.features:
        bias = bias + layer.positions.toeplitz[:, None, ages].to(values.dtype)
    return torch.softmax(queries[0] @ state.window_keys[0].mT + bias, dim=-1) @ window


def _push(layer: Attention, keys, values: Tensor, state: AttentionState) -> Tensor:
    """Take new keys and values into the window; its values come back, (batch, heads, <= context, head_dim)."""
    kept = layer.positions.context
    if state.window_values is None:
        state.window_keys, state.window_values = list(keys), values
        return values
    state.window_keys = [torch.cat([old, key], -2)[..., -kept:, :] for old, key in zip(state.window_keys, keys)]
    state.window_values = torch.cat([state.window_values, values], -2)[..., -kept:, :]
    return state.window_values


def _ages(window: Tensor) -> Tensor:
    return torch.arange(window.shape[-2] - 1, -1, -1, device=window.device)


def _table(layer: Attention, window: Tensor) -> Tensor:
    """Decay times learned table for the keys of the window: (heads, 1, window)."""
    ages = _ages(window)
    decay = torch.exp(-layer.positions.slopes(window)[:, None] * ages.to(window))
    return (decay * layer.positions.toeplitz[:, ages].to(window.dtype))[:, None]
