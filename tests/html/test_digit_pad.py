"""Digit pads in headless Chromium: drawn on by pointer, finger and keyboard, they show what Python computes from the data in the page.

Asked of every built page that has a pad, and of a page made here, so that the script is tested whether or not a chapter uses it.
"""

import re

import numpy as np
import pytest
import widget_pages

from tensorlm.notebook import digit_pad
from tensorlm.notebook.widgets import drawing
from tensorlm.notebook.widgets.page import Widget, rounded

MARKER = "data-tlm-pad"


def made_here() -> Widget:
    draw = np.random.default_rng(3)
    D, L, R = (draw.normal(size=shape) / 8 for shape in ((4, 5), (5, 64), (5, 64)))
    values, vectors = np.linalg.eigh(np.einsum("ch,hi,hj->cij", D, L, R) / 2 + np.einsum("ch,hi,hj->cij", D, R, L) / 2)
    kept = {"values": values[:, [0, -1]], "vectors": vectors.transpose(0, 2, 1)[:, [0, -1]]}
    images = {"stripes": np.tile([0.0, 1.0], 32), "grey": draw.integers(0, 17, (8, 8)) / 16}
    return digit_pad.pad("made-here", D, L, R, **kept, examples=images, labels=["a", "b", "c", "d"], mean=0.25, scale=2.0)


def find(root, selector: str):
    return root.find_element("css selector", selector)


def state(root) -> dict:
    """All that a pad shows, read in one go."""
    return root.parent.execute_script("""
        const root = arguments[0], all = selector => [...root.querySelectorAll(selector)];
        return {ink: all('[role=gridcell]').map(cell => cell.getAttribute('aria-label')),
                greys: all('[role=gridcell]').map(cell => getComputedStyle(cell).backgroundColor),
                numbers: all('[data-key]').map(element => [element.dataset.key, element.textContent, element.dataset.exact || null]),
                bars: all('[data-bar]').map(bar => [bar.dataset.bar, bar.className, parseFloat(bar.style.width)]),
                vectors: all('[data-vector]').map(image => image.src),
                chosen: all('input[type=radio]').findIndex(radio => radio.checked), follow: root.querySelector('[data-follow]').checked,
                top: all('tr[data-top]').map(row => Number(row.dataset.class)),
                marked: all('tr[data-chosen]').map(row => Number(row.dataset.class)),
                active: root.querySelector('[data-paper]').getAttribute('aria-activedescendant').slice(-2)};""", root)


def ink_of(root) -> list[int]:
    return [int(re.search(r"ink (\d+) of 16", words)[1]) for words in state(root)["ink"]]


def compare(root, data) -> dict:
    """The page against Python, to 6 digits, and against itself; returns what Python expects."""
    now = state(root)
    ink = [int(re.search(r"ink (\d+) of 16", words)[1]) for words in now["ink"]]
    expected = digit_pad.evaluate(data, np.array(ink) / 16, None if now["follow"] else now["chosen"])
    size = max(abs(number) for key, number in expected.items() if key.startswith(("logit", "part")))
    for key, words, exact in now["numbers"]:
        if key in ("predicted", "chosen"):
            assert words == (expected[key] or "nothing")
            continue
        kind = digit_pad.kind_of(key)
        assert float(exact) == pytest.approx(expected[key], rel=1e-6, abs=1e-9 * size), key
        assert words == rounded(float(exact), data["decimals"][kind], signed=kind in ("logit", "part")), key
    assert {key for key, _, _ in now["numbers"]} == set(expected)
    assert now["greys"] == ["rgb({0}, {0}, {0})".format(drawing.paper(each)) for each in ink]
    assert now["marked"] == [now["chosen"]] == [data["labels"].index(expected["chosen"])]
    assert now["top"] == ([] if expected["predicted"] is None else [data["labels"].index(expected["predicted"])])
    for key, look, width in now["bars"]:
        assert 0 <= width <= 50.001
        assert abs(expected[key]) < 1e-9 * size or (look == "tlm-below") == (expected[key] < 0)
    shown = data["vectors"][now["chosen"]]
    assert now["vectors"] == [drawing.bitmap(drawing.diverging(vector, max(map(abs, vector)))) for vector in shown]
    return expected


def drag(browser, root, points: list[tuple[float, float]]) -> None:
    """A stroke with the mouse through points in cells from the upper left corner."""
    from selenium.webdriver.common.action_chains import ActionChains

    paper = find(root, "[data-paper]")
    side, chain = paper.size["width"], ActionChains(browser, duration=20)
    for place, (x, y) in enumerate(points):
        chain.move_to_element_with_offset(paper, round((x / 8 - 0.5) * side), round((y / 8 - 0.5) * side))
        if place == 0:
            chain.click_and_hold()
    chain.release().perform()


def click(root, selector: str) -> None:
    root.parent.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", find(root, selector))


def test_starts_as_python_drew_it_and_asks_for_nothing(browser, widgets):
    for root, data in widgets():
        before = root.parent.execute_script("return arguments[0].dataset.ready", root)
        assert before == "yes"
        compare(root, data)
        assert ink_of(root) == data["examples"][0]["ink"]
        asked = widget_pages.fetched(browser)
        assert asked and not widget_pages.from_afar(asked)


