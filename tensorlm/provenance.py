"""How a result came about: the versions, threads, processor and commit behind it."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGE = Path(__file__).resolve().parent
RELEASED = PACKAGE / "released" / "results"


def environment() -> dict[str, Any]:
    """What a result depends on besides its settings: versions, threads, processor, commit, files changed since."""
    return dict(zip(("commit", "uncommitted"), code_state(PACKAGE)), torch=torch.__version__, numpy=np.__version__,
                python=platform.python_version(), threads=torch.get_num_threads(), device="cpu",
                cpu_capability=torch.backends.cpu.get_cpu_capability())


def code_state(folder: Path) -> tuple[str | None, list[str]]:
    """(commit, changed or new files) of a folder that git keeps, else (None, [])."""
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
