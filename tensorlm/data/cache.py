"""A cache of token ids: built once, checked whenever it is opened, rebuilt where it is damaged.

A file is the SHA-256 of what follows (32 bytes), then the ids as little-endian uint16. The folder is
``TENSORLM_CACHE``, else ``XDG_CACHE_HOME``/tensorlm, else ``~/.cache/tensorlm``. Files are written beside their final
place and moved there, so that another process sees a whole file or none.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

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
