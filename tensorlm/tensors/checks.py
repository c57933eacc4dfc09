"""Argument checks shared by the tensor functions: every error names the argument, what it was and what fits."""

import math

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
DENSE_LIMIT = 2**30  # bytes of the largest dense tensor that is built without asking


def require_instance(name: str, value, kind: type) -> None:
    """Raise TypeError unless `value` is a `kind`.

    >>> require_instance("x", 3, Tensor)
    Traceback (most recent call last):
    TypeError: x must be a Tensor, got int
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def require_same_kind(**tensors) -> None:
    """Raise TypeError unless all are dense tensors of one dtype, float32 or float64; ValueError unless on one device.

    >>> require_same_kind(D=torch.ones(2), x=torch.ones(2, dtype=torch.float64))
    Traceback (most recent call last):
    TypeError: x must be torch.float32 like D, got torch.float64
    """
    first, reference = next(iter(tensors.items()))
    for name, value in tensors.items():
        require_instance(name, value, Tensor)
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
        if value.dtype not in DTYPES:
            raise TypeError(f"{name} must be torch.float32 or torch.float64, got {value.dtype}")
        if value.dtype != reference.dtype:
            raise TypeError(f"{name} must be {reference.dtype} like {first}, got {value.dtype}")
        if value.device != reference.device:
            raise ValueError(f"{name} must be on {reference.device} like {first}, got {value.device}")


def require_matrix(name: str, value) -> None:
    """Raise unless `value` is a non-empty float32 or float64 matrix.

    >>> require_matrix("D", torch.ones(3))
    Traceback (most recent call last):
    ValueError: D must be a matrix with at least 1 row and 1 column, got shape (3,)
    """
    require_same_kind(**{name: value})
    if value.ndim != 2 or value.numel() == 0:
        raise ValueError(f"{name} must be a matrix with at least 1 row and 1 column, got shape {tuple(value.shape)}")


def require_finite(name: str, value: Tensor) -> None:
    """Raise ValueError if an entry is NaN or infinite.

    >>> require_finite("D", torch.tensor([1.0, float("nan")]))
    Traceback (most recent call last):
    ValueError: D must be finite, got 1 of 2 entries NaN or infinite
    """
    bad = value.numel() - int(torch.isfinite(value).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} of {value.numel()} entries NaN or infinite")


def require_last_axis(name: str, value: Tensor, size: int) -> None:
    """Raise ValueError unless the last axis has `size` entries.

    >>> require_last_axis("x", torch.ones(2, 3), 4)
    Traceback (most recent call last):
    ValueError: x must have 4 entries in its last axis, got shape (2, 3)
    """
    if value.ndim < 1 or value.shape[-1] != size:
        raise ValueError(f"{name} must have {size} entries in its last axis, got shape {tuple(value.shape)}")


def require_broadcast(**tensors: Tensor) -> None:
    """Raise ValueError unless the shapes broadcast.

    >>> require_broadcast(u=torch.ones(2, 4), v=torch.ones(3, 4))
    Traceback (most recent call last):
    ValueError: u and v must have shapes that broadcast, got (2, 4) and (3, 4)
    """
    shapes = [tuple(value.shape) for value in tensors.values()]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(f"{' and '.join(tensors)} must have shapes that broadcast, got {' and '.join(map(str, shapes))}") from None


def require_rank(rank: int, most: int, name: str = "rank") -> None:
    """Raise unless `rank` is a whole number from 1 to `most`.

    >>> require_rank(9, 4)
    Traceback (most recent call last):
    ValueError: rank must be from 1 to 4, got 9
    """
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise TypeError(f"{name} must be an int, got {type(rank).__name__}")
    if not 1 <= rank <= most:
        raise ValueError(f"{name} must be from 1 to {most}, got {rank}")


def require_counts(**values: int) -> None:
    """Raise ValueError unless every value is a whole number of at least 1.

    >>> require_counts(width=8, hidden=0)
    Traceback (most recent call last):
    ValueError: hidden must be a whole number of at least 1, got 0
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def require_non_negative(name: str, value: float) -> None:
    """Raise unless `value` is a number of at least 0.

    >>> require_non_negative("tolerance", -1e-3)
    Traceback (most recent call last):
    ValueError: tolerance must be at least 0, got -0.001
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def require_affordable(shape: tuple[int, ...], dtype: torch.dtype, instead: str, limit: float = DENSE_LIMIT) -> None:
    """Raise ValueError if a dense tensor of this shape takes more than `limit` bytes; `instead` names the other route.

    >>> require_affordable((128,) * 5, torch.float64, instead="hosvd")
    Traceback (most recent call last):
    ValueError: a dense tensor of shape (128, 128, 128, 128, 128) would need 256.0 GiB, more than the limit of 1.0 GiB; use hosvd
    """
    require_non_negative("limit", limit)
    need = math.prod(shape) * dtype.itemsize
    if need > limit:
        raise ValueError(f"a dense tensor of shape {tuple(shape)} would need {in_bytes(need)}, more than the limit of {in_bytes(limit)}; "
                         f"use {instead}")


def in_bytes(count: float) -> str:
    """A number of bytes in the largest unit that leaves at least one.

    >>> in_bytes(0), in_bytes(1536), in_bytes(2**40)
    ('0 B', '1.5 KiB', '1.0 TiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{count / 2**power:.1f} {unit}"
    return f"{count:.0f} B"
