"""Tests that need a GPU: one line of them is skipped where there is none.

`TENSORLM_TEST_DEVICE=cpu python -m pytest tests/gpu` runs the same bodies on a CPU, to check the tests themselves.
"""

import os
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("TENSORLM_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items):
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    if mine and DEVICE == "cuda" and not torch.cuda.is_available():
        mine[0].add_marker(pytest.mark.skip(reason=f"no CUDA device: this and {len(mine) - 1} more tests of tests/gpu"))
        items[:] = [item for item in items if item not in mine[1:]]


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def exact_float32():
    """float32 products are float32, not rounded to 19 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
