"""How a table of measurements came about, in a JSON file beside it."""

from pathlib import Path
from typing import Any

from tensorlm.files import write_json
from tensorlm.provenance import environment


def write_provenance(table: Path, command: str, data: Any = None, **more: Any) -> None:
    """Write `table` with the suffix .json: command, commit, versions, threads, processor features, corpus."""
    record = {"command": command, **environment(), **more}
    if data is not None:
        record.update(corpus=data.name, corpus_sha256=data.sha256, tokenizer=data.tokenizer)
    write_json(table.with_suffix(".json"), record)
