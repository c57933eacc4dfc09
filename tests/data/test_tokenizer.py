"""Tokenizers are exact on every text, and the committed ones are what our command makes."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import pytest
from book_files import ROOT
from hypothesis import given, settings, strategies

from tensorlm.data import tokenizer
from tensorlm.data.shakespeare import HELD_OUT, plays, training_plays
from tensorlm.data.tokenizer import BpeTokenizer, CharTokenizer, canonical_table, open_tokenizer, train_bpe

TEXT = strategies.text(strategies.characters(exclude_categories=("Cs",)), max_size=60)
BPE = {name: open_tokenizer(name) for name in tokenizer.COMMITTED}


@settings(max_examples=200)
@given(TEXT)
def test_bpe_is_exact_on_any_text(text):
    for codec in BPE.values():
        assert codec.decode(codec.encode(text)) == text


@settings(max_examples=100)
@given(TEXT.filter(bool))
def test_chars_are_exact_on_any_text(text):
    codec = CharTokenizer(text)
    assert codec.decode(codec.encode(text)) == text
    assert codec.vocab_size == len(set(text)) and max(codec.encode(text)) < codec.vocab_size


def test_no_text_encodes_to_the_end_of_text_token():
    for codec in BPE.values():
        spelled = f"one{tokenizer.END_OF_TEXT}two"
        assert codec.end_of_text not in codec.encode(spelled)
        assert codec.decode(codec.encode(spelled)) == spelled
        assert codec.decode([codec.end_of_text]) == tokenizer.END_OF_TEXT


@pytest.mark.parametrize("text, named", [("hex", "'x'"), ("he\U0001f3ad", "'🎭'"), ("h\x00", r"'\\x00'")])
def test_unknown_characters_are_named(text, named):
    with pytest.raises(ValueError, match=f"alphabet of 4 entries: {named}"):
        CharTokenizer("hello").encode(text)


def test_ids_outside_the_table_are_refused():
    with pytest.raises(ValueError, match="from 0 to 4095, got 4096"):
        BPE["bpe4096"].decode([1, 4096])
    with pytest.raises(ValueError, match="got -1"):
        CharTokenizer("ab").decode([-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", tokenizer.COMMITTED)
def test_the_committed_table_is_reproducible(name):
    table = train_bpe(training_plays().values(), entries=BPE[name].vocab_size)
    assert BpeTokenizer(table, name).id == BPE[name].id


def test_a_table_that_saw_the_held_out_plays_would_be_another():
    assert not set(HELD_OUT) & set(training_plays())
    table = train_bpe(plays().values(), entries=1024)
    assert BpeTokenizer(table, "bpe1024").id != BPE["bpe1024"].id


def test_ids_tell_tables_apart():
    texts = ["the cat and the hat and the mat"]
    small, large = (BpeTokenizer(train_bpe(texts, entries)) for entries in (260, 262))
    assert small.id != large.id and small.id == BpeTokenizer(train_bpe(texts, 260)).id
    assert CharTokenizer("abc").id == CharTokenizer("cba").id != CharTokenizer("abd").id


def test_both_spellings_of_merges_are_one_table():
    pairs = train_bpe(["a rose is a rose"], 262)
    loaded = json.loads(pairs)
    loaded["model"]["merges"] = [" ".join(pair) for pair in loaded["model"]["merges"]]
    assert canonical_table(json.dumps(loaded)) == canonical_table(pairs)
    loaded["model"]["merges"].reverse()
    assert canonical_table(json.dumps(loaded)) != canonical_table(pairs)


def changed(change):
    """The JSON of bpe1024 with something else in it."""
    table = json.loads((files("tensorlm.data") / "assets" / "bpe1024.json").read_text(encoding="utf-8"))
    change(table)
    return json.dumps(table)


@pytest.mark.parametrize("change", [
    lambda t: t.update(normalizer={"type": "Lowercase"}), lambda t: t.update(decoder=None),
    lambda t: t["pre_tokenizer"].update(add_prefix_space=True), lambda t: t["pre_tokenizer"].update(use_regex=False),
    lambda t: t["model"].update(dropout=0.5), lambda t: t["model"]["merges"].reverse(),
    lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 1024, "content": "<x>"}),
])
def test_the_id_counts_all_that_decides_an_encoding(change):
    assert BpeTokenizer(changed(change), "bpe1024").id != BPE["bpe1024"].id


def test_the_ids_of_released_models_stay(tmp_path):
    assert [codec.id for codec in BPE.values()] == ["bpe1024-57e438ce", "bpe4096-86940699"]
    assert BpeTokenizer(changed(lambda t: t.pop("normalizer")), "bpe1024").id == BPE["bpe1024"].id  # another spelling


@pytest.mark.parametrize("table, message", [
    ("", "EOF while parsing"), ("{}", "Model missing"), ("[" * 100_000, "invalid type"), (changed(lambda t: None)[:9000], "EOF"),
    (changed(lambda t: t["model"]["vocab"].popitem()), "out of vocabulary"), (changed(lambda t: t.pop("model")), "Model missing"),
    (changed(lambda t: t["model"]["vocab"].update({"xx": 2000})), "must number its entries from 0"),
    ('{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}', "no BPE"),
])
def test_a_damaged_table_is_refused_by_name(table, message):
    with pytest.raises(ValueError, match=f"tokenizer 'mine': .*{message}"):
        BpeTokenizer(table, "mine")


def test_half_a_surrogate_pair_and_what_is_no_text_are_refused():
    for codec in (*BPE.values(), CharTokenizer("ab")):
        with pytest.raises(ValueError, match=r"text must be characters, got the lone surrogate U\+D83D at position 2"):
            codec.encode("ab\ud83d")
        with pytest.raises(ValueError, match="text must be a str, got b"):
            codec.encode(b"ab")
    for make in (CharTokenizer, lambda text: train_bpe([text], 300)):
        with pytest.raises(ValueError, match="lone surrogate"):
            make("ab\udfff")


@pytest.mark.parametrize("entries, message", [(256, "entries must be at least 257"), (5000, "no more than")])
def test_impossible_tables_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        train_bpe(["few words"], entries)


def test_the_command_trains_without_a_word_of_warning(tmp_path):
    text, out = tmp_path / "corpus.txt", tmp_path / "mine.json"
    text.write_text("a rose is a rose is a rose", encoding="utf-8-sig")  # with a byte order mark
    command = [sys.executable, ROOT / "scripts" / "train_tokenizer.py", "--entries", "260", "--text", text, "--out", out]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    codec = BpeTokenizer(out.read_text(), "mine")
    assert done.stdout.startswith(f"{codec.id}: 260 entries") and done.stderr == ""
    assert codec.id == BpeTokenizer(train_bpe(["a rose is a rose is a rose"], 260), "mine").id
