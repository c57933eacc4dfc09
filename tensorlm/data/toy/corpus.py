"""Documents of the toy language, each position with its exact target and its rule, and the corpus made of them.

All documents of a block advance together, one word at a time; the state of a document is a few registers that point at one
row of the table of distributions. Documents of one seed form an endless stream: row `r` of step `s` is document `s *
batch_size + r`, and a longer context continues the same documents.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tensorlm.checks import require, require_counts, require_instance, require_whole
from tensorlm.data.batches import check_batch
from tensorlm.data.source import as_ids, checked_ids
from tensorlm.data.toy import language as lang
from tensorlm.data.toy.language import BOOK_LANGUAGE, INDEX, RULES, WORDS, ToyLanguage

BLOCK = 1024                # documents drawn at a time
TRAIN, VALID = 0, 1         # streams of documents that never meet


class Registers:
    """What the words so far leave behind, for all documents at once: arrays of shape (documents,)."""

    def __init__(self, language: ToyLanguage, documents: int) -> None:
        self.language, self.all = language, np.arange(documents)
        self.mode = np.full(documents, lang.START)
        self.place, self.depth, self.nouns = np.zeros((3, documents), dtype=np.int64)
        self.number, self.name, self.title = np.zeros((3, documents), dtype=np.int64)
        self.opened = np.zeros(documents, dtype=bool)
        self.bound = np.full((documents, len(lang.NAMES)), -1)      # title of each name, -1 before its first mention

    def rows(self) -> np.ndarray:
        """Index of the distribution of the next word: first row of the mode's block, plus what decides within it."""
        within = np.zeros((len(lang.BLOCKS), len(self.all)), dtype=np.int64)
        within[lang.OPEN] = self.depth >= self.language.max_depth
        within[lang.AFTER_NOUN] = self.number + 2 * (self.nouns > 1)
        within[lang.ADJECTIVE] = self.number
        within[lang.TITLE] = self.bound[self.all, self.name] + 1
        within[lang.SECOND_NAME] = self.name
        within[lang.AFTER_TITLE] = self.title
        within[lang.ARTICLE] = self.nouns > 0
        within[lang.ANIMAL] = self.place
        within[lang.END] = np.where(self.depth > 0, 0, np.where(self.opened, 1, 2))
        return np.array(lang.FIRST_ROW)[self.mode] + within[self.mode, self.all]

    def read(self, words: np.ndarray) -> None:
        mode, order = self.language.mode_after[words], lang.ORDER_IN_CLASS[words]
        noun, title = mode == lang.AFTER_NOUN, mode == lang.AFTER_TITLE
        self.number = np.where(noun & (self.nouns == 0), order, self.number)
        self.nouns = np.where(mode == lang.OPEN, 0, self.nouns + noun)
        self.name = np.where(mode == lang.TITLE, order, self.name)
        self.title = np.where(title, order, self.title)
        new = self.all[title & (self.bound[self.all, self.name] < 0)]
        self.bound[new, self.name[new]] = order[new]
        self.place = np.where(self.mode == lang.START, order, self.place)
        self.depth = self.depth + (words == INDEX["("]) - (words == INDEX[")"])
        self.opened = (self.opened | (words == INDEX["("])) & (words != INDEX["."])
        self.mode = mode


@dataclass(frozen=True)
class ToyBatch:
    """Documents with all that is known of them: `tokens` (documents, length), `rows` (documents, length - 1), int64.

    Position t of rows, rules and targets belongs to the prediction of `tokens[:, t + 1]`.
    """

    language: ToyLanguage
    tokens: torch.Tensor
    rows: torch.Tensor

    @property
    def rules(self) -> torch.Tensor:
        return torch.from_numpy(self.language.row_rules)[self.rows]

    @property
    def targets(self) -> torch.Tensor:
        return torch.from_numpy(self.language.distributions)[self.rows]

    @property
    def floor(self) -> float:
        """Exact Bayes floor of these documents, nats per token: the mean entropy of their target distributions."""
        return torch.from_numpy(self.language.entropies)[self.rows].mean().item()

    def text(self, document: int = 0) -> str:
        return " ".join(WORDS[i] for i in self.tokens[document])

    def pick(self, documents: slice | torch.Tensor) -> "ToyBatch":
        return ToyBatch(self.language, self.tokens[documents], self.rows[documents])


def sample_documents(language: ToyLanguage, documents: int, length: int, seed: int, stream: tuple[int, ...] = ()) -> ToyBatch:
    """Documents of `length` words, a pure function of the arguments; `stream` tells apart sets of one seed."""
    require_counts(documents=documents)
    require_whole("length", length, 2)
    require_whole("seed", seed)
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw((length - 1, documents))
    tokens = np.full((length, documents), INDEX["<doc>"])
    rows = np.empty((length - 1, documents), dtype=np.int64)
    bounds, words = language.inverse
    registers = Registers(language, documents)
    for t, draws in enumerate((raw >> np.uint64(17)) * 2.0**-47):
        rows[t] = registers.rows()
        tokens[t + 1] = words[np.searchsorted(bounds, rows[t] + draws, side="right")]
        registers.read(tokens[t + 1])
    return ToyBatch(language, *(torch.from_numpy(np.ascontiguousarray(array.T)) for array in (tokens, rows)))


