"""Matrix products whose master weights keep their own precision."""

import torch
import torch.nn.functional as F
from torch import Tensor


def project(x: Tensor, *weights: Tensor) -> Tensor:
    """Apply one matrix, or several stacked on top of each other, in the precision of `x`.

    Shapes: x (..., in), each weight (out_n, in) -> (..., sum of out_n). Weights stay in their own precision
    (float32 masters); only the copy that enters the product is cast, so that activations alone choose the precision.

    >>> project(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(5, 3)).shape
    torch.Size([2, 9])
    """
    cast = [weight.to(x.dtype) for weight in weights]
    return F.linear(x, cast[0] if len(cast) == 1 else torch.cat(cast))


def require_rows(x: Tensor, width: int | None, name: str = "x") -> None:
    """Raise TypeError unless `x` is a tensor of floating-point numbers, ValueError unless its last axis has `width` of them (if given).

    Whole numbers would turn the weights into whole numbers, most of them 0, without a word.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a tensor of floating-point numbers, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim < 1 or (width is not None and x.shape[-1] != width):
        raise ValueError(f"{name} must have {width or 'some'} features in its last axis, got shape {tuple(x.shape)}")
