"""Models made ready for exact accounts, in float64 on the CPU: of any kind (`Steerable`), or as a folded polynomial (`as_polynomial`)."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import DTYPES, all_finite, is_whole, require, require_finite, require_instance, require_whole
from tensorlm.layers import Attention, Norm
from tensorlm.layers.mlp import MLP
from tensorlm.model import TensorTransformer
from tensorlm.model.transformer import Block
from tensorlm.tensors import CPTensor

MAX_COPIED_NUMBERS = 1 << 20  # of a matrix that is kept in a second layout
Positions = str | int | list[int] | tuple[int, ...] | Tensor


def require_tokens(model: TensorTransformer, tokens: Tensor) -> Tensor:
    """Token ids (batch, time) on the CPU; one prompt (time,) gets its batch axis. Raises for others and for ids out of range."""
    require_instance("tokens", tokens, Tensor)
    if tokens.ndim not in (1, 2) or tokens.dtype not in (torch.int64, torch.int32) or tokens.numel() == 0:
        raise ValueError(f"tokens must be whole numbers of shape (batch, time) or (time,), got {tokens.dtype} {tuple(tokens.shape)}")
    for end in tokens.aminmax():
        require_token(model, "tokens", int(end))
    return (tokens if tokens.ndim == 2 else tokens.unsqueeze(0)).cpu()


def require_token(model: TensorTransformer, name: str, token: int) -> int:
    """The token; raises ValueError unless it is a whole number below the size of the vocabulary."""
    return require_whole(name, token, 0, model.config.vocab_size - 1)


def require_position(name: str, position: int, time: int) -> int:
    """The position as a number from 0; raises ValueError unless it is one of `time`, negative ones counted from the end."""
    return require_whole(name, position, -time, time - 1) % time


def require_block(model: TensorTransformer, layer: int) -> int:
    """The number of a block; raises ValueError for another."""
    return require_whole("layer", layer, 0, len(model.blocks) - 1)


def position_mask(positions: Positions, time: int) -> Tensor:
    """Positions as numbers 0 and 1, (time,) in float64. Raises ValueError for a position outside or none, TypeError for another kind."""
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        require(positions.shape == (time,) and positions.any(), "positions", positions, f"a mask of shape ({time},) that is somewhere true")
        return positions.double().cpu()
    if isinstance(positions, str) and positions == "all":
        return torch.ones(time, dtype=torch.float64)
    wanted: Any = [positions] if is_whole(positions) else positions
    if not isinstance(wanted, list | tuple) or not all(map(is_whole, wanted)):
        raise TypeError(f"positions must be 'all', a whole number, a list of them or a mask of booleans, got {positions!r}")
    require(wanted and all(-time <= one < time for one in wanted), "positions", positions, f"in -{time} .. {time - 1} for {time} tokens")
    mask = torch.zeros(time, dtype=torch.float64)
    mask[list(wanted)] = 1.0
    return mask


def require_vector(width: int, name: str, value: Tensor, batch: int | None = None) -> Tensor:
    """The vector in float64 on the CPU; raises unless it is finite, float32 or float64, and (width,), or (batch, width) if given."""
    require_instance(name, value, Tensor)
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
    axes = int(variables > 0)
    single = alphas.ndim == axes
    if alphas.ndim not in (axes, axes + 1) or variables and alphas.shape[-1] != variables:
        raise ValueError(f"strengths must be {f'({variables},) or (n, {variables})' if variables else 'a number or (n,)'}, "
                         f"got shape {tuple(alphas.shape)}")
    require_finite("strengths", alphas)
    return (alphas[None] if single else alphas), single


def require_in_range(logits: Tensor, alphas: Tensor) -> Tensor:
    """The logits at these strengths; raises ValueError where one of them leaves the number range."""
    if not all_finite(logits):
        raise ValueError(f"strengths are too large: logits leave the number range between {alphas.min():g} and {alphas.max():g}")
    return logits


@dataclass(frozen=True, eq=False)
class Part:
    """A block as plain attributes, for walks with few rows: a module looks its parts up anew at every access.

    `mlp_norm` is None where it changes nothing. With `often`, the matrices of the MLP are kept in a second layout, which
    products of few rows read faster, unless they are large.
    """

    shortcut: Tensor | None
    attention: Attention | None
    attention_norm: Norm | None
    mlp: MLP | None
    mlp_norm: Norm | None
    often: bool

    @classmethod
    def of(cls, block: Block, often: bool) -> "Part":
        attention_norm = None if block.attention is None else block.attention_norm
        mlp_norm = None if block.mlp is None or block.mlp_norm.kind == "none" else block.mlp_norm
        return cls(block.shortcut, block.attention, attention_norm, block.mlp, mlp_norm, often)

    @cached_property
    def encoders(self) -> list[Tensor]:
        """Of an MLP that is a product of encoders, (width, hidden) each."""
        assert self.mlp is not None
        return [self._turned(encoder) for encoder in self.mlp.encoders()]

    @cached_property
    def decoder(self) -> Tensor:
        """D^T of such an MLP, (hidden, width)."""
        assert self.mlp is not None
        return self._turned(self.mlp.decoder())

    def _turned(self, weight: Tensor) -> Tensor:
        return weight.mT.contiguous() if self.often and weight.numel() <= MAX_COPIED_NUMBERS else weight.mT


@dataclass(frozen=True, eq=False)
class Steerable:
    """A model of any kind in float64 on the CPU, in evaluation mode and without gradients: made once, steered often.

    It is a copy, which later changes of the model do not reach. Raises TypeError for half precision (its rounding would be all that the
    differences show) and for other classes, ValueError where a weight is not finite. `often`: see `Part`.
    """

    model: TensorTransformer
    often: bool = False

    @classmethod
    def of(cls, model: "TensorTransformer | Steerable", often: bool = True) -> "Steerable":
        """`often` False: for one question, for which nothing is laid out anew, and a model that is all that already is taken as it is."""
        if isinstance(model, Steerable):
            return model
        require_instance("model", model, TensorTransformer)
        _require_weights(model)
        ready = all(w.dtype == torch.float64 and w.device.type == "cpu" and not w.requires_grad for w in model.parameters())
        if ready and not model.training and not often:
            return cls(model)
        return cls(copy.deepcopy(model).to("cpu", torch.float64).eval().requires_grad_(False), often)

    @cached_property
    def layers(self) -> int:
        return len(self.model.blocks)

    @cached_property
    def parts(self) -> list[Part]:
        return [Part.of(block, self.often) for block in self.model.blocks]

    @cached_property
    def first_alike(self) -> Tensor:
        """For every token the first one with the same row of the head, bit for bit: (vocab,)."""
        rows = self.model.head_matrix()
        _, group = torch.unique(rows, dim=0, return_inverse=True)
        return torch.full_like(group, len(rows)).scatter_reduce(0, group, torch.arange(len(rows)), "amin")[group]

    @cached_property
    def _has_alike(self) -> bool:
        return len(self.first_alike.unique()) < len(self.first_alike)

    def even(self, logits: Tensor) -> Tensor:
        """Logits (..., vocab), equal to the last bit where rows of the head are: products of matrices round columns in their own ways."""
        return logits[..., self.first_alike] if self._has_alike else logits

    @cached_property
    def _is_polynomial(self) -> bool:
        parts = [part for block in self.model.blocks for part in (block.attention, block.mlp) if part is not None]
        return all(part.degree is not None for part in parts) and all(site.is_constant for site in self.model.norm_sites())

    def obstacle(self, layer: int) -> str:
        """Why the logits are no polynomial in the stream before block `layer`; "" if they are one."""
        if self._is_polynomial or layer == self.layers and self.model.head_site.is_constant:
            return ""
        if layer < self.layers:
            return self.model.polynomial_degree().reason
        kind, still = self.model.head_site.kind, "is still in part a per-token norm"
        return f"norm={kind!r} before the head {still if kind == 'anneal' else 'divides by the root mean square'}"


def as_polynomial(model: TensorTransformer | Steerable) -> TensorTransformer:
    """A copy in float64 on the CPU for evaluation, every constant norm folded into the matrices; `model` itself if it is one already.

    A tied head gets a matrix of its own where the norm before it has to be folded in. Raises ValueError where a part is no
    polynomial (naming it) and where a weight is not finite, TypeError for half precision and for other classes.

    >>> from tensorlm.model import ModelConfig
    >>> as_polynomial(TensorTransformer(ModelConfig()))
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
    wide = Steerable.of(model, often=False).model
    if all(site.kind == "none" for site in model.norm_sites()):
        return wide
    if wide.config.head == "tied":
        untied = TensorTransformer(replace(wide.config, head="untied")).double().eval()
        untied.load_state_dict(wide.state_dict() | {"head": wide.embedding / math.sqrt(wide.config.width)})
        wide = untied
    return wide.fold_norms().double().eval().requires_grad_(False)


def _require_weights(model: TensorTransformer) -> None:
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if not weight.is_floating_point():
            continue
        if weight.dtype not in DTYPES:
            raise TypeError(f"weights of model must be torch.float32 or torch.float64, got {weight.dtype} in {name}; load or convert "
                            "it in float32")
        require_finite(f"{name} of model", weight)


def attention_of(model: TensorTransformer, layer: int) -> Attention:
    """The attention of a block; raises ValueError where there is none."""
    attention = model.blocks[require_block(model, layer)].attention
    if attention is None:
        raise ValueError(f"layer {layer} must have attention, this model has none")
    return attention


def layer_tensor(model: TensorTransformer, layer: int) -> CPTensor:
    """The MLP of a block in CP form; raises ValueError where there is none, or none of degree 2."""
    mlp = model.blocks[require_block(model, layer)].mlp
    if mlp is None or mlp.degree != 2:
        found = "none" if mlp is None else f"kind {mlp.kind!r} of degree {mlp.degree}"
        raise ValueError(f"layer {layer} must have an MLP of degree 2, whose change is a self term and a cross term; it has {found}; "
                         "take the response to the strength instead")
    return CPTensor(*(factor.detach() for factor in mlp.cp()))
