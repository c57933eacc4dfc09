"""A language model that runs in the page: its weights, its tokenizer, its polynomial, and what a steering vector does to it.

The weights stand in a file beside the book's pages (`write_models`) or, where a kernel shows the widget, in the widget itself.
"""

import base64
import copy
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tensorlm.checks import require, require_instance, require_number, require_one_of, require_whole
from tensorlm.files import write_atomically
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Widget

FOLDER = "../_static/models"  # of the weights, seen from the pages of the book
PLACES = {"all": "every piece", "last": "the last piece of the text"}
ROWS = 8  # next pieces that are shown
COUNT, MOST = 24, 400  # pieces that are written at once, and by "Write on"
SAMPLES = 5
SMALL = 2**16  # parameters of a model whose weights stand in the widget itself
REACH = 0.25  # probability at which a bar is full, unless the largest is more


@dataclass(frozen=True)
class Speaker:
    """A model that the page runs: a `TensorTransformer`, its tokenizer (`table()`), a text to begin with and pairs of words.

    `name` is that of its file. The page can run bilinear attention and bilinear MLPs with an untied head; ValueError names
    another part of the model's configuration.
    """

    name: str
    title: str
    model: Any
    codec: Any
    prompt: str
    pairs: Sequence[tuple[str, str]]

    def __post_init__(self) -> None:
        for field in ("name", "title", "prompt"):
            require_instance(field, getattr(self, field), str)
        fits = len(self.pairs) > 0 and all(len(pair) == 2 and all(map(self.codec.encode, pair)) for pair in self.pairs)
        require(fits, "pairs", self.pairs, "at least one pair of words that the tokenizer knows")
        require(len(self.codec.encode(self.prompt)) > 0, "prompt", self.prompt, "a text of at least one token")
        config = self.model.config
        for part, wanted in (("attention", ("bilinear",)), ("mlp", ("bilinear",)), ("head", ("untied",)), ("bigram", ("none",)),
                             ("shortcut", ("none",)), ("value_residual", ("none",)), ("input_norm", ("rows",)),
                             ("norm", ("anneal", "rms", "none")), ("qk_norm", ("anneal", "rms", "none"))):
            require_one_of(f"{part} of {self.name}", getattr(config, part), wanted)
        require("rope" not in config.positions, f"positions of {self.name}", config.positions, "without rope")

    def page(self) -> dict[str, Any]:
        """All that the page needs to run the model; weights in float16 where they are float16 numbers, else in float32."""
        model, config = self.model, self.model.config
        first = model.blocks[0].attention
        arrays = {re.sub(r"attention\.|mlp\.|positions\.", "", name): value.detach().float().numpy()
                  for name, value in model.named_parameters() if value.numel() > 1}
        halves = all((value == value.astype("<f2")).all() for value in arrays.values())
        packed = b"".join(value.astype("<f2" if halves else "<f4").tobytes() for value in arrays.values())
        blocks = [{"prefix": f"blocks.{number}.", "attention_site": _site(block.attention_norm), "mlp_site": _site(block.mlp_norm),
                   "qk_sites": [_site(norm) for norm in block.attention.qk_norms]} for number, block in enumerate(model.blocks)]
        return {
            "vocab": config.vocab_size, "width": config.width, "heads": first.heads, "head_dim": first.head_dim, "context": config.context,
            "hidden": model.blocks[0].mlp.hidden, "slopes": first.positions.slopes().tolist(), "row_power": first.positions.row_power,
            "key_offset": "key_offset" in config.positions, "smear": model.smear.item() if config.smear == "learned" else 0.0,
            "input_scale": model.input_scale.flatten().tolist(), "input_site": _site(model.input_site), "head_site": _site(model.head_site),
            "polynomial": model.polynomial_degree().value is not None, "blocks": blocks, "tokenizer": self.codec.table(),
            "dtype": "float16" if halves else "float32", "shapes": {name: list(value.shape) for name, value in arrays.items()},
            "weights": base64.b64encode(packed).decode()}

    def probabilities(self, strength: float, layer: int, place: str) -> np.ndarray:
        """Of every next piece after `prompt`, with the first pair's vector before block `layer`: (vocab,), by the model itself."""
        import torch

        model, tokens = self._wide, torch.tensor([self.codec.encode(self.prompt)])
        with torch.no_grad():
            old, new = (model.input_site(model.embed(torch.tensor([self.codec.encode(word)]).mT)).mean((0, 1)) for word in self.pairs[0])
            mask = torch.ones(tokens.shape[1], 1, dtype=torch.float64)
            mask[: -1 if place == "last" else 0] = 0
            x = model.run(tokens, add={layer: strength * mask * (new - old)}).x
            return model.unembed(x)[0, -1].softmax(-1).numpy()

    @cached_property
    def _wide(self) -> Any:
        return copy.deepcopy(self.model).double().eval()


def _site(norm: Any) -> dict[str, Any]:
    if norm.kind == "anneal":
        return {"kind": "anneal", "log": norm.log_constant.double().tolist()}
    return {"kind": norm.kind}


def write_models(folder: Path, speakers: Sequence[Speaker]) -> None:
    """A script for each model, `NAME.js` in `folder`, which pages of the book load once."""
    for each in speakers:
        words = json.dumps(each.page(), separators=(",", ":"))
        script = f"(window.tlmModels=window.tlmModels||{{}})[{json.dumps(each.name)}]={words};\n"
        write_atomically(folder / f"{each.name}.js", partial(Path.write_text, data=script, encoding="utf-8"))


