"""The door to the corpora, and what all of them have in common."""

import numpy as np
import pytest
import torch

from tensorlm.data import load
from tensorlm.data.source import SOURCES, TokenData, as_ids, checked_ids, tuning_split
from tensorlm.data.tokenizer import CharTokenizer
from tensorlm.data.toy import ToyData


def corpus(**changes):
    codec = CharTokenizer("abcdefghij")
    facts = dict(name="letters", tokenizer=codec.id, vocab_size=10, sha256="ab" * 32, train=np.arange(80) % 10,
                 valid=np.arange(30) % 10, bytes_per_token=1.0, codec=codec)
    return TokenData(**{**facts, **changes})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="data must be one of .* got 'tinystories'") as error:
        load("tinystories")
    assert all(name in str(error.value) for name in SOURCES)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="shard"):
        load("toy", shard=3)


def test_shards_and_arrays_are_the_same_corpus():
    whole, parts = corpus(), corpus(train=(np.arange(80) % 10,), valid=(np.arange(30) % 10,))
    assert torch.equal(whole.train_batch(3, 4, 8, 0), parts.train_batch(3, 4, 8, 0))
    assert torch.equal(whole.valid_windows(8), parts.valid_windows(8))
    assert whole.describe() == parts.describe()


def test_a_tuning_split_holds_out_training_text_alone():
    whole = corpus(train=np.repeat(np.arange(8), 10), valid=np.full(30, 9))  # no token of one is in the other
    tuned = tuning_split(whole)
    assert (tuned.train.tolist(), tuned.valid.tolist()) == (whole.train[:72].tolist(), whole.train[72:].tolist())
    assert (tuned.name, tuned.sha256, tuned.bytes_per_token) == ("letters, tuning split", whole.sha256, None)
    shards = tuning_split(corpus(train=(np.arange(10), np.arange(10)[::-1].copy())), 0.2)
    assert [part.tolist() for part in shards.valid] == [[8, 9], [1, 0]] and [len(part) for part in shards.train] == [8, 8]
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 1.0"):
        tuning_split(whole, 1.0)
    with pytest.raises(ValueError, match="toy has no training text"):
        tuning_split(ToyData())


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("tokens, words", [
    (np.arange(5.0), "float64"), (np.zeros((2, 5), dtype=int), r"shape \(2, 5\)"), (np.arange(11), "token ids .* got 10"),
    (np.arange(-1, 5), "token ids .* got -1"), ((np.arange(5), np.arange(12)), "token ids .* got 10"), ([1, 2, 3], "got int "),
    (torch.arange(5), "Tensor"), ((torch.arange(5),), "got Tensor "), (None, "got None"), ("abc", "got 'abc'"),
])
def test_what_is_no_split(split, tokens, words):
    with pytest.raises(ValueError, match=f"{split} must .*{words}"):
        corpus(**{split: tokens})


def test_the_number_of_entries_is_checked():
    with pytest.raises(ValueError, match="vocab_size must be a whole number of at least 1, got 0"):
        corpus(vocab_size=0)


def test_decode_takes_lists_arrays_and_tensors():
    data = corpus()
    assert data.encode("bad") == [1, 0, 3]
    assert data.decode([1, 0, 3]) == data.decode(np.array([1, 0, 3])) == data.decode(torch.tensor([1, 0, 3])) == "bad"
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        data.decode(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="from 0 to 9, got 10"):
        data.decode([10])


def test_a_missing_tokenizer_is_said_plainly():
    with pytest.raises(ValueError, match="letters.*not at hand"):
        corpus(codec=None).decode([1])


def test_ids_are_checked():
    assert checked_ids(np.array([0, 3]), 4) == [0, 3]
    for wrong in ([4], [-1]):
        with pytest.raises(ValueError, match=f"got {wrong[0]}$"):
            checked_ids(wrong, 4)
    assert as_ids(iter([1, 2])) == [1, 2]


def test_toy_and_token_data_have_the_same_interface():
    public = {name for name in dir(corpus()) if not name.startswith("_")} - {"codec"}
    assert public <= set(dir(ToyData()))
