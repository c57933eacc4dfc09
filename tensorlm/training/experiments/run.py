"""Running an experiment, to be killed at any moment and taken up again: one finished file a run, and the table of all."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tensorlm.checks import require_one_of
from tensorlm.data import load
from tensorlm.files import parse_json, write_csv, write_json
from tensorlm.provenance import RELEASED, environment
from tensorlm.training.checkpoint import source_of
from tensorlm.training.device import resolve_device
from tensorlm.training.evaluation import PROBES, evaluate
from tensorlm.training.experiments.declare import Experiment, PlannedRun, SpreadWindows, plan
from tensorlm.training.folder import LOG_NAME, Row, RunFolder, read_log
from tensorlm.training.loop import train
from tensorlm.training.trainer import TrainingError, count_parameters

Record = dict[str, Any]
RUNS_NAME, RUNNING_NAME = "runs", "running"
WARM_UP_STEPS = 2  # that nobody counts: the first ones of a process set up its kernels
COLUMNS = ("arm", "seed", "steps", "parameters", "row", "step", "tokens", "seconds", "cpu_seconds", "loss")
PROBE_COLUMNS = ("arm", "seed", "steps", "probe", "value")


def run_experiment(experiment: Experiment, folder: str | Path, arms: Sequence[str] | None = None,
                   seeds: Sequence[int] | None = None, data: Any = None, device: str = "auto",
                   progress: str | None = "auto", report: Callable[[str], Any] | None = None) -> list[Row]:
    """Run what is missing of `experiment` in `folder` and return the rows of its table, for `Table`.

    All arms of a seed come before the next seed. `arms` and `seeds` choose a part (None: those declared). A finished run is
    one file and never run again; a killed one goes on from its last checkpoint, if it has one. A run whose loss is no number
    is finished too, as failed. After each run the table (`NAME.csv`, `NAME.json`) is written. `data` is a corpus opened
    already; `progress` is "auto" (a bar on a terminal) or None; `report` gets a line for each run. Raises ValueError for
    arms of different sizes, and where `folder` holds runs of this name with other settings.

    >>> import tempfile
    >>> from tensorlm.training.experiments import Arm
    >>> tiny = dict(preset="nano", model={"width": 16, "layers": 1, "context": 8, "bigram": "none"})
    >>> toy = Experiment("toy", "Which MLP?", {"name": "toy", "valid_documents": 8}, (Arm("relu", {"mlp": "relu"}),
    ...                  Arm("bilinear")), "relu", seeds=(0,), train={"steps": 4}, evaluations=2, **tiny)
    >>> rows = run_experiment(toy, tempfile.mkdtemp(), device="cpu")
    >>> [(row["arm"], row["step"], row["row"]) for row in rows][:3]
    [('relu', 2, 'curve'), ('relu', 4, 'curve'), ('relu', 4, 'final')]
    """
    require_one_of("progress", progress, ("auto", None))
    data = load(**experiment.data) if data is None else data
    experiment.require_matched(data.vocab_size)
    home, planned = Path(folder) / experiment.name, plan(experiment, data.vocab_size, arms, seeds)
    finished, code = read_runs(home), environment()
    for record in finished:
        require_declared(record, experiment, data)
        shutil.rmtree(home / RUNNING_NAME / record["name"], ignore_errors=True)
    pending = [run for run in planned if run.name not in {record["name"] for record in finished}]
    if pending:  # no run's clock pays for setting up the process
        first = pending[0].train.replace(steps=WARM_UP_STEPS, validate_every=None, validate_windows=1, checkpoint_every=None)
        train(pending[0].model, first, data, device=device)
    total, left = (sum(run.train.steps for run in runs) for runs in (planned, pending))
    with tqdm(total=total, initial=total - left, unit="step", dynamic_ncols=True, disable=None if progress else True) as bar:
        for number, run in enumerate(pending, len(planned) - len(pending) + 1):
            bar.set_description(f"run {number}/{len(planned)}, {run.arm}, seed {run.seed}")
            before = bar.n
            record = execute(run, experiment, data, home / RUNNING_NAME / run.name, device,
                             lambda row: bar.update(before + row["step"] - bar.n))
            record["environment"] = {**code, "threads": run.train.threads, "device": str(resolve_device(device))}
            write_json(home / RUNS_NAME / f"{run.name}.json", record)
            shutil.rmtree(home / RUNNING_NAME / run.name, ignore_errors=True)
            write_table(read_runs(home), experiment, data, Path(folder))
            bar.update(before + run.train.steps - bar.n)
            if report is not None:
                last, words = record["rows"][-1], f"{run.arm}, {run.train.steps} steps, seed {run.seed}"
                found = f"loss {last['loss']:.4f}" if last["row"] == "final" else f"FAILED at step {last['step']}"
                report(f"{number}/{len(planned)}  {words}: {found}, {last['cpu_seconds']:.1f} CPU-s")
    return write_table(read_runs(home), experiment, data, Path(folder))


def execute(run: PlannedRun, experiment: Experiment, data: Any, folder: Path, device: str = "auto",
            show: Callable[[Row], Any] | None = None) -> Record:
    """Train and evaluate one run, or go on with the one that lies in `folder`; the record of it."""
    failure: dict[str, Any] | None = None
    probes: dict[str, float] = {}
    try:
        result = train(run.model, run.train, SpreadWindows(data, experiment.curve_windows), out=folder,
                       resume=RunFolder(folder).exists(), progress=show, device=device)
        final = evaluate(result.model, data.valid_windows(run.model.context))
        if not math.isfinite(final):
            raise TrainingError(f"the loss on the whole held-out text is {final}", run.train.steps)
        for name in experiment.probes:
            probes |= {key: round(value, 5) for key, value in PROBES[name](result.model.eval(), data).items()}
    except TrainingError as error:
        failure = {"step": error.step, "why": str(error).partition("; last good")[0]}
    history = read_log(folder / LOG_NAME)
    rows = [table_row("curve", row, row["loss_valid"]) for row in history if row["loss_valid"] is not None]
    last = history[-1] if history else {"seconds": 0.0, "cpu_seconds": 0.0}
    if failure is None:
        rows.append(table_row("final", last, final))
    else:
        tokens = failure["step"] * run.train.batch_size * run.model.context
        rows.append(table_row("failed", {**last, "step": failure["step"], "tokens": tokens}, None))
    return dict(name=run.name, arm=run.arm, seed=run.seed, steps=run.train.steps, rows=rows, failure=failure, probes=probes,
                parameters=count_parameters(run.model), settings=settings_of(run, experiment, data))


def table_row(kind: str, row: Row, loss: float | None) -> Row:
    """What a table keeps of a row of the log: "curve" (loss on `curve_windows`), "final" (on the whole text), "failed"."""
    return dict(row=kind, step=row["step"], tokens=row["tokens"], seconds=round(row["seconds"], 3),
                cpu_seconds=round(row["cpu_seconds"], 3), loss=None if loss is None else round(loss, 5))


def settings_of(run: PlannedRun, experiment: Experiment, data: Any) -> dict[str, Any]:
    """What decides a run's numbers (checkpoints do not), as JSON values."""
    return dict(model=run.model.to_dict(), train={**run.train.to_dict(), "checkpoint_every": None}, source=source_of(data),
                curve_windows=experiment.curve_windows)


