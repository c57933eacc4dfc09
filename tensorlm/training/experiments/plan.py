"""Which runs an experiment consists of, and which of them a folder holds already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorlm.files import parse_json
from tensorlm.model import ModelConfig
from tensorlm.training.checkpoint import source_of
from tensorlm.training.config import TrainConfig
from tensorlm.training.experiments.experiment import Experiment

RUNS = "runs"
Record = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """One run: an arm at a seed for a number of steps, with everything that decides it."""

    arm: str
    seed: int
    slug: str
    model: ModelConfig
    train: TrainConfig

    @property
    def name(self) -> str:
        """Arm, steps and seed: the name of the run's file."""
        return f"{self.slug}_{self.train.steps}_seed{self.seed}"


def plan(experiment: Experiment, vocab_size: int, arms: Sequence[str] | None = None,
         seeds: Sequence[int] | None = None) -> list[Planned]:
    """The runs in their order: seed by seed, in each all arms, each with its budgets."""
    chosen = experiment.arms if arms is None else [experiment.arm(name) for name in arms]
    runs = [Planned(arm.name, seed, arm.slug, *experiment.settings(arm, seed, budget, vocab_size))
            for seed in (experiment.seeds if seeds is None else seeds)
            for arm in chosen for budget in experiment.budgets_of(arm)]
    return list({run.name: run for run in runs}.values())


def settings_of(run: Planned, experiment: Experiment, data: Any) -> dict[str, Any]:
    """What decides a run's numbers, as JSON values (checkpoints do not)."""
    settings = dict(model=run.model.to_dict(), train={**run.train.to_dict(), "checkpoint_every": None}, source=source_of(data),
                    curve_windows=experiment.curve_windows)
    return json.loads(json.dumps(settings))


def read_runs(home: Path) -> list[Record]:
    """The finished runs of an experiment's folder; ValueError names a file that is none."""
    records = []
    for path in sorted((home / RUNS).glob("*.json")):
        try:
            records.append(parse_json(path.read_text(encoding="utf-8"), "it"))
            if records[-1]["name"] != path.stem:
                raise KeyError(f"name {records[-1]['name']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is not the file of a finished run: {error}") from None
    return records


def twin_of(run: Planned, experiment: Experiment, data: Any, folder: Path) -> Record | None:
    """A finished run of another experiment of ``folder`` with these very settings, under this run's name; or None."""
    settings = settings_of(run, experiment, data)
    for home in sorted(path for path in folder.glob("*") if path.name != experiment.name):
        for record in read_runs(home):
            if record["settings"] == settings and set(experiment.probes) <= set(record.get("probed", ())):
                return {**record, "name": run.name, "arm": run.arm, "made_for": home.name}
    return None


def require_declared(record: Record, experiment: Experiment, data: Any) -> None:
    """Raise ValueError unless ``record`` is a run that ``experiment`` declares, with these very settings."""
    advice = f"name another folder, or take {experiment.name}/{RUNS}/{record['name']}.json away (nothing was changed)"
    arm = experiment.arm(record["arm"])
    runs = {run.train.steps: run for run in plan(experiment, data.vocab_size, [arm.name], [record["seed"]])}
    if record["steps"] not in runs:
        raise ValueError(f"run {record['name']}: has {record['steps']} steps, arm {arm.name!r} is now declared with "
                         f"{' and '.join(map(str, runs))}; {advice}")
    difference = _difference(record["settings"], settings_of(runs[record["steps"]], experiment, data))
    if difference:
        raise ValueError(f"run {record['name']}: was made with {difference}; {advice}")


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """The first setting in which two nested dictionaries differ, in words; "" where they are equal."""
    if not (isinstance(stored, dict) and isinstance(given, dict)):
        return "" if stored == given else f"{name} = {stored!r}, the declaration says {given!r}"
    keys = sorted({*stored, *given})
    found = (_difference(stored.get(key), given.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
    return next(filter(None, found), "")
