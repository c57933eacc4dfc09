"""What is added where: vectors, layers and positions; and the running model under steering."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import Positions, as_strengths, position_mask, require_layer, require_prompt, require_vector, require_whole
from tensorlm.steering.opened import Steerable
from tensorlm.tensors.checks import require_instance

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
    x, x0, values = steerable.enter(tokens[:, : read + 1], first)
    added = {layer: torch.stack([_rows(one, layer, read + 1, x) for one in injections]) for layer in range(first, steerable.layers + 1)}
    if not steerable.has_attention:
        x, x0, read, added = x[:, read:], x0[:, read:], 0, {layer: rows[:, read:] for layer, rows in added.items()}
    step = max(1, BATCH // x.numel())
    added = {layer: rows for layer, rows in added.items() if rows.any()}
    parts = [_run(steerable, first, x, x0, values, {layer: torch.einsum("nv,vtd->ntd", part, rows) for layer, rows in added.items()}, read)
             for part in alphas.split(step)]
    logits = torch.cat([rows.expand(len(part), -1) for rows, part in zip(parts, alphas.split(step))])  # one row where nothing is added
    if not torch.isfinite(logits).all():
        raise ValueError(f"logits are not finite for some strengths in ({alphas.min():g}, {alphas.max():g}); choose a smaller interval")
    return steerable.even(logits)


def _rows(injection: Injection, layer: int, time: int, like: Tensor) -> Tensor:
    rows = injection.rows(layer)
    return torch.zeros_like(like[0]) if rows is None else rows[:time]


def _run(steerable: Steerable, first: int, x: Tensor, x0: Tensor, first_values: Tensor | None, added: dict, read: int) -> Tensor:
    for layer in range(first, steerable.layers + 1):
        x = x + added[layer] if layer in added else x
        x0 = x if layer == 0 else x0
        if layer < steerable.layers:
            x, values = steerable.blocks[layer](x, x0, first_values)
            first_values = values if layer == 0 else first_values
    return steerable.model.unembed(x[:, read])
