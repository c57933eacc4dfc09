"""The book's toy language: 54 words, planted rules, and the exact distribution of every next word.

A document is `<doc>`, a place, and then clauses without end, cut at the wanted length:

    <doc> wood the boys near the tree are tall . ( the girl is new ) . dave baker sees a owl .

The language is *unifilar*: each next-word distribution is a function of the words already seen, never of a hidden draw. So
for every position the target distribution, its entropy (the Bayes floor) and the rule that decides are known exactly. Only
36 distributions occur; a position is described by the index (`row`) of its own.

    rule         what decides                                            what a model needs for it
    open         clause start: "(", "the" or a name; depth limit         the depth at the limit
    noun         12 nouns, uniform
    agree0       near, or is/are, right after the subject                the last word
    agree        the same after one distractor or more                   the first noun of the clause, not the last
    bigram       verb or "and" after a title: one table                  the last word
    adjective    after is/are: one table                                 the last word
    first        title at the first mention of a name: uniform           that the name is new
    induction    title at a later mention: the one it had                the binding made in this document
    suppression  name after "and": not the name before                   a negative contribution
    skip         "place ... a" -> animal: one table                      a word far back
    bracket      ")" or "." of a sentence that opened a bracket          counting
    stop, article, start                                                 (glue: ".", "a" and "the", the place)
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from tensorlm.checks import require, require_whole

FUNCTION = ("<doc>", "the", "near", "is", "are", "and", "a", "(", ")", ".")
PLACES = ("sea", "farm", "zoo", "wood")
ANIMALS = ("whale", "crab", "cow", "hen", "lion", "ape", "owl", "fox")
NAMES = ("alice", "bob", "carol", "dave")
TITLES = ("baker", "king", "nurse", "pilot", "poet", "thief")
VERBS = ("sees", "helps", "finds", "likes")
SINGULAR = ("cat", "dog", "bird", "boy", "girl", "tree")
PLURAL = ("cats", "dogs", "birds", "boys", "girls", "trees")
ADJECTIVES = ("red", "big", "old", "new", "tall", "wet")
WORDS = FUNCTION + PLACES + ANIMALS + NAMES + TITLES + VERBS + SINGULAR + PLURAL + ADJECTIVES
INDEX = {word: index for index, word in enumerate(WORDS)}

RULES = ("start", "open", "noun", "agree0", "agree", "bigram", "adjective", "first", "induction", "suppression", "skip",
         "bracket", "stop", "article")

VERB_TABLE = ((.7, .1, .2, 0), (0, .2, .1, .7), (.7, .1, 0, .2), (0, .7, .2, .1), (.7, 0, .1, .2), (.1, 0, .2, .7))
ADJECTIVE_TABLE = ((.1, .25, 0, .5, .15, 0), (.15, 0, .5, .1, .25, 0))
ANIMAL_TABLE = ((.6, .25, .15, 0, 0, 0, 0, 0), (0, 0, .6, .25, .15, 0, 0, 0),
                (0, 0, 0, 0, .6, .25, .15, 0), (.15, 0, 0, 0, 0, 0, .6, .25))

# blocks of rows: first row of each mode; the comments say what the row within the block is
START, OPEN, NOUN, AFTER_NOUN, ADJECTIVE, TITLE, SECOND_NAME, AFTER_TITLE, ARTICLE, ANIMAL, END = range(11)
BLOCKS = (1, 2, 1, 4, 2, 7, 4, 6, 2, 4, 3)
FIRST_ROW = tuple(sum(BLOCKS[:mode]) for mode in range(len(BLOCKS)))
ROWS = sum(BLOCKS)

# what a word tells within its class: the place, name or title that it is; for nouns 0 singular, 1 plural
ORDER_IN_CLASS = np.array([0] * len(FUNCTION) + [*range(4), *range(8), *range(4), *range(6), *range(4)]
                          + [0] * len(SINGULAR) + [1] * len(PLURAL) + [*range(6)])
WORDS_HASH = hashlib.sha256(" ".join(WORDS).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ToyLanguage:
    """The knobs of the language; the defaults are the frozen "book language".

    `p_name`: a clause is about a name, else about a noun. `p_and`: a second name follows. `p_near`: a distractor follows a noun. `p_open`:
    a bracket opens, below `max_depth`. `stickiness`: a name keeps its first title (else one of the others, uniform). `article`: "the"
    stands before a distractor. Tables: rows by title, by is/are, by place. Raises ValueError naming the field.

    >>> row = BOOK_LANGUAGE.distributions[FIRST_ROW[ANIMAL] + PLACES.index("sea")]
    >>> {WORDS[i]: float(row[i]) for i in np.flatnonzero(row)}
    {'whale': 0.6, 'crab': 0.25, 'cow': 0.15}
    """

    p_name: float = 0.5
    p_and: float = 0.5
    p_near: float = 0.5
    p_open: float = 0.4
    max_depth: int = 3
    stickiness: float = 1.0
    article: bool = True
    verb_table: tuple[tuple[float, ...], ...] = VERB_TABLE
    adjective_table: tuple[tuple[float, ...], ...] = ADJECTIVE_TABLE
    animal_table: tuple[tuple[float, ...], ...] = ANIMAL_TABLE

    def __post_init__(self) -> None:
        for name in ("p_name", "p_and", "p_near", "p_open", "stickiness"):
            value = getattr(self, name)
            require(isinstance(value, int | float | np.floating) and 0 <= value <= 1, name, value, "a probability, 0 to 1")
        require_whole("max_depth", self.max_depth, 0, 99)
        for name, shape in (("verb_table", (6, 4)), ("adjective_table", (2, 6)), ("animal_table", (4, 8))):
            try:
                table = np.array(getattr(self, name), dtype=float)
            except (TypeError, ValueError):  # rows of several lengths, or no numbers
                table = np.empty(0)
            if table.shape != shape or not ((table >= 0).all() and abs(table.sum(-1) - 1).max() <= 1e-9):  # so that NaN fails
                raise ValueError(f"{name} must be {shape[0]} rows of {shape[1]} probabilities that sum to 1")
            object.__setattr__(self, name, tuple(map(tuple, table.tolist())))

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps([WORDS, asdict(self)]).encode()).hexdigest()

    @cached_property
    def distributions(self) -> np.ndarray:
        """All next-word distributions that occur, (36, 54)."""
        table = np.zeros((ROWS, len(WORDS)))
        for row, (_, words) in enumerate(self._rows()):
            for word, probability in words.items():
                table[row, INDEX[word]] += probability
        return table

    @cached_property
    def row_rules(self) -> np.ndarray:
        return np.array([RULES.index(rule) for rule, _ in self._rows()])

    @cached_property
    def entropies(self) -> np.ndarray:
        p = self.distributions
        return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)

    def _rows(self) -> list[tuple[str, dict[str, float]]]:
        clause = {"the": 1 - self.p_name, **_uniform(NAMES, self.p_name)}
        opening = {"(": self.p_open, **{word: (1 - self.p_open) * p for word, p in clause.items()}}
        after_noun = [{"near": self.p_near, verb: 1 - self.p_near} for verb in ("is", "are")]
        again = [{title: self.stickiness, **_uniform({*TITLES} - {title}, 1 - self.stickiness)} for title in TITLES]
        after_title = [{"and": self.p_and, **_weighted(VERBS, row, 1 - self.p_and)} for row in self.verb_table]
        blocks = [
            ("start", [_uniform(PLACES)]),
            ("open", [opening, clause]),                                                # below and at max_depth
            ("noun", [_uniform(SINGULAR + PLURAL)]),
            ("agree0", after_noun),                                                     # by number of the subject
            ("agree", after_noun),
            ("adjective", [_weighted(ADJECTIVES, row) for row in self.adjective_table]),    # by is/are
            ("first", [_uniform(TITLES)]),
            ("induction", again),                                                       # by the title bound
            ("suppression", [_uniform({*NAMES} - {name}) for name in NAMES]),           # by the name before
            ("bigram", after_title),                                                    # by the title
            ("article", [{"a": 1.0}, {"the": 1.0}]),                                    # after a verb, after near
            ("skip", [_weighted(ANIMALS, row) for row in self.animal_table]),           # by the place
            ("bracket", [{")": 1.0}, {".": 1.0}]),                                      # inside; outside again
            ("stop", [{".": 1.0}]),
        ]
        return [(rule, row) for rule, rows in blocks for row in rows]

    @cached_property
    def inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending bounds `row + cdf` and the word below each, exact for draws of 47 bits."""
        row, word = np.nonzero(self.distributions)
        bounds = row + np.concatenate([np.minimum(p[p > 0].cumsum(), 1.0) for p in self.distributions])
        last = np.append(row[1:] != row[:-1], True)
        bounds[last] = row[last] + 1
        return bounds, word

    @cached_property
    def mode_after(self) -> np.ndarray:
        """The mode that each word leads to, (54,): the words are chosen so that the last one tells."""
        after = {"<doc>": START, "(": OPEN, ".": OPEN, ")": END, "the": NOUN, "near": ARTICLE if self.article else NOUN,
                 "is": ADJECTIVE, "are": ADJECTIVE, "and": SECOND_NAME, "a": ANIMAL}
        classes = ((PLACES, OPEN), (ANIMALS, END), (NAMES, TITLE), (TITLES, AFTER_TITLE), (VERBS, ARTICLE),
                   (SINGULAR, AFTER_NOUN), (PLURAL, AFTER_NOUN), (ADJECTIVES, END))
        after.update((word, mode) for words, mode in classes for word in words)
        return np.array([after[word] for word in WORDS])


BOOK_LANGUAGE = ToyLanguage()


def _uniform(words: Collection[str], total: float = 1.0) -> dict[str, float]:
    return {word: total / len(words) for word in words}


def _weighted(words: Iterable[str], weights: Iterable[float], total: float = 1.0) -> dict[str, float]:
    return {word: total * weight for word, weight in zip(words, weights)}
