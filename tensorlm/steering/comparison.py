"""Two runs of a polynomial model, plain and steered, with everything kept that an exact account of their difference needs.

A residual stream is a sum of what was written into it: the input rows, the outputs of attention and MLPs, and the injected
vector. `coefficients` says with which factor each of them arrives where (1, unless the model has learned shortcuts).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_number
from tensorlm.model import BlockRun, Stream, TensorTransformer
from tensorlm.steering.prepare import Positions, opened, position_mask, require_layer, require_tokens, require_vector


class Part(NamedTuple):
    """A writer into the residual stream: kind "embedding", "vector", "attention" or "mlp", and the layer of the last two.

    >>> str(Part("attention", 1)), str(Part("vector"))
    ('attention 1', 'vector')
    """

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"


@dataclass(frozen=True, eq=False)
class Run:
    """One recorded pass: the `Stream` before the head with the activations of all blocks, and the logits."""

    stream: Stream
    logits: Tensor

    @property
    def blocks(self) -> tuple[BlockRun, ...]:
        return self.stream.blocks

    @property
    def x0(self) -> Tensor:
        """The input rows."""
        return self.stream.x0

    @property
    def final(self) -> Tensor:
        """The stream before the head."""
        return self.stream.x

    def entering(self, layer: int) -> Tensor:
        """The stream that enters block `layer`, before its shortcut; after the last block, the stream before the head."""
        return self.x0 if layer == 0 else self.blocks[layer - 1].resid_post


@dataclass(frozen=True, eq=False)
class Comparison:
    """A base run and the same with alpha * vector added at `layer` wherever `mask` (time,) is 1. Made by `compare`.

    The vector is added to the stream as it enters block `layer`; `layer` = number of blocks is the stream before the head.
    """

    model: TensorTransformer
    tokens: Tensor
    vector: Tensor
    layer: int
    mask: Tensor
    alpha: float
    base: Run
    steered: Run

    def written(self, part: Part) -> Tensor:
        """What a part wrote in the base run, (batch, time, width); zeros for the vector."""
        return _written(self.base, part)

    def change(self, part: Part) -> Tensor:
        """What a part wrote more in the steered run, (batch, time, width)."""
        if part.kind == "vector":
            return (self.alpha * self.mask[:, None] * self.vector).expand_as(self.base.x0)
        if part.kind == "embedding":
            return torch.zeros_like(self.base.x0)
        return _written(self.steered, part) - _written(self.base, part)

    def changed(self, layer: int, middle: bool = False) -> dict[Part, float]:
        """Parts that differ between the runs and reach the stream of block `layer` (its MLP with `middle`), with their factors."""
        arriving = coefficients(self.model, layer, self.layer, middle)
        return {part: factor for part, factor in arriving.items() if part.kind == "vector" or (part.layer or 0) >= self.layer
                and part.kind != "embedding"}


def compare(model: TensorTransformer, tokens: Tensor, vector: Tensor, layer: int, positions: Positions = "all",
            alpha: float = 1.0) -> Comparison:
    """Run `model` on tokens (batch, time), plain and with alpha * vector added to the stream that enters block `layer`.

    `positions`: "all", a position or several (negative ones count from the end), or a mask (time,) of booleans. At
    layer 0 the input rows themselves change, also where shortcuts read them again. Everything is computed in float64 on
    the CPU, by `opened(model)`. Raises TypeError or ValueError for what does not fit, and where the model is no polynomial.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> torch.equal(pair.base.blocks[0].mlp, pair.steered.blocks[0].mlp), [str(part) for part in pair.changed(2)]
    (True, ['vector', 'attention 1', 'mlp 1'])
    """
    model = opened(model)
    require_layer(model, layer)
    vector = require_vector(model, "vector", vector)
    alpha, tokens = require_number("alpha", alpha), require_tokens(model, tokens)
    base = run(model, tokens)
    mask = position_mask(positions, tokens.shape[1])
    steered = run_steered(model, base, alpha * mask[:, None] * vector, layer)
    if not torch.isfinite(steered.logits).all():
        raise ValueError(f"alpha={alpha:g} is too large: logits leave the number range")
    return Comparison(model, tokens, vector, layer, mask, alpha, base, steered)


def run(model: TensorTransformer, tokens: Tensor) -> Run:
    """One pass of an `opened` model over tokens (batch, time), recorded."""
    stream = model.run(tokens, record=True)
    return Run(stream, model.unembed(stream.x))


def run_steered(model: TensorTransformer, base: Run, added: Tensor, layer: int) -> Run:
    """The pass of `base` with `added`, (time, width) or with a batch axis, on the stream that enters block `layer`."""
    first_values = base.stream.first_values if layer else None
    entering = Stream(base.entering(layer), base.x0, first_values, base.blocks[:layer])
    stream = model.run(entering, start=layer, add={layer: added}, record=True)
    return Run(stream, model.unembed(stream.x))


def coefficients(model: TensorTransformer, layer: int, steered: int | None = None, middle: bool = False) -> dict[Part, float]:
    """With which factor each part arrives at the stream of block `layer`, or with `middle` at its MLP.

    `steered` is the layer at which a vector enters, if any. Without learned shortcuts every factor is 1.
    """
    arriving = {Part("embedding"): 1.0}
    for index, block in enumerate((*model.blocks, None)[: layer + 1]):
        if index == steered:
            arriving[Part("vector")] = 1.0
        if block is not None and block.shortcut is not None:
            again = {Part("embedding")} | ({Part("vector")} if steered == 0 else set())
            keep, repeat = block.shortcut.tolist()
            arriving = {part: keep * factor + (repeat if part in again else 0.0) for part, factor in arriving.items()}
        if block is not None and (index < layer or middle) and block.attention is not None:
            arriving[Part("attention", index)] = 1.0
        if block is not None and index < layer and block.mlp is not None:
            arriving[Part("mlp", index)] = 1.0
    return arriving


def _written(run: Run, part: Part) -> Tensor:
    if part.layer is not None:
        return getattr(run.blocks[part.layer], part.kind)
    return run.x0 if part.kind == "embedding" else torch.zeros_like(run.x0)
