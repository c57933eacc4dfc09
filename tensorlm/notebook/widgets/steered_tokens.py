"""The words that a model expects next while a steering vector joins its stream, on the page: probabilities, and what each path adds.

Made for a polynomial model, where every logit is a polynomial in the strength. Needs no kernel: the page holds the coefficients for a
few prompts and vectors, takes the softmax over the whole vocabulary, and stacks the paths. :func:`evaluate` is the same in Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlm.notebook.arguments import entries, finite, finite_array, mapping, options, require, require_text, texts, whole
from tensorlm.notebook.widgets import steered_tokens_page as steered_words_page
from tensorlm.notebook.widgets.page import plain, powers
from tensorlm.notebook.widgets.sliders import checked_name, range_input

DIGITS = 9  # kept of the largest term: coefficients that were fitted are not known better on every processor


@dataclass(frozen=True)
class SteeredWords:
    """The widget: its name (the id on the page) and all that the page gets to know, JSON-safe."""

    name: str
    data: dict[str, Any]

    def evaluate(self, strength: float, chosen: Sequence[int]) -> dict[str, float]:
        """What the page must show at a strength for a prompt and a vector: see :func:`evaluate`."""
        return evaluate(self.data, strength, chosen)

    def _repr_html_(self) -> str:
        return steered_words_page.html(self.name, self.data, evaluate)

    def __repr__(self) -> str:
        return f"SteeredWords {self.name!r}: {self.data['title']}"


@dataclass(frozen=True)
class Prompt:
    """One prompt: its ``text``, the tokens of 1 to 5 ``words`` whose probabilities are shown, and ``contest``, the read-out's name."""

    text: str
    words: Mapping[str, int]
    contest: str


def steer(name: str, prompts: Sequence[Prompt], vectors: Sequence[str], logits: Any, paths: Any, labels: Sequence[str], low: float = -2.0,
          high: float = 2.0, start: float = 1.0, step: float = 0.05, variable: str = "α", title: str = "A steered model") -> SteeredWords:
    """A range input for the strength, a list of prompts and a list of vectors.

    ``logits[prompt][vector]`` (vocab, powers) holds the coefficients in rising powers of the strength, ``paths[prompt][vector]`` (paths,
    powers) those of what each path adds to the read-out, named by ``labels``. Keys of ``evaluate``: ``w1`` .. the probabilities of the
    prompt's words, ``p1`` .. the paths, and ``sum`` of the paths. Raises ``ValueError`` naming the argument.

    >>> demo = steer("demo", [Prompt("the dog", {"is": 0, "are": 1}, "are − is")], ["plural"], [[[[1, 0], [0, 2]]]], [[[[0, 2]]]], ["all"])
    >>> {key: round(value, 3) for key, value in demo.evaluate(0.5, (0, 0)).items()}
    {'w1': 0.5, 'w2': 0.5, 'p1': 1.0, 'sum': 1.0}
    """
    prompts, vectors, labels = entries("prompts", prompts), texts("vectors", vectors), texts("labels", labels)
    for each in prompts:
        _check_prompt(each)
    if not prompts or not vectors or not 1 <= len(labels) <= 5:
        raise ValueError(f"prompts, vectors, labels: got {len(prompts)}, {len(vectors)} and {len(labels)}, allowed: 1 or more, labels up "
                         "to 5")
    head, tail = ([[finite_array(rows, kind) for rows in entries(kind, row)] for row in entries(kind, table)]
                  for kind, table in (("logits", logits), ("paths", paths)))
    require_text(variable=variable, title=title)
    _require_shapes(prompts, len(vectors), head, tail, len(labels))

    def stored(rows: np.ndarray) -> Any:
        return plain(rows, powers(rows.shape[-1], low, high), DIGITS)

    shown = [{"text": each.text, "contest": each.contest, "words": [*each.words], "tokens": [*each.words.values()]} for each in prompts]
    control = range_input("strength", variable, low, high, step, start)
    data: dict[str, Any] = {
        "kind": "steered", "title": title, "inputs": [control], "prompts": shown,
        "vectors": list(vectors), "labels": list(labels), "logits": [[stored(rows) for rows in row] for row in head],
        "paths": [[stored(rows) for rows in row] for row in tail]}
    data["reach"] = [_reach(data, row) for row in tail]
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        raise ValueError(f"paths of {name}: got sums that overflow, allowed: finite numbers at every strength") from None
    return SteeredWords(checked_name(name), data)


def evaluate(data: Mapping[str, Any], strength: float, chosen: Sequence[int]) -> dict[str, float]:
    """What a page with ``data`` shows at ``strength`` for the prompt and the vector with the numbers ``chosen``."""
    strength = finite("strength", strength)
    prompt, vector = options(chosen, [len(data["prompts"]), len(data["vectors"])])
    logits = [horner(row, strength) for row in data["logits"][prompt][vector]]
    largest = max(logits)
    total = sum(math.exp(value - largest) for value in logits)
    words = {f"w{i}": math.exp(logits[token] - largest) / total for i, token in enumerate(data["prompts"][prompt]["tokens"], 1)}
    paths = [horner(row, strength) for row in data["paths"][prompt][vector]]
    return {**words, **{f"p{i}": value for i, value in enumerate(paths, 1)}, "sum": sum(paths)}


def horner(coefficients: Sequence[float], strength: float) -> float:
    """The polynomial with these coefficients, lowest power first.

    >>> horner([1.0, 0.0, 2.0], 3.0)
    19.0
    """
    value = 0.0
    for coefficient in reversed(coefficients):
        value = value * strength + coefficient
    return value


def _check_prompt(prompt: Any) -> None:
    require(isinstance(prompt, Prompt), "prompts: an entry", prompt, "a Prompt")
    require_text(**{"text of a prompt": prompt.text})
    require_text(**{f"contest of {prompt.text!r}": prompt.contest})
    for word, token in mapping(f"words of {prompt.text!r}", prompt.words).items():
        whole(f"words of {prompt.text!r}: token of {word!r}", token, 0, 2**53)


def _require_shapes(prompts: Sequence[Prompt], vectors: int, logits: list, paths: list, labels: int) -> None:
    for kind, grid in (("logits", logits), ("paths", paths)):
        if len(grid) != len(prompts) or any(len(row) != vectors for row in grid) or any(rows.ndim != 2 for row in grid for rows in row):
            raise ValueError(f"{kind}: got {[len(row) for row in grid]} tables, allowed: {len(prompts)} x {vectors}, each of two axes")
    for prompt, row, ways in zip(prompts, logits, paths):
        least = min(len(rows) for rows in row)
        if not 1 <= len(prompt.words) <= 5 or not all(0 <= token < least for token in prompt.words.values()):
            raise ValueError(f"words of {prompt.text!r}: got {dict(prompt.words)}, allowed: 1 to 5 words with tokens from 0 to {least - 1}")
        if any(len(rows) != labels for rows in ways):
            raise ValueError(f"paths of {prompt.text!r}: got {list(map(len, ways))}, allowed: {labels} rows, one a label")


def _reach(data: Mapping[str, Any], row: list[np.ndarray]) -> float:
    """How far the partial sums of the paths of one prompt go, over all strengths and vectors."""
    control = data["inputs"][0]
    strengths = np.linspace(control["low"], control["high"], steered_words_page.POINTS)
    with np.errstate(over="ignore", invalid="ignore"):
        most = max(np.abs(np.cumsum([np.polyval(path[::-1], strengths) for path in rows], axis=0)).max() for rows in row)
    return float(f"{float(most) or 1.0:.6g}")
