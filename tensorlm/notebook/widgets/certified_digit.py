"""A pad to draw an 8x8 digit on: the page computes how far it is from every other class, exactly, and the nearest such image.

The lead of the label over a rival is a quadratic g(step) = g + 2 w.step + step.Q step. Its nearest zero is at
step = -t (I + tQ)^-1 w for the t at which g vanishes, below 1 / |least eigenvalue of Q|. Here t comes from an
eigendecomposition, in the page from Cholesky factors.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.drawing import CELLS, INKS, SIDE, STOPS, as_ink, as_pixels, class_names, diverging, paper, paper_html
from tensorlm.notebook.widgets.page import Data, Widget

HALVINGS = 200
EIGENVALUE_SHARE = 1e-9  # of the largest, below which an eigenvalue is zero
IMAGES = {"drawn": "your image", "step": "the step", "nearest": "the nearest other"}
PICTURE = '<div><svg viewBox="0 0 8 8" role="img" aria-label="{}" data-image="{}">{}</svg><p>{}</p></div>'
RECT = '<rect x="{}" y="{}" width="1.02" height="1.02" fill="rgb({},{},{})"/>'
TRACK = '<td class="tlm-track" aria-hidden="true"><span><i data-bar="{}" style="left:0;width:{:.4g}%"></i></span></td>'


def certified_pad(name: str, D: Any, L: Any, R: Any, examples: Mapping[str, Any], labels: Sequence[str] | None = None,
                  title: str = "Draw a digit, and see the nearest image of another class") -> Widget:
    """A pad for the layer f(x) = D[(L(1, x)) * (R(1, x))] on images x of 64 pixels from 0 to 1.

    `D` (classes, h), `L` and `R` (h, 65), 20 classes and 64 hidden units at most; `examples` maps a label to an image (64
    numbers or 8 by 8), the first is drawn at the start; `labels` names the classes. Raises ValueError naming the argument,
    and where some class cannot be left in every direction: then two classes have a Q without a negative eigenvalue.
    """
    layer = {key: as_array(weights, key) for key, weights in (("D", D), ("L", L), ("R", R))}
    shapes = [part.shape for part in layer.values()]
    fits = layer["D"].ndim == 2 and 2 <= len(layer["D"]) <= 20 and shapes[1] == shapes[2] == (min(shapes[0][1], 64), 1 + CELLS)
    require(fits, "D, L, R", shapes, f"of shapes (classes, h), (h, {1 + CELLS}), (h, {1 + CELLS}), 2 to 20 classes, h at most 64")
    names = class_names(labels, len(layer["D"]))
    data = {"kind": "certified_digit", "title": title, "labels": names, "examples": as_ink(examples),
            **{key: page.plain(weights, digits=7) for key, weights in layer.items()}}
    _require_falling(np.array(data["D"]), np.array(data["L"]), np.array(data["R"]))
    shown = [evaluate(data, np.array(each["ink"]) / INKS) for each in data["examples"]]
    most = max(value for numbers in shown for key, value in numbers.items() if key.startswith("to"))
    return Widget("CertifiedDigit", name, {**data, "bound": float(f"{1.2 * most:.3g}")}, evaluate, html)


def evaluate(data: Data, pixels: Any) -> dict[str, Any]:
    """What a page with `data` shows for an image of 64 numbers from 0 to 1.

    Keys: `predicted` and `rival` (labels), `radius`, `to0` .. for the distance to each other class, and `step`, 64 numbers.
    """
    x = np.append(1.0, as_pixels("pixels", pixels))
    D, L, R = (np.array(data[key]) for key in ("D", "L", "R"))
    left, right = L @ x, R @ x
    logits = D @ (left * right)
    label, steps = int(logits.argmax()), {}
    for rival in (each for each in range(len(D)) if each != label):
        weights = D[label] - D[rival]
        half = (weights * left @ R + weights * right @ L)[1:] / 2
        steps[rival] = nearest(interaction(weights, L, R), half, logits[label] - logits[rival])
    sizes = {rival: float(np.linalg.norm(step)) for rival, step in steps.items()}
    best = min(sizes, key=lambda rival: sizes[rival])
    return {"predicted": data["labels"][label], "rival": data["labels"][best], "radius": sizes[best],
            **{f"to{rival}": size for rival, size in sizes.items()}, "step": steps[best].tolist()}


def interaction(weights: np.ndarray, L: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Q of the pixels (64, 64), for weights (h,) of the hidden units."""
    Q = (weights[:, None] * L[:, 1:]).T @ R[:, 1:]
    return (Q + Q.T) / 2


