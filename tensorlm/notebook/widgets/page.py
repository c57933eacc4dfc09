"""What the widgets of a page share: the frame, its data and script, range inputs, lists, tables, bars, axes, and numbers.

A widget needs no kernel: plain HTML, a still picture of its start and a table of samples, moved by a short script.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from tensorlm.checks import is_finite, require, require_instance, require_whole

Data = Mapping[str, Any]
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "12 4", "1 2")
WIDTH, HEIGHT = 360, 220
FRAME = {"left": 46, "top": 8, "width": WIDTH - 56, "height": HEIGHT - 38}
LEFT, TOP, RIGHT, BOTTOM = FRAME["left"], FRAME["top"], FRAME["left"] + FRAME["width"], FRAME["top"] + FRAME["height"]
TRACK = '<td class="tlm-track" aria-hidden="true"><span><i {}"></i></span></td>'
PICTURE = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{{}}">{{}}</svg>'
LINE = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}"/>'
TEXT = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="11" fill="#3a3a3a">{}</text>'
STROKE = 'fill="none" stroke="{}" stroke-width="{}" stroke-dasharray="{}"'
SWATCH = ('<svg viewBox="0 0 30 8" style="display:inline-block;width:30px;height:8px;margin:0" aria-hidden="true">'
          '<path d="M0 4H30" stroke="{}" stroke-width="3" stroke-dasharray="{}"/></svg>')
OVERFLOW = "{} must be finite numbers wherever the inputs can stand, got some that overflow"


@dataclass(frozen=True)
class Widget:
    """A widget: its name (the id on the page), all that the page gets to know, JSON-safe, and what it shows for inputs."""

    kind: str
    name: str
    data: dict[str, Any]
    function: Callable[..., dict[str, Any]]
    html: Callable[["Widget"], str]

    def __post_init__(self) -> None:
        fits = isinstance(self.name, str) and re.fullmatch(r"[a-z][a-z0-9-]*", self.name)
        require(fits, "name", self.name, "lower-case letters, digits and '-', starting with a letter")
        require_instance("title", self.data["title"], str)
        try:
            json.dumps(self.data, allow_nan=False)
        except ValueError:
            raise ValueError(OVERFLOW.format(f"values of {self.name}")) from None

    def evaluate(self, *inputs: Any) -> dict[str, Any]:
        return self.function(self.data, *inputs)

    def _repr_html_(self) -> str:
        return self.html(self)

    def __repr__(self) -> str:
        return f"{self.kind} {self.name!r}: {self.data['title']}"


def frame(widget: Widget, marker: str, body: str, script: Sequence[str], look: str = "", styles: Sequence[str] = (),
          known: Data | None = None, still: str = "it moves", attributes: str = "") -> str:
    """The whole widget as one string, the same for the same data; ids start with `tlm-NAME`.

    `script` is the file that moves it, and what that takes beside the name and `apart.js` (own ids for a second copy).
    `known` is what the page knows beside the data. `still` says what an untrusted notebook, where no script runs, lacks.
    """
    name, (file, *arguments) = widget.name, script
    data = json.dumps({**widget.data, **(known or {})}, allow_nan=False, separators=(",", ":"))
    arguments = [json.dumps(name), lean("apart.js"), *arguments]
    return asset("widget.html").format(
        name=name, look=look, marker=marker, attributes=attributes, styles="\n".join(map(lean, ("slider.css", *styles))),
        body=body, still=still, title=escape(widget.data["title"]), data=data.replace("<", chr(92) + "u003c"),
        script=lean(file), arguments=", ".join(arguments)).strip()


def strength_frame(widget: Widget, marker: str, lists: Iterable[str], tables: Iterable[str], script: str, points: int) -> str:
    """The frame of a widget with lists of options, one range input, and below them what these change."""
    body = "\n".join([*lists, control(widget.name, widget.data["inputs"][0]), *tables])
    return frame(widget, marker, body, ["strength.js", json.dumps(f"data-tlm-{marker}"), lean(script)],
                 " tlm-stack", ("stacked_parts.css",), {"frame": FRAME, "points": points})


@functools.cache
def lean(file: str) -> str:
    """A script or style without its indentation and the lines that are comments: what a page takes along, shorter."""
    lines = map(str.strip, asset(file).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


@functools.cache
def asset(file: str) -> str:
    return resources.files("tensorlm.notebook").joinpath("assets", file).read_text(encoding="utf-8")


def range_input(key: str, label: str, low: float, high: float, step: float, start: float) -> dict[str, Any]:
    """The data of a range input; a step whose multiple misses `high` by rounding is cut, as browsers add in decimal."""
    require_instance("variable", label, str)
    fits = all(map(is_finite, (low, high, step))) and low < high and step > 0 and high - low < 1e15 * step
    require(fits, f"range of {key}", (low, high, step), "finite (low, high, step), low < high, below 1e15 steps")
    low, high, step = float(low), float(high), float(step)
    steps = (start - low) / step if is_finite(start) else math.nan
    fits = low <= start <= high and abs(steps - round(steps)) <= 1e-6 if is_finite(steps) else False
    require(fits, f"start of {key}", start, f"{low} plus a whole number of steps of {step}, up to {high}")
    first, end, each, count = Decimal(repr(low)), Decimal(repr(high)), Decimal(repr(step)), math.floor((high - low) / step + 1e-6)
    if first + count * each > end:
        each = Context(prec=15, rounding=ROUND_DOWN).divide(end - first, Decimal(count))
    places = max(decimals(low), decimals(float(each)))
    return {"key": key, "label": label, "low": low, "high": high, "last": float(first + count * each), "step": float(each),
            "start": float(first + round(steps) * each), "decimals": min(places, max(6, 5 - math.floor(math.log10(step))))}


def control(name: str, each: Data) -> str:
    places, key, label = each["decimals"], escape(each["key"]), escape(each["label"])
    low, last, start = (exact(each[part], places) for part in ("low", "last", "start"))
    shown = f"{each['start']:.{places}f}"
    return (f'<div class="tlm-control"><label for="tlm-{name}-{key}">{label}</label>'
            f'<input type="range" id="tlm-{name}-{key}" data-input="{key}" min="{low}" max="{last}" step="{exact(each["step"])}"'
            f' value="{start}" aria-valuetext="{label} = {shown}" autocomplete="off">'
            f'<output for="tlm-{name}-{key}" data-value="{key}" aria-live="polite">{shown}</output></div>')


def choice(name: str, key: str, data_key: str, label: str, options: Sequence[str]) -> str:
    inner = "".join(f'<option value="{i}"{" selected" * (i == 0)}>{escape(words)}</option>' for i, words in enumerate(options))
    return (f'<div class="tlm-choice"><label for="tlm-{name}-{key}">{escape(label)}</label>'
            f'<select id="tlm-{name}-{key}" data-choice="{data_key}" autocomplete="off">{inner}</select></div>')


def chosen_options(chosen: Any, counts: Sequence[int]) -> list[int]:
    fits = isinstance(chosen, Sequence) and len(chosen) == len(counts)
    require(fits, "chosen", chosen, f"{len(counts)} numbers, one a list")
    return [require_whole("chosen", number, 0, count - 1) for number, count in zip(chosen, counts)]


def require_names(name: str, value: Any, most: int) -> None:
    fits = isinstance(value, Mapping) and 1 <= len(value) <= most and all(isinstance(key, str) and key.strip() for key in value)
    require(fits, name, value, f"a mapping of 1 to {most} names")


def texts(name: str, values: Any, least: int = 0, most: float = math.inf) -> list[str]:
    fits = isinstance(values, Sequence) and all(isinstance(each, str) for each in values) and least <= len(values) <= most
    require(fits, name, values, "a sequence of text" + f", {least} to {most} of it" * (most < math.inf))
    return list(values)


def table(caption: str, head: Sequence[str], rows: Iterable[str], live: bool = False, wide: bool = True) -> str:
    """Rows under their heads; a `live` one is read out when it changes, a `wide` one scrolls."""
    columns = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in head)
    top, announced = f"<thead><tr>{columns}</tr></thead>" if columns else "", ' aria-live="polite"' if live else ""
    body = f"<table><caption>{caption}</caption>{top}<tbody{announced}>\n" + "\n".join(rows) + "\n</tbody></table>"
    return f'<div class="tlm-scroll">{body}</div>' if wide else body


def samples(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A folded table of words and numbers as plain text, which is escaped here."""
    lines = ["<tr>" + "".join(f"<td>{escape(words)}</td>" for words in row) + "</tr>" for row in rows]
    inner = table(f"Computed beforehand{escape(caption)}", list(map(escape, head)), lines)
    return f'<details><summary>Sample values as a table</summary><div class="tlm-scroll">{inner}</div></details>'


