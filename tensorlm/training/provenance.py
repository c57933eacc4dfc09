"""Where a number comes from: versions, threads, processor features, and the state of the code."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGE = Path(__file__).resolve().parent.parent


def environment(threads: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """What a result depends on besides its settings, JSON-safe.

    ``commit`` is that of the repository that the package lies in (None for an installed package), ``uncommitted``
    lists the files of the package that differ from it.

    >>> sorted(environment())
    ['commit', 'cpu_capability', 'device', 'numpy', 'python', 'threads', 'torch', 'uncommitted']
    """
    commit, uncommitted = code_state(PACKAGE)
    return dict(commit=commit, uncommitted=uncommitted, torch=torch.__version__, numpy=np.__version__,
                python=platform.python_version(), threads=threads or torch.get_num_threads(), device=device,
                cpu_capability=torch.backends.cpu.get_cpu_capability())


def code_state(folder: Path) -> tuple[str | None, list[str]]:
    """(commit, changed or new files) of a folder that git keeps; (None, []) for any other folder."""
    if not _git(folder, "ls-files", "."):
        return None, []
    changed = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", ".")
    return _git(folder, "rev-parse", "HEAD").strip(), sorted(line[3:] for line in changed.splitlines())


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
