"""Token files of the speedrun: a header of 256 little-endian int32, then the tokens as little-endian uint16.

Header: [0] = 20240520, [1] = version 1, [2] = number of tokens, the rest 0 (the format of llm.c and modded-nanogpt). Files
are memory-mapped; header and length are checked whenever one is opened.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tensorlm.checks import require, require_counts
from tensorlm.data.source import TokenData
from tensorlm.data.tokenizer import COMMITTED, Gpt2Tokenizer, open_tokenizer
from tensorlm.files import as_uint16, write_atomically

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
CHUNK_TOKENS = 1 << 24
Files = str | Path | Iterable[str | Path]


def write_shard(path: str | Path, tokens: Sequence[int] | np.ndarray) -> None:
    """Write a shard; it appears at `path` complete or not at all. ValueError for what are no 16-bit ids in one sequence."""
    ids = as_uint16(tokens)
    if ids.ndim != 1 or not 0 < len(ids) < 2**31:
        raise ValueError(f"tokens: shape {ids.shape}, must be one-dimensional with 1 to {2**31 - 1} tokens")
    header = np.zeros(256, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(ids)
    write_atomically(Path(path), lambda draft: np.concatenate([header.view("<u2"), ids]).tofile(draft))


def read_shard(path: str | Path, vocab_size: int | None = None) -> np.ndarray:
    """The tokens of a shard, memory-mapped and read-only; with `vocab_size` the file is read through for ids outside it.

    Raises FileNotFoundError, and ValueError saying what is wrong.
    """
    path = Path(path)
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise ValueError(f"{path.name}: truncated, {size} bytes are less than the header of {HEADER_BYTES}")
    magic, version, count = np.fromfile(path, dtype="<i4", count=3).tolist()
    require(magic == MAGIC, f"{path.name}: the magic number of a token shard", magic, str(MAGIC))
    require(version == VERSION, f"{path.name}: the version of the format", version, str(VERSION))
    require(count >= 1, f"{path.name}: the number of tokens in the header", count, "at least 1")
    expected = HEADER_BYTES + 2 * count
    if size != expected:
        raise ValueError(f"{path.name}: {'truncated' if size < expected else 'too long'}, {size} bytes, "
                         f"the header says {count} tokens, which are {expected}")
    tokens = np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
    for start in range(0, count if vocab_size else 0, CHUNK_TOKENS):
        piece = tokens[start : start + CHUNK_TOKENS]
        if piece.max() >= (vocab_size or 0):
            at = int(np.argmax(piece >= vocab_size))
            raise ValueError(f"{path.name}: token id {piece[at]} at position {start + at} is outside the {vocab_size} "
                             "entries of the tokenizer")
    return tokens


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_shards(name: str, train: Files, valid: Files, tokenizer: str = "gpt2", vocab_size: int | None = None,
                valid_tokens: int | None = None, digests: Sequence[str] | None = None) -> TokenData:
    """A corpus over shard files; `digests` are their SHA-256 in order, where they are known already."""
    train, valid = _paths(train), _paths(valid)
    require_counts(valid_tokens=1 if valid_tokens is None else valid_tokens)
    for split, paths in (("train", train), ("valid", valid)):
        require(paths, split, paths, "at least one shard")
    codec = Gpt2Tokenizer() if tokenizer == "gpt2" else open_tokenizer(tokenizer) if tokenizer in COMMITTED else None
    entries = vocab_size or (codec.vocab_size if codec else None)
    if entries is None:
        raise ValueError(f"vocab_size=None: must be given for tokenizer={tokenizer!r}, whose table is not at hand")
    digests = digests or [sha256_of_file(path) for path in train + valid]
    identity = ["".join(digests[:len(train)]), "".join(digests[len(train):]), str(valid_tokens or "")]
    digest = hashlib.sha256("/".join(identity).encode()).hexdigest()
    parts, held_out = (tuple(read_shard(path, entries) for path in paths) for paths in (train, valid))
    held_out = _first(held_out, valid_tokens)
    return TokenData(name, codec.id if codec else tokenizer, entries, digest, parts, held_out, codec=codec)


def _paths(files: Files) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]


def _first(parts: tuple[np.ndarray, ...], count: int | None) -> tuple[np.ndarray, ...]:
    """The first `count` tokens of the parts (all for None)."""
    if count is None:
        return parts
    kept = []
    for part in parts:
        kept.append(part[:count])
        count -= len(kept[-1])
    return tuple(part for part in kept if len(part))


def load_shards(train: Files, valid: Files, tokenizer: str = "gpt2", vocab_size: int | None = None,
                valid_tokens: int | None = None) -> TokenData:
    """Your own shard files (one or several a split) as a corpus, memory-mapped.

    `tokenizer` names theirs ("gpt2", "bpe4096", "bpe1024", or a name of yours, which needs `vocab_size`). `valid_tokens`
    keeps only the first so many validation tokens. Raises as `read_shard` does.
    """
    return open_shards("shards", train, valid, tokenizer, vocab_size, valid_tokens)
