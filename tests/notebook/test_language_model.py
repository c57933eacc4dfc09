"""The language model of the pages, in Python: what it holds, what it shows without a script, and what it refuses."""

import base64
import json

import numpy as np
import page_models
import pytest
import torch
from bs4 import BeautifulSoup

from tensorlm.data.toy import ToyData
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.notebook import language_model
from tensorlm.steering import Injection, embedding_difference, steered_logits

ENGLISH, TOY, NORMED = page_models.speakers()


def speaker(prompt="the bird", pairs=(("bird", "birds"),), vectors=None, codec=None, **changes):
    config = ModelConfig(**{"vocab_size": 54, "smear": "none", "norm": "anneal"} | changes)
    return language_model.Speaker("made", "Made", TensorTransformer(config), codec or ToyData(), prompt, pairs, vectors or {})


def test_weights_are_packed_without_loss():
    for each in (ENGLISH, TOY, NORMED, speaker()):
        page = each.page()
        kind = {"float16": "<f2", "float32": "<f4"}[page["dtype"]]
        values = np.frombuffer(base64.b64decode(page["weights"]), kind).astype("f4")
        assert len(values) == sum(map(np.prod, page["shapes"].values()))
        assert (values[: each.model.embedding.numel()] == each.model.embedding.detach().float().numpy().ravel()).all()
    assert speaker().page()["dtype"] == "float32" and TOY.page()["dtype"] == "float16"


@pytest.mark.parametrize("layer, place", [(0, "all"), (1, "last"), (2, "all")])
def test_what_the_page_shows_is_the_steered_model(layer, place):
    widget = language_model.language_model("w", [TOY], layer, place)
    tokens = torch.tensor(TOY.codec.encode(TOY.prompt))
    vector = embedding_difference(TOY.model, *map(TOY.codec.encode, TOY.pairs[0]))
    into = Injection.make(TOY.model, len(tokens), vector, layer, "all" if place == "all" else -1)
    expected = steered_logits(TOY.model, tokens, into, [0.7])[0].softmax(-1)
    found = widget.evaluate(0.7)
    assert found == pytest.approx({TOY.codec.decode([token]): float(chance) for token, chance in enumerate(expected)}, abs=1e-12)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_named_vector_comes_first_and_is_added_as_it_is():
    vector = embedding_difference(TOY.model, *map(TOY.codec.encode, TOY.pairs[0]))
    named = language_model.Speaker(TOY.name, TOY.title, TOY.model, TOY.codec, TOY.prompt, TOY.pairs, {"more of them": vector})
    alone, first = (language_model.language_model("w", [each]) for each in (TOY, named))
    assert first.data["models"][0]["presets"][0]["label"] == "more of them"
    assert first.evaluate(0.5) == pytest.approx(alone.evaluate(0.5), abs=1e-9) and first.evaluate(0.5) != first.evaluate(0.0)


def test_a_fading_norm_is_shown_by_its_share():
    widget = language_model.fading("w", NORMED, TOY)
    assert widget.evaluate(1.0) == pytest.approx(language_model.language_model("v", [TOY]).evaluate(0.0))
    assert max(abs(widget.evaluate(0.0)[word] - chance) for word, chance in widget.evaluate(1.0).items()) > 1e-4
    with pytest.raises(ValueError, match="norm of made must be one of 'anneal', got 'rms'"):
        language_model.fading("w", speaker(norm="rms"), TOY)


def test_a_norm_that_fades_too_late_lets_the_sizes_of_words_go():
    assert all(each.sizes(0.0) == pytest.approx(np.ones(5), abs=1e-6) for each in (NORMED, TOY))
    assert abs(TOY.sizes(1.0) - 1).max() < 0.05 and NORMED.sizes(1.0).max() > 5
    changed = [abs(each.probabilities(0.0, 0, "all", 1.0) - each.probabilities(0.0, 0, "all", 0.0)).max() for each in (NORMED, TOY)]
    assert changed[0] > 0.4 and changed[1] < 0.01


def test_weights_stand_inside_where_a_kernel_shows_the_widget(monkeypatch):
    outside = language_model.language_model("w", [TOY])
    assert outside.data["models"][0]["file"] == "../_static/models/toy-polynomial.js" and len(outside._repr_html_()) < 60_000
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    inside = language_model.language_model("w", [TOY])
    assert inside.data["models"][0]["page"] == TOY.page()


def test_without_a_script_there_are_bars_and_a_table_of_samples():
    html = language_model.language_model("w", [ENGLISH])._repr_html_()
    assert html == language_model.language_model("w", [ENGLISH])._repr_html_()
    soup = BeautifulSoup(html, "html.parser")
    assert len(soup.select("[data-next]")) == language_model.ROWS
    assert len(soup.select("details tbody tr")) == language_model.SAMPLES
    for control in soup.select("input, select, textarea"):
        assert control.get("type") == "range" or soup.select_one(f"label[for={control['id']}]")
    assert json.loads(soup.select_one("script[data-tlm-data]").string)["models"][0]["name"] == ENGLISH.name


def test_the_file_of_a_model_is_a_script_that_names_it(tmp_path):
    language_model.write_models(tmp_path / "models", [TOY])
    text = (tmp_path / "models" / "toy-polynomial.js").read_text(encoding="utf-8")
    assert json.loads(text.partition("]=")[2].removesuffix(";\n")) == json.loads(json.dumps(TOY.page()))
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy-polynomial.js"]


@pytest.mark.parametrize("make, message", [
    (lambda: speaker(attention="softmax"), "attention of made must be one of 'bilinear', got 'softmax'"),
    (lambda: speaker(mlp="relu"), "mlp of made must be one of 'bilinear', got 'relu'"),
    (lambda: speaker(head="tied"), "head of made must be one of 'untied', got 'tied'"),
    (lambda: speaker(positions=("rope",)), "positions of made must be without rope"),
    (lambda: speaker(norm="batch"), "norm of made must be one of"),
    (lambda: speaker(pairs=()), "pairs must be pairs of words that the tokenizer knows"),
    (lambda: speaker(pairs=[("bird", "unicorn")]), "unicorn"),
    (lambda: speaker(pairs=[("bird", "")]), "pairs must be"),
    (lambda: speaker(prompt=""), "prompt must be a text of at least one token"),
    (lambda: speaker(vectors={"v": torch.ones(3)}), r"vector 'v' must be of shape \(64,\)"),
    (lambda: language_model.language_model("w", []), "speakers must be a sequence of at least one Speaker"),
    (lambda: language_model.language_model("w", [TOY], layer=3), "layer must be a whole number from 0 to 2, got 3"),
    (lambda: language_model.language_model("w", [TOY], place="here"), "place must be one of 'all', 'last', got 'here'"),
    (lambda: language_model.language_model("W w", [TOY]), "name must be lower-case"),
    (lambda: language_model.language_model("w", [TOY], start=9.0), "start of strength must be"),
])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
