"""How a released table came about, in a JSON file beside it."""

import json
import platform
from pathlib import Path
from typing import Any

import torch


def write_provenance(table: Path, command: str, data: Any = None, **more: Any) -> None:
    """Write `table` with the suffix .json: command, versions, threads, processor features, corpus."""
    record = dict(command=command, torch=torch.__version__, python=platform.python_version(),
                  threads=torch.get_num_threads(), cpu_capability=torch.backends.cpu.get_cpu_capability(), **more)
    if data is not None:
        record.update(corpus=data.name, corpus_sha256=data.sha256, tokenizer=data.tokenizer)
    table.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
