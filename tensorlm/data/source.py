"""What a corpus of tokens is (`TokenData`), and the one door to all of them (`load`)."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import numpy as np
import torch

from tensorlm.checks import require, require_counts, require_one_of
from tensorlm.data import batches

# name -> (module, function): modules are imported when asked for, so that no source needs another one's packages
SOURCES = {
    "shakespeare": ("tensorlm.data.shakespeare", "load_shakespeare"),
    "text": ("tensorlm.data.shakespeare", "load_text"),
    "toy": ("tensorlm.data.toy.corpus", "ToyData"),
    "shards": ("tensorlm.data.shards", "load_shards"),
    "fineweb": ("tensorlm.data.fineweb", "load_fineweb"),
}


class Codec(Protocol):
    """Text to token ids and back; `id` names the tokenizer and contains a hash of its table."""

    id: str
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: Iterable[int]) -> str: ...


@dataclass(frozen=True, eq=False)
class TokenData:
    """A tokenised corpus with its split.

    `train` and `valid` are 1-D integer arrays, or tuples of such arrays (shards) that no window crosses. `tokenizer` is the
    id of the tokenizer, `sha256` the hash of the corpus, `bytes_per_token` the mean UTF-8 length of a validation token
    (None: unknown): nats per token / ln 2 / bytes_per_token are bits per byte. Raises ValueError for other arrays, and for
    an id outside 0 .. vocab_size - 1; ids in memory-mapped arrays are looked at where they are opened.

    >>> data = TokenData("count", "numbers", 100, "0" * 64, train=np.arange(80), valid=np.arange(80, 100))
    >>> data.train_batch(step=0, batch_size=2, context=8, seed=0).shape, data.valid_windows(4).shape
    (torch.Size([2, 9]), torch.Size([4, 5]))
    >>> data.describe()
    'count: 80 training and 20 validation tokens, tokenizer numbers (100 entries), sha256 000000000000'
    """

    name: str
    tokenizer: str
    vocab_size: int
    sha256: str
    train: np.ndarray | Sequence[np.ndarray] = field(repr=False)
    valid: np.ndarray | Sequence[np.ndarray] = field(repr=False)
    bytes_per_token: float | None = None
    codec: Codec | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_counts(vocab_size=self.vocab_size)
        for split, tokens in (("train", self.train), ("valid", self.valid)):
            require(isinstance(tokens, np.ndarray | list | tuple), split, tokens, "an array of token ids or a tuple of such")
            for part in as_parts(tokens):
                _check_part(split, part, self.vocab_size)

    def train_batch(self, step: int, batch_size: int, context: int, seed: int, rows: slice | None = None) -> torch.Tensor:
        return batches.train_batch(as_parts(self.train), step, batch_size, context, seed, rows)

    def valid_windows(self, context: int) -> torch.Tensor:
        """The whole validation set in windows that start `context` apart: (n, context + 1) int64."""
        return batches.all_windows(as_parts(self.valid), context)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; ValueError where the tokenizer is not at hand or does not know a character."""
        return self._codec().encode(text)

    def decode(self, tokens: Iterable[int] | torch.Tensor) -> str:
        return self._codec().decode(as_ids(tokens))

    def describe(self) -> str:
        train, valid = (sum(len(part) for part in as_parts(tokens)) for tokens in (self.train, self.valid))
        return (f"{self.name}: {train:,} training and {valid:,} validation tokens, tokenizer {self.tokenizer} "
                f"({self.vocab_size:,} entries), sha256 {self.sha256[:12]}")

    def _codec(self) -> Codec:
        if self.codec is None:
            raise ValueError(f"{self.name}: the tokenizer {self.tokenizer!r} is not at hand, only its token ids are")
        return self.codec


