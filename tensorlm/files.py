"""Files that are either the old one or the complete new one, whenever the process dies; and folders with one owner."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError

LOCK = "lock"
DRAFT = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; ValueError with ``where`` for any that cannot be read (too deep and too long ones too).

    >>> parse_json("[" * 100_000, "run.json")
    Traceback (most recent call last):
    ValueError: run.json is not JSON that can be read: maximum recursion depth exceeded ...
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON that can be read: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write(temporary)`` make a file, force it to disk, then give it the name ``path`` in one step.

    Raises OSError, which names ``path``, where that fails (a full disk); what stood there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        _force_to_disk(temporary)
        os.replace(temporary, path)
        _force_to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def not_written(path: Path, error: Exception) -> OSError:
    """An OSError that says which file could not be written, and why."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return OSError(f"{path}: could not be written: {reason} (what stood there before is whole)")


def drafts_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """What :func:`write_atomically` leaves in ``folder`` where it is killed: (name of the file meant, its draft)."""
    for path in folder.glob(".*.tmp"):
        if match := DRAFT.fullmatch(path.name):
            yield match["name"], path


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only owner of an existing ``folder`` for the body, by a lock that the system gives back when a process dies.

    Raises ValueError where another process (or another call in this one) is its owner. The file ``lock`` stays.
    """
    with open(folder / LOCK, "a") as file:
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):
            raise ValueError(f"out {str(folder)!r}: another process trains in this folder; wait until it has ended, or "
                             f"name another folder (nothing was changed)") from None
        except OSError as error:
            warnings.warn(f"{folder}: cannot be locked here ({error.strerror}); nothing keeps a second process out", stacklevel=3)
        yield


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _force_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


DIGEST_BYTES = 32


def cache_dir() -> Path:
    """The folder of all caches of the package (it need not exist yet)."""
    if os.environ.get("TENSORLM_CACHE"):
        return Path(os.environ["TENSORLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorlm"


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path``, complete, when the block ends well, and not at all where it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def cached_ids(key: str, build: Callable[[], np.ndarray]) -> np.ndarray:
    """The uint16 ids stored under ``key``, or those that ``build`` makes, which are then stored.

    The key must name all that the ids depend on. A damaged file is built again with a warning, and where nothing can
    be written a warning says so. Raises ValueError where an id does not fit in 16 bits.
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
        with atomic_writer(path) as file:
            file.write(hashlib.sha256(payload).digest() + payload)
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
