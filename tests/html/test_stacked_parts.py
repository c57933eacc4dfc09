"""Stacked parts in headless Chromium: by keyboard they show what Python computes from the data in the page, and fetch nothing.

Asked of every built page that has them, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import json
from pathlib import Path

import book_files
import numpy as np
import pytest

from tensorlm.notebook import stacked_parts, stacked_parts_page

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


def made_here() -> stacked_parts.StackedParts:
    values = np.random.default_rng(5).normal(size=(2, 3, 3)) * [10.0, 30.0, 3.0]
    return stacked_parts.stack("made-here", {"at the start": 0, "cross": 1, "own": 2}, {"after": ["a", "b"], "read-out": ["x", "y", "z"]},
                               values, low=-2.5, high=2.5, step=0.05)


@pytest.fixture(scope="module")
def addresses(html, tmp_path_factory) -> list[str]:
    """The page made here, then the built pages that have stacked parts."""
    made = tmp_path_factory.mktemp("stack") / "made.html"
    made.write_text('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Stacked</title>'
                    '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
                    f'<body style="margin:8px"><article>{made_here()._repr_html_()}</article></body></html>', encoding="utf-8")
    built = [html / f"{page}.html" for page in book_files.pages() if (html / f"{page}.html").exists()]
    return [path.resolve().as_uri() for path in [made, *(path for path in built if has_stack(path))]]


def has_stack(path: Path) -> bool:
    return "data-tlm-stack=" in path.read_text(encoding="utf-8")


@pytest.fixture
def stacks(browser, addresses):
    """Every widget in turn, fresh from its page, with the data that the page holds."""
    def each():
        for address in addresses:
            browser.get_log("performance")
            browser.get(address)
            for root in browser.find_elements("css selector", "[data-tlm-stack]"):
                yield root, json.loads(root.find_element("css selector", "script[data-tlm-data]").get_attribute("textContent"))

    return each


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
                axes: all('[data-axes]').filter(axes => getComputedStyle(axes).display !== 'none').map(axes => Number(axes.dataset.axes))};""", root)


def compare(root, data) -> dict:
    """The page against Python, to 6 digits, and its bars, dots and curves against its numbers."""
    now = state(root)
    expected = stacked_parts.evaluate(data, now["strength"], now["chosen"])
    assert {key for key, _, _ in now["numbers"]} == set(expected)
    for key, words, exact in now["numbers"]:
        assert exact == pytest.approx(expected[key], rel=1e-6, abs=1e-9), f"{key} at {now['strength']} for {now['chosen']}"
        assert words == stacked_parts_page.text(exact)
    scale, frame, before = data["scales"][now["chosen"][-1]], data["frame"], 0.0
    for key, left, width in now["bars"]:
        first = 0.0 if key == "sum" else before
        before = first + expected[key]
        assert (left, width) == pytest.approx(stacked_parts_page.span(first, before, scale["reach"]), abs=0.01), key
    height = lambda value: frame["top"] + (scale["max"] - value) / (scale["max"] - scale["min"]) * frame["height"]
    assert dict(now["dots"]) == pytest.approx({key: height(value) for key, value in expected.items()}, abs=0.01)
    last = stacked_parts.evaluate(data, data["inputs"][0]["high"], now["chosen"])
    assert dict(now["ends"]) == pytest.approx({key: height(value) for key, value in last.items()}, abs=0.06)
    assert now["axes"] == [now["chosen"][-1]] and float(now["said"].split(" = ")[1]) == now["strength"]
    return now


def test_shows_what_python_computes_by_keyboard(stacks):
    from selenium.webdriver.common.keys import Keys

    for root, data in stacks():
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


def test_fetches_nothing(stacks, browser):
    for root, _ in stacks():
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        addresses = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert not [address for address in addresses if not address.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(stacks, browser, theme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        for root, _ in stacks():
            browser.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
            for box in [root, *root.find_elements("css selector", ":scope > .tlm-scroll")]:
                assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth + 1", box)
            small = browser.execute_script("""
                return [...arguments[0].querySelectorAll('select, input')].map(element => element.getBoundingClientRect())
                    .filter(box => box.width < 24 || box.height < 24).length""", root)
            assert small == 0, "targets of 24 pixels at least"
            looks = browser.execute_script("""
                return [...arguments[0].querySelectorAll('.tlm-title, th[scope=row], .tlm-number, label, select')].map(element => {
                    let under = element;
                    while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') { under = under.parentElement; }
                    return getComputedStyle(element).color + ' on ' + getComputedStyle(under).backgroundColor; })""", root)
            assert set(looks) <= {f"rgb(26, 26, 26) on {under}" for under in ("rgb(255, 255, 255)", "rgb(244, 244, 244)")}
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
