"""The landscape widget in headless Chromium: by keyboard it shows what Python computes from the data in the page, and fetches nothing.

Asked of every built page that has one, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import math
import re

import pytest
import widget_pages

from tensorlm.notebook import sliders
from tensorlm.notebook.widgets import page, smoothed_landscape

MARKER = "data-tlm-landscape"


def made_here() -> page.Widget:
    return sliders.landscape("made-here", dimensions=(6, 20), codimensions=(1, 3, 6), start=0.1)


def state(root) -> dict:
    """All that a widget shows, read in one go."""
    return root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        return {ready: root.dataset.ready, sigma: Number(root.querySelector('input').value),
                said: root.querySelector('input').getAttribute('aria-valuetext'),
                chosen: all('select').map(list => Number(list.value)),
                numbers: all('[data-key]').map(cell => [cell.dataset.key, cell.textContent, Number(cell.dataset.exact)]),
                dot: all('[data-marker]').map(dot => [Number(dot.getAttribute('cx')), Number(dot.getAttribute('cy'))])[0],
                curves: Object.fromEntries(all('[data-curve]').map(path => [path.dataset.curve, path.getAttribute('d')]))};""", root)


def compare(root, data) -> dict:
    """The page against Python: its numbers to 8 digits, its curves and its dot to a tenth of a pixel."""
    now = state(root)
    expected = smoothed_landscape.evaluate(data, now["sigma"], now["chosen"])
    assert {key for key, _, _ in now["numbers"]} == set(expected)
    for key, words, exact in now["numbers"]:
        if key == "where":
            assert words == expected[key]
            continue
        assert exact == pytest.approx(expected[key], rel=1e-8, abs=1e-9), f"{key} at {now['sigma']} for {now['chosen']}"
        assert words == (page.rounded(exact, 3) if key == "end" else page.precise(exact, 4))
    frame, plot = data["frame"], page.Plot(data["low"], data["high"], "", data["bottom"], data["top"])
    for key, spread in (("reward", 0.0), ("seen", now["sigma"])):
        drawn, wanted = (list(map(float, re.findall(r"-?[\d.]+", path)))
                         for path in (now["curves"][key], plot.path(smoothed_landscape._curve(data, spread, now["chosen"]))))
        assert drawn == pytest.approx(wanted, abs=0.11), key
    height = smoothed_landscape._height(smoothed_landscape._bumps(data, now["sigma"], now["chosen"]), expected["end"])
    assert now["dot"] == pytest.approx([plot.x(expected["end"]), plot.y(max(data["bottom"], math.log10(height)))], abs=0.01)
    assert frame["top"] <= now["dot"][1] <= frame["top"] + frame["height"]
    assert float(now["said"].split(" = ")[1]) == now["sigma"]
    return now


def test_shows_what_python_computes_by_keyboard(widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        start = compare(root, data)
        assert start["ready"] == "yes"
        control, lists = root.find_element("css selector", "input[type=range]"), root.find_elements("css selector", "select")
        for keys in ([Keys.ARROW_RIGHT] * 3, [Keys.HOME], [Keys.ARROW_RIGHT] * 30, [Keys.END]):
            control.send_keys(*keys)
            moved = compare(root, data)
        assert moved["sigma"] == data["inputs"][0]["high"] and moved["numbers"] != start["numbers"]
        for place, each in enumerate(lists):
            each.send_keys(Keys.ARROW_DOWN)
            chosen = compare(root, data)
            assert chosen["chosen"][place] == 1 and chosen["numbers"] != moved["numbers"]
            control.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 35)
            compare(root, data)


def test_fetches_nothing(widgets, browser):
    widget_pages.require_nothing_fetched(widgets, browser)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(widgets, browser, theme):
    widget_pages.require_a_phone(widgets, browser, theme, ".tlm-title, th[scope=row], .tlm-number, label, select", "select, input")
