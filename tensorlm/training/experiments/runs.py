"""Running an experiment: interleaved, one finished file a run, to be killed at any moment and taken up again."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from tensorlm.files import write_json
from tensorlm.training.device import resolve_device
from tensorlm.training.evaluation import evaluate
from tensorlm.training.experiments.experiment import Experiment, open_data
from tensorlm.training.experiments.plan import RUNS, Planned, Record, plan, read_runs, require_declared, settings_of, twin_of
from tensorlm.training.experiments.probes import PROBES
from tensorlm.training.experiments.table import Row, write_table
from tensorlm.training.folder import LOG, RunFolder
from tensorlm.training.log import read_csv
from tensorlm.training.loop import train
from tensorlm.training.provenance import environment
from tensorlm.training.trainer import TrainingError

Told = Callable[[str], None]
RUNNING = "running"
WARM_UP = 2  # steps that nobody counts: the first ones of a process set up its kernels


class SpreadWindows:
    """A corpus with only ``count`` held-out windows, spread evenly over its held-out text; else the same corpus."""

    def __init__(self, data: Any, count: int) -> None:
        self.data, self.count = data, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def valid_windows(self, context: int) -> Tensor:
        """Windows number floor(i n / count) of the n there are; all of them where there are fewer."""
        windows = self.data.valid_windows(context)
        count = min(self.count, len(windows))
        return windows[[i * len(windows) // count for i in range(count)]]


def compare(experiment: Experiment, folder: str | Path, arms: Sequence[str] | None = None,
            seeds: Sequence[int] | None = None, data: Any = None, device: str = "auto", progress: str | None = "auto",
            told: Told | None = None) -> list[Row]:
    """Run what is missing of ``experiment`` in ``folder`` and return the rows of its table.

    All arms of a seed come before the next seed. ``arms`` and ``seeds`` choose a part (None: those declared). A run
    that is finished is one file, written at once, and is never run again; a killed one begins anew, or goes on
    from its last checkpoint where the settings ask for checkpoints. A run of another experiment in ``folder`` with the very same
    settings is taken over. A run whose loss is no number is finished too, as
    failed. After each run the table (``NAME.csv``, ``NAME.json``) is written. ``data`` is a corpus opened already;
    ``progress`` is "auto" (a bar on a terminal), "bar" or None; ``told`` gets a line for each run.

    Raises ValueError for arms whose parameter counts do not match, and where ``folder`` holds runs of this name with
    other settings.

    >>> import tempfile
    >>> from tensorlm.training.experiments import Arm
    >>> tiny = dict(preset="nano", model={"width": 16, "layers": 1, "context": 8, "bigram": "none"})
    >>> toy = Experiment("toy", "Which MLP?", {"name": "toy", "valid_documents": 8}, (Arm("relu", {"mlp": "relu"}),
    ...                  Arm("bilinear")), "relu", seeds=(0,), train={"steps": 4}, evaluations=2, **tiny)
    >>> rows = compare(toy, tempfile.mkdtemp(), device="cpu")
    >>> [(row["arm"], row["step"], row["row"]) for row in rows][:3]
    [('relu', 2, 'curve'), ('relu', 4, 'curve'), ('relu', 4, 'final')]
    """
    data = open_data(experiment) if data is None else data
    experiment.require_matched(data.vocab_size)
    home, planned = Path(folder) / experiment.name, plan(experiment, data.vocab_size, arms, seeds)
    finished = read_runs(home)
    for record in finished:
        require_declared(record, experiment, data)
    names, code = {record["name"] for record in finished}, environment()
    for name in names:
        shutil.rmtree(home / RUNNING / name, ignore_errors=True)
    pending = [run for run in planned if run.name not in names]
    if pending:
        warm_up(pending[0], data, device)
    meter = Meter(planned, pending, progress, told)
    with contextlib.closing(meter.bar):
        for run in pending:
            meter.begin(run)
            record = twin_of(run, experiment, data, Path(folder)) or {
                **execute(run, experiment, data, home / RUNNING / run.name, device, meter.show),
                "environment": {**code, "threads": run.train.threads, "device": str(resolve_device(device))}}
            write_json(home / RUNS / f"{run.name}.json", record)
            shutil.rmtree(home / RUNNING / run.name, ignore_errors=True)
            write_table(read_runs(home), experiment, data, Path(folder))
            meter.end(run, record["rows"][-1], record.get("made_for"))
    return write_table(read_runs(home), experiment, data, Path(folder))


def execute(run: Planned, experiment: Experiment, data: Any, folder: Path | None = None, device: str = "auto",
            show: Callable[[Row], None] | None = None) -> Record:
    """Train and evaluate one run; the record of it. With ``folder``, a run that lies there is continued."""
    thinned = SpreadWindows(data, experiment.curve_windows)
    resume = folder is not None and RunFolder(folder).exists()
    failure: dict[str, Any] | None = None
    probed: dict[str, float] = {}
    try:
        result = train(run.model, run.train, thinned, out=folder, resume=resume, progress=show, device=device)
        history, final = result.history, evaluate(result.model, data.valid_windows(run.model.context))
    except TrainingError as error:
        history, final = [] if folder is None else read_csv(folder / LOG), math.nan
        failure = {"step": error.step, "why": str(error).partition("; last good")[0]}
    if failure is None and not math.isfinite(final):
        failure = {"step": run.train.steps, "why": f"the loss on the whole held-out text is {final}"}
    if failure is None:
        probed = {key: round(value, 5) for name in experiment.probes for key, value in PROBES[name](result.model.eval(), data).items()}
    rows = [_row("curve", row, row["loss_valid"]) for row in history if row["loss_valid"] is not None]
    rows.append(_row("final", history[-1], final) if failure is None else _failed(run, history, failure["step"]))
    return dict(name=run.name, arm=run.arm, seed=run.seed, steps=run.train.steps, rows=rows, failure=failure, probes=probed,
                probed=list(experiment.probes), parameters=experiment.parameters(experiment.arm(run.arm), data.vocab_size),
                settings=settings_of(run, experiment, data))


def _row(kind: str, row: Row, loss: float | None) -> Row:
    return dict(row=kind, step=row["step"], tokens=row["tokens"], seconds=round(row["seconds"], 3),
                cpu_seconds=round(row["cpu_seconds"], 3), loss=None if loss is None else round(loss, 5))


def _failed(run: Planned, history: list[Row], step: int) -> Row:
    clocks = history[-1] if history else {"seconds": 0.0, "cpu_seconds": 0.0}
    return _row("failed", {**clocks, "step": step, "tokens": step * run.train.batch_size * run.model.context}, None)


def warm_up(run: Planned, data: Any, device: str = "auto") -> None:
    """Take a few steps that are thrown away, so that no run's clock pays for setting up the process."""
    train(run.model, run.train.replace(steps=WARM_UP, validate_every=None, validate_windows=1, checkpoint_every=None),
          data, device=device)


