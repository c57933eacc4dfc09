"""Training from start to end: steps, rows of the log, validation, checkpoints, the released model."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import distributed
from tensorlm.training.checkpoint import source_of
from tensorlm.training.config import TrainConfig
from tensorlm.training.device import cpu_threads
from tensorlm.training.folder import Run, RunFolder
from tensorlm.training.log import Row, progress_for
from tensorlm.training.optim import anneal_at
from tensorlm.training.recorder import Recorder, restore
from tensorlm.training.trainer import Trainer, TrainingError, due

Progress = str | Callable[[Row], None] | None


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it came about. ``seconds`` and ``cpu_seconds`` count neither validation nor saving."""

    model: TensorTransformer = field(repr=False)
    loss_valid: float
    history: list[Row] = field(repr=False)
    seconds: float
    cpu_seconds: float
    tokens: int
    data: str
    path: Path | None = None

    def summary(self) -> str:
        """One line with corpus, tokenizer, tokens, seconds and loss."""
        return (f"{self.data}\n{self.tokens:,} tokens seen in {self.seconds:.1f} s ({self.cpu_seconds:.1f} CPU-s); "
                f"{self.loss_valid:.4f} nats per token on held-out text")


def train(model_config: ModelConfig, train_config: TrainConfig, data: Any, out: str | Path | None = None,
          resume: bool = False, progress: Progress = None, device: str = "auto",
          card: dict[str, Any] | None = None) -> TrainResult:
    """Train a new :class:`TensorTransformer` on ``data`` (a ``TokenData``), and validate it on held-out text.

    With ``out`` the run keeps a log and checkpoints in that folder; ``resume`` continues the run that lies there,
    on a CPU bit for bit. ``progress`` gets every row of the log: None (silent), "auto", "bar", "plain", or a function
    of one row. Ctrl-C and SIGTERM are put off to the end of the step, which is saved, and end in KeyboardInterrupt (one
    process with ``out``; a second one stops at once); a ``progress`` that raises KeyboardInterrupt leaves a checkpoint
    too. ``card`` adds entries to the card of the released model. Under ``torchrun`` (inside
    :func:`tensorlm.training.distributed.joined`) the processes share each batch.

    Raises ValueError for settings that do not fit, a run that the machine's memory cannot hold, or a folder in which
    another process trains, CheckpointError for a checkpoint that does not fit, and TrainingError when a loss is not
    finite: it names the step, the batch and the last good checkpoint.

    >>> import numpy as np
    >>> from tensorlm.data import TokenData
    >>> text = np.tile(np.arange(7), 100)
    >>> data = TokenData("sevens", "digits", 7, "0" * 64, train=text, valid=text[:50])
    >>> model = ModelConfig(vocab_size=7, context=8, width=16, layers=1)
    >>> result = train(model, TrainConfig(steps=30, batch_size=4, precision="float32"), data)
    >>> result.tokens, result.loss_valid < 0.2
    (960, True)
    """
    leads = distributed.current().leads
    with cpu_threads(train_config.threads), contextlib.ExitStack() as stack:
        run = Run(model_config, train_config, source_of(data), card or {})
        folder = _folder(out, resume)
        if folder is not None and leads:
            folder.require_free() if not resume else stack.enter_context(folder.continued())
        checkpoint = folder.resume(run) if folder is not None and resume else None
        trainer = Trainer(model_config, train_config, data, device, checkpoint.state.get("precision") if checkpoint else None)
        if checkpoint is not None:
            restore(trainer, checkpoint)
        show = progress_for(train_config.steps, progress if leads else None, trainer.done)
        if folder is not None and leads and not resume:
            stack.enter_context(folder.started(run))
        recorder = stack.enter_context(contextlib.closing(Recorder(trainer, folder, checkpoint is not None)))
        try:
            with _putting_off_interrupts(folder is not None and trainer.world.size == 1) as interrupt:
                _loop(trainer, recorder, show, interrupt)
        except TrainingError as error:
            raise TrainingError(f"{error}; last good checkpoint: {recorder.last_good(error.step)}",
                                error.step) from None
        return _result(trainer, recorder, card or {})


def _folder(out: str | Path | None, resume: bool) -> RunFolder | None:
    if out is None and resume:
        raise ValueError("resume=True: needs out, the folder of the run")
    return None if out is None else RunFolder(out)


class _Interrupt:
    """A Ctrl-C or a polite request to end (SIGTERM) that was put off; the second one is not."""

    asked: str | None = None

    def __call__(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if self.asked:
            raise KeyboardInterrupt(name)
        self.asked = name


@contextlib.contextmanager
def _putting_off_interrupts(wanted: bool) -> Iterator[_Interrupt]:
    """Take SIGINT and SIGTERM for the body, where nobody else handles them; the loop asks between two steps."""
    interrupt, defaults = _Interrupt(), {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_charge = wanted and threading.current_thread() is threading.main_thread()
    taken = {number: old for number, old in defaults.items() if in_charge and signal.getsignal(number) is old}
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield interrupt
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


def _loop(trainer: Trainer, recorder: Recorder, show: Callable[[Row], None], interrupt: _Interrupt) -> None:
    for row in _rows(trainer, recorder, interrupt):
        recorder.add(row)
        try:
            show(row)
        except KeyboardInterrupt:  # between two steps, so the state is whole
            if trainer.world.size == 1:
                recorder.save()
            raise


def _rows(trainer: Trainer, recorder: Recorder, interrupt: _Interrupt) -> Iterator[Row]:
    config = trainer.config
    while trainer.done < config.steps:
        trainer.step()
        last = trainer.done == config.steps
        if last and trainer.anneals:
            trainer.model.set_anneal(anneal_at(config.steps, config))
        validates = due(config.validate_every, trainer.done)
        if not last and (validates or due(config.log_every, trainer.done)):
            yield trainer.row(validates)
        stop = interrupt.asked
        if last or stop or due(config.checkpoint_every, trainer.done):
            with trainer.clock.paused():
                recorder.save()
        if stop:
            raise KeyboardInterrupt(stop)
    if not recorder.complete():  # the weights are on the disk before the last validation
        yield trainer.row(validates=True)
    if interrupt.asked:
        raise KeyboardInterrupt(interrupt.asked)


def _result(trainer: Trainer, recorder: Recorder, card: dict[str, Any]) -> TrainResult:
    for site in trainer.model.norm_sites():
        site.penalty = None  # holds the graph of the last step
    last, config = recorder.history[-1], trainer.config
    facts = dict(corpus=trainer.data.describe(), loss_valid=last["loss_valid"], tokens=last["tokens"],
                 seconds=round(last["seconds"], 2), cpu_seconds=round(last["cpu_seconds"], 2), steps=config.steps,
                 seed=config.seed, parameters=sum(p.numel() for p in trainer.parameters),
                 precision=trainer.precision.name, device=str(trainer.device), processes=trainer.world.size)
    path = recorder.release({**facts, **card})
    return TrainResult(trainer.model, last["loss_valid"], recorder.history, last["seconds"], last["cpu_seconds"],
                       last["tokens"], trainer.data.describe(), path)