def tuning_split(data: TokenData, share: float = 0.1) -> TokenData:
    """The same corpus with the last `share` of each part of its *training* text held out, to choose settings on.

    Raises ValueError unless 0 < share < 1, and for a corpus that is not a text.
    """
    if not isinstance(data, TokenData):
        raise ValueError(f"data: {getattr(data, 'name', data)} has no training text of which a part could be held out")
    require(0 < share < 1, "share", share, "between 0 and 1")
    cut = [(part, int((1 - share) * len(part))) for part in as_parts(data.train)]
    train, valid = tuple(part[:end] for part, end in cut), tuple(part[end:] for part, end in cut)
    split = (train[0], valid[0]) if isinstance(data.train, np.ndarray) else (train, valid)
    return dataclasses.replace(data, name=f"{data.name}, tuning split", train=split[0], valid=split[1], bytes_per_token=None)


def as_parts(tokens: np.ndarray | Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return [tokens] if isinstance(tokens, np.ndarray) else tokens


def _check_part(split: str, part: np.ndarray, vocab_size: int) -> None:
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in "iu":
        got = f"{type(part).__name__} {getattr(part, 'dtype', '')} of shape {getattr(part, 'shape', ())}"
        raise ValueError(f"{split} must be one-dimensional NumPy arrays of whole numbers, got {got}")
    if len(part) and not isinstance(part, np.memmap) and not (0 <= part.min() and part.max() < vocab_size):
        bad = part[(part < 0) | (part >= vocab_size)][0]
        raise ValueError(f"{split} must hold token ids from 0 to {vocab_size - 1}, the entries of the tokenizer, got {bad}")


def as_ids(tokens: Iterable[int] | torch.Tensor) -> list[int]:
    array = np.asarray(tokens.cpu() if isinstance(tokens, torch.Tensor) else list(tokens), dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"tokens must be one sequence, got shape {tuple(array.shape)}")
    return array.tolist()


def checked_ids(tokens: Iterable[int], vocab_size: int) -> list[int]:
    ids = [int(token) for token in tokens]
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ValueError(f"tokens must be from 0 to {vocab_size - 1}, got {token}")
    return ids


def checked_text(text: str) -> str:
    """The text; ValueError where it is none, or has half of a surrogate pair, which UTF-8 cannot spell."""
    require(isinstance(text, str), "text", text, "a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"text must be characters, got the lone surrogate U+{code:04X} at position {error.start}") from None
    return text


def decode_utf8(raw: bytes, path: Path) -> str:
    """The text of a file without a byte order mark; ValueError where it is not UTF-8."""
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"path={str(path)!r}: not UTF-8 text, byte {error.start} is {raw[error.start]:#04x}") from None


def load(name: str, **options) -> TokenData:
    """Open a corpus by name. What is missing raises with the line that installs it; nothing stands in for it.

    | name | corpus | options |
    | --- | --- | --- |
    | shakespeare | 38 plays, four whole plays held out | `tokenizer="bpe4096"`, "bpe1024" or "chars" |
    | text | any UTF-8 file, last tenth held out | `path`, `tokenizer="chars"`, "bpe1024" or "bpe4096" |
    | toy | the book's language with known rules | `language=ToyLanguage(...)`, `valid_documents` |
    | shards | your own token files | `train=[...]`, `valid=[...]`, `tokenizer`, `vocab_size` |
    | fineweb | web text in GPT-2 tokens, fetched once | `shards=1`, `valid_tokens`, `cache`, `endpoint` |

    >>> load("toy").describe()[:36]
    'toy: endless training documents and '
    """
    require_one_of("data", name, sorted(SOURCES))
    return resolve_name(":".join(SOURCES[name]))(**options)


def read_options(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options from text: JSON, or else text; what the corpus takes as text only is never read as JSON."""
    hints = get_type_hints(resolve_name(":".join(SOURCES[name]))) if name in SOURCES else {}
    found: dict[str, Any] = {}
    for option, text in texts.items():
        kinds = get_args(hints.get(option)) or (hints.get(option),)
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        except (ValueError, RecursionError) as error:
            raise ValueError(f"option {option}: {error}") from None
        lists = isinstance(value, list) and any(get_origin(kind) is Iterable for kind in kinds)
        found[option] = text if str in kinds and not lists else value
    return found
