"""Steering vectors: from texts, from the unembedding, from the embedding, from an eigenvector, and random ones to compare with.

All are vectors of the residual stream, (width,) in float64. They work for every `TensorTransformer`, polynomial or not, except
`eigenvector`, which needs a layer of degree 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.checks import require_finite, require_instance, require_same_kind, require_whole
from tensorlm.model import Stream, TensorTransformer
from tensorlm.scaling import exponents, length, shifted
from tensorlm.steering.prepare import (
    Positions,
    Steerable,
    as_strengths,
    layer_tensor,
    opened,
    position_mask,
    require_layer,
    require_prompt,
    require_token,
    require_tokens,
    require_vector,
)
from tensorlm.tensors import eigen
from tensorlm.ties import upward

BATCH = 1 << 22  # numbers of a residual stream that one batched run of the model may hold


@dataclass(frozen=True, eq=False)
class Injection:
    """alpha * vector is added to the residual stream before some blocks, at some positions.

    `vectors` (layers, width) float64, one for each of `layers` (rising; the number of blocks stands for the stream before the
    head), `mask` (time,) float64 of 0 and 1. `Injection.make` checks and completes what a user gives.

    >>> from tensorlm.model import ModelConfig
    >>> Injection.make(TensorTransformer(ModelConfig()), 4, torch.ones(64), layer=[2, 0], positions=-1).layers
    (0, 2)
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
        layers = (layer,) if isinstance(layer, int) else layer
        if not isinstance(layers, list | tuple) or len(layers) == 0:
            raise ValueError(f"layer must be a whole number or several distinct ones, got {layer!r}")
        for one in layers:
            require_layer(model, one)
        if len(set(layers)) < len(layers):
            raise ValueError(f"layer must be a whole number or several distinct ones, got {layer!r}")
        require_instance("vector", vector, Tensor)
        rows = [vector] * len(layers) if vector.ndim < 2 else list(vector)
        if len(rows) != len(layers):
            raise ValueError(f"vector must be (width,) or have a row for each of the {len(layers)} layers, got {tuple(vector.shape)}")
        pairs = sorted(zip(layers, (require_vector(model, "vector", row) for row in rows)), key=lambda pair: pair[0])
        return cls(torch.stack([row for _, row in pairs]), tuple(one for one, _ in pairs), position_mask(positions, time))

    @property
    def first(self) -> int:
        return self.layers[0]

    def rows(self, layer: int) -> Tensor | None:
        """What alpha = 1 adds before block `layer`: (time, width), or None."""
        if layer not in self.layers:
            return None
        return self.mask[:, None] * self.vectors[self.layers.index(layer)]

    def until(self, position: int) -> "Injection":
        """The same for the tokens up to `position`: later ones cannot matter to it."""
        return Injection(self.vectors, self.layers, self.mask[: position + 1])


def require_injections(injection: Injection | tuple[Injection, ...], time: int) -> tuple[Injection, ...]:
    """One or several, as a tuple. Raises for another kind, for none, and for a prompt of another length."""
    injections = (injection,) if isinstance(injection, Injection) else injection
    if not isinstance(injections, list | tuple) or not all(isinstance(one, Injection) for one in injections):
        raise TypeError(f"injection must be an Injection or a tuple of them, got {injection!r:.200}")
    lengths = [len(one.mask) for one in injections]
    if not lengths or any(length != time for length in lengths):
        raise ValueError(f"injection must be at least one, made for the {time} tokens of the prompt, got {lengths} tokens")
    return tuple(injections)


