"""Checks of arguments, one format for all: `NAME must be WHAT FITS, got WHAT CAME`.

A wrong type of object raises TypeError, everything else ValueError; both before anything is changed.
"""

import math
import numbers
import operator
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
DENSE_LIMIT = 2**30  # bytes of the largest dense tensor that is built without asking


def unfit(name: str, value: Any, wanted: str) -> ValueError:
    """The error of a value that does not fit; arrays and tensors are named by their shape."""
    shape = getattr(value, "shape", None)
    try:
        got = f"{type(value).__name__} of shape {tuple(shape)}" if isinstance(shape, tuple) else reprlib.repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        got = type(value).__name__
    return ValueError(f"{name} must be {wanted}, got {got}")


def require(fits: Any, name: str, value: Any, wanted: str) -> None:
    """Raise ValueError unless `fits`.

    >>> require(False, "label", "", "text of at least one letter")
    Traceback (most recent call last):
    ValueError: label must be text of at least one letter, got ''
    """
    if not fits:
        raise unfit(name, value, wanted)


def require_instance(name: str, value: Any, kind: type) -> None:
    """Raise TypeError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def require_one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise ValueError unless `value` is one of the options."""
    options = tuple(options)
    if not (isinstance(value, str | int | None) and value in options):
        raise unfit(name, value, f"one of {', '.join(map(repr, options))}")


def is_whole(value: Any) -> bool:
    """Whether it is an integer (of Python, numpy or torch), and no bool."""
    try:
        return not isinstance(value, bool) and operator.index(value) is not None
    except (TypeError, RuntimeError):
        return False


def is_finite(value: Any) -> bool:
    """Whether it is a finite real number (of Python or numpy), and no bool."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def require_whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """The number; raises ValueError unless it is whole, at least `least` and at most `most`."""
    if is_whole(value) and least <= value and (most is None or value <= most):
        return operator.index(value)
    raise unfit(name, value, f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}")


def require_counts(**values: int) -> None:
    """Raise ValueError unless every value is a whole number of at least 1."""
    for name, value in values.items():
        require_whole(name, value, 1)


def require_number(name: str, value: Any, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> float:
    """The number as a float; raises ValueError unless it is finite and within the bounds."""
    if is_finite(value) and least <= value <= most and value > above:
        return float(value)
    bounds = [f"of at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"of at most {most:g}"] * (most < math.inf)
    raise unfit(name, value, " ".join(["a finite number", " and ".join(bounds)]).strip())


def require_interval(interval: Any, name: str = "interval") -> tuple[float, float]:
    """(low, high) as floats; raises ValueError unless they are finite and low < high."""
    fits = isinstance(interval, tuple | list) and len(interval) == 2 and all(map(is_finite, interval)) and interval[0] < interval[1]
    require(fits, name, interval, "two finite numbers (low, high) with low < high")
    return float(interval[0]), float(interval[1])


def as_array(values: Any, name: str) -> np.ndarray:
    """Finite numbers, in lists, an array or a tensor, as a float64 array. Other entries raise ValueError."""
    wanted = "real numbers, in an array or in lists of equal lengths"
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.double().numpy() if values.is_floating_point() else values.numpy()
        given = np.asarray(values)
        require(values is not None and given.dtype.kind in "biufO", name, values, wanted)
        array = given.astype(float)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise unfit(name, values, wanted) from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers, got an entry that is not")
    return array


def require_same_kind(**tensors: Any) -> None:
    """Raise TypeError unless all are dense tensors of one dtype, float32 or float64; ValueError unless on one device."""
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


def require_matrix(name: str, value: Any) -> None:
    require_same_kind(**{name: value})
    if value.ndim != 2 or value.numel() == 0:
        raise ValueError(f"{name} must be a matrix with at least 1 row and 1 column, got shape {tuple(value.shape)}")


def all_finite(value: Tensor) -> bool:
    """Whether no entry is NaN or infinite: by their sum, which is 10 times as fast, and one by one where that is neither."""
    return math.isfinite(value.detach().sum()) or bool(torch.isfinite(value).all())


def require_finite(name: str, value: Tensor) -> None:
    if not all_finite(value):
        bad = value.numel() - int(torch.isfinite(value).sum())
        raise ValueError(f"{name} must be finite, got {bad} of {value.numel()} entries NaN or infinite")


def require_last_axis(name: str, value: Tensor, size: int) -> None:
    if value.ndim < 1 or value.shape[-1] != size:
        raise ValueError(f"{name} must have {size} entries in its last axis, got shape {tuple(value.shape)}")


def require_rows(x: Any, width: int | None, name: str = "x") -> None:
    """Raise TypeError unless `x` holds floating-point numbers, ValueError unless its last axis has `width` of them."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a tensor of floating-point numbers, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim < 1 or (width is not None and x.shape[-1] != width):
        raise ValueError(f"{name} must have {width or 'some'} features in its last axis, got shape {tuple(x.shape)}")


def require_broadcast(**tensors: Tensor) -> None:
    shapes = [tuple(value.shape) for value in tensors.values()]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(f"{' and '.join(tensors)} must have shapes that broadcast, got {' and '.join(map(str, shapes))}") from None


def require_affordable(shape: tuple[int, ...], dtype: torch.dtype, instead: str, limit: float = DENSE_LIMIT) -> None:
    """Raise ValueError if a dense tensor of this shape takes more than `limit` bytes; `instead` names the other way."""
    require(isinstance(limit, int | float) and limit >= 0, "limit", limit, "a number of bytes of at least 0")
    need = math.prod(shape) * dtype.itemsize
    if need > limit:
        raise ValueError(f"a dense tensor of shape {tuple(shape)} would need {in_bytes(need)}, more than the limit of {in_bytes(limit)}; "
                         f"use {instead}")


def in_bytes(count: float) -> str:
    """A number of bytes in the largest unit that leaves at least one."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{count / 2**power:.1f} {unit}"
    return f"{count:.0f} B"
