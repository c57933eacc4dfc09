"""The HTML of a digit pad: a still picture of its first example, which a short script turns into a pad to draw on.

Without scripts (GitHub's preview, a printout) the picture, its logits and the contributions of its eigenvectors remain.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from tensorlm.notebook.widgets.page import precise
from tensorlm.notebook.widgets.slider_page import asset, script, still, stored

Data = Mapping[str, Any]
Shown = Mapping[str, Any]
Colour = tuple[int, int, int]
SIDE, INKS = 8, 16
# From blue through white to red, ColorBrewer's RdBu, as the maps of signed values elsewhere in the book.
STOPS = ((5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
         (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31))


def html(name: str, data: Data, evaluate: Callable[[Data, Any], Shown]) -> str:
    """The whole widget as one string, the same for the same arguments; ids start with ``tlm-<name>``."""
    ink = data["examples"][0]["ink"]
    shown = evaluate(data, [each / INKS for each in ink])
    return f"""<div class="tlm-slider tlm-pad" id="tlm-{name}" data-tlm-pad="{name}" data-lm-suppress-shortcuts="true"
 role="group" aria-labelledby="tlm-{name}-title">
<style>{asset("slider.css")}{asset("digit_pad.css")}</style>
<p class="tlm-title" id="tlm-{name}-title">{escape(data["title"])}</p>
{still("it is a pad to draw on")}
<div class="tlm-parts">
<p class="tlm-says" role="status" aria-live="polite">The layer says <strong data-key="predicted">{said(shown["predicted"])}</strong></p>
<div class="tlm-draw">
{_paper(name, ink)}
</div>
<div class="tlm-load tlm-live">
{_examples(name, data)}
</div>
<div class="tlm-logits">
{_logits(data, shown)}
<label class="tlm-follow tlm-live"><input type="checkbox" data-follow checked autocomplete="off"> Always explain what it says</label>
</div>
<div class="tlm-why">
{_why(data, shown)}
</div>
</div>
{stored({**data, "stops": STOPS}, compact=True)}
{script(name, "digit_pad.js")}
</div>"""


def said(label: str | None) -> str:
    """The predicted class; where all logits are equal the layer says nothing."""
    return "nothing" if label is None else escape(label)


def text(value: float, decimals: int, signed: bool = False) -> str:
    """A number as the script writes it.

    >>> text(1.25, 1), text(-0.004, 2), text(-3.14159, 3), text(2.0, 1, signed=True)
    ('1.3', '0.00', '−3.142', '+2.0')
    """
    size = math.floor(abs(value) * 10**decimals + 0.5)
    sign = "−" if size and value < 0 else "+" if size and signed else ""
    return sign + (f"{size / 10**decimals:.{decimals}f}" if abs(value) < 1e15 else precise(abs(value)))


def bitmap(cells: Iterable[Colour]) -> str:
    """An 8x8 picture as the address of an uncompressed bitmap, which every processor writes alike."""
    cells = list(cells)
    head = b"BM" + (54 + 3 * SIDE * SIDE).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    size = SIDE.to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    body = b"".join(bytes(cells[SIDE * row + column][::-1]) for row in reversed(range(SIDE)) for column in range(SIDE))
    return "data:image/bmp;base64," + base64.b64encode(head + size + body).decode()


def diverging(value: float, limit: float) -> Colour:
    """The colour of a signed value: blue below zero, white at zero, red above.

    >>> diverging(0.0, 2.0), diverging(2.0, 2.0), diverging(-1.0, 2.0)
    ((247, 247, 247), (103, 0, 31), (107, 172, 209))
    """
    place = (value / limit + 1) / 2 * (len(STOPS) - 1)
    low = min(int(place), len(STOPS) - 2)
    red, green, blue = (int(a + (place - low) * (b - a) + 0.5) for a, b in zip(STOPS[low], STOPS[low + 1]))
    return red, green, blue


def paper(ink: int) -> Colour:
    """White paper at 0, black ink at 16.

    >>> paper(0), paper(16)
    ((255, 255, 255), (23, 23, 23))
    """
    return (math.floor(255 - 14.5 * ink + 0.5),) * 3


def _paper(name: str, ink: list[int]) -> str:
    """The pad: one stop of the Tab key, whose active cell the arrow keys move."""
    def cell(row: int, column: int) -> str:
        value = ink[SIDE * row + column]
        grey = paper(value)[0]
        words = f"row {row + 1}, column {column + 1}: ink {value} of {INKS}"
        return (f'<span role="gridcell" id="tlm-{name}-{row}{column}" aria-label="{words}"'
                f' style="background:rgb({grey},{grey},{grey})"></span>')

    rows = "".join('<div role="row">' + "".join(cell(row, column) for column in range(SIDE)) + "</div>\n" for row in range(SIDE))
    return (f'<p class="tlm-hint tlm-live" id="tlm-{name}-hint">Draw from the top edge to the bottom. Or by keyboard:'
            ' arrows move, space and 0 to 9 set ink.</p>\n'
            f'<div class="tlm-paper" role="grid" aria-label="Image of 8 by 8 cells" aria-describedby="tlm-{name}-hint" data-paper>\n'
            f'{rows}</div>\n'
            f'<p class="tlm-heard" aria-live="polite" data-heard></p>\n<div class="tlm-tools tlm-live">'
            f'<button type="button" data-eraser aria-pressed="false">Eraser</button><button type="button" data-clear>Clear</button></div>')


def _examples(name: str, data: Data) -> str:
    """The stored images as buttons."""
    buttons = "".join(
        f'<button type="button" data-example="{i}" aria-label="Load: {escape(each["label"])}">'
        f'<img class="dark-light" alt="{escape(each["label"])}" src="{bitmap(map(paper, each["ink"]))}">'
        f'<span>{escape(each["label"])}</span></button>\n'
        for i, each in enumerate(data["examples"]))
    return (f'<p class="tlm-hint" id="tlm-{name}-load">Or start from one of these:</p>\n'
            f'<div class="tlm-examples" role="group" aria-labelledby="tlm-{name}-load">\n{buttons}</div>')


def _logits(data: Data, shown: Shown) -> str:
    """One row a class; the buttons before the names choose the class to explain, and are made one group by the script of this copy."""
    rows = []
    for c, label in enumerate(data["labels"]):
        marks = ' data-top' * (label == shown["predicted"]) + ' data-chosen' * (label == shown["chosen"])
        checked = " checked" * (label == shown["chosen"])
        button = (f'<input type="radio" value="{c}" aria-label="explain {escape(label)}"'
                  f'{checked} autocomplete="off">')
        rows.append(f'<tr data-class="{c}"{marks}><th scope="row"><label>{button}{escape(label)}</label></th>'
                    f'{_bar(data, shown, f"logit{c}")}{_number(data, shown, f"logit{c}")}</tr>')
    return _table('Its logits, f(x). <span class="tlm-live">Choose the one to explain:</span>', rows)


def _why(data: Data, shown: Shown) -> str:
    """One row an eigenvector of the chosen class, then what the others add, then the sum, which is the logit."""
    chosen = data["labels"].index(shown["chosen"])
    rows = []
    for i, vector in enumerate(data["vectors"][chosen], start=1):
        limit = max(map(abs, vector)) or 1.0
        image = bitmap(diverging(each, limit) for each in vector)
        rows.append(f'<tr><th scope="row"><img class="dark-light" data-vector="{i}" alt="eigenvector {i}" src="{image}"></th>'
                    f'{_number(data, shown, f"lambda{i}", "tlm-detail")}{_number(data, shown, f"square{i}", "tlm-detail")}'
                    f'{_bar(data, shown, f"part{i}")}{_number(data, shown, f"part{i}")}</tr>')
    name = f'<span data-key="chosen">{escape(shown["chosen"])}</span>'
    for key, words in (("rest", "all other eigenvectors"), ("total", f"sum: the logit of {name}")):
        rows.append(f'<tr class="tlm-{key}"><th scope="row" colspan="3">{words}</th>'
                    f'{_bar(data, shown, key)}{_number(data, shown, key)}</tr>')
    caption = f"<strong>Why {name}?</strong> Its logit is a sum of squares, each times its λ"
    hint = ('<p class="tlm-hint">Red and blue are the two signs within v. Ink on one colour and not on the other makes (v·x)² large,'
            " whichever colour it is; the sign of λ says whether that speaks for the digit or against it.</p>")
    return _table(caption, rows, ["v", "λ", "(v·x)²", "", "λ (v·x)²"]) + hint


def _table(caption: str, rows: list[str], head: Iterable[str] = ()) -> str:
    columns = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in head)
    top = f"<thead><tr>{columns}</tr></thead>" if columns else ""
    return f"<table><caption>{caption}</caption>{top}<tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _number(data: Data, shown: Shown, key: str, look: str = "tlm-number") -> str:
    kind, value = kind_of(key), shown[key]
    words = text(value, data["decimals"][kind], signed=kind in ("logit", "part"))
    return f'<td class="{look}" data-key="{key}" data-exact="{value:.7g}">{words}</td>'


def _bar(data: Data, shown: Shown, key: str) -> str:
    """A bar from the middle, blue to the right above zero, orange to the left below; the number beside it says the same."""
    value, kind = shown[key], kind_of(key)
    bound = max([data["bounds"][kind], *(abs(number) for name, number in shown.items() if kind_of(name) == kind)])
    half = 50 * abs(value) / bound
    below, left = ("tlm-below", 50 - half) if value < 0 else ("", 50)
    return (f'<td class="tlm-track" aria-hidden="true"><span><i class="{below}" data-bar="{key}"'
            f' style="left:{left:.4g}%;width:{half:.4g}%"></i></span></td>')


def kind_of(key: str) -> str:
    """Numbers of one kind share a scale and their decimals: ``logit``, ``part`` (with ``rest`` and ``total``), ``lambda``, ``square``."""
    return {"rest": "part", "total": "part"}.get(key, key.rstrip("0123456789"))
