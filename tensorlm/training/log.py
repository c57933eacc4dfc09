"""What a run says about itself: rows in a CSV file, and a line on the screen."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from tensorlm.files import not_written, write_atomically

Row = dict[str, Any]
COLUMNS = {"step": int, "tokens": int, "loss": float, "loss_valid": float, "grad_norm": float, "lr_scale": float,
           "anneal": float, "skipped": int, "seconds": float, "cpu_seconds": float, "tokens_per_second": float}


class CsvLog:
    """The rows of a run in ``path``, one flushed line each. Empty cells are values that the row does not have."""

    def __init__(self, path: Path, keep_until: int = 0) -> None:
        """Start the file, keeping the rows up to step ``keep_until`` of a former attempt (``.rows``)."""
        self.rows = [row for row in read_csv(path) if row["step"] <= keep_until] if path.exists() else []
        write_atomically(path, self._write_kept)
        self.path, self._file = path, open(path, "a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def _write_kept(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)
            csv.writer(file).writerows(_cells(row) for row in self.rows)

    def append(self, row: Row) -> None:
        """Add one row."""
        try:
            self._writer.writerow(_cells(row))
            self._file.flush()
        except OSError as error:
            raise not_written(self.path, error) from None

    def sync(self) -> None:
        """Force all rows to the disk, before a checkpoint relies on them."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(self.path, error) from None

    def close(self) -> None:
        """Close the file; every row was flushed when it came, so a failure here has been told already."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_csv(path: Path) -> list[Row]:
    """The rows of a log; a line that was cut off while being written is left out. ValueError for what is no log."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in file.read().split("\n")[:-1] if line]
        cells = [dict(zip(COLUMNS, values)) for values in csv.reader(lines[1:])]
        return [{name: COLUMNS[name](text) if text or name == "step" else None for name, text in row.items()}
                for row in cells if len(row) == len(COLUMNS)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: is not the log of a run: {error}") from None


def say(text: str) -> None:
    """Print a text at once, as far as the terminal can."""
    print(printable(text), flush=True)


def printable(text: str) -> str:
    """The text with a question mark for each character that standard output cannot print."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def progress_for(steps: int, progress: str | Callable[[Row], None] | None, done: int = 0) -> Callable[[Row], None]:
    """A function that shows the rows after step ``done``.

    ``progress`` None shows nothing; "bar" a live bar; "plain" a line each; "auto" the bar on a terminal and lines
    elsewhere; a function is taken as it is. Raises ValueError for anything else.
    """
    if progress is None:
        return lambda row: None
    if callable(progress):
        return progress
    if progress not in ("auto", "bar", "plain"):
        raise ValueError(f"progress {progress!r}: must be None, 'auto', 'bar', 'plain' or a function of one row")
    bar = progress == "bar" or progress == "auto" and sys.stderr.isatty()
    return BarProgress(steps, done) if bar else PlainProgress(steps)


class PlainProgress:
    """One printed line a row, for logs and pipes."""

    def __init__(self, steps: int, file: TextIO | None = None) -> None:
        self.steps, self.file = steps, file

    def __call__(self, row: Row) -> None:
        print(f"step {row['step']}/{self.steps}  {describe(row)}  {_time_left(row, self.steps)} left",
              file=self.file or sys.stdout, flush=True)


class BarProgress:
    """A live bar with loss, tokens a second and time left."""

    def __init__(self, steps: int, done: int = 0) -> None:
        self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def __call__(self, row: Row) -> None:
        self._bar.update(row["step"] - self._bar.n)
        self._bar.set_postfix_str(describe(row))
        if self._bar.n >= self._bar.total:
            self._bar.close()


def describe(row: Row) -> str:
    """A row in a few words."""
    valid = "" if row["loss_valid"] is None else f"  held-out {row['loss_valid']:.4f}"
    skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
    return f"loss {row['loss']:.4f}{valid}  {row['tokens_per_second']:,.0f} tokens/s{skipped}"


def _time_left(row: Row, steps: int) -> str:
    seconds = round(row["seconds"] / row["step"] * (steps - row["step"]))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _cells(row: Row) -> list[Any]:
    return ["" if row[name] is None else row[name] for name in COLUMNS]
