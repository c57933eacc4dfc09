"""The benchmark of influence: both sides of every row give the same scores, rows are saved, missing libraries are left out."""

import csv
import json

import pytest
import torch

from benchmarks import influence

CLOSE = {"kronfluence EK-FAC": 0.9, "kronfluence EK-FAC, 40 labels": 0.98, "dattri EK-FAC": 0.5}


@pytest.fixture(scope="module")
def given():
    return influence.problem(images=120, test_images=8, epochs=4)


@pytest.fixture(scope="module")
def cases(given):
    return {(case.method, case.peer): case for case in influence.cases(given, hessian_damping=0.2)}


def installed(cases):
    return [case for case in cases.values() if case.library not in influence.missing()]


def test_both_sides_of_every_row_give_the_same_scores(cases):
    assert len(cases) == 11 and len(installed(cases)) >= 6
    for case in installed(cases):
        found = influence.agree(case.ours(), case.scale * case.theirs())
        assert found["pearson"] > CLOSE.get(case.peer, 0.999999), case
        assert case.peer in CLOSE or float(found["difference"]) < (1e-5 if "float32" in case.note else 1e-9), case


def test_a_peer_with_other_scores_would_be_seen(cases):
    case = next(iter(cases.values()))
    scores = case.ours()
    assert influence.agree(scores, 1.1 * scores) == {"pearson": 1.0, "difference": "1.0e-01"}
    assert float(influence.agree(scores, scores + torch.arange(8))["difference"]) < 1e-10
    assert influence.agree(scores, scores.flip(0))["pearson"] < 0.9


def test_rows_are_saved_with_their_provenance_and_missing_libraries_are_named(cases, tmp_path, capsys):
    rows = [influence.measure(cases["gradient dot", "torch.func vmap of grad"], repeats=2)]
    influence.save(tmp_path / "table.csv", rows, repeats=2)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["gradient dot"]
    assert set(rows[0]) == set(influence.FIELDS) and rows[0]["ours_low"] <= rows[0]["ours_ms"] <= rows[0]["ours_high"]
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["command"] == "python -m benchmarks.influence"
    assert sorted([*record["libraries"], *record["not_installed"]]) == sorted(influence.LIBRARIES)
