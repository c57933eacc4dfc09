"""The checks of what goes into `tensorlm.steering`: every error names the argument, what it was and what fits."""

import math

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.tensors.checks import DTYPES, require_finite, require_instance

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


def require_number(name: str, value: float) -> float:
    """The number as a float; raises ValueError unless it is finite."""
    if not is_finite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def require_interval(interval) -> tuple[float, float]:
    """(low, high) as numbers. Raises ValueError unless low < high, both finite."""
    if not isinstance(interval, tuple | list) or len(interval) != 2 or not all(map(is_finite, interval)):
        raise ValueError(f"interval must be two finite strengths (low, high), got {interval!r}")
    low, high = map(float, interval)
    if not low < high:
        raise ValueError(f"interval must have low < high, got {interval!r}")
    return low, high


def require_whole(name: str, value: int, least: int = 0) -> int:
    """The number; raises ValueError unless it is whole and at least `least`.

    >>> require_whole("order", -1)
    Traceback (most recent call last):
    ValueError: order must be a whole number of at least 0, got -1
    """
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def is_whole(value) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """Whether it is a finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
