"""Running an experiment, to be killed at any moment and taken up again: one finished file a run, and the table of all."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tensorlm.checks import require_one_of
from tensorlm.files import parse_json, write_csv, write_json
from tensorlm.training.checkpoint import source_of
from tensorlm.training.device import PACKAGE, environment, resolve_device
from tensorlm.training.evaluation import PROBES, evaluate
from tensorlm.training.experiments.declare import Experiment, PlannedRun, SpreadWindows, open_data, plan
from tensorlm.training.folder import LOG_NAME, Row, RunFolder, read_log
from tensorlm.training.loop import train
from tensorlm.training.trainer import TrainingError

Record = dict[str, Any]
RUNS_NAME, RUNNING_NAME = "runs", "running"
RELEASED = PACKAGE / "released" / "results"
WARM_UP_STEPS = 2  # that nobody counts: the first ones of a process set up its kernels
COLUMNS = ("arm", "seed", "steps", "parameters", "row", "step", "tokens", "seconds", "cpu_seconds", "loss")
PROBE_COLUMNS = ("arm", "seed", "steps", "probe", "value")


def run_experiment(experiment: Experiment, folder: str | Path, arms: Sequence[str] | None = None,
                   seeds: Sequence[int] | None = None, data: Any = None, device: str = "auto",
                   progress: str | None = "auto", report: Callable[[str], Any] | None = None) -> list[Row]:
    """Run what is missing of `experiment` in `folder` and return the rows of its table, for `Table`.

    All arms of a seed come before the next seed. `arms` and `seeds` choose a part (None: those declared). A run
    that is finished is one file, written at once, and is never run again; a killed one begins anew, or goes on
    from its last checkpoint where the settings ask for checkpoints. A run of another experiment in `folder` with the
    very same settings is copied. A run whose loss is no number is finished too, as failed. After each run the table
    (`NAME.csv`, `NAME.json`) is written. `data` is a corpus opened already; `progress` is "auto" (a bar on a terminal),
    "bar" or None; `report` gets a line for each run.

    Raises ValueError for arms whose parameter counts do not match, and where `folder` holds runs of this name with
    other settings.

    >>> import tempfile
    >>> from tensorlm.training.experiments import Arm
    >>> tiny = dict(preset="nano", model={"width": 16, "layers": 1, "context": 8, "bigram": "none"})
    >>> toy = Experiment("toy", "Which MLP?", {"name": "toy", "valid_documents": 8}, (Arm("relu", {"mlp": "relu"}),
    ...                  Arm("bilinear")), "relu", seeds=(0,), train={"steps": 4}, evaluations=2, **tiny)
    >>> rows = run_experiment(toy, tempfile.mkdtemp(), device="cpu")
    >>> [(row["arm"], row["step"], row["row"]) for row in rows][:3]
    [('relu', 2, 'curve'), ('relu', 4, 'curve'), ('relu', 4, 'final')]
    """
    require_one_of("progress", progress, ("auto", "bar", None))
    data = open_data(experiment) if data is None else data
    experiment.require_matched(data.vocab_size)
    home, planned = Path(folder) / experiment.name, plan(experiment, data.vocab_size, arms, seeds)
    finished = read_runs(home)
    for record in finished:
        require_declared(record, experiment, data)
    names, code = {record["name"] for record in finished}, environment()
    for name in names:
        shutil.rmtree(home / RUNNING_NAME / name, ignore_errors=True)
    pending = [run for run in planned if run.name not in names]
    if pending:  # no run's clock pays for setting up the process
        first = pending[0].train.replace(steps=WARM_UP_STEPS, validate_every=None, validate_windows=1, checkpoint_every=None)
        train(pending[0].model, first, data, device=device)
    total, left = (sum(run.train.steps for run in runs) for runs in (planned, pending))
    bar = tqdm(total=total, initial=total - left, unit="step", dynamic_ncols=True,
               disable={"auto": None, "bar": False, None: True}[progress])
    with contextlib.closing(bar):
        for number, run in enumerate(pending, len(planned) - len(pending) + 1):
            bar.set_description(f"run {number}/{len(planned)}, {run.arm}, seed {run.seed}")
            before = bar.n
            show = lambda row: bar.update(before + row["step"] - bar.n)
            record = made_elsewhere(run, experiment, data, Path(folder)) or {
                **execute(run, experiment, data, home / RUNNING_NAME / run.name, device, show),
                "environment": {**code, "threads": run.train.threads, "device": str(resolve_device(device))}}
            write_json(home / RUNS_NAME / f"{run.name}.json", record)
            shutil.rmtree(home / RUNNING_NAME / run.name, ignore_errors=True)
            write_table(read_runs(home), experiment, data, Path(folder))
            bar.update(before + run.train.steps - bar.n)
            if report is not None:
                report(f"{number}/{len(planned)}  {_outcome(run, record)}")
    return write_table(read_runs(home), experiment, data, Path(folder))


def _outcome(run: PlannedRun, record: Record) -> str:
    last = record["rows"][-1]
    found = f"loss {last['loss']:.4f}" if last["row"] == "final" else f"FAILED at step {last['step']}"
    origin = f", made for {record['made_for']}" if "made_for" in record else ""
    return f"{run.arm}, {run.train.steps} steps, seed {run.seed}{origin}: {found}, {last['cpu_seconds']:.1f} CPU-s"


def execute(run: PlannedRun, experiment: Experiment, data: Any, folder: Path | None = None, device: str = "auto",
            show: Callable[[Row], Any] | None = None) -> Record:
    """Train and evaluate one run; the record of it. With `folder`, a run that lies there is continued."""
    failure: dict[str, Any] | None = None
    probed: dict[str, float] = {}
    try:
        result = train(run.model, run.train, SpreadWindows(data, experiment.curve_windows), out=folder,
                       resume=folder is not None and RunFolder(folder).exists(), progress=show, device=device)
        history, final = result.history, evaluate(result.model, data.valid_windows(run.model.context))
    except TrainingError as error:
        history, final = [] if folder is None else read_log(folder / LOG_NAME), math.nan
        failure = {"step": error.step, "why": str(error).partition("; last good")[0]}
    if failure is None and not math.isfinite(final):
        failure = {"step": run.train.steps, "why": f"the loss on the whole held-out text is {final}"}
    if failure is None:
        measured = [PROBES[name](result.model.eval(), data) for name in experiment.probes]
        probed = {key: round(value, 5) for found in measured for key, value in found.items()}
    rows = [table_row("curve", row, row["loss_valid"]) for row in history if row["loss_valid"] is not None]
    if failure is None:
        rows.append(table_row("final", history[-1], final))
    else:
        clocks, step = history[-1] if history else {"seconds": 0.0, "cpu_seconds": 0.0}, failure["step"]
        tokens = step * run.train.batch_size * run.model.context
        rows.append(table_row("failed", {**clocks, "step": step, "tokens": tokens}, None))
    return dict(name=run.name, arm=run.arm, seed=run.seed, steps=run.train.steps, rows=rows, failure=failure, probes=probed,
                probed=list(experiment.probes), parameters=experiment.parameters(experiment.arm(run.arm), data.vocab_size),
                settings=settings_of(run, experiment, data))


def table_row(kind: str, row: Row, loss: float | None) -> Row:
    """What a table keeps of a row of the log: "curve" (loss on `curve_windows`), "final" (on the whole text), "failed"."""
    return dict(row=kind, step=row["step"], tokens=row["tokens"], seconds=round(row["seconds"], 3),
                cpu_seconds=round(row["cpu_seconds"], 3), loss=None if loss is None else round(loss, 5))


def settings_of(run: PlannedRun, experiment: Experiment, data: Any) -> dict[str, Any]:
    """What decides a run's numbers, as JSON values (checkpoints do not)."""
    settings = dict(model=run.model.to_dict(), train={**run.train.to_dict(), "checkpoint_every": None}, source=source_of(data),
                    curve_windows=experiment.curve_windows)
    return json.loads(json.dumps(settings))


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


