"""Two runs of a polynomial model, plain and steered, with everything kept that an exact account of their difference needs.

A residual stream is a sum of what was written into it: the input rows, the outputs of attention and MLPs, and the injected
vector. `arriving` says with which factor each of them stands where (1, unless the model has learned shortcuts).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_number, require_whole
from tensorlm.model import Stream, TensorTransformer
from tensorlm.steering.prepare import Positions, as_polynomial, position_mask, require_tokens, require_vector


class Component(NamedTuple):
    """What writes into the residual stream: kind "embedding", "vector", "attention" or "mlp", and the layer of the last two."""

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A base run and the same with alpha * vector added at `layer` wherever `mask` (time,) is 1. Made by `compare`.

    Both runs are recorded streams before the head: `pair.steered.blocks[1].resid_mid`, `pair.base.x`. The vector is added to the
    stream as it enters block `layer`; `layer` = number of blocks is the stream before the head.
    """

    model: TensorTransformer
    tokens: Tensor
    vector: Tensor
    layer: int
    mask: Tensor
    alpha: float
    base: Stream
    steered: Stream

    def change(self, component: Component) -> Tensor:
        """What a component wrote more in the steered run, (batch, time, width)."""
        if component.kind == "vector":
            return (self.alpha * self.mask[:, None] * self.vector).expand_as(self.base.x0)
        return written(self.steered, component) - written(self.base, component)

    def changed(self, layer: int, middle: bool = False) -> dict[Component, float]:
        """Components that differ between the runs and reach the stream of block `layer` (its MLP with `middle`), with their factors."""
        found = arriving(self.model, layer, self.layer, middle)
        return {one: factor for one, factor in found.items() if one.kind == "vector" or one.layer is not None and one.layer >= self.layer}


def compare(model: TensorTransformer, tokens: Tensor, vector: Tensor, layer: int, positions: Positions = "all",
            alpha: float = 1.0) -> Comparison:
    """Run `model` on tokens (batch, time), plain and with alpha * vector added to the stream that enters block `layer`.

    At layer 0 the input rows themselves change, also where shortcuts read them again. Everything is computed by
    `as_polynomial(model)`. Raises TypeError or ValueError for what does not fit, and where the model is no polynomial.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> torch.equal(pair.base.blocks[0].mlp, pair.steered.blocks[0].mlp), [str(one) for one in pair.changed(2)]
    (True, ['vector', 'attention 1', 'mlp 1'])
    """
    model = as_polynomial(model)
    require_whole("layer", layer, 0, len(model.blocks))
    vector = require_vector(model.config.width, "vector", vector)
    alpha, tokens = require_number("alpha", alpha), require_tokens(model, tokens)
    mask, base = position_mask(positions, tokens.shape[1]), model.run(tokens, record=True)
    steered = model.run(entering(base, layer), start=layer, add={layer: alpha * mask[:, None] * vector}, record=True)
    if not torch.isfinite(model.unembed(steered.x)).all():
        raise ValueError(f"alpha={alpha:g} is too large: logits leave the number range")
    return Comparison(model, tokens, vector, layer, mask, alpha, base, steered)


def entering(run: Stream, layer: int) -> Stream:
    """The stream of a recorded run as it enters block `layer`; after the last block, the stream before the head."""
    if layer == 0:
        return Stream(run.x0, run.x0)
    return Stream(run.blocks[layer - 1].resid_post, run.x0, run.first_values, run.blocks[:layer])


def arriving(model: TensorTransformer, layer: int, steered: int | None = None, middle: bool = False) -> dict[Component, float]:
    """With which factor each component arrives at the stream of block `layer`, or with `middle` at its MLP.

    `steered` is the layer at which a vector enters, if any. Without learned shortcuts every factor is 1.
    """
    found = {Component("embedding"): 1.0}
    for index, block in enumerate((*model.blocks, None)[: layer + 1]):
        if index == steered:
            found[Component("vector")] = 1.0
        if block is not None and block.shortcut is not None:
            again = {Component("embedding")} | ({Component("vector")} if steered == 0 else set())
            keep, repeat = block.shortcut.tolist()
            found = {one: keep * factor + (repeat if one in again else 0.0) for one, factor in found.items()}
        if block is not None and (index < layer or middle) and block.attention is not None:
            found[Component("attention", index)] = 1.0
        if block is not None and index < layer and block.mlp is not None:
            found[Component("mlp", index)] = 1.0
    return found


def written(run: Stream, component: Component) -> Tensor:
    """What a component wrote in a recorded run, (batch, time, width); zeros for the vector."""
    if component.layer is not None:
        return getattr(run.blocks[component.layer], component.kind)
    return run.x0 if component.kind == "embedding" else torch.zeros_like(run.x0)
