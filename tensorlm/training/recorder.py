"""What a run leaves behind: its rows, its checkpoints, and at the end the released model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorlm.files import write_json
from tensorlm.training.checkpoint import FINAL, Checkpoint, CheckpointError, export_model, save_checkpoint, source_of
from tensorlm.training.folder import LOG, RESULT, RunFolder
from tensorlm.training.log import CsvLog, Row, read_csv
from tensorlm.training.trainer import Trainer, due

STATE_SHAPED = ("momentum_buffer", "exp_avg", "exp_avg_sq")


class Recorder:
    """Keeps the history of a run and, with a folder, writes it down. Only the leading process writes.

    Rows reach the disk before the checkpoint that follows them, so a resumed log has each row once. Only the last
    checkpoint comes before the last row, whose validation may take long or fail.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder | None, resumed: bool = False) -> None:
        """``resumed``: a checkpoint of ``folder`` was restored into the trainer."""
        self.trainer, self.folder, self.log = trainer, folder, None
        self.history: list[Row] = []
        if folder is not None and resumed:
            self.history = _rows_so_far(folder.path / LOG, trainer)
        if folder is not None and trainer.world.leads:
            self.log = CsvLog(folder.path / LOG, keep_until=trainer.done)

    def add(self, row: Row) -> None:
        """Note one row."""
        self.history.append(row)
        if self.log is not None:
            self.log.append(row)

    def save(self) -> None:
        """Write a checkpoint of this moment, unless the loss of a step before it is not finite."""
        self.trainer.settle()
        if self.log is None or self.folder is None:
            return
        self.log.sync()
        trainer = self.trainer
        save_checkpoint(self.folder.checkpoint_path(trainer.done), trainer.model, train_config=trainer.config,
                        source=source_of(trainer.data), state=run_state(trainer), optimizer=optimizer_state(trainer),
                        rng=rng_state())
        self.folder.prune()

    def complete(self) -> bool:
        """Whether the row of the last step is there."""
        return bool(self.history) and self.history[-1]["step"] == self.trainer.config.steps

    def release(self, card: dict[str, Any]) -> Path | None:
        """Write the weights with their card, and the result of the run."""
        if self.log is None or self.folder is None:
            return None
        path = export_model(self.trainer.model, self.folder.path / FINAL, card, source_of(self.trainer.data))
        write_json(self.folder.path / RESULT, {**card, "history": self.history})
        return path

    def last_good(self, failed: int) -> str:
        """The newest checkpoint whose weights gave a finite loss, in words."""
        return "none was written" if self.folder is None else self.folder.last_good(failed)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()


def _rows_so_far(path: Path, trainer: Trainer) -> list[Row]:
    """The rows of the steps taken; CheckpointError unless the log has each that came before the checkpoint."""
    config = trainer.config
    rows = [row for row in read_csv(path) if row["step"] <= trainer.done] if path.exists() else []
    wanted = [step for step in range(1, min(trainer.done, config.steps - 1) + 1)
              if due(config.log_every, step) or due(config.validate_every, step)]
    missing = sorted(set(wanted) - {row["step"] for row in rows})
    if missing:
        raise CheckpointError(f"{path}: has no row of step {missing[0]}, though the run has taken {trainer.done} steps; put the "
                              f"file back, or begin anew in another folder (load_model still reads the weights)")
    return rows


def run_state(trainer: Trainer) -> dict[str, Any]:
    """The small state of a run, JSON-safe: step, clocks, losses since the last row, guard, loss scaler."""
    return {"step": trainer.done, "clock": list(trainer.clock.read()), "recent": trainer.recent,
            "precision": trainer.precision.name, "guard": trainer.guard.state(),
            "scaler": trainer.scaler.state_dict() if trainer.scaler else None, "rows": trainer.rows}


def optimizer_state(trainer: Trainer) -> dict[str, Tensor]:
    """All tensors of the optimisers, named ``<parameter>.<key>``."""
    names: dict[Tensor, str] = {p: name for name, p in trainer.model.named_parameters()}
    return {f"{names[p]}.{key}": value for member in trainer.optimizers.members
            for p, state in member.state.items() for key, value in state.items()}


def rng_state() -> dict[str, Tensor]:
    """States of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Bring a fresh trainer to the moment of ``checkpoint``; CheckpointError where its state does not fit."""
    state = checkpoint.state
    try:
        trainer.done = _number("step", state["step"], int, trainer.config.steps)
        if checkpoint.path.stem != f"step_{trainer.done:08d}":
            raise ValueError(f"step = {trainer.done}, the name of the file says another one")
        seconds, cpu_seconds = (_number("clock", value, float) for value in state["clock"])
        trainer.clock.before = seconds, cpu_seconds
        trainer.recent = [_number("recent", loss, float) for loss in state["recent"]]
        trainer.guard.load({name: _number(name, value, float if name == "mean" else int) for name, value in state["guard"].items()})
        if trainer.scaler is not None:
            trainer.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(checkpoint.rng["cpu"])
        if "cuda" in checkpoint.rng and trainer.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.rng["cuda"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{checkpoint.path}: its state cannot be resumed: {reason}") from None
    before = state.get("rows", checkpoint.train_config and (checkpoint.train_config.micro_batch or trainer.rows))
    if "batch" in (trainer.model.config.norm, trainer.model.config.qk_norm) and before != trainer.rows:
        raise ValueError(f"resume: the run had {before} sequences a forward pass, now it would have {trainer.rows} (micro_batch, "
                         f"processes); norms of kind 'batch' depend on them")
    trainer.model.load_state_dict(checkpoint.model.state_dict())
    if trainer.done > trainer.guard.skipped:  # a step was taken, and every step gives each parameter its state
        for name in _state_names(trainer):
            if name not in checkpoint.optimizer:
                raise CheckpointError(f"{checkpoint.path}: tensor 'optimizer.{name}' is missing")
    _restore_optimizers(trainer, checkpoint)


def _number(name: str, value: Any, kind: type, most: float = float("inf")) -> Any:
    """``value`` if it is a finite number of ``kind`` from 0 to ``most``; ValueError otherwise."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or kind is float and isinstance(value, float) and math.isfinite(value)) or not 0 <= value <= most:
        raise ValueError(f"{name} = {value!r}: must be {'a whole number' if kind is int else 'a number'} from 0 to {most}")
    return kind(value)


def _state_names(trainer: Trainer) -> list[str]:
    names = {p: name for name, p in trainer.model.named_parameters()}
    adam = ("exp_avg", "exp_avg_sq", "step")
    return [f"{names[p]}.{key}" for member in trainer.optimizers.members for group in member.param_groups
            for p in group["params"] for key in (adam if isinstance(member, torch.optim.AdamW) else STATE_SHAPED[:1])]


def _restore_optimizers(trainer: Trainer, checkpoint: Checkpoint) -> None:
    owners = {p: member for member in trainer.optimizers.members for g in member.param_groups for p in g["params"]}
    parameters = dict(trainer.model.named_parameters())
    for name, value in checkpoint.optimizer.items():
        owner, _, key = name.rpartition(".")
        p = parameters.get(owner)
        shape = p.shape if key in STATE_SHAPED and p is not None else torch.Size(()) if key == "step" else None
        if p is None or value.shape != shape or value.dtype != torch.float32:
            raise CheckpointError(f"{checkpoint.path}: tensor 'optimizer.{name}' ({value.dtype}, "
                                  f"{tuple(value.shape)}) does not belong to this model")
        fused = owners[p].defaults.get("fused", False)
        owners[p].state[p][key] = value.to(p.device if fused or key != "step" else "cpu")