def cell(key: str, words: str, exact: str | None = None, look: str = "tlm-number") -> str:
    """A number that the script keeps, as shown, and with the digits that are `exact` where those are fewer."""
    return f'<td class="{look}" data-key="{key}"' + (f' data-exact="{exact}"' if exact else "") + f">{words}</td>"


def bar(key: str, value: float | None, bound: float, attributes: str = "") -> str:
    """A bar from the middle, blue to the right above zero, orange to the left below; the number beside it says the same."""
    half = 50 * min(1.0, abs(value or 0.0) / bound)
    below, left = ("tlm-below", 50 - half) if (value or 0) < 0 else ("", 50)
    return TRACK.format(f'class="{below}" data-bar="{key}"{attributes} style="left:{left:.4g}%;width:{half:.4g}%')


def stacked_bars(entries: Iterable[tuple[str, str, str]], shown: Mapping[str, float], reach: float) -> list[str]:
    """Rows of (key, colour, label as HTML) whose bars start where the one above ended; that of the sum starts at nothing."""
    before, rows = 0.0, []
    for key, colour, label in entries:
        start = 0.0 if key == "sum" else before
        left, width = span(start, start + shown[key], reach)
        before = start + shown[key]
        stretch = TRACK.format(f'data-bar="{key}" style="left:{left:.4g}%;width:{width:.4g}%;background:{colour}')
        rows.append(f'<tr{" class=tlm-total" * (key == "sum")}><th scope="row">{label}</th>{stretch}'
                    f'{cell(key, rounded(shown[key], signed=True), f"{shown[key]:.9g}")}</tr>')
    return rows


