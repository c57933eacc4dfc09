"""The folder of a run: what lies in it, when it may be used, and which checkpoints are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorlm.files import drafts_in, owned, parse_json, write_json
from tensorlm.model import PRESETS, ModelConfig
from tensorlm.training.checkpoint import FINAL, FOLDER, SUFFIX, Checkpoint, CheckpointError, checkpoints_in, load_checkpoint, require_source
from tensorlm.training.config import TrainConfig
from tensorlm.training.device import DTYPES

RUN, LOG, RESULT = "run.json", "log.csv", "result.json"
OURS = (RUN, LOG, RESULT, FINAL, Path(FINAL).with_suffix(".json").name)
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
        """The inverse of :meth:`to_dict`; KeyError, TypeError or ValueError where ``values`` are of another kind."""
        for name in ("model_config", "train_config", "source", "card"):
            if not isinstance(values[name], dict):
                raise ValueError(f"{name} = {values[name]!r}: must be a JSON object")
        return cls(ModelConfig.from_dict(values["model_config"]), TrainConfig.from_dict(values["train_config"]),
                   values["source"], values["card"])


class RunFolder:
    """``run.json`` (configurations, corpus), ``log.csv``, ``checkpoints/``, at the end ``model.safetensors``
    with its card ``model.json``, and ``result.json``; ``lock`` says who works on it.

    A folder that holds a run is never overwritten: it is continued (``resume``) or refused. Only one process works on
    it at a time.
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

    @contextlib.contextmanager
    def started(self, run: Run) -> Iterator[None]:
        """Begin a new run in a free folder and own the folder for the body."""
        self.require_free()
        self.path.mkdir(parents=True, exist_ok=True)
        with owned(self.path):
            self.require_free()  # another process may have begun and ended meanwhile
            write_json(self.path / RUN, run.to_dict())
            yield

    @contextlib.contextmanager
    def continued(self) -> Iterator[None]:
        """Own the folder of a run that was started, for the body, and remove what a killed process left half written."""
        self.stored()
        with owned(self.path):
            for name, draft in [*drafts_in(self.path), *drafts_in(self.path / FOLDER)]:
                if name in OURS or draft.parent.name == FOLDER and name.startswith("step_") and name.endswith(SUFFIX):
                    draft.unlink()
            yield

    def stored(self) -> Run:
        """The run that was started here; ValueError if there is none, CheckpointError if its file is damaged."""
        try:
            return Run.from_dict(parse_json((self.path / RUN).read_text(encoding="utf-8"), RUN))
        except FileNotFoundError:
            raise ValueError(f"out {str(self.path)!r}: holds no run to resume (no {RUN})") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / RUN}: is damaged: {error}") from None

    def choice(self, default: dict[str, Any]) -> dict[str, Any]:
        """What the command line noted of a run: preset, data, options, tokenizer; CheckpointError where they are damaged."""
        choice = self.stored().card.get("choice", default)
        kinds = {"preset": str, "data": str, "options": dict, "tokenizer": str}
        if not isinstance(choice, dict) or not {"preset", "data", "options"} <= set(choice) <= set(kinds) \
                or not all(isinstance(value, kinds[name]) for name, value in choice.items()) or choice["preset"] not in PRESETS:
            raise CheckpointError(f"{self.path / RUN}: is damaged: its choice of preset and corpus is {choice!r}")
        return choice

    def resume(self, run: Run) -> Checkpoint | None:
        """The newest checkpoint, after checking that it is of this very run; None if none was written yet."""
        stored = self.stored()
        _require_same("model", stored.model_config.to_dict(), run.model_config.to_dict())
        _require_same("train", stored.train_config.to_dict(), run.train_config.to_dict())
        require_source(self.path, stored.source, run.source)
        if not checkpoints_in(self.path):
            return None
        checkpoint = load_checkpoint(self.path, allow_nonfinite=True)  # the loop judges the weights, as it did before
        require_source(checkpoint.path, checkpoint.source, run.source)
        if (precision := checkpoint.state.get("precision")) not in (None, *DTYPES):
            raise CheckpointError(f"{checkpoint.path}: its state has precision {precision!r}, must be one of {', '.join(DTYPES)}")
        return checkpoint

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
