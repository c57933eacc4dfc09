"""What is steered and where: a model in float64, vectors, layers and positions; and the running model under steering."""

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensorlm.model import Degree, TensorTransformer
from tensorlm.steering.opened import Positions, position_mask, require_layer, require_tokens, require_vector
from tensorlm.tensors.checks import DTYPES, require_finite, require_instance

BATCH = 1 << 22  # numbers of a residual stream that one batched run of the model may hold


@dataclass(frozen=True, eq=False)
class Steerable:
    """A copy of a model in float64 on the CPU, in evaluation mode and without gradients: made once, steered often.

    Unlike `opened` it takes every kind of model. Raises TypeError for half precision (its rounding would be all that the
    differences show) and for other classes, ValueError where a weight is not finite.

    >>> from tensorlm.model import ModelConfig
    >>> Steerable.of(TensorTransformer(ModelConfig()).bfloat16())
    Traceback (most recent call last):
    TypeError: weights of model must be torch.float32 or torch.float64, got torch.bfloat16 in embedding; load or convert it in float32
    """

    model: TensorTransformer

    @classmethod
    def of(cls, model: "TensorTransformer | Steerable") -> "Steerable":
        if isinstance(model, Steerable):
            return model
        require_instance("model", model, TensorTransformer)
        for name, weight in model.named_parameters():
            if weight.dtype not in DTYPES:
                raise TypeError(f"weights of model must be torch.float32 or torch.float64, got {weight.dtype} in {name}; "
                                "load or convert it in float32")
            require_finite(f"{name} of model", weight)
        return cls(copy.deepcopy(model).to("cpu", torch.float64).eval().requires_grad_(False))

    @cached_property
    def blocks(self) -> list:
        return list(self.model.blocks)

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @cached_property
    def degree(self) -> Degree:
        """Of the whole model in its input rows, or why there is none."""
        return self.model.polynomial_degree()

    @cached_property
    def anneal_fraction(self) -> float:
        return self.model.anneal_fraction()

    def obstacle(self, layer: int) -> str:
        """Why the logits are no polynomial in the stream before block `layer`; "" if they are one."""
        if layer < self.layers:
            return self.degree.reason if self.degree.value is None else ""
        kind = self.model.head_site.kind
        if kind == "anneal" and self.anneal_fraction < 1.0:
            return "norm='anneal' is still in part a per-token norm before the head"
        return "norm='rms' before the head divides by the root mean square" if kind == "rms" else ""

    @property
    def has_attention(self) -> bool:
        return self.model.config.attention != "none"

    def enter(self, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The unsteered stream (1, time, width) before block `layer`, the input rows, and the first layer's values (None before it)."""
        x = self.model.input_site(self.model.shift_in(self.model.embed(tokens)))
        x0, first_values = x, None
        for block in self.blocks[:layer]:
            x, values = block(x, x0, first_values)
            first_values = values if first_values is None else first_values
        return x, x0, first_values


@dataclass(frozen=True, eq=False)
class Injection:
    """alpha * vector is added to the residual stream before some blocks, at some positions.

    `vectors` (layers, width) float64, one for each of `layers` (rising; the number of blocks stands for the stream before the
    head), `mask` (time,) float64 of 0 and 1. `Injection.make` checks and completes what a user gives.

    >>> from tensorlm.model import ModelConfig
    >>> steerable = Steerable.of(TensorTransformer(ModelConfig()))
    >>> Injection.make(steerable, 4, torch.ones(64), layer=[2, 0], positions=-1).layers
    (0, 2)
    """

    vectors: Tensor
    layers: tuple[int, ...]
    mask: Tensor

    @classmethod
    def make(cls, steerable: Steerable, time: int, vector: Tensor, layer: int | list[int] | tuple[int, ...],
             positions: Positions = "all") -> "Injection":
        """One vector (width,) for every layer, or one a layer (layers, width). Raises TypeError or ValueError for what does not fit."""
        layers = (layer,) if isinstance(layer, int) else layer
        if not isinstance(layers, list | tuple) or len(layers) == 0 or len(set(layers)) < len(layers):
            raise ValueError(f"layer must be a whole number or several distinct ones, got {layer!r}")
        for one in layers:
            require_layer(steerable.model, one)
        require_instance("vector", vector, Tensor)
        if vector.dtype not in DTYPES:
            raise TypeError(f"vector must be torch.float32 or torch.float64, got {vector.dtype}; convert it with .float()")
        rows = [vector] * len(layers) if vector.ndim < 2 else list(vector)
        if len(rows) != len(layers):
            raise ValueError(f"vector must be (width,) or have a row for each of the {len(layers)} layers, got {tuple(vector.shape)}")
        pairs = sorted(zip(layers, (require_vector(steerable.model, "vector", row).cpu() for row in rows)), key=lambda pair: pair[0])
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


def require_prompt(tokens: Tensor, read: int = -1) -> tuple[Tensor, int]:
    """One prompt as (1, time) and the position to read as a number from 0. Raises TypeError or ValueError."""
    tokens = require_tokens(tokens).cpu()
    if len(tokens) != 1:
        raise ValueError(f"tokens must be one prompt, (time,) or (1, time), got {tuple(tokens.shape)}")
    time = tokens.shape[1]
    if not isinstance(read, int) or isinstance(read, bool) or not -time <= read < time:
        raise ValueError(f"read must be a position in -{time} .. {time - 1} for {time} tokens, got {read!r}")
    return tokens, read % time


def as_strengths(alphas, variables: int = 0) -> tuple[Tensor, bool]:
    """Strengths in float64 as (n,), or (n, variables), and whether a single one was given. Raises unless they are finite."""
    alphas = torch.as_tensor(alphas, dtype=torch.float64, device="cpu")
    single = alphas.ndim == (variables > 0)
    if alphas.ndim != (variables > 0) + (not single) or variables and alphas.shape[-1] != variables:
        raise ValueError(f"strengths must be {f'({variables},) or (n, {variables})' if variables else 'a number or (n,)'}, "
                         f"got shape {tuple(alphas.shape)}")
    require_finite("strengths", alphas)
    return (alphas[None] if single else alphas), single


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
    steerable, (tokens, read) = Steerable.of(model), require_prompt(tokens, read)
    injections = (injection,) if isinstance(injection, Injection) else injection
    alphas = as_strengths(alphas, 0 if isinstance(injection, Injection) else len(injections))[0].reshape(-1, len(injections))
    first = min(one.first for one in injections)
    x, x0, values = steerable.enter(tokens[:, : read + 1], first)
    added = {layer: torch.stack([_rows(one, layer, read + 1, x) for one in injections]) for layer in range(first, steerable.layers + 1)}
    if not steerable.has_attention:
        x, x0, read, added = x[:, read:], x0[:, read:], 0, {layer: rows[:, read:] for layer, rows in added.items()}
    step = max(1, BATCH // x.numel())
    parts = [_run(steerable, first, x, x0, values, {layer: torch.einsum("nv,vtd->ntd", part, rows) for layer, rows in added.items()
                                                    if rows.any()}, read)
             for part in alphas.split(step)]
    return torch.cat(parts)


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


def require_interval(interval) -> tuple[float, float]:
    """(low, high) as numbers. Raises ValueError unless low < high, both finite."""
    if not isinstance(interval, tuple | list) or len(interval) != 2 or not all(math.isfinite(end) for end in interval):
        raise ValueError(f"interval must be two finite strengths (low, high), got {interval!r}")
    low, high = map(float, interval)
    if not low < high:
        raise ValueError(f"interval must have low < high, got {interval!r}")
    return low, high