def span(start: float, end: float, reach: float) -> tuple[float, float]:
    left, right = (50 + 50 * max(-1.0, min(1.0, place / reach)) for place in (min(start, end), max(start, end)))
    return left, right - left


@dataclass(frozen=True)
class Plot:
    """The drawing area of curves: an input named `label`, from `low` to `high`, and heights from `bottom` to `top`."""

    low: float
    high: float
    label: str
    bottom: float
    top: float

    def x(self, a: float) -> float:
        return LEFT + (a - self.low) / (self.high - self.low) * FRAME["width"]

    def y(self, height: float) -> float:
        return TOP + (self.top - height) / (self.top - self.bottom) * FRAME["height"]

    def inside(self, height: float | None) -> bool:
        return height is not None and self.bottom <= height <= self.top

    def path(self, heights: Sequence[float | None]) -> str:
        """A curve through heights at even steps, cut where it is undefined or leaves the area."""
        pen, parts = "M", []
        for a, height in zip(np.linspace(self.low, self.high, len(heights)), heights):
            if height is not None and self.inside(height):
                parts.append(f"{pen}{self.x(a):.1f} {self.y(height):.1f}")
            pen = "L" if self.inside(height) else "M"
        return "".join(parts)

    def axes(self, heights: Sequence[float] | None = None, zero: str = "#6a6a6a") -> str:
        parts = []
        for tick in ticks(self.low, self.high):
            x = self.x(tick)
            parts += [LINE.format(x, TOP, x, BOTTOM, "#dddddd"), TEXT.format(x, BOTTOM + 14, "middle", f"{tick:.4g}")]
        for tick in ticks(self.bottom, self.top) if heights is None else heights:
            y, colour = self.y(tick), zero if tick == 0 else "#dddddd"
            parts += [LINE.format(LEFT, y, RIGHT, y, colour), TEXT.format(LEFT - 4, y + 4, "end", f"{tick:.4g}")]
        return "".join(parts) + TEXT.format(RIGHT, BOTTOM + 27, "end", escape(self.label))

    def here(self, strength: float) -> str:
        x, look = self.x(strength), 'stroke="#6a6a6a" stroke-dasharray="3 3"'
        return f'<line data-here x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}" {look}/>'

    def dot(self, key: str, a: float, height: float, colour: str, radius: float = 4.5, attributes: str = "") -> str:
        return (f'<circle data-marker="{key}" r="{radius}" cx="{self.x(a):.1f}" cy="{self.y(height):.1f}" fill="{colour}"'
                f' stroke="#ffffff"{attributes}/>')


