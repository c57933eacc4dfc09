"""Ranked digits in headless Chromium: by keyboard they show what Python ranks from the data in the page, and fetch nothing.

Asked of every built page that has them, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import numpy as np
import pytest
import widget_pages

from tensorlm.notebook import ranked_digits
from tensorlm.notebook.widgets import page

MARKER = "data-tlm-ranked"


def made_here() -> page.Widget:
    draw = np.random.default_rng(5)
    train, tests = (draw.integers(0, 17, (count, 64)) / 16 for count in (60, 5))
    return ranked_digits.ranked("made-here", train, draw.integers(0, 10, 60).tolist(), tests, [1, 2, 3, 4, 5],
                                {"one": draw.normal(size=(60, 5)), "two": draw.normal(size=(60, 5))})


def compare(root, data) -> tuple[int, int]:
    """The page against Python: the digits that it names and their scores; returns the numbers of test digit and method."""
    now = root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        return {chosen: all('select').map(list => Number(list.value)), index: all('[data-rank]').map(image => Number(image.dataset.index)),
                alt: all('[data-rank]').map(image => image.alt), score: all('[data-score]').map(each => each.textContent),
                loaded: all('img').every(image => image.naturalWidth === 8), said: root.querySelector('[data-said]').textContent};""", root)
    test, method = now["chosen"]
    expected = ranked_digits.evaluate(data, test, method)
    shown = expected["helpful"] + expected["harmful"]
    labels = {digit["index"]: digit["label"] for digit in data["train"]}
    assert now["index"] == [index for index, _ in shown] and now["loaded"]
    assert now["score"] == [page.rounded(score, signed=True) for _, score in shown]
    assert now["alt"] == [f"a {labels[index]}" for index, _ in shown]
    assert now["said"].startswith(f"A {expected['label']}. ")
    return test, method


def test_shows_what_python_ranks_by_keyboard(widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        assert root.get_attribute("data-ready") == "yes" and compare(root, data) == (0, 0)
        tests, methods = root.find_elements("css selector", "select")
        tests.send_keys(Keys.ARROW_DOWN)
        assert compare(root, data) == (1, 0)
        methods.send_keys(Keys.ARROW_DOWN)
        assert compare(root, data) == (1, 1)
        tests.send_keys(Keys.END)
        assert compare(root, data) == (len(data["tests"]) - 1, 1)


def test_fetches_nothing(widgets, browser):
    widget_pages.require_nothing_fetched(widgets, browser)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(widgets, browser, theme):
    widget_pages.require_a_phone(widgets, browser, theme, ".tlm-title, .tlm-row, li, label, select", "select", ("255, 255, 255",))
