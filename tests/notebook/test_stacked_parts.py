"""Stacked parts: the numbers that the page must show, the same from the formula; and the page itself, as far as no browser is needed."""

import json
import re

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

from tensorlm.notebook import stacked_parts
from tensorlm.notebook.widgets.page import rounded

PARTS = {"start": 0, "cross < 1": 1, "self & all": 2}
CHOICES = {"after": ["one text", "another"], "read-out": ["first", "second", "third"]}
VALUES = np.random.default_rng(0).normal(size=(2, 3, 3)) * [1.0, 5.0, 3.0]
WIDGET = stacked_parts.stack("steered", PARTS, CHOICES, VALUES, low=-2.0, high=2.0, start=0.5, total="all", title="Parts of <b>")


def page(widget=WIDGET) -> BeautifulSoup:
    return BeautifulSoup(widget._repr_html_(), "html.parser")


def test_shows_the_polynomial_of_the_choice():
    for chosen in np.ndindex(2, 3):
        for strength in (-2.0, 0.0, 0.35):
            shown = WIDGET.evaluate(strength, chosen)
            parts = VALUES[chosen] * strength ** np.arange(3)
            assert [shown["p1"], shown["p2"], shown["p3"], shown["sum"]] == pytest.approx([*parts, parts.sum()], rel=1e-10, abs=1e-10)
    assert WIDGET.evaluate(1.0, (0, 0)) != WIDGET.evaluate(1.0, (1, 0)) != WIDGET.evaluate(1.0, (1, 1))


def test_is_the_response_of_a_bilinear_layer():
    D, L, R, x, s = (torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
                     for n, shape in enumerate([(2, 5), (5, 3), (5, 3), (3,), (3,)]))
    f = lambda z: D @ ((L @ z) * (R @ z))
    cross = D @ ((L @ x) * (R @ s) + (L @ s) * (R @ x))
    widget = stacked_parts.stack("layer", PARTS, {"output": ["1", "2"]}, torch.stack([f(x), cross, f(s)], dim=1))
    for strength in (-1.5, 0.7):
        assert [widget.evaluate(strength, [o])["sum"] for o in (0, 1)] == pytest.approx(f(x + strength * s).tolist(), rel=1e-10)


def test_page_is_the_same_every_time_and_asks_no_other_host():
    text = WIDGET._repr_html_()
    assert text == WIDGET._repr_html_()
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)
    assert page().select_one("b") is None and "cross &lt; 1" in text


def test_page_without_scripts_shows_the_start_and_a_table():
    shown = {element["data-key"]: element for element in page().select("[data-key]")}
    expected = WIDGET.evaluate(0.5, [0, 0])
    assert {key: element.text for key, element in shown.items()} == {key: rounded(value, signed=True) for key, value in expected.items()}
    assert {key: float(element["data-exact"]) for key, element in shown.items()} == pytest.approx(expected, rel=1e-8)
    assert len(page().select("details tbody tr")) == 15
    data = json.loads(page().select_one("script[data-tlm-data]").string)
    assert stacked_parts.evaluate(data, 0.5, [0, 0]) == expected


def test_bars_are_stacked_within_the_track():
    bars = {bar["data-bar"]: [float(number) for number in re.findall(r"([\d.]+)%", bar["style"])] for bar in page().select("[data-bar]")}
    reach, shown, before = WIDGET.data["scales"][0]["reach"], WIDGET.evaluate(0.5, [0, 0]), 0.0
    for key in ("p1", "p2", "p3", "sum"):
        first, last = (0.0, shown["sum"]) if key == "sum" else (before, before + shown[key])
        before = last
        assert bars[key] == pytest.approx([50 + 50 * min(first, last) / reach, 50 * abs(last - first) / reach], abs=0.02)
        assert 0 <= bars[key][0] and bars[key][0] + bars[key][1] <= 100.01
    for option in range(3):
        scale = WIDGET.data["scales"][option]
        rows = [WIDGET.evaluate(a, (text, option)) for a in (-2.0, -0.3, 2.0) for text in (0, 1)]
        assert all(scale["min"] < value < scale["max"] for row in rows for value in row.values())


def test_controls_are_labelled_and_native():
    soup = page()
    controls = soup.select("select, input[type=range]")
    assert len(controls) == 3 and len(soup.select("option")) == 5
    assert all(soup.select_one(f"label[for={control['id']}]").text for control in controls)
    assert all(element["id"].startswith("tlm-steered") for element in soup.select("[id]"))
    assert soup.select_one("[role=group]")["aria-labelledby"] == soup.select_one(".tlm-title")["id"]
    assert len(soup.select("[data-axes]")) == 3 and len(soup.select("[data-axes][display=none]")) == 2


@pytest.mark.parametrize("build, words", [
    (lambda: stacked_parts.stack("Bad", PARTS, CHOICES, VALUES), "name"),
    (lambda: stacked_parts.stack("n", PARTS, CHOICES, VALUES[0]), r"values must be an array of shape .* got ndarray of shape \(3, 3\)"),
    (lambda: stacked_parts.stack("n", {}, CHOICES, VALUES), "parts"),
    (lambda: stacked_parts.stack("n", {"a": 0, "b": 1, "c": 7}, CHOICES, VALUES), "power"),
    (lambda: stacked_parts.stack("n", PARTS, {}, VALUES[0, 0]), "choices must be a mapping of 1 to 3 names"),
    (lambda: stacked_parts.stack("n", PARTS, CHOICES, VALUES * np.nan), "values must be finite"),
    (lambda: stacked_parts.stack("n", PARTS, CHOICES, VALUES, start=0.51), "start of strength"),
    (lambda: stacked_parts.stack("n", PARTS, CHOICES, VALUES, low=1.0, high=1.0), "range of strength"),
])
def test_wrong_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_values_that_overflow_are_refused():
    with pytest.raises(ValueError, match="overflow"):
        stacked_parts.stack("n", PARTS, CHOICES, np.full_like(VALUES, 1e308))
