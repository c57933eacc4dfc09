"""A pad to draw an 8x8 digit on: the page itself computes what a bilinear layer says of it, and which eigenvectors made it say so.

Needs no kernel: the weights stand in the page as JSON, rounded to 6 significant digits, and a short script evaluates the real layer. The
interaction matrix of a class has eigenvalues lambda_i and eigenvectors v_i, and the logit of the class is the sum of lambda_i (v_i . x)^2
over all of them (Pearce et al. 2024, arXiv 2410.08417, section 3). :func:`evaluate` is the same in Python, with the same rounded weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlm.notebook.arguments import finite_array, require, require_text, texts, whole
from tensorlm.notebook.widgets import digit_pad_page
from tensorlm.notebook.widgets.page import plain
from tensorlm.notebook.widgets.sliders import checked_name

SIDE, CELLS, INKS = 8, 64, 16


@dataclass(frozen=True)
class DigitPad:
    """The widget: its name (the id on the page) and all that the page gets to know, JSON-safe."""

    name: str
    data: dict[str, Any]

    def evaluate(self, pixels: Any, chosen: int | None = None) -> dict[str, float | str | None]:
        """What the page must show for an image: see :func:`evaluate`."""
        return evaluate(self.data, pixels, chosen)

    def _repr_html_(self) -> str:
        return digit_pad_page.html(self.name, self.data, evaluate)

    def __repr__(self) -> str:
        return f"DigitPad {self.name!r}: {self.data['title']}"


def pad(name: str, D: Any, L: Any, R: Any, values: Any, vectors: Any, examples: Mapping[str, Any], labels: Sequence[str] | None = None,
        mean: Any = 0.0, scale: float = 1.0, title: str = "Draw a digit, and see why the layer calls it what it does") -> DigitPad:
    """A pad for the layer f(x) = D[(Lx) * (Rx)] on images of 64 pixels from 0 to 1, read as x = (pixels - ``mean``) * ``scale``.

    ``D`` (classes, h), ``L`` and ``R`` (h, 64); ``values`` (classes, k) and ``vectors`` (classes, k, 64) are the eigenvalues and unit
    eigenvectors kept for each class, 12 at most. A vector and its negative mean the same; the one shown is that on which ink is red more
    often than blue in the examples. ``examples`` maps a label to an image (64 numbers or 8 by 8), stored in sixteenths; the first is drawn
    at the start. ``labels`` names the classes (default: ``"0"``, ``"1"``, ...), ``mean`` is a number or an image. Raises ``ValueError``
    naming the argument, what came and what is allowed; eigenvectors that are not those of this layer are refused too.

    >>> x = np.eye(8).ravel()
    >>> corner, unit = x[None] / 8, x[None, None] / 8**0.5
    >>> shown = pad("demo", [[1.0], [-1.0]], corner, corner, [[0.125], [-0.125]], np.repeat(unit, 2, axis=0), {"a line": x}).evaluate(x)
    >>> shown["predicted"], shown["logit0"], round(shown["part1"], 5), abs(shown["rest"]) < 1e-5
    ('0', 1.0, 1.0, True)
    """
    layer = {key: finite_array(weights, key) for key, weights in (("D", D), ("L", L), ("R", R), ("values", values), ("vectors", vectors))}
    _check_shapes(layer)
    _check_eigen(layer["D"], layer["L"], layer["R"], layer["values"], layer["vectors"])
    names = [str(index) for index in range(len(layer["D"]))] if labels is None else texts("labels", labels)
    if len(names) != len(layer["D"]) or not all(isinstance(label, str) and label for label in names) or len(set(names)) != len(names):
        raise ValueError(f"labels: got {names}, allowed: {len(layer['D'])} different names, one for each row of D")
    require_text(title=title)
    images = _examples(examples)
    layer["vectors"] = _towards(layer["vectors"], np.sum([each["ink"] for each in images], axis=0))
    data = {"kind": "digit_pad", "title": title, "labels": names, "mean": _mean(mean), "scale": _scale(scale), "examples": images,
            **{key: plain(weights, digits=6) for key, weights in layer.items()}}
    return DigitPad(checked_name(name), {**data, **_ranges(data)})


def evaluate(data: Mapping[str, Any], pixels: Any, chosen: int | None = None) -> dict[str, float | str | None]:
    """What a page with ``data`` shows for an image of ``pixels`` (64 numbers from 0 to 1) when it explains the class number ``chosen``.

    ``chosen=None`` explains the predicted class, or the first one where nothing is predicted. Keys: ``predicted`` (a label; ``None`` where
    all logits are equal), ``chosen`` (a label), ``logit0`` .., and of the chosen class ``lambda1`` .., ``square1`` .. for (v . x)^2,
    ``part1`` .. for their products, ``rest`` (what the eigenvectors left out contribute) and ``total`` (the logit).
    """
    x = (_pixels("pixels", pixels) - np.array(data["mean"])) * data["scale"]
    D, L, R, values, vectors = (np.array(data[key]) for key in ("D", "L", "R", "values", "vectors"))
    logits = D @ ((L @ x) * (R @ x))
    top = None if logits.max() == logits.min() and len(logits) > 1 else int(logits.argmax())
    shown = (top or 0) if chosen is None else whole("chosen", chosen, 0, len(logits) - 1)
    squares = (vectors[shown] @ x) ** 2
    parts = values[shown] * squares
    numbers = {f"logit{c}": logit for c, logit in enumerate(logits)}
    for key, entries in (("lambda", values[shown]), ("square", squares), ("part", parts)):
        numbers |= {f"{key}{i}": entry for i, entry in enumerate(entries, 1)}
    numbers |= {"rest": logits[shown] - parts.sum(), "total": logits[shown]}
    return {"predicted": None if top is None else data["labels"][top], "chosen": data["labels"][shown],
            **{key: float(number) for key, number in numbers.items()}}


def _ranges(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For each kind of number: the length of a full bar, and the decimals that show 3 or 4 digits of the largest one in the examples."""
    images = [np.array(each["ink"]) / INKS for each in data["examples"]]
    shown = [evaluate(data, image, c) for image in images for c in range(len(data["labels"]))]
    kinds = {"logit": ("logit",), "part": ("part", "rest", "total"), "lambda": ("lambda",), "square": ("square",)}
    most = {kind: max(abs(float(number or 0)) for each in shown for key, number in each.items() if key.rstrip("0123456789") in keys)
            for kind, keys in kinds.items()}
    if not all(map(math.isfinite, most.values())):
        raise ValueError("weights: got logits that overflow on the examples, allowed: finite numbers")
    most["logit"] = most["part"] = max(most["logit"], most["part"])
    digits = {kind: (2 if kind == "lambda" else 3) - math.floor(math.log10(number or 1.0)) for kind, number in most.items()}
    return {"bounds": {kind: float(f"{most[kind] or 1.0:.3g}") for kind in ("logit", "part")},
            "decimals": {kind: min(6, max(0, count)) for kind, count in digits.items()}}