@torch.no_grad()
def steered_logits(model: TensorTransformer | Steerable, tokens: Tensor, injection: Injection | tuple[Injection, ...], alphas,
                   read: int = -1) -> Tensor:
    """Logits of the running model at position `read`, for every strength: (n,) -> (n, vocab_size).

    With several injections every one has its own strength, alphas (n, injections). All strengths are one batch. Blocks
    below the first steered one, tokens after `read` and, without attention, all other tokens are left out.

    >>> from tensorlm.model import ModelConfig
    >>> steerable = Steerable.of(TensorTransformer(ModelConfig(attention="softmax", output_init="normal")))
    >>> injection = Injection.make(steerable, 3, torch.ones(64), layer=1, positions=[0, 2])
    >>> logits = steered_logits(steerable, torch.arange(3), injection, [0.0, 1.0])
    >>> logits.shape, torch.allclose(logits[0], steerable.model(torch.arange(3)[None])[0, -1])
    (torch.Size([2, 65]), True)
    """
    steerable = Steerable.of(model)
    tokens, read = require_prompt(steerable.model, tokens, read)
    injections = require_injections(injection, tokens.shape[1])
    alphas = as_strengths(alphas, 0 if isinstance(injection, Injection) else len(injections))[0].reshape(-1, len(injections))
    first = min(one.first for one in injections)
    start = steerable.model.run(tokens[:, : read + 1], stop=first)
    x = start.x
    added = {layer: torch.stack([_rows(one, layer, read + 1, x) for one in injections]) for layer in range(first, steerable.layers + 1)}
    if not steerable.has_attention:
        start, added = Stream(x[:, read:], start.x0[:, read:]), {layer: rows[:, read:] for layer, rows in added.items()}
        read = 0
    step = max(1, BATCH // start.x.numel())
    added = {layer: rows for layer, rows in added.items() if rows.any()}
    parts = []
    for part in alphas.split(step):
        now = {layer: torch.einsum("nv,vtd->ntd", part, rows) for layer, rows in added.items()}
        parts.append(steerable.model.unembed(steerable.model.run(start, start=first, add=now).x[:, read]))
    logits = torch.cat([rows.expand(len(part), -1) for rows, part in zip(parts, alphas.split(step))])  # one row where nothing is added
    if not torch.isfinite(logits).all():
        raise ValueError(f"logits are not finite for some strengths in ({alphas.min():g}, {alphas.max():g}); choose a smaller interval")
    return steerable.even(logits)


def _rows(injection: Injection, layer: int, time: int, like: Tensor) -> Tensor:
    rows = injection.rows(layer)
    return torch.zeros_like(like[0]) if rows is None else rows[:time]


@torch.no_grad()
def stream(model: TensorTransformer | Steerable, tokens: Tensor, layer: int) -> Tensor:
    """The residual stream that enters block `layer` (number of blocks: before the head), (batch, time, width) in float64.

    >>> from tensorlm.model import ModelConfig
    >>> stream(TensorTransformer(ModelConfig()), torch.tensor([[1, 2, 3]]), layer=2).shape
    torch.Size([1, 3, 64])
    """
    steerable = Steerable.of(model)
    require_layer(steerable.model, layer)
    return steerable.model.run(require_tokens(steerable.model, tokens), stop=layer).x


def mean_difference(model: TensorTransformer, tokens: Tensor, others: Tensor, layer: int, positions: Positions = "all") -> Tensor:
    """Mean stream over `others` less mean stream over `tokens`, at `positions` ("all", one, several, a mask): from the first to the second.

    Shapes: tokens and others (batch, time) -> (width,); with one position it is the mean over texts there. Raises ValueError
    for a layer or position that is none, and where the two sets have the same mean.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none"))
    >>> s = mean_difference(model, torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4]]), layer=0, positions=-1)
    >>> torch.allclose(s, embedding_difference(model, [3], [4]))
    True
    """
    steerable = Steerable.of(model)
    means = [_mean_over(stream(steerable, part, layer), positions) for part in (tokens, others)]
    return _not_zero("the two sets have the same mean stream at these positions", means[1] - means[0])


@torch.no_grad()
def embedding_difference(model: TensorTransformer, words: list[int], others: list[int]) -> Tensor:
    """Mean input row of the tokens `others` less that of `words`: rows as they enter block 0, normed and scaled, without smear.

    With a bigram table, rows as at the start of a text. This vector knows nothing but weights.
    """
    wide = Steerable.of(model).model
    means = [wide.input_site(wide.embed(_tokens(wide, name, part)[:, None])).mean((0, 1))
             for name, part in (("words", words), ("others", others))]
    return _not_zero("the two sets of words have the same mean row", means[1] - means[0])


@torch.no_grad()
def unembedding_difference(model: TensorTransformer, token: int, other: int) -> Tensor:
    """Row of the head for `other` less that for `token`, as the last stream meets it: also the read-out of logit(other) - logit(token).

    A constant norm before the head is folded in; a norm of each token ("rms", "anneal" in training) is not: there it is a direction only.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> w, x = unembedding_difference(model, 3, 7), stream(model, torch.tensor([[1, 2]]), 2)[0, -1]
    >>> logits = model.double()(torch.tensor([[1, 2]]))[0, -1]
    >>> torch.allclose(w @ x, logits[7] - logits[3])
    True
    """
    wide = Steerable.of(model).model
    for name, one in (("token", token), ("other", other)):
        require_token(wide, name, one)
    head = wide.head_matrix()
    return _not_zero("the two tokens have the same row of the head", head[other] - head[token])


def eigenvector(model: TensorTransformer, layer: int, readout: Tensor, index: int = 0) -> Tensor:
    """Unit eigenvector number `index` (largest |eigenvalue| first) of the quadratic form readout . f of the MLP of block `layer`.

    A quadratic form cannot tell v from -v, and of +-lambda which comes first: `tensorlm.ties` says. Raises ValueError for a
    layer without MLP of degree 2 and an index that is none.
    """
    model = opened(model)
    cp = layer_tensor(model, layer)
    vectors = eigen(cp, require_vector(model, "readout", readout)).vectors[0]
    if require_whole("index", index) >= len(vectors):
        raise ValueError(f"index must be from 0 to {len(vectors) - 1}, got {index!r}")
    return upward(vectors[index])


def random_like(vector: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` random directions, each as long as `vector`: (count, width). The control that every claim about a vector needs.

    >>> torch.linalg.vector_norm(random_like(torch.tensor([3.0, 4.0]), 2), dim=-1)
    tensor([5., 5.], dtype=torch.float64)
    """
    require_same_kind(vector=vector)
    if vector.ndim != 1 or vector.numel() == 0:
        raise ValueError(f"vector must have one axis, got shape {tuple(vector.shape)}")
    require_finite("vector", vector)
    require_whole("count", count, 1)
    require_whole("seed", seed)
    noise = torch.randn(count, len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise / torch.linalg.vector_norm(noise, dim=-1, keepdim=True) * length(vector.double())


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last axis at length 1; zeros stay zero."""
    return torch.nn.functional.normalize(shifted(vectors, -exponents(vectors, -1)), dim=-1)


def _mean_over(x: Tensor, positions) -> Tensor:
    mask = position_mask(positions, x.shape[1])
    return torch.einsum("btw,t->w", x, mask) / (mask.sum() * len(x))


def _tokens(model: TensorTransformer, name: str, tokens: list[int]) -> Tensor:
    if not isinstance(tokens, list | tuple) or not tokens:
        raise ValueError(f"{name} must be a list of at least one token, got {tokens!r}")
    return torch.tensor([require_token(model, f"{name}: each", token) for token in tokens])


def _not_zero(reason: str, vector: Tensor) -> Tensor:
    require_finite("the vector", vector)
    if not bool(vector.any()):
        raise ValueError(f"{reason}: their difference is no vector to steer with")
    return vector
