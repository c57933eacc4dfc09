"""Steered words in headless Chromium: by keyboard they show what Python computes from the data in the page, and fetch nothing.

Asked of every built page that has them, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import json
from pathlib import Path

import book_files
import numpy as np
import pytest

from tensorlm.notebook import stacked_parts_page, steered_words, steered_words_page
from tensorlm.notebook.steered_words import Prompt

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


def made_here() -> steered_words.SteeredWords:
    random = np.random.default_rng(5)
    prompts = [Prompt("the cat", {"is": 0, "are": 2, "and": 4}, "are − is"), Prompt("a place", {"a": 1, "b": 3}, "b − a")]
    logits, paths = ([[random.normal(size=(rows, powers)) for powers in (4, 7)] for _ in prompts] for rows in (6, 2))
    return steered_words.steer("made-here", prompts, ["one", "two"], logits, paths, ["alone", "with the text"])


@pytest.fixture(scope="module")
def addresses(html, tmp_path_factory) -> list[str]:
    """The page made here, then the built pages that have steered words."""
    made = tmp_path_factory.mktemp("steer") / "made.html"
    made.write_text('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Steered</title>'
                    '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
                    f'<body style="margin:8px"><article>{made_here()._repr_html_()}</article></body></html>', encoding="utf-8")
    built = [html / f"{page}.html" for page in book_files.pages() if (html / f"{page}.html").exists()]
    return [path.resolve().as_uri() for path in [made, *(path for path in built if has_widget(path))]]


def has_widget(path: Path) -> bool:
    return "data-tlm-steer=" in path.read_text(encoding="utf-8")


@pytest.fixture
def widgets(browser, addresses):
    """Every widget in turn, fresh from its page, with the data that the page holds."""
    def each():
        for address in addresses:
            browser.get_log("performance")
            browser.get(address)
            for root in browser.find_elements("css selector", "[data-tlm-steer]"):
                yield root, json.loads(root.find_element("css selector", "script[data-tlm-data]").get_attribute("textContent"))

    return each


def state(root) -> dict:
    """All that a widget shows, read in one go."""
    return root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        const seen = element => element.getClientRects().length > 0;
        return {ready: root.dataset.ready, strength: Number(root.querySelector('input').value),
                said: root.querySelector('input').getAttribute('aria-valuetext'),
                chosen: all('select').map(list => Number(list.value)),
                numbers: all('[data-key]').filter(seen).map(cell => [cell.dataset.key, cell.textContent, Number(cell.dataset.exact)]),
                words: all('[data-word]').filter(seen).map(cell => cell.textContent),
                contest: root.querySelector('[data-contest]').textContent,
                bars: all('[data-bar]').map(bar => [bar.dataset.bar, parseFloat(bar.style.left), parseFloat(bar.style.width)]),
                dots: all('[data-marker]').filter(seen).map(dot => [dot.dataset.marker, Number(dot.getAttribute('cy'))]),
                ends: all('[data-curve]').filter(seen).map(path => [path.dataset.curve, Number(path.getAttribute('d').split(' ').pop())])};""", root)


def compare(root, data) -> dict:
    """The page against Python, to 6 digits, and its bars, dots and curves against its numbers."""
    now = state(root)
    prompt = data["prompts"][now["chosen"][0]]
    expected = steered_words.evaluate(data, now["strength"], now["chosen"])
    assert {key for key, _, _ in now["numbers"]} == set(expected) and now["words"] == prompt["words"] and now["contest"] == prompt["contest"]
    for key, words, exact in now["numbers"]:
        assert exact == pytest.approx(expected[key], rel=1e-6, abs=1e-9), f"{key} at {now['strength']} for {now['chosen']}"
        assert words == (steered_words_page.chance if key.startswith("w") else stacked_parts_page.text)(exact)
    reach, frame, before = data["reach"][now["chosen"][0]], data["frame"], 0.0
    for key, left, width in now["bars"]:
        first = 0.0 if key == "sum" else before
        before = first + expected[key]
        assert (left, width) == pytest.approx(stacked_parts_page.span(first, before, reach), abs=0.01), key
    height = lambda chance: frame["top"] + (1.02 - chance) / 1.04 * frame["height"]
    words = {key: value for key, value in expected.items() if key.startswith("w")}
    assert dict(now["dots"]) == pytest.approx({key: height(value) for key, value in words.items()}, abs=0.01)
    last = steered_words.evaluate(data, data["inputs"][0]["high"], now["chosen"])
    assert dict(now["ends"]) == pytest.approx({key: height(last[key]) for key in words}, abs=0.06)
    assert float(now["said"].split(" = ")[1]) == now["strength"]
    return now


def test_shows_what_python_computes_by_keyboard(widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        start = compare(root, data)
        assert start["ready"] == "yes"
        control = root.find_element("css selector", "input[type=range]")
        for keys in ([Keys.ARROW_RIGHT] * 3, [Keys.HOME], [Keys.ARROW_RIGHT] * 7, [Keys.END]):
            control.send_keys(*keys)
            moved = compare(root, data)
        assert moved["strength"] == data["inputs"][0]["high"] and moved["numbers"] != start["numbers"]
        for place, each in enumerate(root.find_elements("css selector", "select")):
            for number in range(1, len(each.find_elements("css selector", "option"))):
                each.send_keys(Keys.ARROW_DOWN)
                chosen = compare(root, data)
                assert chosen["chosen"][place] == number
                control.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
                compare(root, data)


def test_fetches_nothing(widgets, browser):
    for root, _ in widgets():
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        addresses = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert not [address for address in addresses if not address.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(widgets, browser, theme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        for root, _ in widgets():
            browser.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
            for box in [root, *root.find_elements("css selector", ":scope > .tlm-scroll")]:
                assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth + 1", box)
            looks = browser.execute_script("""
                return [...arguments[0].querySelectorAll('.tlm-title, th[scope=row], .tlm-number, label, select')].map(element => {
                    let under = element;
                    while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') { under = under.parentElement; }
                    return getComputedStyle(element).color + ' on ' + getComputedStyle(under).backgroundColor; })""", root)
            assert set(looks) <= {f"rgb(26, 26, 26) on {under}" for under in ("rgb(255, 255, 255)", "rgb(244, 244, 244)")}
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
