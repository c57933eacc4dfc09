"""The paper of a pad, 8 by 8 cells to draw on, its tools and examples; and pictures of 64 pixels. `drawing.js` moves it."""

import base64
import struct
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data

SIDE, CELLS, INKS = 8, 64, 16
IMAGE = f"({CELLS},) or ({SIDE}, {SIDE})"
# From blue through white to red, ColorBrewer's RdBu, as the maps of signed values elsewhere in the book.
STOPS = ((5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
         (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31))


def as_ink(examples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The examples with their ink in whole sixteenths."""
    page.require_names("examples", examples, 20)
    return [{"label": label, "ink": np.floor(as_pixels(f"example {label!r}", image) * INKS + 0.5).astype(int).tolist()}
            for label, image in examples.items()]


def class_names(labels: Sequence[str] | None, classes: int) -> list[str]:
    """The names of the classes, 0, 1 and so on where none are given; ValueError unless there are as many, all different."""
    names = [str(index) for index in range(classes)] if labels is None else page.texts("labels", labels)
    fits = len(names) == classes == len(set(names)) and all(names)
    require(fits, "labels", names, f"{classes} different names, one for each row of D")
    return names


def as_pixels(name: str, image: Any) -> np.ndarray:
    pixels = as_array(image, name)
    require(pixels.shape in ((CELLS,), (SIDE, SIDE)), name, pixels, f"an image of shape {IMAGE}")
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(f"{name} must be values from 0 to 1, got values from {pixels.min():g} to {pixels.max():g}")
    return pixels.reshape(CELLS)


def paper_html(name: str, examples: Sequence[Data]) -> str:
    """The paper to draw on, with the first example on it, its tools, and a button for each example; `drawing.js` moves them."""
    buttons = ""
    for i, each in enumerate(examples):
        label, image = escape(each["label"]), bitmap(np.repeat(paper(each["ink"]), 3))
        buttons += (f'<button type="button" data-example="{i}" aria-label="Load: {label}">'
                    f'<img class="dark-light" alt="{label}" src="{image}"><span>{label}</span></button>\n')
    return page.asset("drawing.html").format(name=name, cells=_cells(name, examples[0]["ink"]), examples=buttons).strip()


def bitmap(colours: np.ndarray) -> str:
    """An 8x8 picture (8, 8, 3) as the address of an uncompressed bitmap, which every processor writes alike."""
    head = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + 3 * CELLS, 0, 54, 40, SIDE, SIDE, 1, 24, *[0] * 6)
    body = colours.reshape(SIDE, SIDE, 3)[::-1, :, ::-1].astype(np.uint8).tobytes()
    return "data:image/bmp;base64," + base64.b64encode(head + body).decode()


def diverging(values: Any, limit: float) -> np.ndarray:
    """The colours (..., 3) of signed values: blue below zero, white at zero, red above."""
    places = (np.asarray(values) / limit + 1) / 2 * (len(STOPS) - 1)
    return np.stack([np.interp(places, range(len(STOPS)), channel) + 0.5 for channel in zip(*STOPS)], -1).astype(int)


def paper(ink: Any) -> np.ndarray:
    return np.floor(255 - 14.5 * np.asarray(ink) + 0.5).astype(int)


def _cells(name: str, ink: list[int]) -> str:
    words = []
    for place, value in enumerate(ink):
        (row, column), grey = divmod(place, SIDE), paper(value)
        words.append(f'<span role="gridcell" id="tlm-{name}-{row}{column}" aria-label="row {row + 1}, column {column + 1}: '
                     f'ink {value} of {INKS}" style="background:rgb({grey},{grey},{grey})"></span>')
    return "".join('<div role="row">' + "".join(words[start:start + SIDE]) + "</div>\n" for start in range(0, CELLS, SIDE))
