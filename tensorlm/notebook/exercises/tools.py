"""What the checks of several chapters share: seeded random tensors, and equality to rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPE = torch.float64
TOLERANCE = 1e-9


def random(*shape: int, seed: int) -> Tensor:
    """A standard normal float64 tensor of this shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def near(got: Any, expected: Any) -> bool:
    """Whether both have one shape and differ by less than the tolerance, relative to the size of ``expected``.

    >>> near([1.0, 2.0], [1.0, 2.0]), near([1.0, 2.1], [1.0, 2.0]), near([1.0], [1.0, 2.0])
    (True, False, False)
    """
    got, expected = torch.as_tensor(got, dtype=DTYPE), torch.as_tensor(expected, dtype=DTYPE)
    return got.shape == expected.shape and bool((got - expected).norm() <= TOLERANCE * (1 + expected.norm()))
