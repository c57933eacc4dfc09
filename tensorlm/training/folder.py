"""The folder of a run: what lies in it, when it may be used, which checkpoints are kept, and the rows of its log."""

import contextlib
import csv
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tensorlm.checks import require
from tensorlm.files import not_written, parse_json, write_csv, write_json
from tensorlm.model import ModelConfig
from tensorlm.model.config import PRESETS
from tensorlm.training.checkpoint import (
    FINAL_NAME,
    FOLDER_NAME,
    SUFFIX,
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    load_checkpoint,
    require_source,
)
from tensorlm.training.config import TrainConfig
from tensorlm.training.device import DTYPES

Row = dict[str, Any]
RUN_NAME, LOG_NAME, RESULT_NAME, LOCK_NAME = "run.json", "log.csv", "result.json", "lock"
OWN_NAMES = (RUN_NAME, LOG_NAME, RESULT_NAME, FINAL_NAME, Path(FINAL_NAME).with_suffix(".json").name)
DRAFT_NAME = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")  # of `files.write_atomically`
FREE_SETTINGS = ("threads", "compile", "micro_batch", "checkpoint_every")
LOG_COLUMNS = {"step": int, "tokens": int, "loss": float, "loss_valid": float, "grad_norm": float, "lr_scale": float,
               "anneal": float, "skipped": int, "seconds": float, "cpu_seconds": float, "tokens_per_second": float}


def start_log(path: Path, keep_until: int = 0) -> None:
    """Begin the log of a run, keeping the rows up to step `keep_until` of a former attempt."""
    write_csv(path, LOG_COLUMNS, [row for row in read_log(path) if row["step"] <= keep_until] if path.exists() else [])


def append_row(path: Path, row: Row) -> None:
    """Add one line to a log."""
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, list(LOG_COLUMNS)).writerow(row)
    except OSError as error:
        raise not_written(path, error) from None


def read_log(path: Path) -> list[Row]:
    """The rows of a log; a line that was cut off while being written is left out. ValueError for what is no log."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
        cells = [dict(zip(LOG_COLUMNS, values)) for values in csv.reader(lines[1:])]
        return [{name: LOG_COLUMNS[name](text) if text or name == "step" else None for name, text in row.items()}
                for row in cells if len(row) == len(LOG_COLUMNS)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: is not the log of a run: {error}") from None


class RunSettings(NamedTuple):
    """What a run is: both configurations, the text it learns from, and notes for the card of its model."""

    model_config: ModelConfig
    train_config: TrainConfig
    source: dict[str, str]
    card: dict[str, Any]


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only owner of `folder` for the body, or ValueError; the system gives a dead process's lock back."""
    with open(folder / LOCK_NAME, "a") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"out {str(folder)!r}: another process trains in this folder; wait until it has ended, or "
                             f"name another folder (nothing was changed)") from None
        except OSError as error:
            warnings.warn(f"{folder}: cannot be locked here ({error.strerror}); nothing keeps a second process out", stacklevel=3)
        yield


