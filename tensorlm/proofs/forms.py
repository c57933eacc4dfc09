"""The common type of a logit difference of one bilinear layer: one quadratic polynomial in the input."""

from typing import NamedTuple

from torch import Tensor


class Quadratic(NamedTuple):
    """g(x) = x^T Q x + 2 b^T x + c0: Q (..., d, d) symmetric, b (..., d), c0 (...)."""

    Q: Tensor
    b: Tensor
    c0: Tensor
