"""Models made ready for exact accounts: in float64 on the CPU, of any kind (`Steerable`) or as a folded polynomial (`opened`)."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tensorlm.checks import DTYPES, is_whole, require_finite, require_instance
from tensorlm.model import Degree, TensorTransformer
from tensorlm.tensors import CPTensor

Positions = str | int | list[int] | tuple[int, ...] | Tensor


def require_tokens(model: TensorTransformer, tokens: Tensor, name: str = "tokens") -> Tensor:
    """Token ids (batch, time) on the CPU; one prompt (time,) gets its batch axis. Raises for others and for ids out of range."""
    require_instance(name, tokens, Tensor)
    if tokens.ndim not in (1, 2) or tokens.dtype not in (torch.int64, torch.int32) or tokens.numel() == 0:
        raise ValueError(f"{name} must be whole numbers of shape (batch, time) or (time,), got {tokens.dtype} {tuple(tokens.shape)}")
    size = model.config.vocab_size
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, the vocabulary of the model, got {low if low < 0 else high}")
    return torch.atleast_2d(tokens).cpu()


def require_prompt(model: TensorTransformer, tokens: Tensor, read: int = -1) -> tuple[Tensor, int]:
    """One prompt as (1, time) and the position to read as a number from 0. Raises TypeError or ValueError."""
    tokens = require_tokens(model, tokens)
    if len(tokens) != 1:
        raise ValueError(f"tokens must be one prompt, (time,) or (1, time), got {tuple(tokens.shape)}")
    return tokens, require_position("read", read, tokens.shape[1])


def require_token(model: TensorTransformer, name: str, token: int) -> int:
    """The token; raises ValueError unless it is a whole number below the size of the vocabulary."""
    size = model.config.vocab_size
    if not is_whole(token) or not 0 <= token < size:
        raise ValueError(f"{name} must be a token number from 0 to {size - 1}, got {token!r}")
    return token


def require_position(name: str, position: int, time: int) -> int:
    """The position as a number from 0; raises ValueError unless it is one of `time`, negative ones counted from the end.

    >>> require_position("read", -1, 4)
    3
    """
    if not is_whole(position) or not -time <= position < time:
        raise ValueError(f"{name} must be a position in -{time} .. {time - 1} for {time} tokens, got {position!r}")
    return position % time


def position_mask(positions: Positions, time: int) -> Tensor:
    """Positions as numbers 0 and 1, (time,) in float64. Raises ValueError for a position outside or none, TypeError for another kind.

    >>> position_mask([0, -1], 4)
    tensor([1., 0., 0., 1.], dtype=torch.float64)
    """
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        if tuple(positions.shape) != (time,) or not bool(positions.any()):
            raise ValueError(f"positions must be a mask of shape ({time},) that is somewhere true, got {tuple(positions.shape)} with "
                             f"{int(positions.sum())} true")
        return positions.double().cpu()
    if isinstance(positions, str) and positions == "all":
        return torch.ones(time, dtype=torch.float64)
    wanted = [positions] if isinstance(positions, int) else positions
    if not isinstance(wanted, list | tuple) or not all(map(is_whole, wanted)):
        raise TypeError(f"positions must be 'all', a whole number, a list of them or a mask of booleans, got {positions!r}")
    if not wanted or any(not -time <= p < time for p in wanted):
        raise ValueError(f"positions must lie in -{time} .. {time - 1} for {time} tokens, got {positions!r}")
    mask = torch.zeros(time, dtype=torch.float64)
    mask[list(wanted)] = 1.0
    return mask


def require_layer(model: TensorTransformer, layer: int, most: int | None = None) -> None:
    """Raise unless `layer` is a whole number from 0 to `most` (the number of blocks: the stream before the head)."""
    most = len(model.blocks) if most is None else most
    if not is_whole(layer):
        raise TypeError(f"layer must be a whole number, got {layer!r}")
    if not 0 <= layer <= most:
        raise ValueError(f"layer must be from 0 to {most} in a model of {len(model.blocks)} blocks, got {layer}")


def require_block(model: TensorTransformer, layer: int) -> None:
    """Raise unless `layer` is the number of a block."""
    require_layer(model, layer, len(model.blocks) - 1)


def require_vector(width: int | TensorTransformer, name: str, value: Tensor, batch: int | None = None) -> Tensor:
    """The vector in float64 on the CPU; raises unless it is finite, float32 or float64, and (width,), or (batch, width) if given.

    `width` is that of the residual stream, or the model with that stream.
    """
    require_instance(name, value, Tensor)
    width = width if isinstance(width, int) else width.config.width
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} must be torch.float32 or torch.float64, got {value.dtype}; convert it with .float()")
    if tuple(value.shape) not in ((width,), (batch, width)):
        also = "" if batch is None else f" or ({batch}, {width})"
        raise ValueError(f"{name} must have shape ({width},){also}, the width of the residual stream, got {tuple(value.shape)}")
    require_finite(name, value)
    return value.detach().double().cpu()


def as_strengths(alphas, variables: int = 0) -> tuple[Tensor, bool]:
    """Strengths in float64 as (n,), or (n, variables), and whether a single one was given. Raises unless they are finite numbers."""
    try:
        alphas = torch.as_tensor(alphas, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"strengths must be numbers, got {alphas!r}") from error
    single = alphas.ndim == (variables > 0)
    if alphas.ndim != (variables > 0) + (not single) or variables and alphas.shape[-1] != variables:
        raise ValueError(f"strengths must be {f'({variables},) or (n, {variables})' if variables else 'a number or (n,)'}, "
                         f"got shape {tuple(alphas.shape)}")
    require_finite("strengths", alphas)
    return (alphas[None] if single else alphas), single


def require_in_range(values: Tensor, name: str, alphas: Tensor) -> Tensor:
    """The values (n, ...) at strengths (n, ...); raises ValueError where one of them leaves the number range."""
    if not torch.isfinite(values).all():
        raise ValueError(f"strengths are too large: {name} leave the number range between {alphas.min():g} and {alphas.max():g}")
    return values


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
        _require_weights(model)
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

    @cached_property
    def first_alike(self) -> Tensor:
        """For every token the first one with the same row of the head, bit for bit: (vocab,)."""
        rows = np.ascontiguousarray((head_matrix(self.model) + 0.0).numpy())  # -0.0 becomes 0.0
        _, first, which = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), return_index=True, return_inverse=True)
        return torch.from_numpy(first[which])

    def even(self, logits: Tensor) -> Tensor:
        """Logits (..., vocab), equal to the last bit where rows of the head are: products of matrices round columns in their own ways."""
        first = self.first_alike
        return logits if len(first.unique()) == len(first) else logits[..., first]

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
        """The unsteered stream (batch, time, width) before block `layer`, the input rows, and the first layer's values (None before it)."""
        x = self.model.input_site(self.model.shift_in(self.model.embed(tokens)))
        x0, first_values = x, None
        for block in self.blocks[:layer]:
            x, values = block(x, x0, first_values)
            first_values = values if first_values is None else first_values
        return x, x0, first_values


