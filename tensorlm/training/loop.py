"""Training from start to end: steps, rows of the log, validation, checkpoints, the released model."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tensorlm.checks import require, require_one_of
from tensorlm.files import force_to_disk, not_written, write_json
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training.checkpoint import FINAL_NAME, CheckpointError, checkpoints_in, export_model, save_checkpoint, source_of
from tensorlm.training.config import TrainConfig
from tensorlm.training.device import current_world
from tensorlm.training.folder import LOG_NAME, RESULT_NAME, Row, RunFolder, RunSettings, append_row, read_log, start_log
from tensorlm.training.optim import anneal_at
from tensorlm.training.trainer import Trainer, TrainingError, restore

Show = Callable[[Row], None]
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it came about. Seconds count neither validation nor saving."""

    model: TensorTransformer = field(repr=False)
    loss_valid: float
    history: list[Row] = field(repr=False)
    seconds: float
    cpu_seconds: float
    tokens: int
    data: str
    path: Path | None = None


def train(model_config: ModelConfig, train_config: TrainConfig, data: Any, out: str | Path | None = None, resume: bool = False,
          progress: str | Show | None = None, device: str = "auto", card: dict[str, Any] | None = None) -> TrainResult:
    """Train a new `TensorTransformer` on `data` (a `TokenData`), and validate it on held-out text.

    With `out` the run keeps a log and checkpoints in that folder; `resume` continues the run that lies there, on a CPU bit for bit.
    `progress` shows every row of the log: None (not at all), "bar", "auto" (a bar on a terminal, lines elsewhere), or a function of one
    row. Ctrl-C and SIGTERM are put off to the end of the step, which is saved, and end in KeyboardInterrupt (one process with `out`; a
    second one stops at once); a `progress` that raises KeyboardInterrupt leaves a checkpoint too. `card` adds entries to the card of the
    released model. Under `torchrun` (inside `device.joined_world`) the processes share each batch.

    Raises ValueError for settings that do not fit, too little memory, or a folder in which another process trains, CheckpointError for a
    checkpoint that does not fit, and TrainingError when a loss is not finite: it names the step, the batch and the last good checkpoint.

    >>> import numpy as np
    >>> from tensorlm.data import TokenData
    >>> text = np.tile(np.arange(7), 100)
    >>> data = TokenData("sevens", "digits", 7, "0" * 64, train=text, valid=text[:50])
    >>> model = ModelConfig(vocab_size=7, context=8, width=16, layers=1)
    >>> result = train(model, TrainConfig(steps=30, batch_size=4, precision="float32"), data)
    >>> result.tokens, result.loss_valid < 0.2
    (960, True)
    """
    leads = current_world().leads
    require(out is not None or not resume, "out", out, "the folder of the run to resume")
    run = RunSettings(model_config, train_config, source_of(data), card or {})
    folder = None if out is None else RunFolder(out)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(train_config.threads)
        if folder is not None and leads:
            folder.require_free() if not resume else stack.enter_context(folder.continued())
        checkpoint = folder.resume(run) if folder is not None and resume else None
        trainer = Trainer(model_config, train_config, data, device, checkpoint.state.get("precision") if checkpoint else None)
        if checkpoint is not None:
            restore(trainer, checkpoint)
        show = progress_for(train_config.steps, progress if leads else None, trainer.done)
        if folder is not None and leads and not resume:
            stack.enter_context(folder.started(run))
        recorder = Recorder(trainer, folder, show, checkpoint is not None)
        try:
            with _putting_off_interrupts(folder is not None and trainer.world.size == 1) as asked:
                _loop(trainer, recorder, asked)
        except TrainingError as error:
            good = "none was written" if folder is None else folder.last_good(error.step)
            raise TrainingError(f"{error}; last good checkpoint: {good}", error.step) from None
        return _result(trainer, recorder, card or {})


class Recorder:
    """Keeps the history of a run and, with a folder, writes it down, in the leading process alone.

    Rows reach the disk before the checkpoint that follows them, so a resumed log has each row once; but the last checkpoint
    comes before the last row, whose validation may fail.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder | None, show: Show, resumed: bool = False) -> None:
        self.trainer, self.folder, self.show = trainer, folder if trainer.world.leads else None, show
        self.history = _rows_so_far(folder.path / LOG_NAME, trainer) if folder is not None and resumed else []
        if self.folder is not None:
            start_log(self.folder.path / LOG_NAME, keep_until=trainer.done)

    def add(self, row: Row) -> None:
        self.history.append(row)
        if self.folder is not None:
            append_row(self.folder.path / LOG_NAME, row)
        try:
            self.show(row)
        except KeyboardInterrupt:  # between two steps, so the state is whole
            if self.trainer.world.size == 1:
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint of this moment, unless the loss of a step before it is not finite."""
        trainer = self.trainer
        trainer.settle()
        if self.folder is None:
            return
        try:
            force_to_disk(self.folder.path / LOG_NAME)
        except OSError as error:
            raise not_written(self.folder.path / LOG_NAME, error) from None
        save_checkpoint(self.folder.checkpoint_path(trainer.done), trainer.model, train_config=trainer.config,
                        source=source_of(trainer.data), **trainer.state())
        for old in checkpoints_in(self.folder.path)[:-KEPT_CHECKPOINTS]:
            old.unlink()


