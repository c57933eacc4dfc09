"""Pads of certified digits in headless Chromium: what is drawn has the radius, the rival and the nearest image that Python computes.

Asked of every built page that has one, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import numpy as np
import pytest
import test_digit_pad
import widget_pages

from tensorlm.notebook.widgets import certified_digit
from tensorlm.notebook.widgets.page import Widget, rounded

MARKER = "data-tlm-nearest"


def made_here() -> Widget:
    draw = np.random.default_rng(4)
    D, L, R = draw.normal(size=(4, 12)) / 4, draw.normal(size=(12, 65)) / 8, draw.normal(size=(12, 65)) / 8
    images = {"stripes": np.tile([0.0, 1.0], 32), "grey": draw.integers(0, 17, (8, 8)) / 16}
    return certified_digit.certified_pad("made-here", D, L, R, examples=images, labels=["a", "b", "c", "d"])


def state(root) -> dict:
    """All that a pad shows, read in one go."""
    return root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        return {ready: root.dataset.ready,
                ink: all('[role=gridcell]').map(cell => Number(cell.getAttribute('aria-label').match(/ink (\\d+)/)[1])),
                numbers: all('[data-key]').map(element => [element.dataset.key, element.textContent, element.dataset.exact || null]),
                bars: all('[data-bar]').map(bar => [bar.dataset.bar, parseFloat(bar.style.width)]),
                images: all('[data-image]').map(svg => [svg.dataset.image, [...svg.children].map(rect => rect.getAttribute('fill'))]),
                top: all('tr[data-top] th').map(cell => cell.textContent),
                chosen: all('tr[data-chosen] th').map(cell => cell.textContent)};""", root)


def compare(root, data) -> dict:
    """The page against Python, to 6 digits; returns what Python expects."""
    now = state(root)
    pixels = np.array(now["ink"]) / 16
    expected = certified_digit.evaluate(data, pixels)
    for key, words, exact in now["numbers"]:
        if key in ("predicted", "rival"):
            assert words == expected[key]
        elif key in expected:
            assert float(exact) == pytest.approx(expected[key], rel=1e-6), key
            assert words == rounded(float(exact)), key
        else:
            assert words == "is it" and key == f"to{data['labels'].index(expected['predicted'])}"
    assert now["ready"] == "yes" and now["top"] == [expected["predicted"]] and now["chosen"] == [expected["rival"]]
    for key, width in now["bars"]:
        assert width == pytest.approx(100 * min(1, expected.get(key, 0) / data["bound"]), abs=0.01)
    for key, colours in certified_digit.colours(pixels, expected["step"]).items():
        drawn = np.array([[int(part) for part in fill[4:-1].split(",")] for fill in dict(now["images"])[key]])
        assert np.abs(drawn - colours).max() <= 1, key  # a shade, where the last digit of a step rounds the other way
    return expected


def test_starts_as_python_drew_it_and_asks_for_nothing(browser, widgets):
    for root, data in widgets():
        compare(root, data)
        assert state(root)["ink"] == data["examples"][0]["ink"]
        asked = widget_pages.fetched(browser)
        assert asked and not widget_pages.from_afar(asked)


def test_follows_what_is_drawn_by_keyboard_and_mouse(browser, widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        test_digit_pad.click(root, "[data-clear]")
        assert set(state(root)["ink"]) == {0}
        compare(root, data)
        test_digit_pad.find(root, "[data-paper]").send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, " ", Keys.ARROW_RIGHT, "5")
        assert sorted(state(root)["ink"])[-3:] == [0, 9, 16]
        compare(root, data)
        found = []
        for stroke in ([(4.5, 0.5), (4.5, 7.5)], [(1.5, 2.5), (6.5, 2.5), (2.0, 6.0)]):
            test_digit_pad.drag(browser, root, stroke)
            found.append(compare(root, data)["radius"])
        assert found[0] != found[1]


def test_loads_every_example(widgets):
    for root, data in widgets():
        for place, example in enumerate(data["examples"]):
            test_digit_pad.click(root, f"[data-example='{place}']")
            assert state(root)["ink"] == example["ink"]
            compare(root, data)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(browser, widgets, theme):
    words = ".tlm-title, .tlm-logits tr:not([data-chosen]) th, .tlm-logits tr:not([data-chosen]) .tlm-number, .tlm-three p"
    widget_pages.require_a_phone(widgets, browser, theme, words, "button", ("255, 255, 255",))
