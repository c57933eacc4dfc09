"""A number that is a sum of powers of one strength, each power a part with a name, stacked on the page from nothing to the sum.

Made for the response of a layer to a steering vector, where the parts are what is there without the vector, the cross term and the
self term. Needs no kernel: the coefficients stand in the page, and a short script evaluates and stacks them for the strength and for
the choices that the reader makes. :func:`evaluate` is the same in Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlm.notebook.arguments import finite, finite_array, mapping, options, require_text, texts, whole
from tensorlm.notebook.widgets import stacked_parts_page
from tensorlm.notebook.widgets.page import plain, powers
from tensorlm.notebook.widgets.sliders import checked_name, range_input


@dataclass(frozen=True)
class StackedParts:
    """The widget: its name (the id on the page) and all that the page gets to know, JSON-safe."""

    name: str
    data: dict[str, Any]

    def evaluate(self, strength: float, chosen: Sequence[int]) -> dict[str, float]:
        """What the page must show at a strength for the chosen options: see :func:`evaluate`."""
        return evaluate(self.data, strength, chosen)

    def _repr_html_(self) -> str:
        return stacked_parts_page.html(self.name, self.data, evaluate)

    def __repr__(self) -> str:
        return f"StackedParts {self.name!r}: {self.data['title']}"


def stack(name: str, parts: Mapping[str, int], choices: Mapping[str, Sequence[str]], values: Any, variable: str = "α", low: float = -2.0,
          high: float = 2.0, start: float = 1.0, step: float = 0.05, total: str = "sum",
          title: str = "Parts of a response, stacked") -> StackedParts:
    """A range input for the strength and one list for each of ``choices``; shows every part, and their sum.

    ``parts`` maps a name to its power (0 to 6) of the strength; ``choices`` maps a label to the options of a list (1 to 3 lists), the last
    one the quantity that is read, with a scale of its own. ``values`` (options of the first list, ..., of the last, parts) holds the
    coefficients. Keys of ``evaluate``: ``p1`` .. in the order of ``parts``, and ``sum``. Raises ``ValueError`` naming the argument.

    >>> demo = stack("demo", {"cross": 1, "self": 2}, {"output": ["first", "second"]}, [[3.0, 1.0], [0.0, -1.0]])
    >>> demo.evaluate(2.0, [0]), demo.evaluate(-2.0, [1])["sum"]
    ({'p1': 6.0, 'p2': 4.0, 'sum': 10.0}, -4.0)
    """
    parts = {label: whole(f"parts: power of {label!r}", power, 0, 6) for label, power in mapping("parts", parts).items()}
    if not 1 <= len(parts) <= 6:
        raise ValueError(f"parts: got {parts}, allowed: 1 to 6 names, each with a power from 0 to 6")
    choices = {label: texts(f"choices: options of {label!r}", options) for label, options in mapping("choices", choices).items()}
    require_text(variable=variable, total=total, title=title)
    control = range_input("strength", variable, low, high, step, start)
    coefficients = finite_array(values, "values")
    shape = (*(len(options) for options in choices.values()), len(parts))
    if not 1 <= len(choices) <= 3 or 0 in shape or coefficients.shape != shape:
        raise ValueError(f"values: got shape {coefficients.shape}, allowed: {shape} for 1 to 3 lists of choices and {len(parts)} parts")
    lists = [{"label": label, "options": list(options)} for label, options in choices.items()]
    data = {"kind": "stacked", "title": title, "total": total, "inputs": [control],
            "parts": [{"label": label, "power": power} for label, power in parts.items()], "choices": lists,
            "values": plain(coefficients, powers(7, low, high)[list(parts.values())])}
    data["scales"] = [_scale(data, coefficients[..., option, :].reshape(-1, len(parts))) for option in range(shape[-2])]
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        raise ValueError(f"values of {name}: got sums that overflow, allowed: finite numbers at every strength") from None
    return StackedParts(checked_name(name), data)


def evaluate(data: Mapping[str, Any], strength: float, chosen: Sequence[int]) -> dict[str, float]:
    """What a page with ``data`` shows at ``strength`` when the lists stand at the options with the numbers ``chosen``."""
    row, strength = data["values"], finite("strength", strength, -1e50, 1e50)
    for option in options(chosen, [len(each["options"]) for each in data["choices"]]):
        row = row[option]
    shown = [coefficient * strength ** part["power"] for coefficient, part in zip(row, data["parts"])]
    return {**{f"p{i}": float(value) for i, value in enumerate(shown, 1)}, "sum": float(sum(shown))}


def _scale(data: Mapping[str, Any], rows: np.ndarray) -> dict[str, float]:
    """Of one quantity over all options of the other lists: the range of the curves, and how far partial sums reach."""
    control = data["inputs"][0]
    strengths = np.linspace(control["low"], control["high"], stacked_parts_page.POINTS)
    powers = np.array([part["power"] for part in data["parts"]])
    terms = rows[:, None, :] * strengths[None, :, None] ** powers
    partial = terms.cumsum(-1)
    drawn = np.concatenate([terms.ravel(), partial[..., -1].ravel(), [0.0]])
    margin = 0.04 * (drawn.max() - drawn.min()) or 1.0
    least, most, reach = drawn.min() - margin, drawn.max() + margin, np.abs(partial).max() or 1.0
    return {key: float(f"{value:.6g}") for key, value in (("min", least), ("max", most), ("reach", reach))}