def test_moves_and_inks_by_keyboard(widgets):
    from selenium.webdriver.common.keys import Keys

    for root, data in widgets():
        click(root, "[data-clear]")
        paper = find(root, "[data-paper]")
        steps = [((Keys.ARROW_DOWN, Keys.ARROW_RIGHT, " "), "11", 16), ((Keys.ARROW_RIGHT, "5"), "12", 9), ((Keys.END, "9"), "17", 16),
                 ((" ",), "17", 0), ((Keys.ARROW_RIGHT, "1"), "17", 2),
                 ((Keys.HOME, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP, "3"), "00", 5), ((Keys.DELETE,), "00", 0)]
        for keys, cell, ink in steps:
            paper.send_keys(*keys)
            row, column = map(int, cell)
            assert state(root)["active"] == cell and ink_of(root)[8 * row + column] == ink
            assert find(root, "[data-heard]").get_attribute("textContent") == f"row {row + 1}, column {column + 1}: ink {ink} of 16"
            compare(root, data)
        assert sorted(ink_of(root))[-3:] == [2, 9, 16]


def test_keys_used_by_the_pad_do_not_reach_the_page(browser, widgets):
    from selenium.webdriver.common.keys import Keys

    for root, _ in widgets():
        browser.execute_script("window.heard = []; document.addEventListener('keydown', event => window.heard.push(event.key))")
        find(root, "[data-paper]").send_keys(Keys.ARROW_LEFT, " ", "0", "x")
        assert browser.execute_script("return window.heard") == ["x"]


def test_draws_and_erases_with_the_mouse(browser, widgets):
    for root, data in widgets():
        click(root, "[data-clear]")
        assert set(ink_of(root)) == {0}
        compare(root, data)
        drag(browser, root, [(4.5, 0.5), (4.5, 7.5)])
        line = np.array(ink_of(root)).reshape(8, 8)
        assert (line[:, 4] == 16).all() and (line[:, [3, 5]] > 0).all() and (line[:, [0, 1, 7]] == 0).all()
        compare(root, data)
        click(root, "[data-eraser]")
        assert find(root, "[data-eraser]").get_attribute("aria-pressed") == "true"
        drag(browser, root, [(2.5, 2.5), (6.5, 2.5)])
        erased = np.array(ink_of(root)).reshape(8, 8)
        assert (erased[2] == 0).all() and (erased[[0, 6, 7]] == line[[0, 6, 7]]).all()
        compare(root, data)
        click(root, "[data-eraser]")
        drag(browser, root, [(6.2, 6.2), (1.1, 7.4), (2.0, 3.3)])
        compare(root, data)


def test_draws_with_a_finger_and_the_page_stands_still(browser, widgets):
    for root, data in widgets():
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        try:
            with widget_pages.phone(browser):
                click(root, "[data-clear]")
                stroke(browser, root)
                ink = np.array(ink_of(root)).reshape(8, 8)
                assert (ink[1:7, 3] == 16).all() and (ink[:, [0, 1, 5, 6, 7]] == 0).all()
                compare(root, data)
        finally:
            browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def stroke(browser, root) -> None:
    """A line down the fourth column with one finger; the page must not move."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", find(root, "[data-paper]"))
    left, top, width = browser.execute_script("""
        const box = arguments[0].getBoundingClientRect();
        return [box.left, box.top, box.width];""", find(root, "[data-paper]"))
    scrolled = browser.execute_script("return window.scrollY")
    for kind, places in (("touchStart", [(3.5, 1.5)]), *(("touchMove", [(3.5, y)]) for y in (3.0, 5.0, 6.5)), ("touchEnd", [])):
        points = [{"x": left + x / 8 * width, "y": top + y / 8 * width} for x, y in places]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert browser.execute_script("return window.scrollY") == scrolled


def test_loads_every_example(widgets):
    for root, data in widgets():
        for place, example in enumerate(data["examples"]):
            click(root, f"[data-example='{place}']")
            assert ink_of(root) == example["ink"]
            compare(root, data)


def test_explains_the_class_that_is_chosen_until_it_follows_again(widgets):
    for root, data in widgets():
        for chosen in range(len(data["labels"])):
            click(root, f"input[type=radio][value='{chosen}']")
            assert state(root)["chosen"] == chosen and not state(root)["follow"]
            compare(root, data)
        click(root, f"[data-example='{len(data['examples']) - 1}']")
        assert state(root)["chosen"] == chosen
        compare(root, data)
        click(root, "[data-follow]")
        expected = compare(root, data)
        assert state(root)["follow"] and expected["chosen"] == (expected["predicted"] or data["labels"][0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone_and_is_legible_in_both_themes(browser, widgets, theme):
    with widget_pages.phone(browser, theme) as wear:
        for root, _ in widgets():
            wear()
            widget_pages.require_fit(browser, [root])
            widget_pages.require_targets(root, "button, label")
            paper = find(root, "[data-paper]").size
            assert abs(paper["width"] - paper["height"]) <= 1 and paper["width"] >= 240
            words = ".tlm-title, .tlm-logits tr:not([data-chosen]) th label, .tlm-number"
            widget_pages.require_dark_on(root, words, ("255, 255, 255", "230, 240, 247"))
