"""The benchmark of attention's growth: every side runs, is as accurate as float32 can be, and keeps to its memory."""

import csv
import itertools
import json

import pytest

from benchmarks import attention_scaling
from benchmarks.attention_scaling import PASSES, fits, measure
from benchmarks.timing import interleave
from tensorlm.layers.costs import ALGORITHMS


@pytest.mark.parametrize("way", PASSES)
def test_every_kind_and_algorithm_is_timed_and_exact(way, monkeypatch):
    monkeypatch.setattr("benchmarks.timing.BATCH_SECONDS", 0)
    rows = measure(16, 160, way, repeats=2)
    assert {(row["kind"], row["algorithm"]) for row in rows} >= {("softmax", "fused kernel"), *(("bilinear", name) for name in ALGORITHMS)}
    assert all(0 < float(row["error"]) < 1e-5 for row in rows)
    assert sum(row["chosen"] is True for row in rows if row["kind"] == "bilinear") == 1


def test_what_does_not_fit_is_left_out():
    assert fits("quadratic", 2048, 16, 2, "forward") and not fits("quadratic", 8192, 16, 2, "forward")
    assert fits("row_blocks", 8192, 16, 2, "forward") and not fits("row_blocks", 8192, 16, 2, "forward+backward")
    assert all(fits("recurrent", 8192, 64, 2, way) for way in PASSES)


def test_the_table_is_written_with_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr(attention_scaling, "TIMES", {16: (70,)})
    attention_scaling.main(["--out", str(tmp_path / "scaling.csv"), "--head-dims", "16", "--repeats", "2"])
    with (tmp_path / "scaling.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2 * (1 + 3 + 2 + 2)
    assert json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))["command"] == "python -m benchmarks.attention_scaling"


def test_sides_take_turns_and_the_quartiles_are_in_order():
    calls = []
    times = interleave({name: lambda name=name: calls.append(name) or sum(range(200_000)) for name in "ab"}, repeats=5)
    assert set(times) == {"a", "b"} and all(0 < low <= middle <= high for low, middle, high in times.values())
    turns = "".join(name for name, _ in itertools.groupby(calls))  # however many calls fill a turn
    assert turns == "ab" * 6  # one turn to find that number, and five that count
