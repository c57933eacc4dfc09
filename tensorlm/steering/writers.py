"""Every direction that can stand in the residual stream before an MLP, read off the weights: token rows, units, heads.

A unit's column and a head's matrices have scales of their own that the function does not know (column times a, row by a;
o G with the inverse of G on v). So a unit's direction is its column times the lengths of its two rows, and a head's
directions are the left singular vectors of o v times the singular values: both are the same in every gauge.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import require_block, require_token
from tensorlm.steering.opened import layer_tensor, opened
from tensorlm.steering.runs import Part, coefficients
from tensorlm.tensors.ties import settled


@dataclass(frozen=True, eq=False)
class Writer:
    """A part of the model, the directions (n, width) that it can add to the stream as they arrive, and a name for each."""

    part: Part
    directions: Tensor
    names: tuple[str, ...]


def writers(model: TensorTransformer, layer: int) -> tuple[Writer, ...]:
    """All attention up to and with block `layer`, all MLPs of degree 2 below it, as the MLP of block `layer` meets them.

    >>> from tensorlm.model import ModelConfig
    >>> found = writers(TensorTransformer(ModelConfig(norm="none"), seed=0), layer=1)
    >>> [(str(writer.part), tuple(writer.directions.shape)) for writer in found]
    [('attention 0', (64, 64)), ('mlp 0', (128, 64)), ('attention 1', (64, 64))]
    """
    model = opened(model)
    require_block(model, layer)
    arriving = coefficients(model, layer, middle=True)
    return tuple(_writer(model, part, factor) for part, factor in arriving.items() if part.kind != "embedding")


def token_rows(model: TensorTransformer, layer: int = 0, previous: int | None = None) -> Tensor:
    """What every token adds to the stream before the MLP of block `layer` at its own position: (vocab, width).

    Row norm, input scale and learned shortcuts are in it. A smear adds the same row, times the learned number, at the next
    position: `smear_factor`. With a bigram table a row belongs to a pair of tokens: those after `previous`, or at the start of
    a text. Raises ValueError for a layer or token that is none.
    """
    model = opened(model)
    require_block(model, layer)
    size = model.config.vocab_size
    before = None if previous is None else torch.full((size, 1), require_token(model, "previous", previous))
    rows = model.embed(torch.arange(size)[:, None], previous=before)[:, 0]
    return coefficients(model, layer, middle=True)[Part("embedding")] * rows


def smear_factor(model: TensorTransformer) -> float:
    """With which factor a token's row also stands at the next position: the learned smear, or 0."""
    return float(model.smear) if model.config.smear == "learned" else 0.0


def output_matrices(model: TensorTransformer, layer: int) -> Tensor:
    """o_h v_h of every head: (heads, width, width), with the layer's own share of a value residual.

    A vector s at a position that a head reads with weight P adds P o_h v_h s at the reading position.
    """
    attention = _attention(opened(model), layer)
    mix = attention.value_mix[0] if hasattr(attention, "value_mix") else 1.0
    return mix * _outputs(attention) @ _values(attention)


def _writer(model: TensorTransformer, part: Part, factor: float) -> Writer:
    layer = part.layer or 0
    if part.kind == "attention":
        directions, names = _head_directions(model, layer), "head {} direction {}"
        return Writer(part, factor * directions.flatten(0, 1),
                      tuple(names.format(head, index) for head in range(len(directions)) for index in range(directions.shape[1])))
    cp = layer_tensor(model, layer)
    sizes = torch.linalg.vector_norm(cp.L, dim=1) * torch.linalg.vector_norm(cp.R, dim=1)
    return Writer(part, factor * (cp.D * sizes).mT, tuple(f"unit {unit}" for unit in range(cp.hidden)))


def _head_directions(model: TensorTransformer, layer: int) -> Tensor:
    """Left singular vectors of what each head can write, times singular values, peak upwards: (heads, head_dim, width)."""
    attention = _attention(model, layer)
    values = [output_matrices(model, layer)]
    if hasattr(attention, "value_mix"):
        values.append(attention.value_mix[1] * _outputs(attention) @ _values(_attention(model, 0)))
    left, sizes, _ = torch.linalg.svd(torch.cat(values, dim=-1), full_matrices=False)
    return (settled(sizes, left.mT) * sizes[..., None])[:, : attention.head_dim]


def _attention(model: TensorTransformer, layer: int) -> Any:
    require_block(model, layer)
    attention = getattr(model.blocks[layer], "attention", None)
    if attention is None:
        raise ValueError(f"layer {layer} must have attention, this model has none")
    return attention


def _outputs(attention) -> Tensor:
    return attention.o.view(attention.width, attention.heads, attention.head_dim).transpose(0, 1)


def _values(attention) -> Tensor:
    return attention.v.view(attention.heads, attention.head_dim, attention.width)
