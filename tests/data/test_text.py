"""Any text file, and the split of the character benchmarks."""

import hashlib

import pytest

from tensorlm.data import load


def test_the_split_is_that_of_the_benchmark(tmp_path):
    """1,115,394 characters, as many as tiny-shakespeare: int(0.9 n) of them train."""
    path = tmp_path / "same_length.txt"
    path.write_bytes((b"to be or not to be\n" * 60_000)[:1_115_394])
    data = load("text", path=path)
    assert (len(data.train), len(data.valid)) == (1_003_854, 111_540)
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.bytes_per_token == 1.0 and data.vocab_size == len(set("to be or not to be\n"))


def test_the_text_comes_back_exactly_and_line_ends_stay(tmp_path):
    text = "Ein Mädchen\r\nsah 🎭\n" * 20
    path = tmp_path / "mixed.txt"
    path.write_bytes(text.encode())
    for tokenizer in ("chars", "bpe1024", "bpe4096"):
        data = load("text", path=str(path), tokenizer=tokenizer)
        assert data.decode(data.train) + data.decode(data.valid) == text
        assert data.bytes_per_token == pytest.approx(len(data.decode(data.valid).encode()) / len(data.valid))


def test_the_alphabet_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "late.txt"
    path.write_text("a" * 95 + "z" * 5)
    assert load("text", path=path).vocab_size == 2


def test_a_byte_order_mark_is_no_letter(tmp_path):
    text = "to be or not to be\n" * 10
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_bytes(text.encode())
    marked.write_bytes(text.encode("utf-8-sig"))
    for tokenizer in ("chars", "bpe1024"):
        a, b = (load("text", path=path, tokenizer=tokenizer) for path in (plain, marked))
        assert a.tokenizer == b.tokenizer and (a.train == b.train).all() and b.decode(b.train).startswith("to be")
    plain.write_bytes(("a\ufeff" * 20).encode())  # inside a text it is a character like any other
    assert load("text", path=plain).vocab_size == 2


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        load("text", path=tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 10)
    with pytest.raises(ValueError, match="not UTF-8 text, byte 3 is 0xe9"):
        load("text", path=tmp_path / "latin.txt")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ValueError, match="5 characters are too few"):
        load("text", path=tmp_path / "short.txt")
    (tmp_path / "good.txt").write_text("good " * 10)
    with pytest.raises(ValueError, match="tokenizer must be one of .* got 'gpt5'"):
        load("text", path=tmp_path / "good.txt", tokenizer="gpt5")