def language_model(name: str, speakers: Sequence[Speaker], layer: int = 1, place: str = "all", low: float = -2.0, high: float = 2.0,
                   start: float = 0.0, step: float = 0.01, title: str = "A language model that is one polynomial",
                   inside: bool | None = None) -> Widget:
    """Models to type to, to steer, and to read: the next pieces, what they write, and where a vector turns them over.

    alpha times the difference of two words' rows joins the stream before block `layer`, at `place` "all" or "last". `inside`
    puts the weights into the widget; None does so where a kernel of JupyterLab or Colab shows it, and for small models.
    `evaluate(strength)` gives the probabilities of all next pieces that the page shows first. ValueError names the argument.
    """
    fits = isinstance(speakers, Sequence) and speakers and all(isinstance(each, Speaker) for each in speakers)
    require(fits, "speakers", speakers, "a sequence of at least one Speaker")
    require_one_of("place", place, PLACES)
    require_whole("layer", layer, 0, min(len(each.model.blocks) for each in speakers))
    control = page.range_input("strength", "α", low, high, step, start)
    return Widget("LanguageModel", name, {"title": title, "inputs": [control], "models": [_known(each, inside) for each in speakers],
                                          "layer": layer, "place": place, "count": COUNT, "most": MOST, "reach": REACH},
                  partial(_evaluate, speakers[0]), partial(_html, speakers[0]))


def _known(speaker: Speaker, inside: bool | None) -> dict[str, Any]:
    """What the widget says of a model, with its weights or with the place of their file."""
    live = "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ
    holds = live or speaker.model.parameter_count() < SMALL if inside is None else inside
    known = {"name": speaker.name, "title": speaker.title, "prompt": speaker.prompt, "pairs": [list(pair) for pair in speaker.pairs]}
    return {**known, "page": speaker.page()} if holds else {**known, "file": f"{FOLDER}/{speaker.name}.js"}


def _evaluate(first: Speaker, data: Data, strength: float) -> dict[str, float]:
    chances = first.probabilities(require_number("strength", strength), data["layer"], data["place"])
    return {first.codec.decode([token]): float(chances[token]) for token in np.argsort(-chances, kind="stable")}


def _html(first: Speaker, widget: Widget) -> str:
    name, data, blocks = widget.name, widget.data, len(first.model.blocks)
    titles, pairs = [each["title"] for each in data["models"]], [f"{_shown(old)} → {_shown(new)}" for old, new in first.pairs]
    layers = [*(f"block {number}" for number in range(blocks)), "the head"]
    body = page.asset("language_model.html").format(
        name=name, several=' hidden=""' * (len(titles) == 1), models=_options(dict(enumerate(titles)), 0), prompt=escape(first.prompt),
        pairs=_options(dict(enumerate([*pairs, "your own"])), 0), old=escape(first.pairs[0][0]), new=escape(first.pairs[0][1]),
        layers=_options(dict(enumerate(layers)), data["layer"]), places=_options(PLACES, data["place"]),
        control=page.control(name, data["inputs"][0]), next=_next(first, data), samples=_samples(first, data))
    return page.frame(widget, "speaks", body.strip(), ["language_model.js", page.asset("engine.js").strip()], " tlm-stack tlm-speaks",
                      ("stacked_parts.css", "language_model.css"), compact=True, still="the model runs")


def _options(words: Mapping[Any, str], chosen: Any) -> str:
    return "".join(f'<option value="{value}"{" selected" * (value == chosen)}>{escape(each)}</option>' for value, each in words.items())


def _next(first: Speaker, data: Data) -> str:
    now, plain = (first.probabilities(strength, data["layer"], data["place"]) for strength in (data["inputs"][0]["start"], 0.0))
    reach, rows = max(REACH, now.max(), plain.max()) / 100, []
    for place, token in enumerate(np.argsort(-now, kind="stable")[:ROWS]):
        bar = f'<i style="width:{now[token] / reach:.3g}%"></i><b style="left:{plain[token] / reach:.3g}%"></b>'
        rows.append(f'<tr data-next="{place}"><th scope="row">{escape(_shown(first.codec.decode([token])))}</th>'
                    f'<td class="tlm-chance" aria-hidden="true"><span>{bar}</span></td>'
                    f'<td class="tlm-number" data-now>{now[token]:.3f}</td><td class="tlm-number" data-before>{plain[token]:.3f}</td></tr>')
    caption = "The next piece and its probability; the orange mark is that of the plain model"
    return page.table(caption, ["piece", "", "steered", "plain"], rows, wide=False).replace("<table>", '<table class="tlm-next">')


def _samples(first: Speaker, data: Data) -> str:
    control, rows = data["inputs"][0], []
    for strength in np.linspace(control["low"], control["high"], SAMPLES):
        likely = list(_evaluate(first, data, float(strength)).items())[:3]
        rows.append([f"{strength:.4g}", *(f"<code>{escape(_shown(piece))}</code> {chance:.3f}" for piece, chance in likely)])
    heads = [control["label"], "most likely piece", "second", "third"]
    return page.samples(f", after: {escape(first.prompt)}", heads, rows)


def _shown(piece: str) -> str:
    return piece.replace("\n", "⏎").replace(" ", "␣") or "∅"
