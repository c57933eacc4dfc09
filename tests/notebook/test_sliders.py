"""Sliders: the numbers that the page must show, the same from the formula; and the page itself, as far as no browser is needed."""

import json
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given, strategies as st

from tensorlm.notebook import sliders
from tensorlm.notebook.widgets.page import plain

D, L = np.array([[1.0, -0.5, 2.0], [0.3, 0.0, -1.0]]), np.array([[1.0, 0.5], [0.2, -1.0], [0.0, 1.0]])
R = np.array([[0.7, -1.0], [1.0, 1.0], [2.0, 0.0]])
ALL = {
    "bilinear": sliders.bilinear("layer", D, L, R, [1.0, 0.5]),
    "scale": sliders.scale("scaled", D, L, R, [1.0, 0.5]),
    "polynomial": sliders.polynomial("curves", {"self": [0, 0, 1.5], "a < b & c": [1, -2], "norm": ([0, 0, 1], [1, 0, 1])}, start=1.0),
}
each = pytest.mark.parametrize("slider", ALL.values(), ids=ALL)
coordinates = st.lists(st.floats(-3, 3), min_size=2, max_size=2)


def page(slider) -> BeautifulSoup:
    return BeautifulSoup(slider._repr_html_(), "html.parser")


@given(coordinates)
def test_bilinear_shows_the_layer(x):
    shown = ALL["bilinear"].evaluate(x)
    expected = D @ ((L @ x) * (R @ x))
    assert [shown["f1"], shown["f2"]] == pytest.approx(expected, abs=1e-12)
    assert shown["h2"] == shown["l2"] * shown["r2"]


@given(st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3))
def test_scale_shows_shares_that_stand_still(a):
    at_one, at_a = ALL["scale"].evaluate([1.0]), ALL["scale"].evaluate([a])
    for key in ("s1", "s2", "s3"):
        assert at_a[key] == pytest.approx(at_one[key], rel=1e-9)
    assert at_a["f"] == pytest.approx(a * a * at_one["f"], rel=1e-9)
    assert at_a["f"] == pytest.approx(at_a["a2f"], rel=1e-9)


def test_shares_of_different_points_do_differ():
    other = sliders.scale("other", D, L, R, [1.0, -0.5])
    assert abs(other.evaluate([1.0])["s1"] - ALL["scale"].evaluate([1.0])["s1"]) > 0.01


def test_shares_at_zero_are_undefined():
    assert ALL["scale"].evaluate([0.0])["s1"] is None
    assert sliders.text(None) == "undefined"


def test_polynomial_and_rational_curves():
    assert list(ALL["polynomial"].evaluate([2.0]).values()) == pytest.approx([6.0, -3.0, 0.8])
    assert sliders.polynomial("pole", {"1/a": ([1], [0, 1])}, start=1.0, y=(-5, 5)).evaluate([0.0]) == {"y1": None}


def test_two_coefficients_are_a_line_not_a_fraction():
    assert sliders.polynomial("line", {"line": [3, 4]}, start=0.0).evaluate([2.0]) == {"y1": 11.0}


def test_takes_tensors():
    factors = [torch.tensor(factor, dtype=torch.float32, requires_grad=True) for factor in (D, L, R)]
    made, known = sliders.bilinear("t", *factors, torch.tensor([1.0, 0.5])), ALL["bilinear"]
    assert made.evaluate([1.0, 0.5])["f1"] == pytest.approx(known.evaluate([1.0, 0.5])["f1"], rel=1e-6)


@each
def test_page_is_the_same_every_time_and_asks_no_other_host(slider):
    text = slider._repr_html_()
    assert text == slider._repr_html_()
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)


@each
def test_page_carries_the_data_it_evaluates(slider):
    data = json.loads(page(slider).select_one("script[data-tlm-data]").string)
    assert data == slider.data
    starts = [control["start"] for control in data["inputs"]]
    assert sliders.evaluate(data, starts) == slider.evaluate(starts)


