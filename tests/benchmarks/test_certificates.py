"""The peers of certificates are sound, ordered as their ideas are, and saved with their provenance."""

import csv
import json

import pytest
import torch
from proof_cases import drawn

from benchmarks import certificates
from tensorlm.layers import build_mlp
from tensorlm.tensors import lift


@pytest.fixture(params=["bilinear", "relu"])
def task(request):
    layer = build_mlp(request.param, width=6, hidden=8, out=4).double().requires_grad_(False)
    for number, weight in enumerate(layer.parameters()):
        weight.data = drawn(number)(*weight.shape) / weight.shape[1] ** 0.5
    x = drawn(9)(8, 5)
    return certificates.Task.of(layer, x, layer(lift(x)).argmax(-1))


def test_every_bound_is_at_most_the_attack_and_better_ones_are_larger(task):
    attacked = certificates.attack(task)
    found = {name: call() for name, call in certificates.methods(task, attacked).items()}
    for radius in found.values():
        assert (radius <= attacked * (1 + 1e-9)).all() and (radius > 0).any()
    assert (found["alpha-crown"] >= found["crown"] - 1e-9).all() and found["alpha-crown"].mean() > 1.001 * found["crown"].mean()
    assert found["crown"].mean() > found["interval"].mean()
    if "exact" in found:
        assert (found["alpha-crown"] <= found["exact"] * (1 + 1e-9)).all()
        assert certificates.edge(task) == dict(flips=1.0, holds=1.0)


@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_margins_of_random_images_in_the_ball_are_above_every_bound(task, radius):
    radii = torch.full((8,), radius, dtype=torch.float64)
    steps = radius * torch.nn.functional.normalize(drawn(3)(300, 8, 5), dim=-1)
    values = task.layer(lift(task.x + steps))
    rivals = torch.stack([torch.tensor([c for c in range(4) if c != label]) for label in task.labels.tolist()]).expand(300, -1, -1)
    margins = (values.gather(2, task.labels.expand(300, 8).unsqueeze(2)) - values.gather(2, rivals)).amin(0)
    alpha = torch.rand(8, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    crown = certificates.crown_margin(task, radii)
    for bound in (certificates.interval_margin(task, radii), crown, certificates.crown_margin(task, radii, alpha)):
        assert (bound <= margins + 1e-9).all()
    assert (crown + 0.5 * margins.abs() > margins).any(), "a bound that was higher would be seen"


def test_rows_are_saved_with_their_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorlm.proofs.certificate_runs.STEPS", 5)
    for name in ("ALPHA_STEPS", "ATTACK_STEPS", "ATTACK_HALVINGS"):
        monkeypatch.setattr(certificates, name, 2)
    rows = certificates.measure("relu", 0.0, 0, images=2, repeats=2)
    assert [row["method"] for row in rows] == ["norms", "interval", "crown", "alpha-crown", "attack"]
    assert all(set(row) == set(certificates.FIELDS) for row in rows)
    certificates.save(tmp_path / "table.csv", rows, images=4)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]
    assert json.loads((tmp_path / "table.json").read_text())["command"] == "python -m benchmarks.certificates"
