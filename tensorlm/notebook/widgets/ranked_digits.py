"""Which training digits matter most for a test digit, by several methods: choose both, and look at twenty of them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require, require_whole
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.drawing import CELLS, INKS, bitmap, paper
from tensorlm.notebook.widgets.page import Data, Widget

SHADES = "0123456789abcdefg"  # ink 0 .. 16, a letter each


def ranked(name: str, train: Any, labels: Sequence[int], tests: Any, test_labels: Sequence[int], scores: Mapping[str, Any], count: int = 10,
           title: str = "Which training digits matter for a test digit?") -> Widget:
    """Two lists, of test digits and of methods; below them the `count` most helpful and most harmful training digits.

    `train` (n, 64) and `tests` (m, 64) are images of ink from 0 to 1 with their classes; each of `scores` (n, m) predicts
    how the margin of a test digit changes without a training digit: helpful ones are below zero. Keys of `evaluate`: `helpful`
    and `harmful`, lists of (training digit, score). Raises ValueError naming the argument.
    """
    images = {key: np.floor(as_array(value, key) * INKS + 0.5).astype(int) for key, value in (("train", train), ("tests", tests))}
    for key, ink in images.items():
        require(ink.ndim == 2 and ink.shape[1] == CELLS and ink.size and 0 <= ink.min() <= ink.max() <= INKS, key, ink,
                f"images (n, {CELLS}) of ink from 0 to 1")
    page.require_names("scores", scores, 6)
    n, m = len(images["train"]), len(images["tests"])
    require(len(labels) == n and len(test_labels) == m, "labels", (len(labels), len(test_labels)), f"one for each of {n} and {m} images")
    require_whole("count", count, 1, n // 2)
    tables = {method: as_array(table, f"scores of {method!r}") for method, table in scores.items()}
    for method, table in tables.items():
        require(table.shape == (n, m), f"scores of {method!r}", table, f"of shape {(n, m)}, training and test digits")
    picked = {method: [_ends(column, count) for column in table.T] for method, table in tables.items()}
    used = sorted({index for tests_ in picked.values() for row in tests_ for index, _ in row})
    place = {index: number for number, index in enumerate(used)}
    data = {"kind": "ranked_digits", "title": title, "count": count, "methods": list(scores),
            "tests": [{"ink": _letters(ink), "label": int(label)} for ink, label in zip(images["tests"], test_labels)],
            "train": [{"ink": _letters(images["train"][index]), "label": int(labels[index]), "index": int(index)} for index in used],
            "ranked": [[[[place[index], round(score, 3)] for index, score in row] for row in rows] for rows in picked.values()]}
    return Widget("RankedDigits", name, data, evaluate, html)


def _ends(column: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The lowest `count` entries, lowest first, and then the highest, highest first."""
    order = np.argsort(column, kind="stable")
    return [(int(index), float(column[index])) for index in [*order[:count], *order[::-1][:count]]]


def _letters(ink: np.ndarray) -> str:
    return "".join(SHADES[value] for value in ink)


def evaluate(data: Data, test: int, method: int) -> dict[str, Any]:
    """What a page with `data` shows for the test digit and the method with these numbers."""
    test, method = page.chosen_options([test, method], [len(data["tests"]), len(data["methods"])])
    shown = [(data["train"][place]["index"], score) for place, score in data["ranked"][method][test]]
    return {"label": data["tests"][test]["label"], "helpful": shown[: data["count"]], "harmful": shown[data["count"] :]}


def html(widget: Widget) -> str:
    data, name = widget.data, widget.name
    names = [f"a {each['label']} (number {number + 1})" for number, each in enumerate(data["tests"])]
    lists = page.choice(name, "test", "0", "Test digit", names) + page.choice(name, "method", "1", "Method", data["methods"])
    first, row = data["tests"][0], data["ranked"][0][0]
    parts = [lists, f'<p class="tlm-asked">{_picture(first["ink"], _says(first), "data-asked")}'
                    '<span data-said aria-live="polite"></span></p>']
    for title, start in (("Without these it would be less sure", 0), ("Without these it would be surer", data["count"])):
        cells = "".join(_card(data["train"][place], score, start + number)
                        for number, (place, score) in enumerate(row[start : start + data["count"]]))
        parts.append(f'<p class="tlm-row">{escape(title)}</p><ol class="tlm-ranked">{cells}</ol>')
    return page.frame(widget, "ranked", "\n".join([*parts, _samples(data)]), ["ranked_digits.js"], " tlm-ranks", ("ranked_digits.css",),
                      still="it lets you choose")


def _says(digit: Data) -> str:
    return f"a {digit['label']}"


def _card(digit: Data, score: float, number: int) -> str:
    return (f'<li>{_picture(digit["ink"], _says(digit), f"data-rank={number}")}'
            f'<span data-score="{number}">{page.rounded(score, signed=True)}</span></li>')


def _picture(letters: str, alt: str, mark: str) -> str:
    ink = np.array([SHADES.index(letter) for letter in letters])
    return f'<img src="{bitmap(np.repeat(paper(ink), 3))}" alt="{escape(alt)}" {mark}>'


def _samples(data: Data) -> str:
    rows = [[method, *(str(data["train"][place]["label"]) for place, _ in rows[0][: data["count"]])]
            for method, rows in zip(data["methods"], data["ranked"])]
    return page.samples(": classes of the most helpful digits for the first test digit",
                        ["method", *(str(number + 1) for number in range(data["count"]))], rows)