def _check_shapes(layer: Mapping[str, np.ndarray]) -> None:
    got = ", ".join(f"{key} {weights.shape}" for key, weights in layer.items())
    D, L, R, values, vectors = layer.values()
    fits = (D.ndim == values.ndim == 2 and D.size and values.size and L.shape == R.shape == (D.shape[1], CELLS)
            and len(values) == len(D) and vectors.shape == (*values.shape, CELLS))
    if not fits:
        wanted = f"(classes, h), (h, {CELLS}), (h, {CELLS}), (classes, k), (classes, k, {CELLS}), not empty"
        raise ValueError(f"shapes: got {got}, allowed: {wanted}")
    if len(D) > 20 or L.shape[0] > 64 or values.shape[1] > 12:
        raise ValueError(f"shapes: got {got}, allowed: 20 classes, 64 hidden units and 12 eigenvectors at most, to keep the page small")


def _check_eigen(D: np.ndarray, L: np.ndarray, R: np.ndarray, values: np.ndarray, vectors: np.ndarray, tolerance: float = 1e-3) -> None:
    """The interaction matrix of a class, applied to its vectors, only scales them: Q v = [L^T (D_c * Rv) + R^T (D_c * Lv)] / 2."""
    by_left, by_right = vectors @ L.T, vectors @ R.T
    applied = ((D[:, None] * by_right) @ L + (D[:, None] * by_left) @ R) / 2
    size = np.linalg.norm(applied - values[..., None] * vectors, axis=2)
    if (off := (size > tolerance * np.abs(values).max()) | (np.abs(np.linalg.norm(vectors, axis=2) - 1) > tolerance)).any():
        c, i = map(int, np.argwhere(off)[0])
        raise ValueError(f"vectors: got number {i} of class {c}, no eigenvector of its interaction matrix with value {values[c, i]:g},"
                         " allowed: eigenvectors of this layer, of length 1")


def _towards(vectors: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Each vector or its negative, whichever does not point away from ``ink``."""
    return np.where((vectors @ ink)[..., None] < 0, -vectors, vectors)


def _examples(examples: Mapping[str, Any]) -> list[dict[str, Any]]:
    require(isinstance(examples, Mapping), "examples", examples, "a mapping from labels to images")
    if not 1 <= len(examples) <= 20:
        raise ValueError(f"examples: got {len(examples)}, allowed: 1 to 20 images, the first of which is drawn at the start")
    if nameless := [label for label in examples if not isinstance(label, str) or not label.strip()]:
        raise ValueError(f"examples: got label {nameless[0]!r}, allowed: text that says what the image is")
    return [{"label": label, "ink": np.floor(_pixels(f"example {label!r}", image) * INKS + 0.5).astype(int).tolist()}
            for label, image in examples.items()]


def _pixels(what: str, image: Any) -> np.ndarray:
    pixels = finite_array(image, what)
    if pixels.shape not in ((CELLS,), (SIDE, SIDE)):
        raise ValueError(f"{what}: got shape {pixels.shape}, allowed: ({CELLS},) or ({SIDE}, {SIDE})")
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(f"{what}: got values from {pixels.min():g} to {pixels.max():g}, allowed: 0 (paper) to 1 (ink)")
    return pixels.reshape(CELLS)


def _mean(mean: Any) -> list[float]:
    image = finite_array(mean, "mean")
    if image.size not in (1, CELLS):
        raise ValueError(f"mean: got shape {image.shape}, allowed: a number or an image, ({CELLS},) or ({SIDE}, {SIDE})")
    return plain(np.broadcast_to(image.reshape(-1), CELLS), digits=9)


def _scale(scale: Any) -> float:
    number = finite_array(scale, "scale")
    if number.size != 1 or number == 0:
        raise ValueError(f"scale: got {scale}, allowed: one finite number other than 0")
    return plain(number.reshape(()), digits=9)
