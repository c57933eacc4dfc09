"""What a steering vector does to a bilinear MLP, from the weights alone: the self term, and the cross term with all it can meet.

    f(x + a s) - f(x) = 2a B(s, x) + a^2 f(s),    x = row of the token + sum of coefficient * direction that a layer writes

The cross term is a sum of 2B(s, d) over the directions d in x, every one of them a fact of the weights: rows of tokens, columns of
D, outputs of heads. Which of them occur, and how much, is data; `decompose_effect` measures that part. Reading a bilinear layer off
its weights: Pearce et al. arXiv 2410.08417; the lens on the direct path is the logit lens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import torch
from einops import einsum, rearrange
from torch import Tensor

from tensorlm.checks import require, require_finite, require_instance, require_number
from tensorlm.layers.mlp import MLP
from tensorlm.model import TensorTransformer
from tensorlm.steering.comparison import Component, arriving
from tensorlm.steering.prepare import (
    as_polynomial,
    attention_of,
    layer_tensor,
    require_position,
    require_token,
    require_tokens,
    require_vector,
)
from tensorlm.tables import Names, Table, largest, name_of, promoted
from tensorlm.tensors import CPTensor
from tensorlm.ties import by_value, settled


class OutputDirections(NamedTuple):
    """A component of the model, the directions (n, width) that it can add to the stream as they arrive, and a name for each."""

    component: Component
    directions: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class WeightsAlone:
    """A vector s as it arrives at the MLP of a block, with everything the weights say of it. Made by `weights_alone`.

    `tensor` is the MLP (D, L, R), `vector` s (width,), `rows` the tokens (vocab, width), `writers` the directions of the layers
    below, `head` the unembedding (vocab, width). Tables send a change of the stream straight to the head, which is its *direct path*
    only: what later layers make of it is not in it.
    """

    tensor: CPTensor
    vector: Tensor
    rows: Tensor
    writers: tuple[OutputDirections, ...]
    head: Tensor

    @cached_property
    def self_term(self) -> Tensor:
        """f(s), (width,): at strength a it enters as a^2 f(s), whatever the text."""
        return self.tensor(self.vector)

    @cached_property
    def map(self) -> Tensor:
        """The matrix of 2B(s, .), (width, width): the cross term is a times it times x. It is the Jacobian of f at s."""
        return self.tensor.jacobian(self.vector)

    @cached_property
    def token_cross(self) -> Tensor:
        """2B(s, row of t) for every token t: (vocab, width)."""
        return self.rows @ self.map.mT

    def self_table(self, names: Names = None, count: int = 10) -> Table:
        """What f(s) promotes and what it demotes on the direct path: logits less their mean, at strength 1."""
        logits = self.head @ self.self_term
        centred = logits - logits.mean()
        return Table(("token", "logit"), tuple((name_of(names, index), centred[index].item()) for index in largest(centred, count)))

    def writers_table(self, names: Names, count: int, readout: Tensor) -> Table:
        """The directions of lower layers that push hardest with s at strength 1, by readout . 2B(s, d), at their gauge-free size.

        With the tokens that each push promotes and demotes; at strength -1 these change places.
        """
        require(self.writers, "writers", self.writers, "at least one layer that writes into the stream before this MLP")
        labels = [f"{writer.component} {name}" for writer in self.writers for name in writer.names]
        effects = torch.cat([writer.directions for writer in self.writers]) @ self.map.mT
        pushes = effects @ require_vector(effects.shape[-1], "readout", readout)
        rows = []
        for index in largest(pushes, count):
            logits = self.head @ effects[index]
            rows.append((labels[index], pushes[index].item(), promoted(logits, names), promoted(logits, names, demoted=True)))
        return Table(("direction", "push", "promotes", "demotes"), tuple(rows))

    def expected(self, probabilities: Tensor, readout: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of readout . 2B(s, row of t) when the token t is drawn with these probabilities (vocab,)."""
        require_instance("probabilities", probabilities, Tensor)
        weights, size = probabilities.double(), len(self.rows)
        fits = weights.shape == (size,) and bool((weights >= 0).all()) and abs(weights.sum().item() - 1) <= 1e-6
        require(fits, "probabilities", probabilities, f"numbers of at least 0, ({size},), of sum 1")
        pushes = self.token_cross @ require_vector(self.rows.shape[-1], "readout", readout)
        mean = weights @ pushes
        return mean.item(), (weights @ (pushes - mean).square()).sqrt().item()


