"""Prompts of the toy language in pairs that differ in one word, each with the exact distribution of what comes next.

    agreement    <doc> farm the bird is new . the cat near the boys  |  ... the cats near the boys    is, are or near
    bigram       <doc> farm carol baker                              |  <doc> farm carol pilot        the verb of the title
    skip         <doc> sea the dogs are old . bob king likes a       |  <doc> wood the dogs ...       the animal of the place

What differs stands at one position, so that a vector from one kind to the other can be injected there and nowhere else.
"""

from dataclasses import dataclass

import numpy as np
import torch

from tensorlm.checks import require_counts, require_one_of, require_whole
from tensorlm.data.toy import language as lang
from tensorlm.data.toy.corpus import Registers
from tensorlm.data.toy.language import BOOK_LANGUAGE, INDEX, WORDS, ToyLanguage


@dataclass(frozen=True)
class PromptPairs:
    """`tokens` and `twins` (count, length) int64 differ at `position`; targets (count, 54) are distributions."""

    tokens: torch.Tensor
    twins: torch.Tensor
    position: int
    language: ToyLanguage = BOOK_LANGUAGE

    @property
    def targets(self) -> torch.Tensor:
        return next_words(self.tokens, self.language)

    @property
    def twin_targets(self) -> torch.Tensor:
        return next_words(self.twins, self.language)

    def text(self, prompt: int = 0) -> str:
        """One prompt, the word that differs with its twin."""
        words = [WORDS[i] for i in self.tokens[prompt]]
        words[self.position] += "|" + WORDS[self.twins[prompt, self.position]]
        return " ".join(words)


def next_words(tokens: torch.Tensor, language: ToyLanguage = BOOK_LANGUAGE) -> torch.Tensor:
    """The exact distribution of the word after each document: (documents, length) -> (documents, 54); else ValueError."""
    documents = np.asarray(tokens)
    if documents.ndim != 2 or documents.shape[1] < 1 or documents.dtype.kind not in "iu" or (documents[:, 0] != INDEX["<doc>"]).any():
        raise ValueError(f"tokens must be whole numbers (documents, length), <doc> first, got {documents.dtype} {documents.shape}")
    if documents.size and not (0 <= documents.min() and documents.max() < len(WORDS)):
        raise ValueError(f"tokens must lie from 0 to {len(WORDS) - 1}, got {documents.min()} to {documents.max()}")
    registers = Registers(language, len(documents))
    for t, words in enumerate(documents.T[1:], 1):
        impossible = language.distributions[registers.rows(), words] == 0
        if impossible.any():
            at = int(impossible.argmax())
            raise ValueError(f"tokens: document {at} cannot go on with {WORDS[words[at]]!r} at position {t}")
        registers.read(words)
    return torch.from_numpy(language.distributions[registers.rows()])


def agreement_prompts(count: int, distractors: int = 1, seed: int = 0, language: ToyLanguage = BOOK_LANGUAGE) -> PromptPairs:
    """A clause, then a subject (singular, twin plural) with `distractors` nouns between it and the verb to come."""
    require_whole("distractors", distractors)
    draw = _Draws(count, seed)
    start = [draw.word(["<doc>"]), draw.word(lang.PLACES), *_noun_clause(draw, language), draw.word(["the"])]
    link = ["near", "the"] if language.article else ["near"]
    far = [part for _ in range(distractors) for part in (*map(draw.fixed, link), draw.word(lang.SINGULAR + lang.PLURAL))]
    return _pairs(start, draw.word(lang.SINGULAR), draw.word(lang.PLURAL), far, language)


def bigram_prompts(count: int, title: str = "baker", twin: str = "pilot", seed: int = 0,
                   language: ToyLanguage = BOOK_LANGUAGE) -> PromptPairs:
    """A clause, then a name with `title` (`twin`), which alone decides the verb: 54 words, one table."""
    _require_words(lang.TITLES, title=title, twin=twin)
    draw = _Draws(count, seed)
    start = [draw.fixed("<doc>"), draw.word(lang.PLACES), *_noun_clause(draw, language), draw.word(lang.NAMES)]
    return _pairs(start, draw.fixed(title), draw.fixed(twin), [], language)


def skip_prompts(count: int, place: str = "sea", twin: str = "wood", seed: int = 0, language: ToyLanguage = BOOK_LANGUAGE) -> PromptPairs:
    """`place` (`twin`), a clause, then a name's clause up to "a": the place far back decides the animal."""
    _require_words(lang.PLACES, place=place, twin=twin)
    draw = _Draws(count, seed)
    title = draw.word(lang.TITLES)
    rest = [*_noun_clause(draw, language), draw.word(lang.NAMES), title,
            draw.from_table(language.verb_table, lang.ORDER_IN_CLASS[title], lang.VERBS), draw.fixed("a")]
    return _pairs([draw.fixed("<doc>")], draw.fixed(place), draw.fixed(twin), rest, language)


class _Draws:
    """Columns of words (count,), from the raw stream of PCG64, which NumPy keeps the same in all versions."""

    def __init__(self, count: int, seed: int) -> None:
        require_counts(count=count)
        require_whole("seed", seed)
        self.count, self._bits = count, np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,)))

    def uniform(self) -> np.ndarray:
        return (self._bits.random_raw(self.count) >> np.uint64(17)) * 2.0**-47

    def fixed(self, word: str) -> np.ndarray:
        return np.full(self.count, INDEX[word])

    def word(self, words) -> np.ndarray:
        return np.array([INDEX[word] for word in words])[(self.uniform() * len(words)).astype(np.int64)]

    def from_table(self, table, rows: np.ndarray, words) -> np.ndarray:
        bounds = np.array(table).cumsum(-1)[rows]
        return np.array([INDEX[word] for word in words])[(self.uniform()[:, None] * bounds[:, -1:] >= bounds).sum(-1)]


def _noun_clause(draw: _Draws, language: ToyLanguage) -> list[np.ndarray]:
    noun = draw.word(lang.SINGULAR + lang.PLURAL)
    number = lang.ORDER_IN_CLASS[noun]
    adjective = draw.from_table(language.adjective_table, number, lang.ADJECTIVES)
    return [draw.fixed("the"), noun, np.where(number == 1, INDEX["are"], INDEX["is"]), adjective, draw.fixed(".")]


def _pairs(before: list, word: np.ndarray, twin: np.ndarray, after: list, language: ToyLanguage) -> PromptPairs:
    tokens, twins = (torch.from_numpy(np.stack([*before, column, *after], axis=1).astype(np.int64)) for column in (word, twin))
    return PromptPairs(tokens, twins, len(before), language)


def _require_words(allowed: tuple[str, ...], **words: str) -> None:
    for name, word in words.items():
        require_one_of(name, word, allowed)
    if len(set(words.values())) < len(words):
        raise ValueError(f"{' and '.join(words)} must differ, got {', '.join(words.values())}")
