"""The folder of a run: what lies in it, when it may be used, and which checkpoints are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorlm.model import ModelConfig
from tensorlm.training.checkpoint import FINAL, FOLDER, SUFFIX, Checkpoint, CheckpointError, checkpoints_in, load_checkpoint, require_source
from tensorlm.training.config import TrainConfig
from tensorlm.training.files import write_json

RUN, LOG, RESULT = "run.json", "log.csv", "result.json"
KEPT = 2
FREE_TO_CHANGE = ("threads", "compile", "micro_batch", "checkpoint_every")


@dataclass(frozen=True)
class Run:
    """What a run is: both configurations, the text it learns from, and notes for the card of its model."""

    model_config: ModelConfig
    train_config: TrainConfig
    source: dict[str, str]
    card: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; :meth:`from_dict` reads it back."""
        return {"model_config": self.model_config.to_dict(), "train_config": self.train_config.to_dict(),
                "source": self.source, "card": self.card}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """The inverse of :meth:`to_dict`."""
        return cls(ModelConfig.from_dict(values["model_config"]), TrainConfig.from_dict(values["train_config"]),
                   values["source"], values["card"])


class RunFolder:
    """``run.json`` (configurations, corpus), ``log.csv``, ``checkpoints/``, at the end ``model.safetensors``
    with its card ``model.json``, and ``result.json``.

    A folder that holds a run is never overwritten: it is continued (``resume``) or refused.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return any((self.path / name).exists() for name in (RUN, LOG, RESULT, FINAL, FOLDER))

    def require_free(self) -> None:
        """Raise ValueError if there is a run already, or the path cannot be a folder."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out {str(self.path)!r}: is a file; a run needs a folder")
        if self.exists():
            raise ValueError(f"out {str(self.path)!r}: holds a run already; continue it with resume, or name another "
                             f"folder (nothing was changed)")

    def start(self, run: Run) -> None:
        """Begin a new run in a free folder."""
        self.require_free()
        write_json(self.path / RUN, run.to_dict())

    def stored(self) -> Run:
        """The run that was started here; ValueError if there is none, CheckpointError if its file is damaged."""
        try:
            return Run.from_dict(json.loads((self.path / RUN).read_text()))
        except FileNotFoundError:
            raise ValueError(f"out {str(self.path)!r}: holds no run to resume (no {RUN})") from None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path / RUN}: is damaged: {error}") from None

    def resume(self, run: Run) -> Checkpoint | None:
        """The newest checkpoint, after checking that it is of this very run; None if none was written yet."""
        stored = self.stored()
        _require_same("model", stored.model_config.to_dict(), run.model_config.to_dict())
        _require_same("train", stored.train_config.to_dict(), run.train_config.to_dict())
        require_source(self.path, stored.source, run.source)
        if not checkpoints_in(self.path):
            return None
        checkpoint = load_checkpoint(self.path)
        require_source(checkpoint.path, checkpoint.source, run.source)
        return checkpoint

    def tidy(self) -> None:
        """Remove what a killed process left half written."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink()

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps goes."""
        return self.path / FOLDER / f"step_{step:08d}{SUFFIX}"

    def prune(self) -> None:
        """Delete all but the newest two checkpoints."""
        for old in checkpoints_in(self.path)[:-KEPT]:
            old.unlink()

    def last_good(self, failed: int | None = None) -> str:
        """The newest checkpoint, in words; of those written before step ``failed`` if that is given.

        A checkpoint after n steps holds the weights that step n begins with, so one of step ``failed`` is no good.
        """
        found = [path for path in checkpoints_in(self.path)
                 if failed is None or path.name < self.checkpoint_path(failed).name]
        return str(found[-1]) if found else "none was written"


def _require_same(kind: str, stored: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in stored.items():
        if name not in FREE_TO_CHANGE and given[name] != value:
            raise ValueError(f"resume: the run has {kind} setting {name} = {value!r}, not {given[name]!r}; only "
                             f"{', '.join(FREE_TO_CHANGE)} may change")