def weights_alone(model: TensorTransformer, vector: Tensor, layer: int, previous: int | None = None) -> WeightsAlone:
    """What the weights say of `vector`, added to the stream that enters block `layer`, at that block's MLP.

    `rows` are what every token adds to the stream there at its own position: row norm, input scale and learned shortcuts are in
    it. A smear adds the same row, times the learned number, at the next position. With a bigram table a row belongs to a pair of
    tokens: those after `previous`, or at the start of a text. Raises ValueError for a layer without MLP of degree 2, a vector of
    another width, a model with parts that are no polynomial.

    >>> from tensorlm.model import ModelConfig
    >>> report = weights_alone(TensorTransformer(ModelConfig(norm="none", output_init="normal")), torch.ones(64), layer=1)
    >>> report.token_cross.shape, [str(writer.component) for writer in report.writers]
    (torch.Size([65, 64]), ['attention 0', 'mlp 0', 'attention 1'])
    >>> torch.allclose(report.map @ report.vector, 2 * report.self_term)
    True
    """
    model = as_polynomial(model)
    tensor, factors = layer_tensor(model, layer), arriving(model, layer, layer, middle=True)
    vector = factors.pop(Component("vector")) * require_vector(model.config.width, "vector", vector)
    require_finite("f(vector)", tensor(vector))
    size = model.config.vocab_size
    before = None if previous is None else torch.full((size, 1), require_token(model, "previous", previous))
    rows = factors.pop(Component("embedding")) * model.embed(torch.arange(size)[:, None], previous=before)[:, 0]
    writers = tuple(_output_directions(model, component, factor) for component, factor in factors.items())
    return WeightsAlone(tensor, vector, rows, writers, model.head_matrix())


def _output_directions(model: TensorTransformer, component: Component, factor: float) -> OutputDirections:
    """Columns of D at their gauge-free size; of heads left singular vectors of all they can write, times singular values."""
    layer = component.layer or 0
    if component.kind == "mlp":
        cp = layer_tensor(model, layer)
        sizes = torch.linalg.vector_norm(cp.L, dim=1) * torch.linalg.vector_norm(cp.R, dim=1)
        return OutputDirections(component, factor * (cp.D * sizes).mT, tuple(f"unit {unit}" for unit in range(cp.hidden)))
    attention, mix = attention_of(model, layer), attention_of(model, layer).value_mix
    readers = [attention.v] if mix is None else [mix[0] * attention.v, mix[1] * attention_of(model, 0).v]
    outputs = rearrange(attention.o, "out (head dim) -> head out dim", head=attention.heads)
    written = [outputs @ rearrange(v, "(head dim) width -> head dim width", head=attention.heads) for v in readers]
    left, sizes, _ = torch.linalg.svd(torch.cat(written, dim=-1), full_matrices=False)
    directions = (settled(sizes, left.mT) * sizes[..., None])[:, : attention.head_dim]
    names = tuple(f"head {head} direction {index}" for head in range(attention.heads) for index in range(attention.head_dim))
    return OutputDirections(component, factor * directions.flatten(0, 1), names)


@dataclass(frozen=True, eq=False)
class EffectDecomposition:
    """Effects on a read-out of one MLP, text by text: effect = self_term + token + context, each (batch,).

    `rows` (batch, width) are the rows of the tokens at the position. `effect` comes from two evaluations of the MLP.
    """

    self_term: Tensor
    token: Tensor
    context: Tensor
    effect: Tensor
    rows: Tensor

    def witness(self) -> tuple[int, int]:
        """Two texts of the batch with the same row, hence the same report, whose effects differ most.

        Raises ValueError where no row occurs twice.
        """
        _, group = torch.unique(self.rows, dim=0, return_inverse=True)
        gaps = (self.effect[:, None] - self.effect).abs().masked_fill(group[:, None] != group, -1.0).fill_diagonal_(-1.0)
        if gaps.max() < 0:
            raise ValueError("no two texts of the batch have the same token at the position: give more texts")
        first, second = divmod(int(by_value(gaps.flatten())[0]), len(gaps))
        return min(first, second), max(first, second)


@torch.no_grad()
def decompose_effect(model: TensorTransformer, tokens: Tensor, vector: Tensor, layer: int, readout: Tensor, position: int = -1,
                     alpha: float = 1.0) -> EffectDecomposition:
    """readout . [f(x + alpha s) - f(x)] at the MLP of block `layer` and one position, over tokens (batch, time), term by term.

    `vector` joins the stream that enters the block, at that position only; `readout` (width,), for instance a difference of
    unembeddings. With a smear the row of the token before counts as context. Raises as `weights_alone` does.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> found = decompose_effect(model, torch.tensor([[1, 5, 7], [2, 9, 7]]), torch.ones(64), 0, torch.ones(64))
    >>> found.witness(), torch.equal(found.token[0], found.token[1]), torch.equal(found.effect[0], found.effect[1])
    ((0, 1), True, False)
    """
    model = as_polynomial(model)
    tokens, width = require_tokens(model, tokens), model.config.width
    position = require_position("position", position, tokens.shape[1])
    cp, mlp = layer_tensor(model, layer), cast(MLP, model.blocks[layer].mlp)
    readout = require_vector(width, "readout", readout)
    factors = arriving(model, layer, layer, middle=True)
    s = require_number("alpha", alpha) * factors[Component("vector")] * require_vector(width, "vector", vector)
    rows = factors[Component("embedding")] * model.embed(tokens)[:, position]
    x = model.run(tokens, stop=layer + 1, record=True).blocks[layer].resid_mid[:, position]
    token, context = (einsum(2 * cp.polar(s, part), readout, "batch width, width -> batch") for part in (rows, x - rows))
    effect = (mlp(x + s) - mlp(x)) @ readout
    if not torch.isfinite(effect).all():
        raise ValueError(f"alpha={alpha:g} is too large: effects leave the number range")
    return EffectDecomposition((cp(s) @ readout).expand_as(effect), token, context, effect, rows)
