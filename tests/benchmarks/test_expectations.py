"""The benchmark of exact expectations: both sides estimate the same thing, and every kind of row is measured and saved."""

import csv
import json
from functools import partial

import pytest
import torch

from benchmarks import expectations
from benchmarks.expectations import Case

SMALL = {
    "mean 2": partial(expectations.mean_case, 4, 2),
    "mean 2 control": partial(expectations.mean_case, 4, 2, True),
    "mean 3": partial(expectations.mean_case, 3, 3),
    "moments": partial(expectations.moments_case, 3),
    "tail": partial(expectations.tail_case, 3),
    "relu": partial(expectations.relu_case, 4, 2),
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(expectations, "DRAWN", 4000)
    monkeypatch.setattr(expectations, "TRUTH", 40_000)


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_row_can_be_measured(name):
    row = expectations.measure(SMALL[name](), repeats=2)
    assert set(row) <= set(expectations.FIELDS) and row["ours_low"] <= row["ours_ms"] <= row["ours_high"]
    assert row["samples_needed"] > 0 and row["ratio"] > 0
    if name not in ("tail", "relu"):
        assert row["difference"] < 3  # standard errors of a sample


def test_sampling_has_the_mean_and_a_control_variate_does_not_move_it():
    for control in (False, True):
        case = expectations.mean_case(4, 2, control)
        means = torch.stack([case.theirs() for _ in range(40)])
        assert float(((means.mean(0) - case.ours()) / (means.std(0) / 40**0.5)).abs().max()) < 4.5
    assert expectations.mean_case(4, 2, True).samples_needed < expectations.mean_case(4, 2).samples_needed


def test_a_wrong_mean_would_be_seen():
    case = expectations.mean_case(4, 2)
    generator = torch.Generator().manual_seed(1)
    mean, errors = expectations.sampled(lambda x: x.square() + 1, 4, 4000, generator)
    assert expectations.off(torch.full((4,), 2.0, dtype=torch.float64), mean, errors) < 3
    assert expectations.off(torch.full((4,), 2.2, dtype=torch.float64), mean, errors) > 5
    assert isinstance(case, Case)


def test_all_kinds_are_there_and_rows_are_saved_with_their_provenance(tmp_path):
    assert {build.func for build in expectations.CASES.values()} == {build.func for build in SMALL.values()}
    expectations.save(tmp_path / "table.csv", [expectations.measure(SMALL["tail"](), repeats=2)], repeats=2)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["task"] for row in csv.DictReader(file)] == ["exact tail at 1e-6"]
    assert json.loads((tmp_path / "table.json").read_text())["command"] == "python -m benchmarks.expectations"
