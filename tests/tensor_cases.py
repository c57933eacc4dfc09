"""What the tests of `tensorlm.tensors` share: seeded layers and networks in float64, and what counts as equal."""

import torch
from hypothesis import settings

from tensorlm.tensors import CPTensor, compose
from tensorlm.tensors.composition import ComposedTensor

SETTINGS = settings(max_examples=25)


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_cp(out=3, hidden=5, width=4, seed=0) -> CPTensor:
    return _layer(out, hidden, width, torch.Generator().manual_seed(seed), torch.float64)


def single(cp: CPTensor) -> CPTensor:
    """The layer in float32."""
    return CPTensor(*(factor.float() for factor in (cp.D, cp.L, cp.R)))


def random_network(widths=(3, 2, 4), hidden=3, seed=0, dtype=torch.float64) -> ComposedTensor:
    """A network of layers widths[0] -> widths[1] -> ..., all of one hidden width."""
    generator = torch.Generator().manual_seed(seed)
    return compose(*(_layer(out, hidden, width, generator, dtype) for width, out in zip(widths, widths[1:])))


def close(actual, expected, scale=None):
    """Equal to 1e-10 of the largest entry, or of `scale`; `expected` may be a number."""
    expected = expected if isinstance(expected, torch.Tensor) else torch.tensor(expected, dtype=actual.dtype)
    largest = float(scale) if scale is not None else float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * largest + 1e-13)


def differ(actual, expected):
    """Different by more than rounding could explain."""
    assert not torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)


def unfolded(tensor, mode):
    return tensor.movedim(mode, 0).flatten(1)


def _layer(out, hidden, width, generator, dtype) -> CPTensor:
    shapes = ((out, hidden), (hidden, width), (hidden, width))
    return CPTensor(*(torch.randn(*shape, dtype=dtype, generator=generator) for shape in shapes))
