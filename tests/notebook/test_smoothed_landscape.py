"""The landscape widget: its numbers are those of `Landscape`, its climb that of endlessly many samples; and the page without a browser."""

import json
import re

import pytest
import torch
from bs4 import BeautifulSoup

from tensorlm.evolution import hill_and_hack
from tensorlm.notebook import sliders
from tensorlm.notebook.widgets import smoothed_landscape
from tensorlm.notebook.widgets.page import precise, rounded

WIDGET = sliders.landscape("hills", title="A hill & a hack")
CASES = [(sigma, n, k) for sigma in (0.0, 0.1, 0.3, 0.7, 1.5) for n in (0, 1) for k in range(4)]


def page(widget=WIDGET) -> BeautifulSoup:
    return BeautifulSoup(widget._repr_html_(), "html.parser")


@pytest.mark.parametrize("sigma, n, k", CASES)
def test_the_numbers_are_those_of_the_landscape(sigma, n, k):
    landscape = hill_and_hack((8, 32)[n], (1, 2, 4, 8)[k])
    shown = WIDGET.evaluate(sigma, [n, k])
    assert [shown["hill"], shown["hack"]] == pytest.approx(landscape.smoothing(sigma).heights.tolist(), rel=1e-12)
    end = torch.zeros(landscape.dimension, dtype=torch.float64)
    end[0] = shown["end"]
    assert shown["paid"] == pytest.approx(landscape(end).item(), rel=1e-9)


@pytest.mark.parametrize("sigma, n, k", CASES)
def test_the_climb_ends_where_the_smoothed_slope_turns(sigma, n, k):
    smoothed, shown = hill_and_hack((8, 32)[n], (1, 2, 4, 8)[k]).smoothing(sigma), WIDGET.evaluate(sigma, [n, k])
    line = torch.zeros(3, smoothed.dimension, dtype=torch.float64)
    line[:, 0] = torch.tensor([shown["end"] / 2, shown["end"] - 1e-6, shown["end"] + 1e-6])
    slopes = (smoothed.gradient(line)[:, 0] / smoothed(line)).tolist()
    assert slopes[2] < 0 and (shown["end"] < 1e-6 or (slopes[0] > 0 and slopes[1] > 0))
    assert smoothed.gradient(line)[:, 1:].abs().max() == 0, "the climb stays on the line"


def test_a_middling_sigma_finds_the_hack_and_few_directions_do():
    where = {sigma: [WIDGET.evaluate(sigma, [1, k])["where"] for k in range(4)] for sigma in (0.1, 0.7)}
    assert where[0.1] == ["on the hill"] * 4
    assert where[0.7] == ["in the hack"] * 3 + ["on the hill"]
    assert all(WIDGET.evaluate(0.7, [0, k])["end"] == pytest.approx(WIDGET.evaluate(0.7, [1, k])["end"], abs=1e-9) for k in range(4))


def test_page_is_the_same_every_time_and_asks_no_other_host():
    text = WIDGET._repr_html_()
    assert text == WIDGET._repr_html_() and "A hill &amp; a hack" in text
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)


def test_page_without_scripts_shows_the_start_and_a_table():
    shown, expected = {element["data-key"]: element for element in page().select("[data-key]")}, WIDGET.evaluate(0.3, [0, 0])
    assert shown["where"].text == expected["where"] and shown["end"].text == rounded(expected["end"], 3)
    assert all(shown[key].text == precise(expected[key], 4) for key in ("hill", "hack", "paid"))
    assert len(page().select("details tbody tr")) == 24
    data = json.loads(page().select_one("script[data-tlm-data]").string)
    assert smoothed_landscape.evaluate(data, 0.3, [0, 0]) == expected


def test_controls_are_labelled_and_native():
    soup = page()
    controls = soup.select("select, input[type=range]")
    assert len(controls) == 3 and all(soup.select_one(f"label[for={control['id']}]").text for control in controls)
    assert soup.select_one("[role=group]")["aria-labelledby"] == soup.select_one(".tlm-title")["id"]


@pytest.mark.parametrize("build, words", [
    (lambda: sliders.landscape("Bad"), "name"),
    (lambda: sliders.landscape("n", codimensions=()), "codimensions must be 1 to 8 whole numbers"),
    (lambda: sliders.landscape("n", dimensions=(4,)), "dimensions must be a whole number from 8"),
    (lambda: sliders.landscape("n", width=0.0), "width must be"),
    (lambda: sliders.landscape("n", start=0.31), "start of sigma"),
    (lambda: WIDGET.evaluate(-1.0, [0, 0]), "sigma must be"),
    (lambda: WIDGET.evaluate(1.0, [0, 4]), "chosen"),
])
def test_wrong_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
