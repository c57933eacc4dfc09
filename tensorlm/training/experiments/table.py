"""The table of an experiment: tidy rows, where they come from, and a summary to read."""

from __future__ import annotations

import csv
import math
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorlm.files import write_atomically, write_json
from tensorlm.training.experiments import analysis
from tensorlm.training.experiments.experiment import Experiment
from tensorlm.training.experiments.plan import Record
from tensorlm.training.experiments.spread import paired, ratio_interval, smallest_difference

Row = dict[str, Any]
PROBE_COLUMNS = ("arm", "seed", "steps", "probe", "value")
COLUMNS = ("arm", "seed", "steps", "parameters", "row", "step", "tokens", "seconds", "cpu_seconds", "loss")


def rows_of(records: Sequence[Record], experiment: Experiment) -> list[Row]:
    """One row a measured loss, in the order of the declared arms, then steps, seeds and step.

    ``row`` is "curve" (loss on ``curve_windows`` of the held-out text), "final" (on all of it, once a run) or
    "failed" (no loss); ``steps`` are those of the run's whole schedule, ``step`` those taken so far.
    """
    records = sorted(records, key=lambda record: _place(record, experiment))
    return [{name: {**record, **row}[name] for name in COLUMNS} for record in records for row in record["rows"]]


def _place(record: Record, experiment: Experiment) -> tuple[int, int, int]:
    return experiment.arms.index(experiment.arm(record["arm"])), record["steps"], record["seed"]


def probes_of(records: Sequence[Record], experiment: Experiment) -> list[Row]:
    """One row a probe and run, in the order of the arms, then steps and seeds: arm, seed, steps, probe, value."""
    records = sorted(records, key=lambda record: _place(record, experiment))
    return [dict(arm=record["arm"], seed=record["seed"], steps=record["steps"], probe=probe, value=value)
            for record in records for probe, value in record.get("probes", {}).items()]


def write_table(records: Sequence[Record], experiment: Experiment, data: Any, folder: Path) -> list[Row]:
    """Write ``NAME.csv``, ``NAME.json`` (and ``NAME_probes.csv`` where probes are declared) into ``folder``; the rows."""
    rows = rows_of(records, experiment)
    _write_csv(folder / f"{experiment.name}.csv", COLUMNS, rows)
    if experiment.probes:
        _write_csv(folder / f"{experiment.name}_probes.csv", PROBE_COLUMNS, probes_of(records, experiment))
    write_json(folder / f"{experiment.name}.json", provenance(records, experiment, data))
    return rows


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    def write(place: Path) -> None:
        with open(place, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def provenance(records: Sequence[Record], experiment: Experiment, data: Any) -> dict[str, Any]:
    """What made a table: command, corpus, code and versions, failures, and the declaration itself."""
    environments: list[dict[str, Any]] = []
    for record in records:
        if record["environment"] not in environments:
            environments.append(record["environment"])
    return dict(command=command(records, experiment), question=experiment.question, corpus=data.name,
                corpus_sha256=data.sha256, tokenizer=data.tokenizer, runs=len(records),
                failures={record["name"]: record["failure"] for record in records if record["failure"]},
                environments=environments, declaration=experiment.to_dict())


def command(records: Sequence[Record], experiment: Experiment) -> str:
    """The command that makes these runs, all in one sitting."""
    words = ["python", "-m", "tensorlm.training.experiments", experiment.name, "--out", "FOLDER"]
    arms = [arm.name for arm in experiment.arms if arm.name in {record["arm"] for record in records}]
    seeds = sorted({record["seed"] for record in records})
    words += ["--arms", *arms] if len(arms) < len(experiment.arms) else []
    words += ["--seeds", *map(str, seeds)] if tuple(seeds) != experiment.seeds else []
    words += ["--steps-scale", f"{experiment.steps_scale:g}"] if experiment.steps_scale != 1 else []
    words += ["--split", experiment.split] if experiment.split != "validation" else []
    return shlex.join(words)


def summary(rows: Sequence[Row], experiment: Experiment) -> str:
    """The table in Markdown: each arm's loss, its difference from the baseline, and what it cost."""
    losses = analysis.finals(rows)
    timed = _equal_seconds(rows)
    heads = ["arm", "parameters", "final loss", f"minus {experiment.baseline}", "CPU-ms a step"]
    heads += [f"steps to {target:g}" for target in experiment.targets]
    heads += [f"steps for the loss of {experiment.baseline}, times its own"]
    heads += [f"loss at {timed[0]:.0f} CPU-s"] if timed else []
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for arm, found in losses.items():
        parameters = next(row["parameters"] for row in rows if row["arm"] == arm)
        cells = [arm, f"{parameters:,}", _spread(found.values()), _against(found, losses.get(experiment.baseline, {})),
                 _milliseconds(rows, arm)]
        cells += [_target(rows, arm, target) for target in experiment.targets]
        cells += [_ratio(rows, arm, experiment.baseline)]
        cells += [f"{statistics.fmean(timed[1][arm].values()):.4f}"] if timed else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _least(losses)])


def _spread(losses: Any) -> str:
    values = [value for value in losses if not math.isnan(value)]
    failed = f", {len(losses) - len(values)} of {len(losses)} FAILED" if len(values) < len(losses) else ""
    if not values:
        return failed.lstrip(", ")
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation} ({len(values)}){failed}"


def _against(losses: dict[int, float], base: dict[int, float]) -> str:
    common = sorted(seed for seed in set(losses) & set(base) if not math.isnan(losses[seed] + base[seed]))
    if losses == base or not common:
        return "-"
    if len(common) == 1:
        return f"{losses[common[0]] - base[common[0]]:+.4f}"
    found = paired({seed: losses[seed] for seed in common}, base)
    return f"{found.mean:+.4f} (least {found.smallest:.4f})"


def _target(rows: Sequence[Row], arm: str, target: float) -> str:
    try:
        found = list(analysis.to_target(rows, arm, target).values())
    except ValueError:
        return "before the first point"
    reached = [steps for steps in found if steps is not None]
    never = len(found) - len(reached)
    return f"{never} of {len(found)} never" if never else f"{statistics.fmean(reached):.0f}"


def _ratio(rows: Sequence[Row], arm: str, base: str) -> str:
    try:
        found = ratio_interval(analysis.steps_ratios(rows, arm, base))
    except ValueError:
        return "-"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _milliseconds(rows: Sequence[Row], arm: str) -> str:
    try:
        return f"{1000 * analysis.step_seconds(rows, arm):.0f}"
    except ValueError:
        return "-"


def _equal_seconds(rows: Sequence[Row]) -> tuple[float, dict[str, dict[int, float]]] | None:
    try:
        return analysis.equal_seconds(rows)
    except ValueError:
        return None


def _least(losses: dict[str, dict[int, float]]) -> str:
    try:
        least = smallest_difference({arm: found for arm, found in losses.items() if not math.isnan(sum(found.values()))})
    except ValueError as error:
        return f"No smallest difference over all arms: {error}."
    return (f"± is the standard deviation over seeds; (least) the smallest paired difference that can be told apart "
            f"(95 %), from these two arms alone; from the scatter of all arms it is {least:.4f}.")