def ticks(low: float, high: float) -> list[float]:
    return [round(float(tick), 12) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def precise(value: float, digits: int = 7) -> str:
    """JavaScript's `toPrecision`: plain from 1e-6 to below 1e7 (with 7 digits), halves away from zero."""
    size = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(abs(value))
    power = size.adjusted() if size else 0
    words = f"{size:.{digits - 1 - power}f}" if -7 < power < digits else f"{size.scaleb(-power):.{digits - 1}f}e{power:+d}"
    return "-" * (value < 0) + words


def rounded(value: float, decimals: int = 2, signed: bool = False) -> str:
    """A number with so many decimals as the scripts write it; the exact one stands beside it for whoever asks."""
    size = math.floor(abs(value) * 10**decimals + 0.5)
    sign = "−" if size and value < 0 else "+" if size and signed else ""
    return sign + (f"{size / 10**decimals:.{decimals}f}" if abs(value) < 1e15 else precise(abs(value)))


def exact(number: float, places: int = 0) -> str:
    """All digits of a number that make it that one, without an exponent; at least so many decimals."""
    return f"{Decimal(repr(float(number))):.{max(places, decimals(number))}f}"


def decimals(number: float) -> int:
    return max(0, -int(Decimal(repr(float(number))).normalize().as_tuple().exponent))


def numbered(**groups: Any) -> dict[str, Any]:
    flat = {f"{name}{i}": entry for name, entries in groups.items() for i, entry in enumerate(entries, 1)}
    return {key: None if entry is None else float(entry) for key, entry in flat.items()}


def plain(array: np.ndarray, weights: Any = 1.0, digits: int = 12) -> Any:
    """Nested lists of `digits` of the largest entry, all cut at one place: without what rounding decides on each processor.

    Entries count as large as they are times `weights`: coefficients of powers times the powers of the largest strength.
    """
    array, weights = np.asarray(array, dtype=float), np.broadcast_to(np.asarray(weights, dtype=float), np.shape(array))
    with np.errstate(over="ignore"):
        largest = float(np.abs(array * weights).max(initial=0.0))
    if not math.isfinite(largest):
        raise ValueError(OVERFLOW.format("values"))
    places = digits - 1 - np.floor(np.log10(largest / weights)) if largest else np.zeros(array.shape)
    cut = np.vectorize(lambda entry, place: round(float(entry), int(place)) + 0.0, otypes=[float])
    return cut(array, places).tolist()


def powers(count: int, low: float, high: float) -> np.ndarray:
    """How large the powers 0 to `count` - 1 of a strength can be between `low` and `high`, at least 1."""
    with np.errstate(over="ignore"):
        return max(abs(low), abs(high), 1.0) ** np.arange(count)