def grammatical(tokens: torch.Tensor, language: ToyLanguage = BOOK_LANGUAGE) -> torch.Tensor:
    """Whether texts (documents, length) that begin with `<doc>` are still possible after each word: (documents, length), bool.

    From the first word with probability 0 on, all are False. Raises ValueError for other ids or another first word.

    >>> data = ToyData()
    >>> text = torch.tensor([data.encode("<doc> wood the boys are tall . ."), data.encode("<doc> wood the boys is tall . the")])
    >>> grammatical(text).sum(1).tolist()
    [7, 4]
    """
    require_instance("tokens", tokens, torch.Tensor)
    words = tokens.cpu().numpy()
    fits = words.ndim == 2 and words.size and words.dtype == np.int64 and 0 <= words.min() <= words.max() < len(WORDS)
    fits = fits and (words[:, 0] == INDEX["<doc>"]).all()
    require(fits, "tokens", tokens, f"ids 0 .. {len(WORDS) - 1} of texts (documents, length) that begin with <doc>")
    registers, possible = Registers(language, len(words)), np.ones(words.shape, dtype=bool)
    for t in range(1, words.shape[1]):
        possible[:, t] = possible[:, t - 1] & (language.distributions[registers.rows(), words[:, t]] > 0)
        registers.read(np.where(possible[:, t], words[:, t], INDEX["."]))
    return torch.from_numpy(possible)


@lru_cache(maxsize=4)
def _block(language: ToyLanguage, length: int, seed: int, split: int, block: int) -> ToyBatch:
    return sample_documents(language, BLOCK, length, seed, stream=(split, block))


@dataclass(frozen=True)
class ToyData:
    """The toy language as a corpus, with the interface of `TokenData` (`train` and `valid` are endless: None).

    >>> data = ToyData()
    >>> data.train_batch(step=0, batch_size=32, context=64, seed=0).shape
    torch.Size([32, 65])
    >>> round(data.valid_batch(64).floor, 2)                # nats per token: nothing predicts better
    0.97
    """

    language: ToyLanguage = BOOK_LANGUAGE
    valid_documents: int = 1024

    name = "toy"
    vocab_size = len(WORDS)
    train = valid = bytes_per_token = None

    def __post_init__(self) -> None:
        require_instance("language", self.language, ToyLanguage)
        require_whole("valid_documents", self.valid_documents, 1, 2**20)  # they are held in memory

    @property
    def tokenizer(self) -> str:
        return f"words{len(WORDS)}-{lang.WORDS_HASH}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.language.sha256} {self.valid_documents}".encode()).hexdigest()

    def annotated_batch(self, step: int, batch_size: int, context: int, seed: int, rows: slice | None = None) -> ToyBatch:
        """Fresh documents of `context + 1` words; `rows` picks rows of the global batch."""
        check_batch(step, batch_size, context, seed)
        numbers = step * batch_size + np.arange(batch_size)[rows or slice(None)]
        return self._documents(numbers, context + 1, seed, TRAIN)

    def train_batch(self, step: int, batch_size: int, context: int, seed: int, rows: slice | None = None) -> torch.Tensor:
        return self.annotated_batch(step, batch_size, context, seed, rows).tokens

    def valid_batch(self, context: int) -> ToyBatch:
        """The validation documents, `context + 1` words each: a stream of its own that no training seed meets."""
        require_counts(context=context)
        return self._documents(np.arange(self.valid_documents), context + 1, 0, VALID)

    def valid_windows(self, context: int) -> torch.Tensor:
        return self.valid_batch(context).tokens

    def _documents(self, numbers: np.ndarray, length: int, seed: int, split: int) -> ToyBatch:
        blocks, places = np.divmod(numbers, BLOCK)
        picked = [_block(self.language, length, seed, split, int(b)).pick(torch.from_numpy(places[blocks == b])) for b in np.unique(blocks)]
        return ToyBatch(self.language, *(torch.cat([getattr(p, name) for p in picked]) for name in ("tokens", "rows")))

    def encode(self, text: str) -> list[int]:
        """Ids of words separated by blanks; ValueError names the words that the language lacks."""
        unknown = sorted({word for word in text.split() if word not in INDEX})
        if unknown:
            raise ValueError(f"text: words that are not in the language: {', '.join(unknown)}")
        return [INDEX[word] for word in text.split()]

    def decode(self, tokens: Iterable[int] | torch.Tensor) -> str:
        return " ".join(WORDS[i] for i in checked_ids(as_ids(tokens), len(WORDS)))

    def table(self) -> dict[str, Any]:
        """What a page encodes and decodes with: the words by id."""
        return {"kind": "words", "words": list(WORDS)}

    def describe(self) -> str:
        kind = "book language" if self.language == BOOK_LANGUAGE else "changed language"
        return (f"toy: endless training documents and {self.valid_documents:,} validation documents, {kind}, tokenizer "
                f"{self.tokenizer} ({self.vocab_size} entries), sha256 {self.sha256[:12]}")


def kl_by_rule(logits: torch.Tensor, batch: ToyBatch) -> dict[str, float]:
    """Excess loss of a model by rule: mean KL(target || model) in nats, and over all positions under `"all"`.

    `logits` (documents, length - 1, 54) are those of `model(batch.tokens[:, :-1])`, normalised or not. Rules that do not
    occur are left out. ValueError for another shape.
    """
    if logits.shape != (*batch.rows.shape, len(WORDS)):
        raise ValueError(f"logits must have shape {(*batch.rows.shape, len(WORDS))}, got {tuple(logits.shape)}")
    rules, targets = batch.rules, batch.targets
    log_q = torch.log_softmax(logits.detach().double().cpu(), dim=-1)
    cross = -torch.where(targets > 0, targets * log_q, 0.0).sum(-1)
    kl = cross - torch.from_numpy(batch.language.entropies)[batch.rows]
    by_rule = {rule: kl[rules == i].mean().item() for i, rule in enumerate(RULES) if (rules == i).any()}
    return {**by_rule, "all": kl.mean().item()}