class RunFolder:
    """`run.json` (configurations, corpus), `log.csv`, `checkpoints/`, `lock`, and at the end the model with card and result.

    A folder that holds a run is never overwritten: it is continued (`resume`) or refused, and has one owner at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        return any((self.path / name).exists() for name in (RUN_NAME, LOG_NAME, RESULT_NAME, FINAL_NAME, FOLDER_NAME))

    def require_free(self) -> None:
        """Raise ValueError if there is a run already, or the path cannot be a folder."""
        require(not self.path.exists() or self.path.is_dir(), "out", str(self.path), "a folder, no file")
        if self.exists():
            raise ValueError(f"out {str(self.path)!r}: holds a run already; continue it with resume, or name another "
                             f"folder (nothing was changed)")

    @contextlib.contextmanager
    def started(self, run: RunSettings) -> Iterator[None]:
        """Begin a new run in a free folder and own the folder for the body."""
        self.require_free()
        self.path.mkdir(parents=True, exist_ok=True)
        with owned(self.path):
            self.require_free()  # another process may have begun and ended meanwhile
            configs = {"model_config": run.model_config.to_dict(), "train_config": run.train_config.to_dict()}
            write_json(self.path / RUN_NAME, {**run._asdict(), **configs})
            yield

    @contextlib.contextmanager
    def continued(self) -> Iterator[None]:
        """Own the folder of a run that was started, for the body, and remove what a killed process left half written."""
        self.stored()
        with owned(self.path):
            for draft in [*self.path.glob(".*.tmp"), *(self.path / FOLDER_NAME).glob(".step_*.tmp")]:
                match = DRAFT_NAME.fullmatch(draft.name)
                if match and (match["name"] in OWN_NAMES or draft.parent != self.path and match["name"].endswith(SUFFIX)):
                    draft.unlink()
            yield

    def stored(self) -> RunSettings:
        """The run that was started here; ValueError if there is none, CheckpointError if its file is damaged."""
        try:
            values = parse_json((self.path / RUN_NAME).read_text(encoding="utf-8"), RUN_NAME)
            for name in RunSettings._fields:
                require(isinstance(values[name], dict), name, values[name], "a JSON object")
            return RunSettings(ModelConfig.from_dict(values["model_config"]), TrainConfig.from_dict(values["train_config"]),
                               values["source"], values["card"])
        except FileNotFoundError:
            raise ValueError(f"out {str(self.path)!r}: holds no run to resume (no {RUN_NAME})") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / RUN_NAME}: is damaged: {error}") from None

    def choice(self, default: dict[str, Any]) -> dict[str, Any]:
        """What the command line noted of a run: preset, data, options, tokenizer; CheckpointError where they are damaged."""
        choice = self.stored().card.get("choice", default)
        kinds = {"preset": str, "data": str, "options": dict, "tokenizer": str}
        whole = isinstance(choice, dict) and {"preset", "data", "options"} <= set(choice) <= set(kinds)
        whole = whole and all(isinstance(value, kinds[name]) for name, value in choice.items())
        if not whole or choice["preset"] not in PRESETS:
            raise CheckpointError(f"{self.path / RUN_NAME}: is damaged: its choice of preset and corpus is {choice!r}")
        return choice

    def resume(self, run: RunSettings) -> Checkpoint | None:
        """The newest checkpoint, after checking that it is of this very run; None if none was written yet."""
        stored = self.stored()
        for kind in ("model", "train"):
            before, now = (getattr(settings, f"{kind}_config").to_dict() for settings in (stored, run))
            for name in set(before) - set(FREE_SETTINGS):
                if now[name] != before[name]:
                    raise ValueError(f"resume: the run has {kind} setting {name} = {before[name]!r}, not {now[name]!r}; "
                                     f"only {', '.join(FREE_SETTINGS)} may change")
        require_source(self.path, stored.source, run.source)
        if not checkpoints_in(self.path):
            return None
        checkpoint = load_checkpoint(self.path, allow_nonfinite=True)  # the loop judges the weights, as it did before
        require_source(checkpoint.path, checkpoint.source, run.source)
        if (precision := checkpoint.state.get("precision")) not in (None, *DTYPES):
            raise CheckpointError(f"{checkpoint.path}: its state has precision {precision!r}, must be one of {', '.join(DTYPES)}")
        return checkpoint

    def checkpoint_path(self, step: int) -> Path:
        return self.path / FOLDER_NAME / f"step_{step:08d}{SUFFIX}"

    def last_good(self, failed: int | None = None) -> str:
        """The newest checkpoint, in words; one written before step `failed` if that is given."""
        end = None if failed is None else self.checkpoint_path(failed)
        found = [path for path in checkpoints_in(self.path) if end is None or path < end]
        return str(found[-1]) if found else "none was written"
