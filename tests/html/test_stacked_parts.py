"""Stacked parts in headless Chromium: by keyboard they show what Python computes from the data in the page, and fetch nothing.

Asked of every built page that has them, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import numpy as np
import pytest
import widget_pages

from tensorlm.notebook import stacked_parts
from tensorlm.notebook.widgets import page

MARKER = "data-tlm-stack"


def made_here() -> page.Widget:
    values = np.random.default_rng(5).normal(size=(2, 3, 3)) * [10.0, 30.0, 3.0]
    return stacked_parts.stack("made-here", {"at the start": 0, "cross": 1, "own": 2}, {"after": ["a", "b"], "read-out": ["x", "y", "z"]},
                               values, low=-2.5, high=2.5, step=0.05)


def state(root) -> dict:
    """All that a widget shows, read in one go."""
    return root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        return {ready: root.dataset.ready, strength: Number(root.querySelector('input').value),
                said: root.querySelector('input').getAttribute('aria-valuetext'),
                chosen: all('select').map(list => Number(list.value)),
                numbers: all('[data-key]').map(cell => [cell.dataset.key, cell.textContent, Number(cell.dataset.exact)]),
                bars: all('[data-bar]').map(bar => [bar.dataset.bar, parseFloat(bar.style.left), parseFloat(bar.style.width)]),
                dots: all('[data-marker]').map(dot => [dot.dataset.marker, Number(dot.getAttribute('cy'))]),
                ends: all('[data-curve]').map(path => [path.dataset.curve, Number(path.getAttribute('d').split(' ').pop())]),
                axes: all('[data-axes]').filter(axes => getComputedStyle(axes).display !== 'none')
                    .map(axes => Number(axes.dataset.axes))};""", root)


def compare(root, data) -> dict:
    """The page against Python, to 6 digits, and its bars, dots and curves against its numbers."""
    now = state(root)
    expected = stacked_parts.evaluate(data, now["strength"], now["chosen"])
    assert {key for key, _, _ in now["numbers"]} == set(expected)
    for key, words, exact in now["numbers"]:
        assert exact == pytest.approx(expected[key], rel=1e-6, abs=1e-9), f"{key} at {now['strength']} for {now['chosen']}"
        assert words == page.rounded(exact, signed=True)
    scale, frame, before = data["scales"][now["chosen"][-1]], data["frame"], 0.0
    for key, left, width in now["bars"]:
        first = 0.0 if key == "sum" else before
        before = first + expected[key]
        assert (left, width) == pytest.approx(page.span(first, before, scale["reach"]), abs=0.01), key
    height = lambda value: frame["top"] + (scale["max"] - value) / (scale["max"] - scale["min"]) * frame["height"]
    assert dict(now["dots"]) == pytest.approx({key: height(value) for key, value in expected.items()}, abs=0.01)
    last = stacked_parts.evaluate(data, data["inputs"][0]["high"], now["chosen"])
    assert dict(now["ends"]) == pytest.approx({key: height(value) for key, value in last.items()}, abs=0.06)
    assert now["axes"] == [now["chosen"][-1]] and float(now["said"].split(" = ")[1]) == now["strength"]
    return now


def test_shows_what_python_computes_by_keyboard(widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        start = compare(root, data)
        assert start["ready"] == "yes"
        control = root.find_element("css selector", "input[type=range]")
        lists = root.find_elements("css selector", "select")
        for keys in ([Keys.ARROW_RIGHT] * 3, [Keys.HOME], [Keys.ARROW_RIGHT] * 7, [Keys.END]):
            control.send_keys(*keys)
            moved = compare(root, data)
        assert moved["strength"] == data["inputs"][0]["high"] and moved["numbers"] != start["numbers"]
        for place, each in enumerate(lists):
            each.send_keys(Keys.ARROW_DOWN)
            chosen = compare(root, data)
            assert chosen["chosen"][place] == 1 and chosen["numbers"] != moved["numbers"]
            control.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
            compare(root, data)


def test_fetches_nothing(widgets, browser):
    widget_pages.require_nothing_fetched(widgets, browser)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(widgets, browser, theme):
    widget_pages.require_a_phone(widgets, browser, theme, ".tlm-title, th[scope=row], .tlm-number, label, select", "select, input")
