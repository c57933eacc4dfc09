"""Tables of measurements as CSV, and how each came about in a JSON file beside it."""

import csv
from pathlib import Path
from typing import Any

from tensorlm.files import write_json
from tensorlm.training.device import environment


def write_table(path: Path, fields: list[str], rows: list[dict]) -> None:
    """Write rows as CSV with these columns; raises ValueError for a row with another one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


def write_provenance(table: Path, command: str, data: Any = None, **more: Any) -> None:
    """Write `table` with the suffix .json: command, commit, versions, threads, processor features, corpus."""
    record = {"command": command, **environment(), **more}
    if data is not None:
        record.update(corpus=data.name, corpus_sha256=data.sha256, tokenizer=data.tokenizer)
    write_json(table.with_suffix(".json"), record)