class Reached(Exception):
    """A run that is not needed any further."""


def check_again(experiment: Experiment, data: Any = None, device: str = "auto") -> Row:
    """Run the ``check`` arm of a table again, at its first seed and smallest budget, to the first point of its curve.

    The row that comes back names the one of the table that it must agree with: same arm, seed, steps and step.
    Raises ValueError for an experiment that declares no check.
    """
    if experiment.check is None:
        raise ValueError(f"experiment {experiment.name!r}: declares no check")
    data = open_data(experiment) if data is None else data
    runs = plan(experiment, data.vocab_size, [experiment.check], experiment.seeds[:1])
    run = min(runs, key=lambda run: run.train.steps)
    rows: list[Row] = []

    def stop(row: Row) -> None:
        if row["loss_valid"] is not None:
            rows.append(row)
            raise Reached

    with contextlib.suppress(Reached):
        train(run.model, run.train, SpreadWindows(data, experiment.curve_windows), progress=stop, device=device)
    return dict(arm=run.arm, seed=run.seed, steps=run.train.steps, **_row("curve", rows[0], rows[0]["loss_valid"]))


class Meter:
    """What a sitting shows: a bar over the steps of all its runs, and a line for each that ends."""

    def __init__(self, planned: list[Planned], pending: list[Planned], progress: str | None, told: Told | None) -> None:
        """``progress``: "auto" (a bar on a terminal), "bar" or None."""
        if progress not in ("auto", "bar", None):
            raise ValueError(f"progress {progress!r}: must be 'auto', 'bar' or None")
        total, left = (sum(run.train.steps for run in runs) for runs in (planned, pending))
        self.bar = tqdm(total=total, initial=total - left, unit="step", dynamic_ncols=True,
                        disable={"auto": None, "bar": False, None: True}[progress])
        self.told, self.done, self.runs = told, total - left, len(planned)
        self.finished = len(planned) - len(pending)

    def begin(self, run: Planned) -> None:
        """Name the run that is under way."""
        self.bar.set_description(f"run {self.finished + 1}/{self.runs}, {run.arm}, seed {run.seed}")

    def show(self, row: Row) -> None:
        """Move the bar to a row of the log."""
        self.bar.update(self.done + row["step"] - self.bar.n)

    def end(self, run: Planned, last: Row, made_for: str | None = None) -> None:
        """Say what came out; ``made_for`` is the experiment that a finished run was taken over from."""
        self.done += run.train.steps
        self.finished += 1
        self.bar.update(self.done - self.bar.n)
        if self.told is not None:
            outcome = f"loss {last['loss']:.4f}" if last["row"] == "final" else f"FAILED at step {last['step']}"
            origin = f", made for {made_for}" if made_for else ""
            self.told(f"{self.finished}/{self.runs}  {run.arm}, {run.train.steps} steps, seed {run.seed}{origin}: {outcome}, "
                      f"{last['cpu_seconds']:.1f} CPU-s")
