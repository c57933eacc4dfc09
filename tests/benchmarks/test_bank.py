"""The benchmark of the bank: all sides end with the same models, and its rows are saved with their provenance."""

import csv
import json

import pytest
import torch

from benchmarks import bank
from tensorlm.data_attribution import Recipe, centred_digits, train_bank, without


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("benchmarks.timing.BATCH_SECONDS", 0)
    monkeypatch.setattr(bank, "EPOCHS", 1)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("optimiser", bank.RATES)
def test_all_sides_end_with_the_same_models(optimiser, dtype, bound):
    rows = bank.compare(optimiser, dtype, 3, repeats=2)
    assert [row["peer"] for row in rows] == list(bank.PEERS.values())[: 1 if optimiser == "muon" else 3]
    for row in rows:
        assert set(row) <= set(bank.FIELDS) and row["ours_low"] <= row["ours"] <= row["ours_high"] and row["ratio"] > 0
        assert float(row["difference"]) < bound


def test_a_peer_that_trains_otherwise_would_be_seen():
    data, weights, recipe = centred_digits(dtype=torch.float64), without(1000, [4]).double(), Recipe(epochs=1, dtype=torch.float64)
    loop = bank.by_loop(data, weights, recipe)
    other = train_bank(data.x, data.y, weights, Recipe(epochs=1, dtype=torch.float64, divide="batch"))
    assert bank.distance(other.model(0), loop.model(0)) < 1e-12  # nothing is left out
    assert bank.distance(other.model(1), loop.model(1)) > 1e-5


def test_rows_are_saved_with_their_provenance(tmp_path):
    bank.main(["--out", str(tmp_path / "bank.csv"), "--models", "2", "--repeats", "2", "--only", "sgd, float32"])
    with (tmp_path / "bank.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["unit"], row["aim"]) for row in rows] == [("us", "25"), ("us", "2.5"), ("us", ""), ("s", "5")]
    provenance = json.loads((tmp_path / "bank.json").read_text())
    assert provenance["command"] == "python -m benchmarks.bank" and provenance["models"] == 2 and provenance["threads"] == 1
