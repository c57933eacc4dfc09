"""A pad to draw an 8x8 digit on: the page computes what a bilinear layer says of it, and which eigenvectors made it say so.

The logit of a class is the sum of lambda_i (v_i . x)^2 over the eigenvalues lambda_i and eigenvectors v_i of its interaction
matrix (Pearce et al. 2024, arXiv 2410.08417, section 3). The weights stand in the page, rounded to 6 significant digits.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require, require_whole
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.certified_digit import certified_pad as certified_pad
from tensorlm.notebook.widgets.drawing import CELLS, IMAGE, INKS, STOPS, as_ink, as_pixels, bitmap, class_names, diverging, paper_html
from tensorlm.notebook.widgets.page import Data, Widget

TOLERANCE = 1e-3  # of eigenvectors, which come rounded
Shown = dict[str, Any]  # numbers, and labels


def pad(name: str, D: Any, L: Any, R: Any, values: Any, vectors: Any, examples: Mapping[str, Any], labels: Sequence[str] | None = None,
        mean: Any = 0.0, scale: float = 1.0, title: str = "Draw a digit, and see why the layer calls it what it does") -> Widget:
    """A pad for the layer f(x) = D[(Lx) * (Rx)] on images of 64 pixels from 0 to 1, read as x = (pixels - `mean`) * `scale`.

    `D` (classes, h), `L` and `R` (h, 64); `values` (classes, k) and `vectors` (classes, k, 64) are the eigenvalues and unit
    eigenvectors kept for each class, 12 at most, each turned so that ink in the examples is red more often than blue.
    `examples` maps a label to an image (64 numbers or 8 by 8); the first is drawn at the start. `labels` names the classes,
    `mean` is a number or an image. Raises ValueError naming the argument; eigenvectors of another layer are refused too.
    """
    given = {"D": D, "L": L, "R": R, "values": values, "vectors": vectors}
    layer = {key: as_array(weights, key) for key, weights in given.items()}
    _check_shapes(layer)
    _check_eigen(**layer)
    names = class_names(labels, len(layer["D"]))
    images = as_ink(examples)
    ink = np.sum([each["ink"] for each in images], axis=0)
    layer["vectors"] = np.where((layer["vectors"] @ ink)[..., None] < 0, -layer["vectors"], layer["vectors"])
    middle, size = as_array(mean, "mean"), as_array(scale, "scale")
    require(middle.size in (1, CELLS), "mean", middle, f"a number or an image of shape {IMAGE}")
    require(size.size == 1 and size, "scale", scale, "one finite number other than 0")
    data = {"kind": "digit_pad", "title": title, "labels": names,
            "mean": page.plain(np.resize(middle, CELLS), digits=9), "scale": page.plain(size.reshape(()), digits=9),
            "examples": images, **{key: page.plain(weights, digits=6) for key, weights in layer.items()}}
    return Widget("DigitPad", name, {**data, **_ranges(data)}, evaluate, html)


def evaluate(data: Data, pixels: Any, chosen: int | None = None) -> Shown:
    """What a page with `data` shows for an image of 64 numbers from 0 to 1 when it explains the class number `chosen`.

    `chosen=None` explains the predicted class. Keys: `predicted` (a label; None where all logits agree), `chosen`, `logit0`
    .., and of the chosen class `lambda1` .., `square1` .. for (v . x)^2, `part1` .., `rest`, `total`.
    """
    x = (as_pixels("pixels", pixels) - np.array(data["mean"])) * data["scale"]
    D, L, R, values, vectors = (np.array(data[key]) for key in ("D", "L", "R", "values", "vectors"))
    logits = D @ ((L @ x) * (R @ x))
    top = None if logits.max() == logits.min() and len(logits) > 1 else int(logits.argmax())
    shown = (top or 0) if chosen is None else require_whole("chosen", chosen, 0, len(logits) - 1)
    squares = (vectors[shown] @ x) ** 2
    parts = values[shown] * squares
    return {"predicted": None if top is None else data["labels"][top], "chosen": data["labels"][shown],
            **{f"logit{c}": float(logit) for c, logit in enumerate(logits)},
            **page.numbered(**{"lambda": values[shown], "square": squares, "part": parts}),
            "rest": float(logits[shown] - parts.sum()), "total": float(logits[shown])}


def kind_of(key: str) -> str:
    """Numbers of one kind share a scale and decimals: `logit`, `part` (with `rest` and `total`), `lambda`, `square`."""
    return {"rest": "part", "total": "part"}.get(key, key.rstrip("0123456789"))


def _ranges(data: Data) -> dict[str, dict[str, float]]:
    """For each kind of number the length of a full bar, and the decimals that show 3 or 4 digits of the largest one."""
    shown = [evaluate(data, np.array(each["ink"]) / INKS, c) for each in data["examples"] for c in range(len(data["labels"]))]
    sizes = lambda kind: [abs(number) for numbers in shown for key, number in numbers.items() if kind_of(key) == kind]
    most = {kind: float(np.max(sizes(kind))) for kind in ("logit", "part", "lambda", "square")}  # nan stays
    if not all(map(math.isfinite, most.values())):
        raise ValueError(page.OVERFLOW.format("logits of the examples"))
    most["logit"] = most["part"] = max(most["logit"], most["part"])
    digits = {kind: (2 if kind == "lambda" else 3) - math.floor(math.log10(number or 1.0)) for kind, number in most.items()}
    return {"bounds": {kind: float(f"{most[kind] or 1.0:.3g}") for kind in ("logit", "part")},
            "decimals": {kind: min(6, max(0, count)) for kind, count in digits.items()}}


def _check_shapes(layer: Mapping[str, np.ndarray]) -> None:
    D, L, R, values, vectors = layer.values()
    fits = (D.ndim == values.ndim == 2 and D.size and values.size and L.shape == R.shape == (D.shape[1], CELLS)
            and len(values) == len(D) and vectors.shape == (*values.shape, CELLS))
    wanted = f"(classes, h), (h, {CELLS}), (h, {CELLS}), (classes, k), (classes, k, {CELLS}), not empty"
    if fits and (len(D) > 20 or len(L) > 64 or values.shape[1] > 12):
        fits, wanted = False, "of 20 classes, 64 hidden units and 12 eigenvectors at most, to keep the page small"
    if not fits:
        raise ValueError(f"shapes of {', '.join(layer)} must be {wanted}, got {', '.join(str(part.shape) for part in layer.values())}")


def _check_eigen(D: np.ndarray, L: np.ndarray, R: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> None:
    """The interaction matrix of a class, applied to its vectors, only scales them: Q v = [L^T (D_c * Rv) + R^T (D_c * Lv)] / 2."""
    by_left, by_right = vectors @ L.T, vectors @ R.T
    applied = ((D[:, None] * by_right) @ L + (D[:, None] * by_left) @ R) / 2
    size = np.linalg.norm(applied - values[..., None] * vectors, axis=2)
    if (off := (size > TOLERANCE * np.abs(values).max()) | (np.abs(np.linalg.norm(vectors, axis=2) - 1) > TOLERANCE)).any():
        c, i = map(int, np.argwhere(off)[0])
        raise ValueError(f"vectors must be eigenvectors of this layer, of length 1, got number {i} of class {c}, "
                         f"no eigenvector of its interaction matrix with value {values[c, i]:g}")


def html(widget: Widget) -> str:
    data = widget.data
    shown = evaluate(data, [each / INKS for each in data["examples"][0]["ink"]])
    body = page.asset("digit_pad.html").format(
        predicted=escape(shown["predicted"] or "nothing"), drawing=paper_html(widget.name, data["examples"]),
        logits=_logits(data, shown), why=_why(data, shown)).strip()
    return page.frame(widget, "pad", body, ["digit_pad.js", page.lean("drawing.js")], look=" tlm-pad", styles=("digit_pad.css",),
                      known={"stops": STOPS}, still="it is a pad to draw on",
                      attributes=' data-lm-suppress-shortcuts="true"\n')


def _logits(data: Data, shown: Shown) -> str:
    rows = []
    for c, label in enumerate(data["labels"]):
        marks = ' data-top' * (label == shown["predicted"]) + ' data-chosen' * (label == shown["chosen"])
        checked = " checked" * (label == shown["chosen"])
        button = f'<input type="radio" value="{c}" aria-label="explain {escape(label)}"{checked} autocomplete="off">'
        rows.append(f'<tr data-class="{c}"{marks}><th scope="row"><label>{button}{escape(label)}</label></th>'
                    f'{_number(data, shown, f"logit{c}")}</tr>')
    return page.table('Its logits, f(x). <span class="tlm-live">Choose the one to explain:</span>', [], rows, wide=False)


def _why(data: Data, shown: Shown) -> str:
    """One row an eigenvector of the chosen class, then what the others add, then the sum, which is the logit."""
    rows, name = [], f'<span data-key="chosen">{escape(shown["chosen"])}</span>'
    for i, vector in enumerate(data["vectors"][data["labels"].index(shown["chosen"])], start=1):
        image = bitmap(diverging(vector, max(map(abs, vector)) or 1.0))
        rows.append(f'<tr><th scope="row"><img class="dark-light" data-vector="{i}" alt="eigenvector {i}" src="{image}"></th>'
                    + "".join(_number(data, shown, f"{kind}{i}") for kind in ("lambda", "square", "part")) + "</tr>")
    for key, words in (("rest", "all other eigenvectors"), ("total", f"sum: the logit of {name}")):
        rows.append(f'<tr class="tlm-{key}"><th scope="row" colspan="3">{words}</th>{_number(data, shown, key)}</tr>')
    caption = f"<strong>Why {name}?</strong> Its logit is a sum of squares, each times its λ"
    return page.table(caption, ["v", "λ", "(v·x)²", "", "λ (v·x)²"], rows, wide=False)


def _number(data: Data, shown: Mapping[str, Any], key: str) -> str:
    kind, value = kind_of(key), shown[key]
    signed = kind in ("logit", "part")
    words, look = page.rounded(value, data["decimals"][kind], signed), "tlm-number" if signed else "tlm-detail"
    number = page.cell(key, words, f"{value:.7g}", look)
    if not signed:
        return number
    bound = max([data["bounds"][kind], *(abs(shown[each]) for each in shown if kind_of(each) == kind)])
    return page.bar(key, value, bound) + number
