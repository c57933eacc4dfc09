"""A rule of a language model proven for every text of a shape, by sets of words instead of one text after the other.

A shape has a set of words at each position; its texts are all choices of one word from each, so that their number grows
exponentially with the length. In an exactly polynomial model with bilinear attention a position reads a *sum* over earlier
ones: what the words of one position (with the one before, whose keys are mixed in) can add is a finite set of vectors, and
these sets are carried on instead of texts. Products of two deviations go into a box. At the last position the rest of the
model is one quadratic form in the stream, f(m + d) = f(m) + grad . d + d^T Q d: the linear term is bounded choice by choice
and the quadratic one along the eigenvectors of Q. The price grows with the square of the length.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tensorlm.checks import require, require_instance, require_one_of, require_whole
from tensorlm.data.toy import language as lang
from tensorlm.layers.attention import Attention
from tensorlm.model.transformer import Block, TensorTransformer
from tensorlm.proofs.compact import Proof
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.spectral import interaction

METHODS = ("every text", "shared", "sets")
BRANCHES = (("q1", "k1"), ("q2", "k2"))
TEXTS_AT_A_TIME = 4096
MOST_BLOCKS = 2


@dataclass(frozen=True)
class WordRule:
    """Texts with one of `words[i]` at position i (ids); for each last word the answer and the rivals it must beat."""

    words: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, tuple[int, ...]], ...]

    def __post_init__(self):
        require(self.words and all(self.words), "words", self.words, "a set of words at each position, none empty")
        fits = len(self.answers) == len(self.words[-1]) and all(them and it not in them for it, them in self.answers)
        require(fits, "answers", self.answers, f"{len(self.words[-1])} pairs, one a last word, of an answer and its rivals")

    @property
    def inputs(self) -> int:
        return math.prod(map(len, self.words))


class Reach(NamedTuple):
    """All that a vector can be, a word a row: centre + for each source one of its choices + something in +- box.

    Shapes: centre and box (words, ...); choices (words, choices, ...), those of all sources in a row; source (choices,), the
    number of the source of each.
    """

    centre: Tensor
    choices: Tensor
    source: Tensor
    box: Tensor

    def map(self, matrix: Tensor) -> "Reach":
        return Reach(self.centre @ matrix.mT, self.choices @ matrix.mT, self.source, self.box @ matrix.abs().mT)

    def radius(self) -> Tensor:
        """Of every entry, how far it can be from the centre: (words, ...)."""
        return self.box + greatest(self.choices.abs(), self.source)

    def parts(self, change: Callable[[Tensor], Tensor]) -> "Reach":
        """With the features changed, in all tensors alike."""
        return Reach(change(self.centre), change(self.choices), self.source, change(self.box))


def greatest(values: Tensor, source: Tensor) -> Tensor:
    """The sum over sources of the greatest of its choices: values (words, choices, ...) -> (words, ...)."""
    if not len(source):
        return torch.zeros_like(values.sum(1))
    index = source.view(1, -1, *[1] * (values.ndim - 2)).expand_as(values)
    shape = len(values), int(source[-1]) + 1, *values.shape[2:]
    return values.new_zeros(shape).scatter_reduce(1, index, values, "amax", include_self=False).sum(1)


def rule_proof(model: TensorTransformer, rules: Sequence[WordRule], method: str = "sets") -> Proof:
    """Bound the texts of all `rules` (whose domains do not meet) after which a rival's logit reaches the answer's.

    | method | what it runs | multiply-adds grow |
    | --- | --- | --- |
    | every text | a forward pass of each | exponentially |
    | shared | each prefix once, with the keys and values before it | exponentially |
    | sets | each word of each position once, with what it may add | as length^2 |

    The first two are exact; `margin` is the least lead of an answer over its rivals, in logits. Multiply-adds are those of all
    matrix products that ran (elementwise ones are not counted).
    Raises ValueError for a model that is no such polynomial: its parts are named.
    """
    require_one_of("method", method, METHODS)
    model = checked(model)
    failing, work, margin = 0, 0, math.inf
    price: dict[tuple[int, ...], int] = {}  # of one rule with these sizes of sets
    for rule in rules:
        sizes = tuple(map(len, rule.words))
        with torch.no_grad(), FlopCounterMode(display=False) if sizes not in price else nullcontext() as counter:
            parts = [set_margins(model, rule)] if method == "sets" else list(text_margins(model, rule, method))
        price.setdefault(sizes, counter.get_total_flops() // 2 if counter else 0)
        texts_each = rule.inputs // len(rule.words[-1]) if method == "sets" else 1  # behind one margin
        failing += texts_each * sum(int((part <= 0).sum()) for part in parts)
        work, margin = work + price[sizes], min(margin, *(float(part.min()) for part in parts))
    return Proof(method, sum(rule.inputs for rule in rules), failing, work, margin)


def checked(model: TensorTransformer) -> TensorTransformer:
    """A copy in float64; TypeError or ValueError, naming the part, unless sets can be carried through it."""
    require_instance("model", model, TensorTransformer)
    degree, config = model.polynomial_degree(), model.config
    require(degree.value is not None, "model", config, f"a polynomial, but {degree.reason}")
    folded = config.norm == config.qk_norm == "none"
    require(folded, "model", config, "without norm sites: constant ones go into the weights by `fold_norms()`")
    reason = "or sets of words cannot be carried through it"
    for name, value in dict(attention="bilinear", smear="none", bigram="none", value_residual="none", shortcut="none").items():
        require(getattr(config, name) == value, name, getattr(config, name), f"{value!r}, {reason}")
    require("rope" not in config.positions, "positions", config.positions, f"without rope, {reason}")
    require(config.layers <= MOST_BLOCKS, "layers", config.layers, f"at most {MOST_BLOCKS}, {reason}")
    mlp = model.blocks[0].mlp
    require(mlp is None or mlp.degree == 2, "mlp", config.mlp, f"of degree 2 or 'none', {reason}")
    return copy.deepcopy(model).double().eval()


# Texts, one after the other or prefix by prefix

def text_margins(model: TensorTransformer, rule: WordRule, method: str) -> Iterator[Tensor]:
    """Margins of the answers over their best rivals of all texts, part by part."""
    head = model.head_matrix()
    for words, x in shared_streams(model, rule) if method == "shared" else text_streams(model, rule):
        for number, word in enumerate(rule.words[-1]):
            answer, rivals = rule.answers[number]
            logits = x[words == word] @ head[[answer, *rivals]].mT
            if len(logits):
                yield logits[:, 0] - logits[:, 1:].amax(1)


def text_streams(model: TensorTransformer, rule: WordRule) -> Iterator[tuple[Tensor, Tensor]]:
    """Last words and last streams of all texts, some thousands at a time, each run from its first word on."""
    texts = torch.cartesian_prod(*map(torch.tensor, rule.words)).view(rule.inputs, -1)
    for part in texts.split(TEXTS_AT_A_TIME):
        yield part[:, -1], model.run(part).x[:, -1]


def shared_streams(model: TensorTransformer, rule: WordRule) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, every prefix run once: each position of each prefix reads the keys and values kept of those before it."""
    kept: list[tuple[Tensor, ...]] = [() for _ in model.blocks]
    prefixes = 1
    for position, choices in enumerate(rule.words):
        words = torch.tensor(choices)
        parents = torch.arange(prefixes).repeat_interleave(len(words))
        prefixes = len(parents)
        words = words.repeat(prefixes // len(words))
        x = model.embed(words.unsqueeze(1))
        for number, block in enumerate(model.blocks):
            attention = require_attention(block)
            before = [part[parents] for part in kept[number]]
            queries, keys, values, last_keys = attention.prepare(x, position, list(before.pop().unbind(1)) if before else None)
            *keys, values = (torch.cat(both, 2) for both in zip(before, (*keys, values))) if before else (*keys, values)
            weights = attention.positions.multiplier(position + 1, x.dtype, x.device)[:, position:]
            for query, key in zip(queries, keys):
                weights = weights * (query @ key.mT)
            x = x + attention.merge_heads(weights @ values)
            x = x if block.mlp is None else x + block.mlp(x)
            kept[number] = (*keys, values, torch.stack(last_keys, 1))
    yield words, x[:, 0]


def require_attention(block: Block) -> Attention:
    assert block.attention is not None  # `checked` has asked for it
    return block.attention


# Sets of words

def set_margins(model: TensorTransformer, rule: WordRule) -> Tensor:
    """For each last word a lower bound on the margin of its answer, over all that may stand before it: (last words,)."""
    rows = [model.embed(torch.tensor([words]))[0] for words in rule.words]
    streams = [Reach(row, row[:, None][:, :0], torch.zeros(0, dtype=torch.long), torch.zeros_like(row)) for row in rows]
    for block in model.blocks[:-1]:
        streams = after_block(block, rows)
    head, most = model.head_matrix(), max(len(rivals) for _, rivals in rule.answers)
    padded = [(answer, (*rivals, *rivals[:1] * (most - len(rivals)))) for answer, rivals in rule.answers]
    readouts = torch.stack([head[answer] - head[list(rivals)] for answer, rivals in padded])
    return least_readouts(model.blocks[-1], streams, readouts).amin(1)


def pair_keys(now: Tensor, before: Tensor | None, shifted: bool) -> Tensor:
    """Keys of a word and the one before it, whose second half they take: (words before, words, heads, head_dim).

    `now` and `before` (words, heads, head_dim); `before` None is the start of the text. Unshifted keys have one word before.
    """
    if not shifted:
        return now.unsqueeze(0)
    first, _ = now.chunk(2, -1)
    second = torch.zeros_like(first[:1]) if before is None else before.chunk(2, -1)[1]
    shape = len(second), len(first), *first.shape[1:]
    return torch.cat([first.unsqueeze(0).expand(shape), second.unsqueeze(1).expand(shape)], -1)


def after_block(block: Block, rows: list[Tensor]) -> list[Reach]:
    """What can leave the first block at each position, whose words come in as exact `rows` (words, width)."""
    attention = require_attention(block)
    shifted, scale = "key_offset" in attention.positions.features, attention.head_dim**-0.5
    pattern = attention.positions.multiplier(len(rows), rows[0].dtype, rows[0].device)
    parts = {name: [(row @ getattr(attention, name).mT).unflatten(-1, (attention.heads, -1)) for row in rows]
             for name in ("q1", "q2", "k1", "k2", "v")}
    written = [torch.einsum("whk,dhk->whd", value, attention.o.unflatten(1, (attention.heads, -1))) for value in parts["v"]]
    found = []
    for j, row in enumerate(rows):
        centre, choices, source = row, [row[:, None][:, :0]], [torch.zeros(0, dtype=torch.long)]
        for i in range(j + 1):
            weights, w = pattern[:, j, i], "" if i == j else "w"  # of itself a position reads but one word
            for query, key in BRANCHES:
                keys = pair_keys(parts[key][i], parts[key][i - 1] if i else None, shifted)
                weights = weights * scale * torch.einsum(f"qhk,p{w or 'q'}hk->qp{w}h", parts[query][j], keys)
            added = torch.einsum(f"qp{w}h,{w or 'q'}hd->qp{w}d", weights, written[i]).flatten(1, -2)
            centre = centre + added.mean(1)
            if added.shape[1] > 1:
                source.append(torch.full((added.shape[1],), len(source) - 1))
                choices.append(added - added.mean(1, keepdim=True))
        found.append(after_mlp(block, Reach(centre, torch.cat(choices, 1), torch.cat(source), torch.zeros_like(row))))
    return found


def after_mlp(block: Block, x: Reach) -> Reach:
    """x + MLP(x): what is linear in a deviation stays with its source, products of two go into the box."""
    if block.mlp is None:
        return x
    D, L, R = block.mlp.cp()
    left, right = x.map(L), x.map(R)
    linear = left.choices * right.centre.unsqueeze(1) + right.choices * left.centre.unsqueeze(1)
    box = left.radius() * right.radius() + left.centre.abs() * right.box + right.centre.abs() * left.box
    centre = x.centre + (left.centre * right.centre) @ D.mT
    return Reach(centre, x.choices + linear @ D.mT, x.source, x.box + box @ D.abs().mT)


class Taken(NamedTuple):
    """What each last word takes from one position: sum over heads of weight times vector, word pair by word pair.

    Weights (last words, words before, words, heads) may be off by `slack`, vectors (1 or last words, words, heads, width) by
    `radius`; centre (last words, width) is the mean over word pairs.
    """

    weights: Tensor
    slack: Tensor
    vectors: Tensor
    radius: Tensor

    @property
    def centre(self) -> Tensor:
        return torch.einsum("npsh,nshd->nd", self.weights, self.vectors) / self.weights[0, ..., 0].numel()

    def ends(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest of (what is taken - centre) along directions (last words, m, width): (last words, m) each."""
        along = torch.einsum("nshd,nmd->nshm", self.vectors, directions)
        beside = torch.einsum("nshd,nmd->nshm", self.radius, directions.abs())
        middle = torch.einsum("nd,nmd->nm", self.centre, directions)[:, None, None]
        values = torch.einsum("npsh,nshm->npsm", self.weights, along) - middle
        off = torch.einsum("npsh,nshm->npsm", self.weights.abs() + self.slack, beside)
        off = off + torch.einsum("npsh,nshm->npsm", self.slack, along.abs())
        return (values - off).amin((1, 2)), (values + off).amax((1, 2))


def least_readouts(block: Block, streams: list[Reach], readouts: Tensor) -> Tensor:
    """Lower bounds of w . (what leaves the last block at the last position): (last words, rivals).

    `readouts` (last words, rivals, width) are the w: of each last word those of its answer less each rival.
    """
    taken, x = taken_from(require_attention(block), streams), streams[-1]
    centre = x.centre + torch.stack([part.centre for part in taken]).sum(0)
    words, rivals, width = readouts.shape
    forms = readouts.new_zeros(words, rivals, width, width)
    if block.mlp is not None:
        forms = interaction(CPTensor.from_layer(block.mlp), readouts.flatten(0, 1)).view_as(forms)
    values, vectors = torch.linalg.eigh(forms)
    pulled = torch.einsum("nrij,nj->nri", forms, centre)
    directions = torch.cat([(readouts + 2 * pulled).unsqueeze(2), vectors.mT], 2).flatten(1, 2)  # gradient, eigenvectors
    along, box = torch.einsum("ncd,nmd->ncm", x.choices, directions), torch.einsum("nd,nmd->nm", x.box, directions.abs())
    low, high = -greatest(-along, x.source) - box, greatest(along, x.source) + box
    for part in taken:
        least, most = part.ends(directions)
        low, high = low + least, high + most
    squares = torch.maximum(-low, high).view(words, rivals, -1)[..., 1:].square()
    middle = torch.einsum("nrd,nd->nr", readouts + pulled, centre)
    return middle + low.view(words, rivals, -1)[..., 0] + (values.clamp_max(0) * squares).sum(-1)


def taken_from(attention: Attention, streams: list[Reach]) -> list[Taken]:
    """What the last position takes from each position, itself included."""
    *earlier, x = streams
    heads, scale = attention.heads, attention.head_dim**-0.5
    o, v = attention.o.unflatten(1, (heads, -1)), attention.v.unflatten(0, (heads, -1))
    output = torch.einsum("dhk,hkw->hdw", o, v).flatten(0, 1)  # what the heads write of a stream
    pattern = attention.positions.multiplier(len(streams), x.centre.dtype, x.centre.device)[:, -1]

    def split(stream: Reach, matrix: Tensor) -> Reach:
        return stream.map(matrix).parts(lambda part: part.unflatten(-1, (heads, -1)))

    queries = {name: split(x, getattr(attention, name)) for name, _ in BRANCHES}
    keys = {name: [split(stream, getattr(attention, name)) for stream in streams] for _, name in BRANCHES}
    found = []
    for i, stream in enumerate(streams):
        (first, first_off), (second, second_off) = (pair_scores(queries[q], keys[k], i, attention) for q, k in BRANCHES)
        slack = scale**2 * pattern[:, i].abs() * (first.abs() * second_off + second.abs() * first_off + first_off * second_off)
        vectors, axis = split(stream, output), 1 if i == len(earlier) else 0
        centre, radius = vectors.centre.unsqueeze(axis), vectors.radius().unsqueeze(axis)
        found.append(Taken(scale**2 * pattern[:, i] * first * second, slack, centre, radius))
    return found


def pair_scores(query: Reach, keys: list[Reach], i: int, attention: Attention) -> tuple[Tensor, Tensor]:
    """q . k of last words with the keys of position i, and how far off it can be: (last words, words before, words, heads)."""
    own = i == len(keys) - 1
    if "key_offset" not in attention.positions.features:
        centre, off = scores(query, keys[i], own)
        return centre.unsqueeze(1), off.unsqueeze(1)
    half = attention.head_dim // 2
    first, second = (lambda part: part[..., :half]), (lambda part: part[..., half:])
    centre, off = (part.unsqueeze(1) for part in scores(query.parts(first), keys[i].parts(first), own))
    if i == 0:
        return centre, off
    before, before_off = (part.unsqueeze(2) for part in scores(query.parts(second), keys[i - 1].parts(second), False))
    return centre + before, off + before_off


def scores(query: Reach, key: Reach, own: bool) -> tuple[Tensor, Tensor]:
    """q . k head by head, (last words, words, heads), and how far they can be off; `own` keys belong to the same last word."""
    s, out = ("n", "nh") if own else ("s", "nsh")
    centre = torch.einsum(f"nhk,{s}hk->{out}", query.centre, key.centre)
    by_key = torch.einsum(f"nhk,{s}chk->{s}c{'' if own else 'n'}h", query.centre, key.choices)
    by_query = torch.einsum(f"nchk,{s}hk->nc{'' if own else 's'}h", query.choices, key.centre)
    off = greatest(by_key.abs(), key.source)
    off = (off if own else off.transpose(0, 1)) + greatest(by_query.abs(), query.source)
    for one, other in ((query.centre.abs(), key.box), (query.box, key.centre.abs()), (query.radius(), key.radius())):
        off = off + torch.einsum(f"nhk,{s}hk->{out}", one, other)
    return (centre.unsqueeze(1), off.unsqueeze(1)) if own else (centre, off)


# Rules of the toy language

def word_rules(kind: str, length: int) -> tuple[WordRule, ...]:
    """Rules of the toy language, as shapes of text whose domains do not meet.

    | kind | texts | the answer |
    | --- | --- | --- |
    | bigram | `<doc>` place, `length` clauses "the noun is adjective .", name, title | the title's likeliest verb of four |
    | agreement | `<doc>` place the noun, `length` times "near the noun" | is or are, by the first noun |

    Raises ValueError for another kind, or a length below 0.

    >>> [rule.inputs for rule in word_rules("bigram", 1)]  # nouns in the singular, in the plural
    [2304, 2304]
    """
    require_one_of("kind", kind, ("bigram", "agreement"))
    require_whole("length", length)
    start, numbers = [("<doc>",), lang.PLACES], ((lang.SINGULAR, "is"), (lang.PLURAL, "are"))
    if kind == "bigram":
        adjectives = [tuple(word for word, p in zip(lang.ADJECTIVES, row) if p) for row in lang.ADJECTIVE_TABLE]
        clauses = [[("the",), nouns, (verb,), those, (".",)] for (nouns, verb), those in zip(numbers, adjectives)]
        chosen = itertools.product(clauses, repeat=length)
        shapes = [[*start, *itertools.chain(*parts), lang.NAMES, lang.TITLES] for parts in chosen]
        best = [max(zip(row, lang.VERBS))[1] for row in lang.VERB_TABLE]
        answers = [(verb, tuple(other for other in lang.VERBS if other != verb)) for verb in best]
        return tuple(word_rule(shape, answers) for shape in shapes)
    far = [("near",), ("the",), lang.SINGULAR + lang.PLURAL] * length
    rivals = ("is", ("are",)), ("are", ("is",))
    shapes = [[*start, ("the",), nouns, *far] for nouns, _ in numbers]
    return tuple(word_rule(shape, [rival] * len(shape[-1])) for shape, rival in zip(shapes, rivals))


def word_rule(shape: Sequence[Sequence[str]], answers: Sequence[tuple[str, Sequence[str]]]) -> WordRule:
    """A rule from words instead of ids."""
    ids = tuple(tuple(lang.INDEX[word] for word in words) for words in shape)
    return WordRule(ids, tuple((lang.INDEX[answer], tuple(lang.INDEX[word] for word in rivals)) for answer, rivals in answers))