@each
def test_page_without_scripts_shows_the_start_and_a_table(slider):
    shown = {element["data-key"]: element.text for element in page(slider).select("[data-key]")}
    expected = slider.evaluate([control["start"] for control in slider.data["inputs"]])
    assert shown == {key: sliders.text(value) for key, value in expected.items()}
    assert len(page(slider).select("details tbody tr")) >= 5


@each
def test_controls_are_labelled_native_and_announced(slider):
    soup = page(slider)
    controls = soup.select("input[type=range]")
    assert len(controls) == len(slider.data["inputs"])
    for control in controls:
        assert soup.select_one(f"label[for={control['id']}]").text
        assert soup.select_one(f"output[for={control['id']}][aria-live=polite]").text
        assert control["aria-valuetext"]
    assert all(element["id"].startswith(f"tlm-{slider.name}") for element in soup.select("[id]"))
    assert soup.select_one("[role=group]")["aria-labelledby"] == soup.select_one(".tlm-title")["id"]


def test_labels_are_escaped():
    assert "a &lt; b &amp; c" in ALL["polynomial"]._repr_html_()
    hostile = sliders.polynomial("x", {"</script><b>": [1]}, start=0.0, title="</script>")
    assert "</script><b>" not in hostile._repr_html_()
    assert page(hostile).select_one("b") is None


def test_a_variable_cannot_break_out_of_its_tag():
    hostile = sliders.polynomial("x", {"c": [0, 1]}, variable='a"><script>alert(1)</script>')
    soup = page(hostile)
    assert len(soup.select("script")) == 2
    assert soup.select_one("label").text == 'a"><script>alert(1)</script>'
    assert soup.select_one("input")["data-input"] == soup.select_one("output")["data-value"] == "variable"


@pytest.mark.parametrize("low, high, step, start", [
    (-1234567, 1234567, 2 * 1234567 / 80, 0), (-2, 2, 1 / 3, 1), (0, 4, 1 / 11, 4), (-3e-7, 3e-7, 1e-8, 1e-7), (0, 1e-5, 1.5e-6, 1.5e-6),
    (-1, 1, 0.1, 0.7), (1e8, 3e8, 2.5e6, 1.05e8), (-0.3, 0.6, 0.01, 0.57)])
def test_a_browser_that_counts_in_decimals_starts_at_the_start_and_reaches_the_end(low, high, step, start):
    slider = sliders.polynomial("x", {"c": [0, 1]}, low=low, high=high, step=step, start=start)
    control, data = page(slider).select_one("input"), slider.data["inputs"][0]
    first, last, each, value = (Decimal(control[key]) for key in ("min", "max", "step", "value"))
    assert first == Decimal(repr(float(low))) and last <= Decimal(repr(float(high))) and each > 0
    steps, count = (value - first) / each, int((high - low) / step + 1e-6)
    assert abs(steps - round(steps)) < Decimal("1e-9") and abs((last - first) / each - count) < Decimal("1e-9")
    assert float(value) == data["start"] == pytest.approx(start, rel=1e-12, abs=1e-12 * step)
    shown = page(slider).select_one("output").text
    assert control["aria-valuetext"] == f"a = {shown}" and float(shown) == pytest.approx(start, abs=step / 100)
    assert "e" not in control["step"] + control["value"] + shown


def test_the_control_ends_within_the_range():
    control = page(sliders.polynomial("x", {"c": [0, 1]}, low=0.0, high=0.96, step=0.1, start=0.0)).select_one("input")
    assert control["max"] == "0.9"


@pytest.mark.parametrize("height", [0.0, 1e9, -1e9])
def test_a_flat_curve_is_drawn_inside_its_box(height):
    frame = sliders.polynomial("x", {"c": [height]}).data["box"]
    assert frame["min"] < height < frame["max"]


def test_numbers_have_seven_digits_and_no_noise():
    assert sliders.text(1 / 3) == "0.3333333"
    assert sliders.text(2e-17) == "0.000000"
    assert sliders.text(-1234567.0) == "-1234567"
    assert sliders.text(1.5e-05) == "0.00001500000" and sliders.text(12345678.0) == "1.234568e+7"


