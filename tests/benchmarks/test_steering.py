"""The benchmark of steering: both sides answer the same question, and every row of it can be measured and saved."""

import csv
import json
from functools import partial

import torch

from benchmarks import steering

NO_GOAL = (None, None)
SMALL_MLP, SMALL = partial(steering.mlp_model, width=4, hidden=5, vocabulary=7), partial(steering.attention_model, width=4, vocabulary=7)
SMALL_CASES = {
    "values": partial(steering.values_case, SMALL_MLP, 2, 1, 60, NO_GOAL),
    "response": partial(steering.response_case, SMALL, 2, 3, 60, NO_GOAL, 1),
    "tipping": partial(steering.tipping_case, SMALL_MLP, 2, 1, 2000, NO_GOAL),
}


def test_both_sides_agree_and_rows_are_saved_with_their_provenance(tmp_path):
    rows = [steering.measure(build(), repeats=2) for build in SMALL_CASES.values()]
    assert {build.func for build in SMALL_CASES.values()} == {build.func for build in steering.CASES.values()}
    assert float(rows[0]["difference"]) < 1e-10 and float(rows[1]["difference"]) < 1e-10
    assert float(rows[2]["difference"]) < 2e-3 and "spacing is 2e-03" in rows[2]["note"] and "0 changes" not in rows[2]["note"]
    assert all(set(row) == set(steering.FIELDS) for row in rows)
    steering.save(tmp_path / "table.csv", rows, steering.FIELDS, repeats=2)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["task"] for row in csv.DictReader(file)] == [row["task"] for row in rows]
    provenance = json.loads((tmp_path / "table.json").read_text())
    assert provenance["command"] == "python -m benchmarks.steering" and provenance["threads"] == torch.get_num_threads()


def test_another_answer_would_be_seen():
    case = SMALL_CASES["values"]()
    assert case.judge(case.ours() * 1.01, case.theirs())[0] > 1e-3


def test_growth_has_all_coefficients_only_where_they_fit(monkeypatch):
    monkeypatch.setitem(steering.BUILDERS, "attention and MLP", SMALL)
    rows = steering.grow("attention and MLP", 1, repeats=2, time=3)
    assert [(row["route"], row["degree"]) for row in rows] == [("jet", 10), ("coefficients", 10), ("runs", 10)]
    assert all(set(row) == set(steering.GROWTH_FIELDS) for row in rows) and float(rows[1]["error"]) < 1e-10 < float(rows[0]["error"])
    assert [row["route"] for row in steering.grow("attention and MLP", 4, repeats=2, time=3)] == ["jet"]