def nearest(Q: np.ndarray, half: np.ndarray, margin: float) -> np.ndarray:
    """The shortest step to a zero of margin + 2 half.step + step.Q step."""
    values, vectors = np.linalg.eigh(Q)
    along, step = vectors.T @ half, np.zeros(len(Q))
    low, high = 0.0, -1 / float(values[0])
    for _ in range(HALVINGS):
        t = (low + high) / 2
        step = -t * along / (1 + t * values)
        low, high = (t, high) if margin + step @ (2 * along + values * step) > 0 else (low, t)
    return vectors @ step


def _require_falling(D: np.ndarray, L: np.ndarray, R: np.ndarray) -> None:
    """ValueError unless Q of every two classes has a negative eigenvalue, seen from both."""
    for a, b in zip(*np.triu_indices(len(D), 1)):
        values = np.linalg.eigvalsh(interaction(D[a] - D[b], L, R))
        least = EIGENVALUE_SHARE * np.abs(values).max()
        fits, wanted = values[0] < -least < least < values[-1], "such that each two classes differ by a Q of both signs"
        require(fits, "D, L, R", (int(a), int(b)), wanted)


def html(widget: Widget) -> str:
    data = widget.data
    ink = np.array(data["examples"][0]["ink"])
    shown = evaluate(data, ink / INKS)
    body = page.asset("certified_digit.html").format(
        **{key: escape(shown[key]) for key in ("predicted", "rival")}, radius=page.rounded(shown["radius"]), exact=f"{shown['radius']:.7g}",
        drawing=paper_html(widget.name, data["examples"]), distances=_distances(data, shown), images=_images(ink / INKS, shown)).strip()
    return page.frame(widget, "nearest", body, ["certified_digit.js", page.lean("drawing.js")], look=" tlm-pad tlm-nearest",
                      styles=("digit_pad.css", "certified_digit.css"), known={"stops": STOPS}, still="it is a pad to draw on",
                      attributes=' data-lm-suppress-shortcuts="true"\n')


def _distances(data: Data, shown: Data) -> str:
    rows = []
    for c, label in enumerate(data["labels"]):
        value = shown.get(f"to{c}", 0.0)
        own, mark = f"to{c}" not in shown, ' data-chosen' * (label == shown["rival"]) + ' data-top' * (label == shown["predicted"])
        words = "is it" if own else page.rounded(value)
        rows.append(f'<tr data-class="{c}"{mark}><th scope="row">{escape(label)}</th>'
                    f'{TRACK.format(f"to{c}", 100 * min(1.0, value / data["bound"]))}{page.cell(f"to{c}", words, f"{value:.7g}")}</tr>')
    return page.table("Distance to a tie with each other class", [], rows, wide=False)


def colours(pixels: np.ndarray, step: Any) -> dict[str, np.ndarray]:
    """Of the three images the colours (64, 3): ink as grey, signed steps from blue to red, and what they lead to, cut to 0 .. 1."""
    step = np.asarray(step)
    shade = lambda values: np.repeat(paper(INKS * values)[:, None], 3, 1)
    return {"drawn": shade(pixels), "step": diverging(step, float(np.abs(step).max()) or 1.0), "nearest": shade((pixels + step).clip(0, 1))}


def _images(pixels: np.ndarray, shown: Data) -> str:
    pictures = []
    for key, each in colours(pixels, shown["step"]).items():
        rects = "".join(RECT.format(place % SIDE, place // SIDE, *colour) for place, colour in enumerate(each))
        pictures.append(PICTURE.format(IMAGES[key], key, rects, IMAGES[key]))
    return "\n".join(pictures)
