"""Token files: what is written is read, and nothing that is not whole is."""

import struct

import numpy as np
import pytest
import torch

from tensorlm.data import load
from tensorlm.data.shards import HEADER_BYTES, read_shard, write_shard

TOKENS = np.random.default_rng(0).integers(0, 50257, 5000)


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "a.bin", TOKENS)
    return tmp_path / "a.bin"


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_shard(tmp_path / "b.bin", [1, 258, 65535])
    raw = (tmp_path / "b.bin").read_bytes()
    assert raw == struct.pack("<256i", 20240520, 1, 3, *[0] * 253) + struct.pack("<3H", 1, 258, 65535)


def test_round_trip(shard):
    tokens = read_shard(shard, vocab_size=50257)
    assert np.array_equal(tokens, TOKENS) and isinstance(tokens, np.memmap)
    with pytest.raises(ValueError):
        tokens[0] = 1


def damage(raw, kind):
    header, body = raw[:HEADER_BYTES], raw[HEADER_BYTES:]
    field = {"magic": 0, "version": 1, "count": 2}.get(kind)
    if field is not None:
        value = {"magic": 20240521, "version": 2, "count": 0}[kind]
        return header[:4 * field] + struct.pack("<i", value) + header[4 * field + 4:] + body
    return {"cut": raw[:-1], "cut header": raw[:100], "long": raw + b"\0", "empty": b""}[kind]


@pytest.mark.parametrize("kind, message", [
    ("magic", "magic number of a token shard must be 20240520, got 20240521"), ("version", "version of the format must be 1, got 2"),
    ("count", "number of tokens .* at least 1, got 0"), ("cut", "truncated, 11023 bytes, the header says 5000 tokens, which are 11024"),
    ("cut header", "truncated, 100 bytes"), ("long", "too long, 11025 bytes"), ("empty", "truncated, 0 bytes"),
])
def test_a_damaged_file_is_refused(shard, kind, message):
    shard.write_bytes(damage(shard.read_bytes(), kind))
    with pytest.raises(ValueError, match=f"a.bin: .*{message}"):
        read_shard(shard)


def test_ids_are_checked_where_the_vocabulary_is_known(shard):
    largest = int(TOKENS.max())
    assert len(read_shard(shard, vocab_size=largest + 1)) == 5000
    with pytest.raises(ValueError, match=f"token id {largest} at position {int(TOKENS.argmax())} is outside"):
        read_shard(shard, vocab_size=largest)


@pytest.mark.parametrize("tokens, message", [([], r"shape \(0,\)"), ([[1, 2]], r"shape \(1, 2\)"), ([1, 65536], "65536"),
                                             ([-1], "-1 does not fit"), ([0.5], "float64")])
def test_what_cannot_be_written(tmp_path, tokens, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "c.bin", tokens)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(shard):
    before = shard.read_bytes()
    with pytest.raises(ValueError):
        write_shard(shard, [70000])
    assert shard.read_bytes() == before


def test_shards_are_a_corpus(tmp_path):
    paths = [tmp_path / f"{name}.bin" for name in ("one", "two", "valid")]
    for start, path in zip((0, 10_000, 20_000), paths):
        write_shard(path, np.arange(start, start + 500))
    data = load("shards", train=paths[:2], valid=paths[2:])
    batch = data.train_batch(0, 100, 8, seed=0)
    assert (batch[:, 1:] - batch[:, :-1] == 1).all() and set((batch[:, 0] // 10_000).tolist()) == {0, 1}
    assert torch.equal(data.valid_windows(8)[:, 0], torch.arange(20_000, 20_496, 8))
    assert all(isinstance(part, np.memmap) for part in (*data.train, *data.valid))
    assert data.describe().startswith("shards: 1,000 training and 500 validation tokens, tokenizer gpt2 (50,257")


def test_the_first_validation_tokens_across_shards(tmp_path):
    paths = [tmp_path / f"{name}.bin" for name in ("one", "two", "three")]
    for path in paths:
        write_shard(path, np.arange(500))
    data = load("shards", train=paths[:1], valid=paths, valid_tokens=600)
    assert [len(part) for part in data.valid] == [500, 100]


def test_the_hash_tells_corpora_apart(tmp_path):
    for name, tokens in (("a", range(100)), ("b", range(100)), ("c", range(1, 101))):
        write_shard(tmp_path / f"{name}.bin", np.array(tokens))
    hashes = [load("shards", train=[tmp_path / f"{n}.bin"], valid=[tmp_path / "a.bin"]).sha256 for n in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_hash_tells_validation_sets_apart(tmp_path):
    a, b, c = paths = [tmp_path / f"{name}.bin" for name in "abc"]
    for start, path in enumerate(paths):
        write_shard(path, np.arange(start, start + 100))
    corpora = [load("shards", train=[a], valid=[b, c], valid_tokens=count) for count in (None, 50, 60)]
    corpora.append(load("shards", train=[a, b], valid=[c]))
    assert len({data.sha256 for data in corpora}) == 4
    assert corpora[1].sha256 == load("shards", train=[a], valid=[b, c], valid_tokens=50).sha256


@pytest.mark.parametrize("count", [-5, 0, 2.5])
def test_the_number_of_validation_tokens_is_checked(shard, count):
    with pytest.raises(ValueError, match=f"valid_tokens must be a whole number of at least 1, got {count}"):
        load("shards", train=[shard], valid=[shard], valid_tokens=count)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_one_path_is_one_shard(shard, kind):
    one, listed = load("shards", train=kind(shard), valid=kind(shard)), load("shards", train=[shard], valid=[shard])
    assert one.sha256 == listed.sha256 and one.train[0].tolist() == listed.train[0].tolist()


def test_tokenizers_of_shards(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(300))
    ours = load("shards", train=[path], valid=[path], tokenizer="bpe1024")
    assert ours.decode(ours.encode("O Romeo!")) == "O Romeo!" and ours.vocab_size == 1024
    foreign = load("shards", train=[path], valid=[path], tokenizer="mine", vocab_size=300)
    assert foreign.vocab_size == 300
    with pytest.raises(ValueError, match="tokenizer 'mine' is not at hand"):
        foreign.decode([1])
    with pytest.raises(ValueError, match="vocab_size=None: must be given for tokenizer='mine'"):
        load("shards", train=[path], valid=[path], tokenizer="mine")
    with pytest.raises(ValueError, match="id 299 at position 299"):
        load("shards", train=[path], valid=[path], tokenizer="mine", vocab_size=299)
    with pytest.raises(ValueError, match="valid must be at least one shard"):
        load("shards", train=[path], valid=[])
    with pytest.raises(FileNotFoundError):
        load("shards", train=[tmp_path / "absent.bin"], valid=[path])