def _rows_so_far(path: Path, trainer: Trainer) -> list[Row]:
    """The rows of the steps taken; CheckpointError unless the log has each that came before the checkpoint."""
    config = trainer.config
    rows = [row for row in read_log(path) if row["step"] <= trainer.done] if path.exists() else []
    known = {row["step"] for row in rows}
    for step in range(1, min(trainer.done, config.steps - 1) + 1):
        if step not in known and (_due(config.log_every, step) or _due(config.validate_every, step)):
            raise CheckpointError(f"{path}: has no row of step {step}, though the run has taken {trainer.done} steps; put "
                                  f"it back, or begin anew in another folder (load_model still reads the weights)")
    return rows


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


@contextlib.contextmanager
def _putting_off_interrupts(wanted: bool) -> Iterator[list[str]]:
    """Note SIGINT and SIGTERM, which nobody else handles, for the loop to ask between two steps; a second one stops."""
    asked: list[str] = []

    def put_off(number: int, frame: Any) -> None:
        asked.append(signal.Signals(number).name)
        if len(asked) > 1:
            raise KeyboardInterrupt(asked[-1])

    defaults: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_charge = wanted and threading.current_thread() is threading.main_thread()
    taken = [number for number, old in defaults.items() if in_charge and signal.getsignal(number) is old]
    for number in taken:
        signal.signal(number, put_off)
    try:
        yield asked
    finally:
        for number in taken:
            signal.signal(number, defaults[number])


def _loop(trainer: Trainer, recorder: Recorder, asked: list[str]) -> None:
    config = trainer.config
    while trainer.done < config.steps:
        trainer.step()
        last = trainer.done == config.steps
        if last and trainer.anneals:
            trainer.model.set_anneal(anneal_at(config.steps, config))
        validates = _due(config.validate_every, trainer.done)
        if not last and (validates or _due(config.log_every, trainer.done)):
            recorder.add(trainer.row(validates))
        stop = asked[:1]
        if last or stop or _due(config.checkpoint_every, trainer.done):
            with trainer.clock.paused():
                recorder.save()
        if stop:
            raise KeyboardInterrupt(*stop)
    if not recorder.history or recorder.history[-1]["step"] != config.steps:  # the weights are on the disk by now
        recorder.add(trainer.row(validates=True))
    if asked:
        raise KeyboardInterrupt(*asked)


def _result(trainer: Trainer, recorder: Recorder, card: dict[str, Any]) -> TrainResult:
    for site in trainer.model.norm_sites():
        site.penalty = None  # holds the graph of the last step
    last, config, path, text = recorder.history[-1], trainer.config, None, trainer.data.describe()
    card = dict(corpus=text, loss_valid=last["loss_valid"], tokens=last["tokens"], seconds=round(last["seconds"], 2),
                cpu_seconds=round(last["cpu_seconds"], 2), steps=config.steps, seed=config.seed,
                parameters=sum(p.numel() for p in trainer.parameters), precision=trainer.precision,
                device=str(trainer.device), processes=trainer.world.size) | card
    if recorder.folder is not None:
        path = export_model(trainer.model, recorder.folder.path / FINAL_NAME, card, source_of(trainer.data))
        write_json(recorder.folder.path / RESULT_NAME, {**card, "history": recorder.history})
    return TrainResult(trainer.model, last["loss_valid"], recorder.history, last["seconds"], last["cpu_seconds"],
                       last["tokens"], text, path)


def progress_for(steps: int, progress: str | Show | None, done: int = 0) -> Show:
    """A function that shows the rows after step `done`: see `train`."""
    if callable(progress):
        return progress
    require_one_of("progress", progress, (None, "auto", "bar"))
    lines = progress == "auto" and not sys.stderr.isatty()
    bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, disable=lines or progress is None)

    def show(row: Row) -> None:
        valid = "" if row["loss_valid"] is None else f"  held-out {row['loss_valid']:.4f}"
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        words = f"loss {row['loss']:.4f}{valid}  {row['tokens_per_second']:,.0f} tokens/s{skipped}"
        if lines:
            left = timedelta(seconds=round(row["seconds"] / row["step"] * (steps - row["step"])))
            print(f"step {row['step']}/{steps}  {words}  {left} left", flush=True)
        bar.update(row["step"] - bar.n)
        bar.set_postfix_str(words)
        if row["step"] >= steps:
            bar.close()

    return show


def say(text: str) -> None:
    """Write a text at once, above a bar, with a question mark for each character that standard output cannot print."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    tqdm.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
