"""The words that a model expects next while a steering vector joins its stream: probabilities, and what each path adds.

Every logit is a polynomial in the strength: the page takes the softmax over the whole vocabulary, and stacks the paths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyval

from tensorlm.checks import as_array, require, require_instance, require_number, require_whole
from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Plot, Widget
from tensorlm.notebook.widgets.stacked_parts import COLOURS

DIGITS = 9  # kept of the largest term: coefficients that were fitted are not known better on every processor
POINTS = 121


@dataclass(frozen=True)
class Prompt:
    """Its `text`, the tokens of 1 to 5 `words` whose probabilities are shown, and the name of the read-out."""

    text: str
    words: Mapping[str, int]
    contest: str

    def __post_init__(self) -> None:
        require_instance("text", self.text, str)
        require_instance("contest", self.contest, str)
        page.require_names(f"words of {self.text!r}", self.words, 5)


def steer(name: str, prompts: Sequence[Prompt], vectors: Sequence[str], logits: Any, paths: Any, labels: Sequence[str],
          low: float = -2.0, high: float = 2.0, start: float = 1.0, step: float = 0.05, variable: str = "α",
          title: str = "A steered model") -> Widget:
    """A range input for the strength, a list of prompts and a list of vectors.

    `logits[prompt][vector]` (vocab, powers) holds the coefficients in rising powers of the strength, `paths[prompt][vector]`
    (paths, powers) those of what each path adds to the read-out, named by `labels`. Keys of `evaluate`: `w1` .. the
    probabilities of the prompt's words, `p1` .. the paths, and `sum` of the paths. Raises ValueError naming the argument.

    >>> demo = steer("demo", [Prompt("the dog", {"is": 0, "are": 1}, "are − is")], ["plural"], [[[[1, 0], [0, 2]]]], [[[[0, 2]]]], ["all"])
    >>> {key: round(value, 3) for key, value in demo.evaluate(0.5, (0, 0)).items()}
    {'w1': 0.5, 'w2': 0.5, 'p1': 1.0, 'sum': 1.0}
    """
    fits = isinstance(prompts, Sequence) and prompts and all(isinstance(each, Prompt) for each in prompts)
    require(fits, "prompts", prompts, "a sequence of at least one Prompt")
    vectors, labels = page.texts("vectors", vectors, 1, 99), page.texts("labels", labels, 1, 5)
    counts = len(prompts), len(vectors)
    head, tail = _tables("logits", logits, counts), _tables("paths", paths, counts)
    for prompt, row, ways in zip(prompts, head, tail):
        for word, token in prompt.words.items():
            require_whole(f"words of {prompt.text!r}: token of {word!r}", token, 0, min(map(len, row)) - 1)
        require(all(len(rows) == len(labels) for rows in ways), f"paths of {prompt.text!r}", list(map(len, ways)),
                f"{len(labels)} rows, one a label")
    control = page.range_input("strength", variable, low, high, step, start)
    stored = lambda table: [[page.plain(rows, page.powers(rows.shape[-1], low, high), DIGITS) for rows in row] for row in table]
    shown = [{"text": each.text, "contest": each.contest, "words": [*each.words], "tokens": [*each.words.values()]} for each in prompts]
    return Widget("SteeredWords", name, {
        "kind": "steered", "title": title, "inputs": [control], "prompts": shown, "vectors": vectors, "labels": labels,
        "logits": stored(head), "paths": stored(tail), "reach": [_reach(control, row) for row in tail]}, evaluate, html)


def _tables(kind: str, given: Any, counts: tuple[int, int]) -> list[list[np.ndarray]]:
    try:
        tables = [[as_array(rows, kind) for rows in row] for row in given]
    except (TypeError, RuntimeError):  # what cannot be iterated over
        tables = []
    fits = list(map(len, tables)) == [counts[1]] * counts[0] and all(rows.ndim == 2 and rows.size for row in tables for rows in row)
    require(fits, kind, given, f"{counts[0]} x {counts[1]} tables, one a prompt and vector, each of two axes, not empty")
    return tables


def evaluate(data: Data, strength: float, chosen: Sequence[int]) -> dict[str, float]:
    """What a page with `data` shows at `strength` for the prompt and the vector with the numbers `chosen`."""
    strength = require_number("strength", strength)
    prompt, vector = page.chosen_options(chosen, [len(data["prompts"]), len(data["vectors"])])
    logits, paths = (polyval(strength, np.array(data[kind][prompt][vector]).T) for kind in ("logits", "paths"))
    likely = np.exp(logits - logits.max())
    words = likely[data["prompts"][prompt]["tokens"]] / likely.sum()
    return {**page.numbered(w=words, p=paths), "sum": float(sum(paths))}


def _reach(control: Data, row: list[np.ndarray]) -> float:
    """How far the partial sums of the paths of one prompt go, over all strengths and vectors."""
    strengths = np.linspace(control["low"], control["high"], POINTS)
    with np.errstate(over="ignore", invalid="ignore"):
        most = max(np.abs(np.cumsum([np.polyval(path[::-1], strengths) for path in rows], axis=0)).max() for rows in row)
    return float(f"{float(most) or 1.0:.6g}")


def html(widget: Widget) -> str:
    data = widget.data
    here = evaluate(data, data["inputs"][0]["start"], (0, 0))
    lists = {"prompt": [each["text"] for each in data["prompts"]], "vector": data["vectors"]}
    choices = (page.choice(widget.name, label, label, label, options) for label, options in lists.items())
    tables = [_words(data, here), _paths(data, here), _samples(data)]
    return page.strength_frame(widget, "steer", choices, tables, "steered_words.js", POINTS)


def _words(data: Data, here: Mapping[str, float]) -> str:
    first, words, hidden = data["inputs"][0], data["prompts"][0]["words"], ' hidden=""'
    plot = Plot(first["low"], first["high"], first["label"], -0.02, 1.02)
    columns = [evaluate(data, float(a), (0, 0)) for a in np.linspace(first["low"], first["high"], POINTS)]
    parts, rows = [plot.axes([0.0, 0.25, 0.5, 0.75, 1.0], zero="#dddddd"), plot.here(first["start"])], []
    for i, (colour, dash) in enumerate(zip(COLOURS, page.DASHES[:max(len(each["words"]) for each in data["prompts"])])):
        key, there = f"w{i + 1}", i < len(words)
        value, path = (here[key], plot.path([column[key] for column in columns])) if there else (0.0, "")
        dot = plot.dot(key, first["start"], value if there else plot.bottom, colour)
        parts.append(f'<g data-line="{key}"{" display=none" * (not there)}><path data-curve="{key}" d="{path}" '
                     f'{page.STROKE.format(colour, 2, dash)}/>{dot}</g>')
        label = f'{page.SWATCH.format(colour, dash)} <span data-word="{key}">{escape(words[i]) if there else ""}</span>'
        rows.append(f'<tr data-row="{key}"{hidden * (not there)}><th scope="row">{label}</th>'
                    f'{page.cell(key, page.rounded(value, 3), f"{value:.9g}")}</tr>')
    label = "Probabilities of words over the strength; the tables below hold the values"
    table = page.table("Probability of the next word", ["word", "probability"], rows, live=True)
    return page.PICTURE.format(label, "".join(parts)) + f"\n{table}"


def _paths(data: Data, here: Mapping[str, float]) -> str:
    keyed = [(f"p{i}", colour, escape(label)) for i, (colour, label) in enumerate(zip(COLOURS, data["labels"]), 1)]
    rows = page.stacked_bars([*keyed, ("sum", palette["black"], "all of it")], here, data["reach"][0])
    title = f'Change of the logits, <span data-contest>{escape(data["prompts"][0]["contest"])}</span>, path by path'
    return page.table(title, ["path", "", "change"], rows, live=True)


def _samples(data: Data) -> str:
    first, prompt = data["inputs"][0], data["prompts"][0]
    written = lambda key, value: page.rounded(value, 3) if key[0] == "w" else page.rounded(value, signed=True)
    rows = [[vector, f"{a:.4g}", *(written(*pair) for pair in evaluate(data, float(a), (0, number)).items())]
            for number, vector in enumerate(data["vectors"]) for a in np.linspace(first["low"], first["high"], 5)]
    return page.samples(f", after: {prompt['text']}", ["vector", first["label"], *prompt["words"], *data["labels"], "all of it"], rows)
