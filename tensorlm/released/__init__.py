"""What the book measured and trained, shipped with the package so that every reader has it, on Colab too.

`results/*.csv` are tables written by a command of ours, each with a provenance file beside it (`*.json`: command,
versions, threads, corpus hash). `checkpoints/*.safetensors` are trained models, each with a card (`*.json`).
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def checkpoint(name: str) -> Path:
    """Path of a released model, for `tensorlm.training.load_model`; FileNotFoundError lists the models there are."""
    return _find("checkpoints", name, ".safetensors")


def card(name: str) -> dict[str, Any]:
    """How a released model was trained: corpus, tokens, seconds, loss, seed, command. ValueError where its file is damaged."""
    path = _find("checkpoints", name, ".json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not the card of a model: {error}") from None


def results(name: str) -> pd.DataFrame:
    """A released table as a data frame, empty cells as NaN."""
    import pandas as pd

    return pd.read_csv(_find("results", name, ".csv"), keep_default_na=False, na_values=[""])


def _find(folder: str, name: str, suffix: str) -> Path:
    place = Path(str(files(__name__) / folder))
    path = place / f"{name}{suffix}"
    if not path.is_file():
        known = sorted(file.stem for file in place.glob(f"*{suffix}"))
        raise FileNotFoundError(f"no released {folder[:-1]} {name!r}; there are {known}")
    return path