def read_runs(home: Path) -> list[Record]:
    """The finished runs of an experiment's folder; ValueError names a file that is none."""
    records = []
    for path in sorted((home / RUNS_NAME).glob("*.json")):
        try:
            records.append(parse_json(path.read_text(encoding="utf-8"), "it"))
            if records[-1]["name"] != path.stem:
                raise KeyError(f"name {records[-1]['name']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is not the file of a finished run: {error}") from None
    return records


def require_declared(record: Record, experiment: Experiment, data: Any) -> None:
    """Raise ValueError unless `record` is a run that `experiment` declares, with these very settings."""
    arm, defect = experiment.arm(record["arm"]), ""
    runs = {run.train.steps: run for run in plan(experiment, data.vocab_size, [arm.name], [record["seed"]])}
    if record["steps"] not in runs:
        defect = f"has {record['steps']} steps, arm {arm.name!r} is now declared with {' and '.join(map(str, runs))}"
    elif difference := _difference(record["settings"], settings_of(runs[record["steps"]], experiment, data)):
        defect = f"was made with {difference}"
    if defect:
        raise ValueError(f"run {record['name']}: {defect}; name another folder, or take {experiment.name}/{RUNS_NAME}/"
                         f"{record['name']}.json away (nothing was changed)")


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """The first setting in which two nested dictionaries differ, in words; "" where they are equal."""
    if not (isinstance(stored, dict) and isinstance(given, dict)):
        return "" if stored == given else f"{name} = {stored!r}, the declaration says {given!r}"
    found = (_difference(stored.get(key), given.get(key), f"{name}.{key}".lstrip(".")) for key in sorted({*stored, *given}))
    return next(filter(None, found), "")


def write_table(records: Sequence[Record], experiment: Experiment, data: Any, folder: Path) -> list[Row]:
    """Write `NAME.csv`, `NAME.json` (and `NAME_probes.csv` if probes are declared) into `folder`; the rows, arm by arm."""
    ordered = sorted(records, key=lambda r: (experiment.arms.index(experiment.arm(r["arm"])), r["steps"], r["seed"]))
    rows = [{name: {**record, **row}[name] for name in COLUMNS} for record in ordered for row in record["rows"]]
    write_csv(folder / f"{experiment.name}.csv", COLUMNS, rows)
    if experiment.probes:
        probed = [dict(arm=record["arm"], seed=record["seed"], steps=record["steps"], probe=probe, value=value)
                  for record in ordered for probe, value in record["probes"].items()]
        write_csv(folder / f"{experiment.name}_probes.csv", PROBE_COLUMNS, probed)
    environments = [json.loads(text) for text in dict.fromkeys(json.dumps(record["environment"]) for record in records)]
    write_json(folder / f"{experiment.name}.json", dict(
        command=f"python -m tensorlm.training.experiments {experiment.name} --out FOLDER", question=experiment.question,
        corpus=data.name, corpus_sha256=data.sha256, tokenizer=data.tokenizer, environments=environments, runs=len(records),
        failures={r["name"]: r["failure"] for r in records if r["failure"]},
        declaration=dataclasses.asdict(experiment)))
    return rows


def release(experiment: Experiment, folder: Path, data: Any) -> list[Row]:
    """Write the table of the runs in `folder` into the package; ValueError unless it is whole, as declared."""
    records = read_runs(folder / experiment.name)
    for record in records:
        require_declared(record, experiment, data)
    missing = {run.name for run in plan(experiment, data.vocab_size)} - {record["name"] for record in records}
    if missing:
        raise ValueError(f"--release: {experiment.name} lacks {len(missing)} runs; run it without --arms and --seeds")
    return write_table(records, experiment, data, RELEASED)
