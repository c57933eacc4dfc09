"""A study is run once, taken up again, and refuses what is not its own."""

import dataclasses
import json

import pytest

from tensorlm import studies
from tensorlm.studies import Study, run_study

CALLS: list[tuple[int, int]] = []


def power(seed: int, x: int, stop: bool = False) -> list[dict]:
    if stop:
        raise KeyboardInterrupt
    CALLS.append((seed, x))
    return [dict(exponent=n, value=(x + seed) ** n / 3) for n in (1, 2)]


@pytest.fixture
def study():
    CALLS.clear()
    return Study("powers", "How large?", ("exponent", "value"), power, {"two": {"x": 2}, "three": {"x": 3}}, (0, 1), ("two", 0, {}))


def test_the_table_has_arms_seeds_and_six_digits(study, tmp_path):
    rows = run_study(study, tmp_path, progress=False)
    assert [(row["arm"], row["seed"], row["exponent"]) for row in rows][:3] == [("two", 0, 1), ("two", 0, 2), ("two", 1, 1)]
    assert rows[0]["value"] == 0.666667
    assert (tmp_path / "powers.csv").read_text().splitlines()[:2] == ["arm,seed,exponent,value", "two,0,1,0.666667"]
    record = json.loads((tmp_path / "powers.json").read_text())
    assert record["study"] == study.declaration() and record["environments"][0]["threads"]


def test_what_is_no_number_is_an_empty_cell(study, tmp_path):
    lost = dataclasses.replace(study, run=lambda seed, x: [dict(exponent=x, value=float("nan") if seed else 1.5)])
    assert [row["value"] for row in run_study(lost, tmp_path, progress=False)] == [1.5, None, 1.5, None]
    assert (tmp_path / "powers.csv").read_text().splitlines()[1:3] == ["two,0,2,1.5", "two,1,2,"]


def test_a_study_that_was_killed_goes_on_and_runs_nothing_twice(study, tmp_path):
    killed = dataclasses.replace(study, arms={"two": {"x": 2}, "three": {"x": 3, "stop": True}})
    with pytest.raises(KeyboardInterrupt):
        run_study(killed, tmp_path, progress=False)
    assert CALLS == [(0, 2), (1, 2)] and not (tmp_path / "powers.csv").exists()
    run_study(study, tmp_path, progress=False)
    assert CALLS == [(0, 2), (1, 2), (0, 3), (1, 3)]


def test_runs_of_other_settings_are_refused(study, tmp_path):
    run_study(study, tmp_path, progress=False)
    with pytest.raises(ValueError, match="another folder"):
        run_study(dataclasses.replace(study, arms={"two": {"x": 4}}), tmp_path, progress=False)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"settings": {"x": 2}'])
def test_a_damaged_run_is_named(study, tmp_path, text):
    (tmp_path / "powers").mkdir()
    (tmp_path / "powers" / "two-0.json").write_text(text)
    with pytest.raises(ValueError, match="two-0.json"):
        run_study(study, tmp_path, progress=False)


def test_rows_with_other_columns_are_refused(study):
    with pytest.raises(ValueError, match="columns must be"):
        dataclasses.replace(study, columns=("exponent",)).rows("two", 0)
    with pytest.raises(ValueError, match="arm must be one of 'two', 'three'"):
        study.rows("four", 0)


def test_released_tables_go_into_the_package(study, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "RELEASED", tmp_path / "package")
    run_study(study, tmp_path / "runs", release=True, progress=False)
    assert (tmp_path / "package" / "powers.csv").read_text() == (tmp_path / "runs" / "powers.csv").read_text()


def test_the_command_line_lists_runs_and_answers_errors(study, tmp_path, capsys):
    assert studies.main({"powers": study}, []) == 0
    assert "powers  How large?" in capsys.readouterr().out
    assert studies.main({"powers": study}, ["powers", "--out", str(tmp_path)]) == 0
    assert "8 rows" in capsys.readouterr().out
    (tmp_path / "powers" / "two-0.json").write_text("{}")
    assert studies.main({"powers": study}, ["powers", "--out", str(tmp_path)]) == 2
    assert "two-0.json" in capsys.readouterr().err
