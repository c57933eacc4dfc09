"""The language models that run in the pages: the directive `:::{language-model}`, and their weights beside the built book.

Loaded by name in `_config.yml`. The weights go to `_static/models/NAME.js`, where the widgets of chapters look too.
"""

import functools
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tensorlm import released  # noqa: E402
from tensorlm.data.tokenizer import open_tokenizer  # noqa: E402
from tensorlm.data.toy import ToyData  # noqa: E402
from tensorlm.notebook import language_model  # noqa: E402
from tensorlm.training import load_model  # noqa: E402

ROMEO = "ROMEO\nO, speak again, bright angel! for"
PAIRS = [(" you", " thou"), (" your", " thy"), (" king", " queen"), (" love", " death")]
BIRD, WORDS = "the bird near the birds", [("bird", "birds"), ("is", "are")]


@functools.cache
def speakers() -> list[language_model.Speaker]:
    """Shakespeare's English and the toy language, each as one polynomial; and the normed twin of the second, whose norms can fade."""
    english, toy, normed = (load_model(released.checkpoint(name)) for name in ("shakespeare-polynomial", "toy-polynomial", "toy-normed"))
    late = normed.with_fading_norms(ToyData().valid_windows(64)[:64, :-1])
    return [language_model.Speaker("shakespeare-polynomial", "Shakespeare's English", english, open_tokenizer("bpe1024"), ROMEO, PAIRS),
            language_model.Speaker("toy-polynomial", "A toy language of 54 words", toy, ToyData(), BIRD, WORDS),
            language_model.Speaker("toy-normed", "The toy language, trained with norms", late, ToyData(), BIRD, WORDS)]


class LanguageModel(Directive):
    """The models of the front page."""

    def run(self) -> list[nodes.Node]:
        widget = language_model.language_model("front", speakers()[:2], start=0.5)
        return [nodes.raw("", widget._repr_html_(), format="html")]


def write_weights(app, failure: Exception | None) -> None:
    if failure is None and app.builder.format == "html":
        language_model.write_models(Path(app.outdir) / "_static" / "models", speakers())


def setup(app) -> dict[str, bool]:
    app.add_directive("language-model", LanguageModel)
    app.connect("build-finished", write_weights)
    return {"parallel_read_safe": True}
