"""Steered words: the probabilities and paths that the page must show, from the formula; and the page, as far as no browser is needed."""

import json
import re

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from steering_models import model as small_model

from tensorlm.notebook import steered_tokens
from tensorlm.notebook.widgets.page import rounded
from tensorlm.notebook.widgets.steered_tokens import Prompt, steer
from tensorlm.steering import Injection, Steerable, steered_logits, steering_response

PROMPTS = [Prompt("the <cat>", {"is": 0, "are": 2, "and": 4}, "are − is"), Prompt("the cat near", {"a": 1, "b": 3}, "b − a")]
RANDOM = np.random.default_rng(3)
LOGITS = [[RANDOM.normal(size=(6, degree)) for degree in (4, 7)] for _ in PROMPTS]
PATHS = [[RANDOM.normal(size=(2, degree)) for degree in (4, 7)] for _ in PROMPTS]


def widget(**changed):
    return steer("demo", **{"prompts": PROMPTS, "vectors": ["one", "two"], "logits": LOGITS, "paths": PATHS,
                            "labels": ["self & co", "cross"], "start": 0.5, **changed})


def page() -> BeautifulSoup:
    return BeautifulSoup(widget()._repr_html_(), "html.parser")


def test_shows_the_softmax_over_all_words_and_the_paths():
    for prompt, vector in np.ndindex(2, 2):
        for strength in (-2.0, 0.0, 1.35):
            shown = widget().evaluate(strength, (prompt, vector))
            logits = torch.tensor([np.polyval(row[::-1], strength) for row in LOGITS[prompt][vector]], dtype=torch.float64)
            wanted = logits.softmax(-1)[list(PROMPTS[prompt].words.values())].tolist()
            assert [shown[f"w{i + 1}"] for i in range(len(wanted))] == pytest.approx(wanted, rel=1e-6)
            paths = [np.polyval(row[::-1], strength) for row in PATHS[prompt][vector]]
            assert [shown["p1"], shown["p2"], shown["sum"]] == pytest.approx([*paths, sum(paths)], rel=1e-6, abs=1e-6)
    assert "w3" in widget().evaluate(0.0, (0, 0)) and "w3" not in widget().evaluate(0.0, (1, 0))


def test_shows_what_a_steered_model_does():
    model = Steerable.of(small_model())
    tokens, vector = torch.arange(4), torch.linspace(-0.3, 0.4, 4, dtype=torch.float64)
    response = steering_response(model, tokens, vector, 1, 1).as_json()
    shown = steer("model", [Prompt("text", {"first": 0}, "first")], ["v"], [[response["logits"]]], [[[[0.0]]]], ["none"])
    truth = steered_logits(model, tokens, Injection.make(model, 4, vector, 1, 1), [1.5])[0].softmax(-1)[0]
    assert shown.evaluate(1.5, (0, 0))["w1"] == pytest.approx(float(truth), rel=1e-7)
    assert shown.evaluate(-1.5, (0, 0))["w1"] != pytest.approx(float(truth), rel=1e-3)


def test_page_is_the_same_every_time_and_asks_no_other_host():
    text = widget()._repr_html_()
    assert text == widget()._repr_html_()
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)
    assert page().select_one("cat") is None and "self &amp; co" in text


def test_page_without_scripts_shows_the_start_and_a_table():
    expected = widget().evaluate(0.5, (0, 0))
    shown = {element["data-key"]: element for element in page().select("[data-key]")}
    assert {key: float(element["data-exact"]) for key, element in shown.items()} == pytest.approx(expected, rel=1e-8)
    assert shown["w1"].text == rounded(expected["w1"], 3) and len(page().select("details tbody tr")) == 10
    data = json.loads(page().select_one("script[data-tlm-data]").string)
    assert steered_tokens.evaluate(data, 0.5, (0, 0)) == pytest.approx(expected)


@pytest.mark.parametrize("build, named", [
    (lambda: widget(prompts=[]), "prompts"), (lambda: widget(labels=["one"]), "paths of 'the <cat>'"),
    (lambda: widget(vectors=["one"]), "logits"), (lambda: widget(paths=PATHS[:1]), "paths"),
    (lambda: Prompt("x", {}, ""), "words of 'x'"), (lambda: widget(prompts=[Prompt("x", {"is": 9}, "is"), PROMPTS[1]]), "words of 'x'"),
    (lambda: widget(logits=[[np.full((6, 2), np.nan)] * 2] * 2), "logits"), (lambda: widget(start=0.51), "start"),
    (lambda: widget(paths=[[np.full((2, 7), 1e308)] * 2] * 2), "overflow"),
])
def test_answers_bad_input_by_name(build, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        build()