def made_elsewhere(run: PlannedRun, experiment: Experiment, data: Any, folder: Path) -> Record | None:
    """A finished run of another experiment of `folder` with these very settings, under this run's name; or None."""
    settings = settings_of(run, experiment, data)
    for home in sorted(path for path in folder.glob("*") if path.name != experiment.name):
        for record in read_runs(home):
            if record["settings"] == settings and set(experiment.probes) <= set(record.get("probed", ())):
                return {**record, "name": run.name, "arm": run.arm, "made_for": home.name}
    return None


def require_declared(record: Record, experiment: Experiment, data: Any) -> None:
    """Raise ValueError unless `record` is a run that `experiment` declares, with these very settings."""
    advice = f"name another folder, or take {experiment.name}/{RUNS_NAME}/{record['name']}.json away (nothing was changed)"
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


def rows_of(records: Sequence[Record], experiment: Experiment) -> list[Row]:
    """One row a measured loss, in the order of the declared arms, then steps (of the whole schedule), seeds and step (taken)."""
    return [{name: {**record, **row}[name] for name in COLUMNS}
            for record in _sorted(records, experiment) for row in record["rows"]]


def _sorted(records: Sequence[Record], experiment: Experiment) -> list[Record]:
    return sorted(records, key=lambda r: (experiment.arms.index(experiment.arm(r["arm"])), r["steps"], r["seed"]))


def write_table(records: Sequence[Record], experiment: Experiment, data: Any, folder: Path) -> list[Row]:
    """Write `NAME.csv`, `NAME.json` (and `NAME_probes.csv` where probes are declared) into `folder`; the rows."""
    rows = rows_of(records, experiment)
    write_csv(folder / f"{experiment.name}.csv", COLUMNS, rows)
    if experiment.probes:
        probed = [dict(arm=record["arm"], seed=record["seed"], steps=record["steps"], probe=probe, value=value)
                  for record in _sorted(records, experiment) for probe, value in record.get("probes", {}).items()]
        write_csv(folder / f"{experiment.name}_probes.csv", PROBE_COLUMNS, probed)
    environments = [json.loads(text) for text in dict.fromkeys(json.dumps(record["environment"]) for record in records)]
    write_json(folder / f"{experiment.name}.json", dict(
        command=command(records, experiment), question=experiment.question, corpus=data.name, corpus_sha256=data.sha256,
        tokenizer=data.tokenizer, runs=len(records), failures={r["name"]: r["failure"] for r in records if r["failure"]},
        environments=environments, declaration=experiment.to_dict()))
    return rows


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


def release(experiment: Experiment, folder: Path, data: Any) -> list[Row]:
    """Write the table of the finished runs in `folder` into the package; ValueError unless it is whole, as declared."""
    records = read_runs(folder / experiment.name)
    for record in records:
        require_declared(record, experiment, data)
    missing = {run.name for run in plan(experiment, data.vocab_size)} - {record["name"] for record in records}
    if missing or experiment.steps_scale != 1 or experiment.split != "validation":
        raise ValueError(f"--release: {experiment.name} lacks {len(missing)} runs, or is not the declared one; run it without "
                         f"--arms, --seeds, --steps-scale and --split (nothing was changed)")
    return write_table(records, experiment, data, RELEASED)
