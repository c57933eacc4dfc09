"""Steered words in headless Chromium: by keyboard they show what Python computes from the data in the page, and fetch nothing.

Asked of every built page that has them, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import numpy as np
import pytest
import widget_pages

from tensorlm.notebook import steered_tokens
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.steered_tokens import Prompt

MARKER = "data-tlm-steer"


def made_here() -> page.Widget:
    random = np.random.default_rng(5)
    prompts = [Prompt("the cat", {"is": 0, "are": 2, "and": 4}, "are − is"), Prompt("a place", {"a": 1, "b": 3}, "b − a")]
    logits, paths = ([[random.normal(size=(rows, powers)) for powers in (4, 7)] for _ in prompts] for rows in (6, 2))
    return steered_tokens.steer("made-here", prompts, ["one", "two"], logits, paths, ["alone", "with the text"])


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
                ends: all('[data-curve]').filter(seen)
                    .map(path => [path.dataset.curve, Number(path.getAttribute('d').split(' ').pop())])};""", root)


def compare(root, data) -> dict:
    """The page against Python, to 6 digits, and its bars, dots and curves against its numbers."""
    now = state(root)
    prompt = data["prompts"][now["chosen"][0]]
    expected = steered_tokens.evaluate(data, now["strength"], now["chosen"])
    assert {key for key, _, _ in now["numbers"]} == set(expected)
    assert (now["words"], now["contest"]) == (prompt["words"], prompt["contest"])
    for key, words, exact in now["numbers"]:
        assert exact == pytest.approx(expected[key], rel=1e-6, abs=1e-9), f"{key} at {now['strength']} for {now['chosen']}"
        assert words == (page.rounded(exact, 3) if key.startswith("w") else page.rounded(exact, signed=True))
    reach, frame, before = data["reach"][now["chosen"][0]], data["frame"], 0.0
    for key, left, width in now["bars"]:
        first = 0.0 if key == "sum" else before
        before = first + expected[key]
        assert (left, width) == pytest.approx(page.span(first, before, reach), abs=0.01), key
    height = lambda chance: frame["top"] + (1.02 - chance) / 1.04 * frame["height"]
    words = {key: value for key, value in expected.items() if key.startswith("w")}
    assert dict(now["dots"]) == pytest.approx({key: height(value) for key, value in words.items()}, abs=0.01)
    last = steered_tokens.evaluate(data, data["inputs"][0]["high"], now["chosen"])
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
    widget_pages.require_nothing_fetched(widgets, browser)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(widgets, browser, theme):
    widget_pages.require_a_phone(widgets, browser, theme, ".tlm-title, th[scope=row], .tlm-number, label, select", "select, input")
