"""Every released table of an experiment can be made again: one arm, at its seed, to the first point of its curve."""

import dataclasses
import json
from pathlib import Path

import pytest
from experiment_check import check_again, declared, stated

from tensorlm import released
from tensorlm.training.experiments import EXPERIMENTS

RESULTS = Path(released.__file__).parent / "results"
DECLARED = {path.stem: record["declaration"] for path in sorted(RESULTS.glob("*.json"))
            if "declaration" in (record := json.loads(path.read_text(encoding="utf-8")))}


def as_json(experiment):
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


@pytest.mark.parametrize("name", DECLARED)
def test_one_arm_of_the_table_finds_the_stated_loss(name):
    experiment = declared(DECLARED[name])
    again = check_again(experiment)
    row = stated(released.results(name).to_dict("records"), again)
    assert again["loss"] == pytest.approx(row["loss"], abs=experiment.tolerance)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_table_is_whole_and_of_this_declaration(name):
    found = as_json(declared(DECLARED[name])) if name in DECLARED else None
    assert found == as_json(EXPERIMENTS[name]), f"make it: python -m tensorlm.training.experiments {name} --out FOLDER"
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    experiment = EXPERIMENTS[name]
    assert record["runs"] == sum(len(experiment.budgets_of(arm)) for arm in experiment.arms) * len(experiment.seeds)