def opened(model: TensorTransformer | Steerable) -> TensorTransformer:
    """A copy in float64 on the CPU for evaluation, every constant norm folded into the matrices; `model` itself if it is one already.

    A tied head gets a matrix of its own where the norm before it has to be folded in. Raises ValueError where a part is no
    polynomial (naming it) and where a weight is not finite, TypeError for half precision and for other classes.

    >>> from tensorlm.model import ModelConfig
    >>> opened(TensorTransformer(ModelConfig()))
    Traceback (most recent call last):
    ValueError: model must be a polynomial, but norm='rms' divides by each token's root mean square; choose norm='anneal' or 'none'
    (of a model like this, steering_response measures sweeps over strengths)
    """
    model = model.model if isinstance(model, Steerable) else model
    require_instance("model", model, TensorTransformer)
    degree = model.polynomial_degree()
    if degree.value is None:
        raise ValueError(f"model must be a polynomial, but {degree.reason} (of a model like this, steering_response "
                         "measures sweeps over strengths)")
    _require_weights(model)
    has_norms = any(site.kind != "none" for site in model.norm_sites())
    if not has_norms and not model.training and all(_is_ready(weight) for weight in model.parameters()):
        return model
    wide = Steerable.of(model).model
    return _untied(wide).fold_norms().double().eval().requires_grad_(False) if has_norms else wide


def _untied(model: TensorTransformer) -> TensorTransformer:
    """The same function with a head of its own, which `fold_norms` needs."""
    if model.config.head == "untied":
        return model
    untied = TensorTransformer(replace(model.config, head="untied")).double().eval()
    untied.load_state_dict(model.state_dict() | {"head": model.embedding / math.sqrt(model.config.width)})
    return untied


def _require_weights(model: TensorTransformer) -> None:
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if not weight.is_floating_point():
            continue
        if weight.dtype not in DTYPES:
            raise TypeError(f"weights of model must be torch.float32 or torch.float64, got {weight.dtype} in {name}; load or convert "
                            "it in float32")
        require_finite(f"{name} of model", weight)


def _is_ready(weight: Tensor) -> bool:
    return weight.dtype == torch.float64 and not weight.requires_grad and weight.device.type == "cpu"


def layer_tensor(model: TensorTransformer, layer: int) -> CPTensor:
    """The MLP of block `layer` of an opened model in CP form; raises ValueError where there is none, or none of degree 2."""
    require_block(model, layer)
    mlp = getattr(model.blocks[layer], "mlp", None)
    if mlp is None or mlp.degree != 2:
        found = "none" if mlp is None else f"kind {mlp.kind!r} of degree {mlp.degree}"
        raise ValueError(f"layer {layer} must have an MLP of degree 2, whose change is a self term and a cross term; it has {found}; "
                         "take the response to the strength instead")
    if mlp.kind == "full":
        return CPTensor.from_dense(mlp.T.detach().view(mlp.out, mlp.width, mlp.width))
    if mlp.kind == "symmetric":
        return CPTensor.from_dense(mlp.tensor().detach())
    return CPTensor.from_layer(mlp)


def head_matrix(model: TensorTransformer) -> Tensor:
    """W of logits = W (stream before the head): (vocab, width). A constant norm before the head is in it, one of each token is not."""
    bare = model.embedding / math.sqrt(model.config.width) if model.config.head == "tied" else model.head
    site = model.head_site
    per_token = site.kind == "rms" or (site.kind == "anneal" and site.anneal_fraction < 1.0)
    return (bare if per_token else bare * site.factor()).detach()
