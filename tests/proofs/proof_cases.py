"""What the tests of `tensorlm.proofs` share: classifiers of one layer of every shape that a quadratic form can have."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tensorlm.tensors import CPTensor

KINDS = ("indefinite", "definite", "singular", "nonnegative", "opposite", "linear", "constant", "without bias", "hard")
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int):
    """A function that draws normal float64 tensors of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


def layer_of(Q: Tensor, b: Tensor, c0: Tensor) -> CPTensor:
    """The layer on (1, x) whose outputs are the forms x'Qx + 2 b'x + c0."""
    lifted = torch.cat([torch.cat([c0[:, None, None], b[:, None, :]], 2), torch.cat([b[:, :, None], Q], 2)], 1)
    return CPTensor.from_dense(lifted)


def case(kind: str, width: int, classes: int, seed: int) -> tuple[CPTensor, Tensor]:
    """A classifier of this kind, and an image."""
    draw = drawn(seed)
    turn = torch.linalg.qr(draw(width, width)).Q
    values, b, c0, x = draw(classes, width), draw(classes, width), draw(classes), draw(width)
    if kind in ("definite", "nonnegative"):
        values = values.abs() + 0.1
    if kind in ("singular", "nonnegative"):
        values[:, width // 2 :] = 0
    if kind == "opposite":
        values = values.sign()
    if kind in ("linear", "constant"):
        values = 0 * values
    if kind in ("constant", "without bias"):
        b = 0 * b
    if kind == "without bias":
        c0 = 0 * c0
    Q = turn @ torch.diag_embed(values) @ turn.mT
    if kind == "hard":  # the first margin has no slope along its lowest eigenvector at x
        difference = Q[0] - Q[1]
        lowest = torch.linalg.eigh((difference + difference.mT) / 2)[1][:, 0]
        slope = 0.1 * draw(width)
        b[0] = b[1] + slope - lowest * (lowest @ slope) - difference @ x
    return layer_of(Q, b, c0), x.unsqueeze(0)
