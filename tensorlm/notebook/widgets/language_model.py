"""A language model that runs in the page: its weights, its tokenizer, its polynomial, and what a steering vector does to it.

The weights stand in a file beside the book's pages (`write_models`) or, where a kernel shows the widget, in the widget itself.
"""

import base64
import copy
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require, require_instance, require_number, require_one_of, require_whole
from tensorlm.files import write_atomically
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Widget

FOLDER = "../_static/models"  # of the weights, seen from the pages of the book
PLACES = {"all": "every piece", "last": "the last piece of the text"}
ROWS = 8  # next pieces that are shown
COUNT, MOST = 24, 400  # pieces that are written at once, and by "Write on"
SAMPLES = 5
REACH = 0.25  # probability at which a bar is full, unless the largest is more
FADING = {"seconds": 8, "step": 0.25, "reach": 3.0}  # how long a norm fades, a still step, and the size at which a bar is full
LATE, SOON = "Trained with norms, which fade now", "Trained while its norms faded"


@dataclass(frozen=True)
class Speaker:
    """A model that the page runs: a `TensorTransformer`, its tokenizer (`table()`), a text to begin with, and what to steer by.

    `name` is that of its file. `pairs` are words and those to put in their place, the vector being the difference of their
    input rows; `vectors`, which come first, are named ones (width,). The page can run bilinear attention and bilinear MLPs
    with an untied head; ValueError names another part of the model's configuration.
    """

    name: str
    title: str
    model: Any
    codec: Any
    prompt: str
    pairs: Sequence[tuple[str, str]]
    vectors: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in ("name", "title", "prompt"):
            require_instance(each, getattr(self, each), str)
        fits = all(len(pair) == 2 and all(map(self.codec.encode, pair)) for pair in self.pairs)
        wanted = "pairs of words that the tokenizer knows, one at least without vectors"
        require(fits and (self.pairs or self.vectors), "pairs", self.pairs, wanted)
        for name, vector in self.vectors.items():
            has_width = as_array(vector, f"vector {name!r}").shape == (self.model.config.width,)
            require(has_width, f"vector {name!r}", vector, f"of shape ({self.model.config.width},)")
        require(len(self.codec.encode(self.prompt)) > 0, "prompt", self.prompt, "a text of at least one token")
        config = self.model.config
        for part, kinds in (("attention", ("bilinear",)), ("mlp", ("bilinear",)), ("head", ("untied",)), ("bigram", ("none",)),
                             ("shortcut", ("none",)), ("value_residual", ("none",)), ("input_norm", ("rows",)),
                             ("norm", ("anneal", "rms", "none")), ("qk_norm", ("anneal", "rms", "none"))):
            require_one_of(f"{part} of {self.name}", getattr(config, part), kinds)
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

    def presets(self) -> list[dict[str, Any]]:
        """What the page offers to steer by: a name and a vector, or two words."""
        named = [{"label": name, "vector": page.plain(as_array(vector, name))} for name, vector in self.vectors.items()]
        return named + [{"label": f"{_shown(old)} → {_shown(new)}", "from": old, "to": new} for old, new in self.pairs]

    def probabilities(self, strength: float, layer: int, place: str, share: float = 1.0) -> np.ndarray:
        """Of every next piece after `prompt`, with the first vector before block `layer`: (vocab,), by the model itself.

        `share` is that of the constant in norms that were annealed.
        """
        import torch

        model, tokens = self._wide, torch.tensor([self.codec.encode(self.prompt)])
        model.set_anneal(share)
        with torch.no_grad():
            row = lambda word: model.input_site(model.embed(torch.tensor([self.codec.encode(word)]).mT)).mean((0, 1))
            first = self.presets()[0]
            vector = torch.tensor(first["vector"], dtype=torch.float64) if "vector" in first else row(first["to"]) - row(first["from"])
            mask = torch.ones(tokens.shape[1], 1, dtype=torch.float64)
            mask[: -1 if place == "last" else 0] = 0
            x = model.run(tokens, add={layer: strength * mask * vector}).x
            return model.unembed(x)[0, -1].softmax(-1).numpy()

    def sizes(self, share: float) -> np.ndarray:
        """Root mean square of every token of `prompt` behind the norm before the last block: (r / c)^share, (tokens,)."""
        import torch

        model, last = self._wide, len(self.model.blocks) - 1
        model.set_anneal(share)
        with torch.no_grad():
            x = model.run(torch.tensor([self.codec.encode(self.prompt)]), stop=last).x[0]
            return model.blocks[last].attention_norm(x).square().mean(-1).sqrt().numpy()

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
    puts the weights into the widget; None does so where a kernel of JupyterLab or Colab shows it.
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


def fading(name: str, late: Speaker, polynomial: Speaker, title: str = "A norm that fades", inside: bool | None = None) -> Widget:
    """Two models whose norms fade into constants: what both expect next, and the size of each word, at each share `a`.

    `polynomial` was trained with norm "anneal", `late` with norms (`TensorTransformer.with_fading_norms` measured its
    constants). The sizes are those behind the norm before the last block. A button plays `a` from 0 to 1; where the reader's
    system asks for less motion it goes by still steps. `evaluate(a)` gives the probabilities of the next pieces of
    `polynomial`. `inside` as in `language_model`. ValueError where a model's norms cannot fade.
    """
    for each in (late, polynomial):
        require_instance("speaker", each, Speaker)
        require_one_of(f"norm of {each.name}", each.model.config.norm, ("anneal",))
    control, models = page.range_input("share", "a", 0.0, 1.0, 0.01, 0.0), [_known(each, inside) for each in (late, polynomial)]
    return Widget("FadingNorms", name, {"title": title, "inputs": [control], "models": models, **FADING},
                  partial(_evaluate_share, polynomial), partial(_fading_html, (late, polynomial)))


