"""Whole files or none, whenever the process dies; JSON and CSV tables; the cache."""

import contextlib
import csv
import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

DIGEST_BYTES = 32


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let `write(draft)` make a file `.NAME.NUMBER.tmp`, force it to disk, then give it the name `path` in one step.

    Raises OSError, which names `path`, where that fails (a full disk); what stood there stays.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().int}.tmp")
    mask = os.umask(0)
    os.umask(mask)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        os.chmod(draft, 0o666 & ~mask)
        force_to_disk(draft)
        os.replace(draft, path)
        force_to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def force_to_disk(path: Path) -> None:
    """Have the system write what it still holds of a file or a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: Path, error: Exception) -> OSError:
    """An OSError that says which file could not be written, and why."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return OSError(f"{path}: could not be written: {reason} (what stood there before is whole)")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; ValueError with `where` for any that cannot be read, too deep and too long ones too."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON that can be read: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, lambda draft: draft.write_text(json.dumps(value, indent=1) + "\n"))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV table atomically, None as an empty cell; ValueError for a row with a column that is not in `columns`."""
    def write(draft: Path) -> None:
        with open(draft, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def cache_dir() -> Path:
    """The folder of all caches of the package (it need not exist yet)."""
    given = os.environ.get("TENSORLM_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorlm"


def cached_ids(key: str, build: Callable[[], np.ndarray]) -> np.ndarray:
    """The uint16 ids stored under `key`, which names all that they depend on, or those of `build()`, which are then stored.

    A damaged file is built again, and where nothing can be written the ids are built each time: both with a warning.
    """
    path = cache_dir() / f"{key}.ids"
    if path.exists():
        raw = path.read_bytes()
        if len(raw) % 2 == 0 and hashlib.sha256(raw[DIGEST_BYTES:]).digest() == raw[:DIGEST_BYTES]:
            return np.frombuffer(raw, dtype="<u2", offset=DIGEST_BYTES)
        warnings.warn(f"{path}: the cache file is damaged, it is built again", stacklevel=2)
    ids = as_uint16(build())
    payload = ids.tobytes()
    try:
        write_atomically(path, lambda draft: draft.write_bytes(hashlib.sha256(payload).digest() + payload))
    except OSError as error:
        warnings.warn(f"{path}: the cache cannot be written ({error}); set TENSORLM_CACHE to a folder of yours, "
                      "else the text is encoded each time", stacklevel=2)
    return ids


def as_uint16(ids: np.ndarray | Sequence[int]) -> np.ndarray:
    """Ids as little-endian uint16; ValueError where they are not integers, or names the first that does not fit."""
    ids = np.asarray(ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"tokens: dtype {ids.dtype}, must be integers")
    if ids.size and not (0 <= ids.min() and ids.max() < 2**16):
        bad = ids[(ids < 0) | (ids >= 2**16)][0]
        raise ValueError(f"tokens: id {bad} does not fit in 16 bits (0 .. 65535)")
    return ids.astype("<u2")
