"""The benchmark of the tensor algorithms: its peers compute the same thing, and every row of it can be measured and saved."""

import csv
import json
from functools import partial

import pytest
import torch

from benchmarks import tensor_form

GOAL = (None, None, "x")
SMALL = {
    "als one layer": partial(tensor_form.als_case, 6, 1, 2, 3, GOAL),
    "als composed": partial(tensor_form.als_case, 3, 2, 2, 3, GOAL),
    "hosvd unfolding": partial(tensor_form.hosvd_case, 4, 2, tensor_form.dense_hosvd_by_unfolding, GOAL),
    "hosvd no copies": partial(tensor_form.hosvd_case, 4, 2, tensor_form.dense_hosvd, GOAL),
    "hosvd alone": partial(tensor_form.hosvd_case, 4, 2, None, GOAL),
    "grams unfolding": partial(tensor_form.grams_case, 4, tensor_form.dense_gram_by_unfolding, GOAL),
    "grams no copies": partial(tensor_form.grams_case, 4, tensor_form.dense_gram, GOAL),
    "grams alone": partial(tensor_form.grams_case, 4, None, GOAL),
    "eigen with build": partial(tensor_form.eigen_case, 3, 9, 2, False, GOAL),
    "eigen alone": partial(tensor_form.eigen_case, 3, 9, 2, True, GOAL),
    "contraction": partial(tensor_form.contraction_case, 3, GOAL),
}


@pytest.mark.parametrize("name", SMALL)
def test_both_sides_of_a_row_reach_the_same(name):
    row = tensor_form.measure(SMALL[name](), repeats=2)
    assert set(row) <= set(tensor_form.FIELDS) and row["ours_low"] <= row["ours_ms"] <= row["ours_high"]
    if row["peer"]:
        assert float(row["difference"]) < 1e-9 and "ratio" in row
        assert float(row["ours_accuracy"]) == pytest.approx(float(row["peer_accuracy"]), rel=0.2, abs=1e-12)
    else:
        assert float(row["ours_accuracy"]) < 1e-12 and "ratio" not in row


def test_a_peer_with_another_result_would_be_seen():
    case = SMALL["hosvd no copies"]()
    core, factors = case.theirs()
    assert case.judge(case.ours(), (2 * core, factors))[2] == pytest.approx(0.5)


def test_every_row_of_design_is_there():
    builders = {build.func for build in tensor_form.CASES.values()}
    assert builders == {build.func for build in SMALL.values()}
    goals = [build.args[-1] for build in tensor_form.CASES.values()]
    assert all(len(goal) == 3 and goal[2] in ("x", "s") for goal in goals)


def test_rows_are_saved_with_their_provenance(tmp_path):
    rows = [tensor_form.measure(SMALL["grams alone"](), repeats=2)]
    tensor_form.save(tmp_path / "table.csv", rows, tensor_form.FIELDS, repeats=2)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["task"] for row in csv.DictReader(file)] == [rows[0]["task"]]
    provenance = json.loads((tmp_path / "table.json").read_text())
    assert provenance["command"] == "python -m benchmarks.tensor_form" and provenance["threads"] == torch.get_num_threads()


def test_growth_has_the_dense_route_only_where_it_fits():
    rows = tensor_form.grow(4, repeats=2, rank=2)
    assert [(row["task"], row["route"]) for row in rows] == [("mode Grams", "factors"), ("HOSVD, rank 2", "factors"),
                                                             ("mode Grams", "dense"), ("HOSVD, rank 2", "dense")]
    assert all(set(row) == set(tensor_form.GROWTH_FIELDS) and row["dense_bytes"] == 8 * 4**5 for row in rows)
    assert [row["route"] for row in tensor_form.grow(tensor_form.GROWTH_DENSE + 1, repeats=2, rank=2)] == ["factors"] * 2
