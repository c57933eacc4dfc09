"""The toy language against a slow reading of its rules, written from the description and not from the package's tables."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from tensorlm.data import load
from tensorlm.data.toy import ToyData
from tensorlm.data.toy.corpus import kl_by_rule, sample_documents
from tensorlm.data.toy.language import BOOK_LANGUAGE, RULES, WORDS, ToyLanguage
from tensorlm.data.toy.prompts import next_words

PLANTED = ("agree0", "agree", "bigram", "adjective", "first", "induction", "suppression", "skip", "bracket")
PLACE_WORDS = "sea farm zoo wood".split()
NAME_WORDS = "alice bob carol dave".split()
TITLE_WORDS = "baker king nurse pilot poet thief".split()
VERB_WORDS = "sees helps finds likes".split()
ANIMAL_WORDS = "whale crab cow hen lion ape owl fox".split()
ADJECTIVE_WORDS = "red big old new tall wet".split()
ONE = "cat dog bird boy girl tree".split()
MANY = [word + "s" for word in ONE]

KNOBS = {
    "book": BOOK_LANGUAGE,
    "no article": ToyLanguage(article=False),
    "loose": ToyLanguage(p_name=0.7, p_and=0.3, p_near=0.6, p_open=0.5, max_depth=2, stickiness=0.8),
    "flat": ToyLanguage(p_open=0.9, max_depth=0),
    "other tables": ToyLanguage(verb_table=((0.25,) * 4,) * 6, adjective_table=((1, 0, 0, 0, 0, 0),) * 2),
}


def even(words, total=1.0):
    return {word: total / len(words) for word in words}


def spread(words, weights, total=1.0):
    return {word: total * weight for word, weight in zip(words, weights) if weight}


def reference(language, words):
    """Rule and distribution of the word after `words`, from these words alone."""
    last, place, sentence = words[-1], words[1] if len(words) > 1 else None, []
    for word in words[2:]:
        sentence = [] if word == "." else sentence + [word]
    clause = sentence
    while "(" in clause:
        clause = clause[clause.index("(") + 1:]
    inside = sentence.count("(") - sentence.count(")")
    nouns = [word for word in clause if word in ONE + MANY]
    if last == "<doc>":
        return "start", even(PLACE_WORDS)
    if last in (place, ".", "("):
        rest = {"the": 1 - language.p_name, **even(NAME_WORDS, language.p_name)}
        down = language.p_open if inside < language.max_depth else 0
        return "open", {"(": down, **{word: (1 - down) * p for word, p in rest.items()}}
    if last == "the" or (last == "near" and not language.article):
        return "noun", even(ONE + MANY)
    if last == "near":
        return "article", {"the": 1.0}
    if last in ONE + MANY:
        verb = "is" if nouns[0] in ONE else "are"
        return "agree0" if len(nouns) == 1 else "agree", {"near": language.p_near, verb: 1 - language.p_near}
    if last in ("is", "are"):
        return "adjective", spread(ADJECTIVE_WORDS, language.adjective_table[last == "are"])
    if last in NAME_WORDS:
        before = [follower for name, follower in zip(words, words[1:]) if name == last]
        if not before:
            return "first", even(TITLE_WORDS)
        others = [title for title in TITLE_WORDS if title != before[0]]
        return "induction", {before[0]: language.stickiness, **even(others, 1 - language.stickiness)}
    if last == "and":
        return "suppression", even([name for name in NAME_WORDS if name != words[-3]])
    if last in TITLE_WORDS:
        verbs = spread(VERB_WORDS, language.verb_table[TITLE_WORDS.index(last)], 1 - language.p_and)
        return "bigram", {"and": language.p_and, **verbs}
    if last in VERB_WORDS:
        return "article", {"a": 1.0}
    if last == "a":
        return "skip", spread(ANIMAL_WORDS, language.animal_table[PLACE_WORDS.index(place)])
    assert last in [*ADJECTIVE_WORDS, *ANIMAL_WORDS, ")"]
    if inside:
        return "bracket", {")": 1.0}
    return "bracket" if "(" in sentence else "stop", {".": 1.0}


def disagreements(batch, language):
    """Number of positions where the package and the slow reading differ in rule or target."""
    targets, rules, wrong = batch.targets.numpy(), batch.rules.numpy(), 0
    for document, row in enumerate(batch.tokens.tolist()):
        words = [WORDS[token] for token in row]
        for t in range(len(words) - 1):
            rule, distribution = reference(language, words[: t + 1])
            row_of_target = np.array([distribution.get(word, 0.0) for word in WORDS])
            wrong += rule != RULES[rules[document, t]] or not np.array_equal(row_of_target, targets[document, t])
    return wrong


@pytest.fixture(scope="module")
def large():
    return sample_documents(BOOK_LANGUAGE, documents=4096, length=64, seed=0)


@pytest.mark.parametrize("name", KNOBS)
def test_targets_and_rules_follow_from_the_visible_words_alone(name):
    language = KNOBS[name]
    batch = sample_documents(language, documents=150, length=80, seed=5)
    assert disagreements(batch, language) == 0


def test_the_slow_reading_notices_another_language():
    batch = sample_documents(BOOK_LANGUAGE, documents=20, length=64, seed=0)
    for knob in (dict(p_near=0.4), dict(max_depth=2), dict(stickiness=0.9)):
        assert disagreements(batch, replace(BOOK_LANGUAGE, **knob)) > 0


def test_the_book_language_is_frozen():
    """Chapters print figures of this language: words, tables, knobs and the documents of seed 0 must never change."""
    tokens = sample_documents(BOOK_LANGUAGE, documents=64, length=65, seed=0).tokens.numpy()
    assert BOOK_LANGUAGE.sha256[:16] == "fc37bf53a598cf76"
    assert hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:16] == "ab1f412491eb666c"
    assert replace(BOOK_LANGUAGE, p_near=0.6).sha256 != BOOK_LANGUAGE.sha256 == ToyLanguage().sha256


def test_targets_are_distributions_and_the_drawn_word_is_possible(large):
    targets = large.targets
    assert torch.allclose(targets.sum(-1), torch.ones(()).double(), atol=1e-12) and targets.min() >= 0
    assert targets.gather(2, large.tokens[:, 1:, None]).min() > 0


def test_words_are_drawn_from_their_targets(large):
    """Frequencies of each row against its probabilities: within five standard errors, and not for shuffled rows."""
    counts = torch.zeros(len(large.language.distributions), len(WORDS), dtype=torch.float64)
    counts.index_put_((large.rows.flatten(), large.tokens[:, 1:].flatten()), torch.ones(()).double(), accumulate=True)
    p, n = torch.from_numpy(large.language.distributions), counts.sum(1, keepdim=True)
    assert (n > 300).all()                                                  # every row occurs
    error = (p * (1 - p) / n).sqrt()
    assert ((counts / n - p).abs() <= 5 * error + 1e-12).all()
    assert not ((counts / n - p.roll(1, 0)).abs() <= 5 * error.roll(1, 0) + 1e-12).all()


def test_the_floor_is_the_mean_surprisal(large):
    surprisal = -large.targets.gather(2, large.tokens[:, 1:, None]).log().mean().item()
    assert surprisal == pytest.approx(large.floor, abs=0.005)
    assert large.floor == pytest.approx(0.971, abs=0.005)
    assert sample_documents(ToyLanguage(article=False), 4096, 64, seed=0).floor == pytest.approx(1.024, abs=0.005)


def test_every_planted_rule_decides_at_least_four_percent(large):
    planted = [RULES.index(rule) for rule in PLANTED]
    assert torch.bincount(large.rules.flatten())[planted].min() / large.rows.numel() > 0.045


def test_brackets_reach_the_depth_limit_and_no_further(large):
    ids = {word: WORDS.index(word) for word in "()"}
    depth = ((large.tokens == ids["("]).int() - (large.tokens == ids[")"]).int()).cumsum(1)
    assert depth.max() == 3 and depth.min() == 0


def test_kl_by_rule_is_zero_for_the_truth_and_finds_the_broken_rule(large):
    batch = large.pick(slice(0, 256))
    exact = kl_by_rule(batch.targets.log(), batch)
    assert set(exact) == {*RULES, "all"} and max(map(abs, exact.values())) < 1e-12
    forgetful = batch.targets.clone()
    titles = [WORDS.index(word) for word in TITLE_WORDS]
    where = batch.rules == RULES.index("induction")
    forgetful[where] = torch.zeros(len(WORDS)).double().index_fill(0, torch.tensor(titles), 1 / 6)
    broken = kl_by_rule(forgetful.log().float(), batch)
    assert broken["induction"] == pytest.approx(np.log(6), abs=1e-6)
    assert max(abs(value) for rule, value in broken.items() if rule not in ("induction", "all")) < 1e-5
    assert broken["all"] == pytest.approx(np.log(6) * where.double().mean().item(), rel=1e-4)


def test_kl_is_expected_loss_minus_floor(large):
    batch = large.pick(slice(0, 64))
    logits = torch.randn(64, 63, 54, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected_loss = -(batch.targets * logits.log_softmax(-1)).sum(-1).mean().item()
    assert kl_by_rule(logits, batch)["all"] == pytest.approx(expected_loss - batch.floor, abs=1e-10)
    with pytest.raises(ValueError, match=r"logits must have shape \(64, 63, 54\), got \(64, 64, 54\)"):
        kl_by_rule(torch.zeros(64, 64, 54), batch)


def test_documents_are_a_stream_of_their_seed():
    data = ToyData()
    small = torch.cat([data.train_batch(step, 4, 32, seed=2) for step in range(300)])       # crosses a block of 1024
    large = torch.cat([data.train_batch(step, 300, 32, seed=2) for step in range(4)])
    assert torch.equal(small, large) and small.shape == (1200, 33)
    assert len({tuple(row) for row in small.tolist()}) > 1190
    assert not torch.equal(small[:4], data.train_batch(0, 4, 32, seed=3))
    halves = [data.train_batch(255, 4, 32, seed=2, rows=slice(2 * rank, 2 * rank + 2)) for rank in range(2)]
    assert torch.equal(torch.cat(halves), small[1020:1024])


def test_a_longer_context_continues_the_same_documents():
    data = ToyData()
    assert torch.equal(data.train_batch(3, 8, 40, seed=0), data.train_batch(3, 8, 90, seed=0)[:, :41])


def test_validation_documents_are_no_training_documents():
    data = ToyData(valid_documents=50)
    valid = {tuple(row) for row in data.valid_windows(64).tolist()}
    assert len(valid) == 50
    assert not any(valid & {tuple(row) for row in data.train_batch(0, 200, 64, seed).tolist()} for seed in range(5))
    batch = data.valid_batch(64)
    assert torch.equal(batch.tokens, data.valid_windows(64)) and batch.rows.shape == (50, 64)


def test_annotations_belong_to_the_batch():
    data = ToyData()
    batch = data.annotated_batch(7, 16, 48, seed=1)
    assert torch.equal(batch.tokens, data.train_batch(7, 16, 48, seed=1))
    assert disagreements(batch, BOOK_LANGUAGE) == 0


def test_words_and_ids():
    data = load("toy")
    text = "<doc> sea ( the cats near the dog are old ) ."
    assert data.decode(data.encode(text)) == text and data.vocab_size == 54 == len(set(WORDS))
    with pytest.raises(ValueError, match="not in the language: cow's, whales"):
        data.encode("the whales cow's a")
    assert "changed language" in load("toy", language=ToyLanguage(p_and=0.1)).describe()


@pytest.mark.parametrize("knob, message", [
    (dict(p_near=1.2), "p_near must be .* got 1.2"), (dict(stickiness=-0.1), "stickiness must be .* got -0.1"),
    (dict(p_open=float("nan")), "p_open must be .* got nan"),
    (dict(max_depth=-1), "max_depth must be .* got -1"), (dict(max_depth=1.5), "max_depth must be .* got 1.5"),
    (dict(verb_table=((1, 0, 0, 0),) * 5), "verb_table must be 6 rows of 4"),
    (dict(adjective_table=((0.5, 0, 0, 0, 0, 0),) * 2), "adjective_table"),
    (dict(animal_table=((2, -1, 0, 0, 0, 0, 0, 0),) * 4), "animal_table"),
    (dict(verb_table=((float("nan"), 0.5, 0.25, 0.25),) * 6), "verb_table must be 6 rows of 4 probabilities"),
    (dict(verb_table=((1, 0), (1,))), "verb_table must be"), (dict(verb_table="abc"), "verb_table must be"),
    (dict(p_name=float("nan")), "p_name must be .* got nan"), (dict(p_and="half"), "p_and must be .* got 'half'"),
    (dict(max_depth=True), "max_depth must be .* got True"),
])
def test_errors_name_the_knob(knob, message):
    with pytest.raises(ValueError, match=message):
        ToyLanguage(**knob)


@pytest.mark.parametrize("arguments, name", [(dict(documents=0), "documents must .* got 0"), (dict(length=1), "length must .* got 1"),
                                             (dict(seed=-1), "seed must .* got -1")])
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ValueError, match=name):
        sample_documents(BOOK_LANGUAGE, **{**dict(documents=2, length=8, seed=0), **arguments})
    with pytest.raises(ValueError, match="valid_documents must be a whole number .* got 0"):
        ToyData(valid_documents=0)
    with pytest.raises(ValueError, match="valid_documents must be a whole number from 1 to 1048576, got 10000000"):
        ToyData(valid_documents=10**7)
    with pytest.raises(TypeError, match="language must be a ToyLanguage, got str"):
        load("toy", language="book")


@pytest.mark.parametrize("tokens", [torch.tensor([[0, 54]]), torch.tensor([[0, -1]]), torch.tensor([[0.0, 1.0]])])
def test_what_comes_next_is_asked_of_words_alone(tokens):
    with pytest.raises(ValueError, match="tokens must "):
        next_words(tokens)


def test_the_hash_of_the_corpus_covers_its_validation_set():
    assert ToyData().sha256 == load("toy").sha256 == ToyData(valid_documents=1024).sha256
    corpora = (ToyData(), ToyData(valid_documents=50), ToyData(replace(BOOK_LANGUAGE, p_near=0.6)))
    assert len({data.sha256 for data in corpora}) == 3
