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


def require_width(x: Tensor, width: int) -> None:
    """Raise ValueError unless the last axis of `x` has `width` features."""
    if x.shape[-1] != width:
        raise ValueError(f"x must have {width} features in its last axis, got shape {tuple(x.shape)}")
