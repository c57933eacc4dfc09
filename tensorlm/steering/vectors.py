"""Steering vectors: from texts, from the unembedding, from the embedding, and random ones to compare with; and where they enter.

All are vectors of the residual stream, (width,) in float64. They work for every `TensorTransformer`, polynomial or not.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import all_finite, require, require_finite, require_instance, require_same_kind, require_whole
from tensorlm.model import Stream, TensorTransformer
from tensorlm.scaling import length
from tensorlm.steering.prepare import (
    Positions,
    Steerable,
    as_strengths,
    position_mask,
    require_position,
    require_token,
    require_tokens,
    require_vector,
)

MAX_BATCH_NUMBERS = 1 << 22  # of a residual stream that one batched run of the model may hold


@dataclass(frozen=True, eq=False)
class Injection:
    """alpha * vector is added to the residual stream before some blocks, at some positions.

    `vectors` (layers, width) float64, one for each of `layers` (rising; the number of blocks stands for the stream before the
    head), `mask` (time,) float64 of 0 and 1. `Injection.make` checks and completes what a user gives.
    """

    vectors: Tensor
    layers: tuple[int, ...]
    mask: Tensor

    @classmethod
    def make(cls, model: TensorTransformer | Steerable, time: int, vector: Tensor, layer: int | list[int] | tuple[int, ...],
             positions: Positions = "all") -> "Injection":
        """One vector (width,) for every layer, or one a layer (layers, width). Raises TypeError or ValueError for what does not fit."""
        model, time = model.model if isinstance(model, Steerable) else model, require_whole("time", time, 1)
        require_instance("model", model, TensorTransformer)
        layers = layer if isinstance(layer, list | tuple) else (layer,)
        for one in layers:
            require_whole("layer", one, 0, len(model.blocks))
        require(0 < len(set(layers)) == len(layers), "layer", layer, "a whole number or several distinct ones")
        require_instance("vector", vector, Tensor)
        rows = [vector] * len(layers) if vector.ndim < 2 else list(vector)
        require(len(rows) == len(layers), "vector", vector, f"(width,) or have a row for each of the {len(layers)} layers")
        at = {one: require_vector(model.config.width, "vector", row) for one, row in zip(layers, rows)}
        return cls(torch.stack([at[one] for one in sorted(at)]), tuple(sorted(at)), position_mask(positions, time))


@dataclass(frozen=True, eq=False)
class SteeredPrompt:
    """One prompt (1, time), its injections, each with a strength of its own, and the position that is read; checked by `make`."""

    steerable: Steerable
    tokens: Tensor
    injections: tuple[Injection, ...]
    read: int

    @classmethod
    def make(cls, model: TensorTransformer | Steerable, tokens: Tensor, injections: Injection | tuple[Injection, ...],
             read: int = -1) -> "SteeredPrompt":
        steerable = Steerable.of(model, often=False)
        tokens, read = require_prompt(steerable.model, tokens, read)
        several = (injections,) if isinstance(injections, Injection) else injections
        if not isinstance(several, tuple) or not all(isinstance(one, Injection) for one in several):
            raise TypeError(f"injection must be an Injection or a tuple of them, got {injections!r:.200}")
        times = [len(one.mask) for one in several]
        if not times or any(time != tokens.shape[1] for time in times):
            raise ValueError(f"injection must be at least one, made for the {tokens.shape[1]} tokens of the prompt, got {times} tokens")
        return cls(steerable, tokens, several, read)

    @cached_property
    def first(self) -> int:
        """The first steered block."""
        return min(one.layers[0] for one in self.injections)

    @cached_property
    def entering(self) -> Stream:
        """The plain stream before the first steered block, at the positions on which the answer depends: the last is the one read."""
        model = self.steerable.model
        stream = model.run(self.tokens.narrow(1, 0, self.read + 1), stop=self.first)
        if self.first == self.steerable.layers or self.steerable.parts[0].attention is None:
            return Stream(stream.x.narrow(1, self.read, 1), stream.x0.narrow(1, self.read, 1))
        return stream

    @cached_property
    def added(self) -> dict[int, Tensor]:
        """What strengths of 1 add before each block where they add something: (injections, time, width), positions as in `entering`."""
        time, width = self.entering.x.shape[1:]
        found: dict[int, Tensor] = {}
        for number, one in enumerate(self.injections):
            rows = one.mask[self.read + 1 - time : self.read + 1, None] * one.vectors[:, None, None]
            if len(self.injections) == 1:
                found = dict(zip(one.layers, rows))
                break
            for layer, added in zip(one.layers, rows):
                found.setdefault(layer, rows.new_zeros(len(self.injections), time, width))[number] = added
        return {layer: found[layer] for layer in sorted(found) if found[layer].any()}

    @torch.no_grad()
    def logits(self, alphas: Tensor) -> Tensor:
        """Logits of the running model at strengths (n, injections): (n, vocab_size). All strengths are one batch."""
        model, parts = self.steerable.model, []
        for part in alphas.split(max(1, MAX_BATCH_NUMBERS // self.entering.x.numel())):
            now = {layer: (part @ rows.flatten(1)).unflatten(1, rows.shape[1:]) for layer, rows in self.added.items()}
            x = model.run(self.entering, start=self.first, add=now).x[:, -1]
            parts.append(model.unembed(x).expand(len(part), -1))  # one row where nothing is added
        logits = torch.cat(parts)
        if not all_finite(logits):
            raise ValueError(f"logits are not finite for some strengths in ({alphas.min():g}, {alphas.max():g}); choose a smaller interval")
        return self.steerable.even(logits)


def require_prompt(model: TensorTransformer, tokens: Tensor, read: int) -> tuple[Tensor, int]:
    """One prompt as (1, time) and the position to read as a number from 0. Raises TypeError or ValueError."""
    tokens = require_tokens(model, tokens)
    require(tokens.shape[0] == 1, "tokens", tokens, "one prompt, (time,) or (1, time)")
    return tokens, require_position("read", read, tokens.shape[1])


def steered_logits(model: TensorTransformer | Steerable, tokens: Tensor, injection: Injection | tuple[Injection, ...], alphas,
                   read: int = -1) -> Tensor:
    """Logits of the running model at position `read`, for every strength: (n,) -> (n, vocab_size).

    With several injections every one has its own strength, alphas (n, injections). Blocks below the first steered one, tokens
    after `read` and, without attention, all other tokens are left out.

    >>> from tensorlm.model import ModelConfig
    >>> steerable = Steerable.of(TensorTransformer(ModelConfig(attention="softmax", output_init="normal")))
    >>> injection = Injection.make(steerable, 3, torch.ones(64), layer=1, positions=[0, 2])
    >>> logits = steered_logits(steerable, torch.arange(3), injection, [0.0, 1.0])
    >>> logits.shape, torch.allclose(logits[0], steerable.model(torch.arange(3)[None])[0, -1])
    (torch.Size([2, 65]), True)
    """
    prompt = SteeredPrompt.make(model, tokens, injection, read)
    count = len(prompt.injections)
    return prompt.logits(as_strengths(alphas, 0 if isinstance(injection, Injection) else count)[0].reshape(-1, count))


def mean_difference(model: TensorTransformer, tokens: Tensor, others: Tensor, layer: int, positions: Positions = "all") -> Tensor:
    """Mean stream over `others` less mean stream over `tokens`, at `positions` ("all", one, several, a mask): from the first to the second.

    Tokens and others (batch, time) -> (width,). Raises ValueError for a layer or position that is none, and where the means are the same.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none"))
    >>> s = mean_difference(model, torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4]]), layer=0, positions=-1)
    >>> torch.allclose(s, embedding_difference(model, [3], [4]))
    True
    """
    wide, means = Steerable.of(model, often=False).model, []
    require_whole("layer", layer, 0, len(wide.blocks))
    for part in (tokens, others):
        x = wide.run(require_tokens(wide, part), stop=layer).x
        mask = position_mask(positions, x.shape[1])
        means.append(einsum(x, mask, "batch time width, time -> width") / (mask.sum() * len(x)))
    return _not_zero("the two sets have the same mean stream at these positions", means[1] - means[0])


def embedding_difference(model: TensorTransformer, words: list[int], others: list[int]) -> Tensor:
    """Mean input row of the tokens `others` less that of `words`: rows as they enter block 0, normed and scaled, without smear.

    With a bigram table, rows as at the start of a text. This vector knows nothing but weights.
    """
    wide, means = Steerable.of(model, often=False).model, []
    for name, part in (("words", words), ("others", others)):
        require(isinstance(part, list | tuple) and part, name, part, "a list of at least one token")
        tokens = torch.tensor([require_token(wide, f"{name}: each", token) for token in part])
        means.append(wide.input_site(wide.embed(tokens[:, None])).mean((0, 1)))
    return _not_zero("the two sets of words have the same mean row", means[1] - means[0])


def unembedding_difference(model: TensorTransformer, token: int, other: int) -> Tensor:
    """Row of the head for `other` less that for `token`, as the last stream meets it: also the read-out of logit(other) - logit(token).

    A constant norm before the head is folded in; a norm of each token ("rms", "anneal" in training) is not: there it is a direction only.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal")).double()
    >>> tokens = torch.tensor([[1, 2]])
    >>> w, logits = unembedding_difference(model, 3, 7), model(tokens)[0, -1]
    >>> torch.allclose(model.run(tokens).x[0, -1] @ w, logits[7] - logits[3])
    True
    """
    wide = Steerable.of(model, often=False).model
    first, second = require_token(wide, "token", token), require_token(wide, "other", other)
    head = wide.head_matrix()
    return _not_zero("the two tokens have the same row of the head", head[second] - head[first])


def random_like(vector: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` random directions, each as long as `vector`: (count, width). The control that every claim about a vector needs.

    >>> torch.linalg.vector_norm(random_like(torch.tensor([3.0, 4.0]), 2), dim=-1)
    tensor([5., 5.], dtype=torch.float64)
    """
    require_same_kind(vector=vector)
    require(vector.ndim == 1 and vector.numel(), "vector", vector, "numbers along one axis")
    require_finite("vector", vector)
    require_whole("count", count, 1)
    noise = torch.randn(count, len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(require_whole("seed", seed)))
    return noise / torch.linalg.vector_norm(noise, dim=-1, keepdim=True) * length(vector.double())


def _not_zero(reason: str, vector: Tensor) -> Tensor:
    require_finite("the vector", vector)
    require(vector.any(), "the vector", vector, f"other than zero: {reason}")
    return vector