def _evaluate_share(speaker: Speaker, data: Data, share: float) -> dict[str, float]:
    chances = speaker.probabilities(0.0, 0, "all", require_number("share", share, 0.0, most=1.0))
    return {speaker.codec.decode([token]): float(chances[token]) for token in np.argsort(-chances, kind="stable")}


def _fading_html(speakers: tuple[Speaker, Speaker], widget: Widget) -> str:
    name, data = widget.name, widget.data
    narrow = partial(page.table, wide=False)
    tables = [narrow(caption, ["next", "", "probability"], _chances(number, each, data))
              for number, (each, caption) in enumerate(zip(speakers, (LATE, SOON)))]
    tables += [narrow("Size of each word behind a norm", ["word", "", "size"], _sizes(number, each, data))
               for number, each in enumerate(speakers)]
    body = [
        f'<div class="tlm-field"><label for="tlm-{name}-prompt">Text</label><input id="tlm-{name}-prompt" data-prompt autocomplete="off" '
        f'value="{escape(speakers[1].prompt)}"></div>', page.control(name, data["inputs"][0]),
        '<p><button type="button" data-play hidden>Play</button></p>',
        '<p class="tlm-status" data-status role="status"></p>', f'<div class="tlm-two">{"".join(tables)}</div>',
        "<p>The size is the root mean square before the last block. A norm makes it 1 for every word (orange mark).</p>",
        _samples(speakers[1], data, _evaluate_share)]
    return page.frame(widget, "fades", "\n".join(body), ["fading.js", page.lean("engine.js")], " tlm-stack tlm-speaks",
                      ("stacked_parts.css", "language_model.css"), still="the models run")


def _chances(number: int, speaker: Speaker, data: Data) -> list[str]:
    likely = list(_evaluate_share(speaker, data, data["inputs"][0]["start"]).items())[: ROWS - 2]
    return [_barred(f'data-of="{number}"', piece, 100 * chance, f"{chance:.3f}") for piece, chance in likely]


def _sizes(number: int, speaker: Speaker, data: Data) -> list[str]:
    """A row for each of the last words of the text, and hidden ones for more words."""
    tokens, found = speaker.codec.encode(speaker.prompt)[-ROWS:], speaker.sizes(data["inputs"][0]["start"])[-ROWS:]
    mark, rows = f'<b style="left:{100 / data["reach"]:.3g}%"></b>', []
    for token, size in zip(tokens, found):
        rows.append(_barred(f'data-size="{number}"', speaker.codec.decode([token]), 100 * size / data["reach"], f"{size:.2f}", mark))
    return rows + [_barred(f'data-size="{number}" hidden', "", 0.0, "", mark)] * (ROWS - len(rows))


def _barred(attributes: str, word: str, percent: float, number: str, mark: str = "") -> str:
    return (f'<tr {attributes}><th scope="row">{escape(_shown(word))}</th><td class="tlm-chance" aria-hidden="true"><span>'
            f'<i style="width:{min(100.0, percent):.3g}%"></i>{mark}</span></td><td class="tlm-number" data-now>{number}</td></tr>')


def _known(speaker: Speaker, inside: bool | None) -> dict[str, Any]:
    """What the widget says of a model, with its weights or with the place of their file."""
    holds = "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ if inside is None else inside
    known = {"name": speaker.name, "title": speaker.title, "prompt": speaker.prompt, "presets": speaker.presets()}
    return {**known, "page": speaker.page()} if holds else {**known, "file": f"{FOLDER}/{speaker.name}.js"}


def _evaluate(first: Speaker, data: Data, strength: float) -> dict[str, float]:
    chances = first.probabilities(require_number("strength", strength), data["layer"], data["place"])
    return {first.codec.decode([token]): float(chances[token]) for token in np.argsort(-chances, kind="stable")}


def _html(first: Speaker, widget: Widget) -> str:
    name, data, blocks = widget.name, widget.data, len(first.model.blocks)
    titles, presets = [each["title"] for each in data["models"]], [each["label"] for each in data["models"][0]["presets"]]
    old, new = first.pairs[0] if first.pairs else ("", "")
    layers = [*(f"block {number}" for number in range(blocks)), "the head"]
    body = page.asset("language_model.html").format(
        name=name, several=' hidden=""' * (len(titles) == 1), models=_options(dict(enumerate(titles)), 0), prompt=escape(first.prompt),
        pairs=_options(dict(enumerate([*presets, "your own"])), 0), old=escape(old), new=escape(new),
        layers=_options(dict(enumerate(layers)), data["layer"]), places=_options(PLACES, data["place"]),
        control=page.control(name, data["inputs"][0]), next=_next(first, data), samples=_samples(first, data, _evaluate))
    return page.frame(widget, "speaks", body.strip(), ["language_model.js", page.lean("engine.js")], " tlm-stack tlm-speaks",
                      ("stacked_parts.css", "language_model.css"), still="the model runs")


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


def _samples(speaker: Speaker, data: Data, evaluate: Callable) -> str:
    control, rows = data["inputs"][0], []
    for place in np.linspace(control["low"], control["high"], SAMPLES):
        likely = list(evaluate(speaker, data, float(place)).items())[:3]
        rows.append([f"{place:.4g}", *(f"{_shown(piece)} {chance:.3f}" for piece, chance in likely)])
    heads = [control["label"], "most likely piece", "second", "third"]
    return page.samples(f", after: {_shown(speaker.prompt)}", heads, rows)


def _shown(piece: str) -> str:
    return piece.replace("\n", "⏎").replace(" ", "␣") or "∅"
