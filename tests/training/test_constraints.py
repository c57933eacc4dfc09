"""Constraints on the weights hold after every step, and only where they are declared."""

import pytest
import torch

from tensorlm.data import load
from tensorlm.model import ModelConfig
from tensorlm.training import TrainConfig, train

MODEL = ModelConfig(vocab_size=54, width=16, head_dim=8, layers=1, context=16, norm="none")
FAST = dict(steps=12, batch_size=4, precision="float32", lr_embedding=0.03, lr_head=0.004, clip=1.0)


@pytest.fixture(scope="module")
def toy():
    return load("toy", valid_documents=4)


def matrices(toy, **changes):
    model = train(MODEL, TrainConfig(**FAST, **changes), toy).model
    return {name: parameter.detach() for name, parameter in model.parameter_groups()["matrix"]}


def test_spectral_norms_stay_below_the_size(toy):
    bound = [torch.linalg.matrix_norm(w, ord=2).item() for w in matrices(toy, constraint="spectral", constraint_size=0.7).values()]
    free = [torch.linalg.matrix_norm(w, ord=2).item() for w in matrices(toy).values()]
    assert max(bound) <= 0.7 * 1.02 < max(free)


def test_orthogonal_matrices_stay_so_and_outputs_are_free(toy):
    found = matrices(toy, constraint="orthogonal", constraint_size=1.5)
    for name, w in found.items():
        values, writes = torch.linalg.svdvals(w), name.split(".")[-1] in ("D", "o")
        assert ((values - 1.5).abs().max() < 1e-3) != writes, name
        assert w.norm() > 0


def test_sparsity_makes_exact_zeros_in_the_factors_alone(toy):
    found = matrices(toy, sparsity=1.0)
    zeros = {name: (w == 0).float().mean().item() for name, w in found.items()}
    assert all((share > 0.05) == (".mlp." in name) for name, share in zeros.items()), zeros
    assert not any((w == 0).any() for w in matrices(toy).values())