def test_numbers_are_cut_where_the_largest_of_them_ends():
    noisy = np.array([[123.456789012345, 1e-19], [-3e-13, 0.5]])
    assert plain(noisy) == [[123.456789012, 0.0], [0.0, 0.5]] and plain(np.zeros(2)) == [0.0, 0.0]
    assert plain(np.array([1.0, 1e-10, 1.23456e-12]), 1000.0 ** np.arange(3), 6) == [1.0, 0.0, 0.0]  # at most 1, 1e-7, 1e-6
    assert plain(np.array([1.0, 1e-7, 1.23456e-9]), 1000.0 ** np.arange(3), 6) == [1.0, 1e-7, 1.23e-9]
    assert "-0.0" not in str(plain(np.array([1.0, -1e-20])))


def test_without_its_script_the_page_says_that_the_cell_must_be_run():
    still = page(ALL["bilinear"]).select_one(".tlm-still").text
    assert "run this cell" in still and "its script has not run" in still


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
@pytest.mark.parametrize("build, words", [
    (lambda: sliders.bilinear("Bad Name", D, L, R, [1, 0]), "name"),
    (lambda: sliders.bilinear("n", D, L, R[:, :1], [1, 0]), "shapes"),
    (lambda: sliders.bilinear("n", D, L, R, [1, 0, 0]), "shapes"),
    (lambda: sliders.bilinear("n", np.ones((1, 2)), np.ones((2, 4)), np.ones((2, 4)), [1, 1, 1, 1]), "4 inputs"),
    (lambda: sliders.scale("n", np.ones((1, 9)), np.ones((9, 2)), np.ones((9, 2)), [1, 1]), "9 hidden"),
    (lambda: sliders.scale("n", D, L, R, [1, np.nan]), "finite"),
    (lambda: sliders.scale("n", D, L, R, [1, 1], start=1.01), "start of a"),
    (lambda: sliders.polynomial("n", {}), "curves"),
    (lambda: sliders.polynomial("n", {"x": [1]}, start=9.0), "start of a"),
    (lambda: sliders.polynomial("n", {"x": [1]}, y=(np.nan, 1)), "y must be"),
    (lambda: sliders.polynomial("n", {"x": [1]}, y=(-np.inf, 1)), "y must be"),
    (lambda: sliders.polynomial("n", {"x": [1]}, y=(1, 1)), "y must be"),
    (lambda: sliders.polynomial("n", {"x": [1]}, y=(1, 1 + 1e-9)), "y must be"),
    (lambda: sliders.polynomial("n", {"x": [1]}, low=1.0, high=1.0), "range of a"),
    (lambda: sliders.polynomial("n", {"x": [1]}, low=-np.inf), "low must be"),
    (lambda: sliders.polynomial("n", {"x": [1]}, step=0), "range of a"),
    (lambda: sliders.polynomial("n", {"x": []}), "curves: .x. must be"),
    (lambda: sliders.polynomial("n", {"x": 5}), "curves: .x. must be"),
    (lambda: sliders.polynomial("n", {"x": ([1], [0])}), "curves: .x. must be"),
    (lambda: sliders.polynomial("n", {"x": ([1], [])}), "curves: .x. must be"),
    (lambda: sliders.bilinear("n", D, L, R, [1, 0], step=-1), "range of x1"),
    (lambda: sliders.bilinear("n", D[:, :0], L[:0], R[:0], [1, 0]), "not empty"),
    (lambda: sliders.bilinear("n", D, 1e200 * L, 1e200 * R, [1, 0]), "overflow"),
    (lambda: sliders.scale("n", D, L, R, [1, 1], output=3), "output must be .* got 3"),
    (lambda: sliders.scale("n", D, L, R, [1, 1], output=-1), "output must be .* got -1"),
])
def test_wrong_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
