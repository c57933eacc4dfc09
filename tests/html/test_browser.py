"""The built pages in headless Chromium, opened from disk with the network blocked: maths, sliders by keyboard, a phone's width."""

import time

import book_files
import pytest
import widget_pages

from tensorlm.notebook import sliders

CHAPTERS = [f"book/{chapter.stem}" for chapter in book_files.chapters()[:2]]
EVERY = book_files.pages()


@pytest.fixture
def visit(browser, html):
    def load(page: str):
        browser.get_log("performance")
        browser.get((html / f"{page}.html").resolve().as_uri())
        return browser

    return load


def wait_for(condition, what: str, seconds: float = 300.0):
    """Poll until `condition()` is true. Raises `AssertionError` saying `what` did not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.2)


def maths_drawn(browser) -> bool:
    return browser.execute_script("""
        const all = [...document.querySelectorAll('article .math')].filter(e => !e.querySelector('.math'));
        return all.length > 0 && all.every(e => e.querySelector('mjx-container'));""")


@pytest.mark.parametrize("page", CHAPTERS)
def test_formulas_are_drawn_and_nothing_is_fetched(visit, page):
    browser = visit(page)
    wait_for(lambda: maths_drawn(browser), "the formulas")
    assert not browser.find_elements("css selector", "mjx-merror")
    addresses = widget_pages.fetched(browser)
    assert addresses and not widget_pages.from_afar(addresses)


def test_a_solution_says_once_that_it_is_one(visit):
    cards = visit(CHAPTERS[0]).find_elements("css selector", ".solution")
    assert cards and {card.text.strip() for card in cards} == {"Solution"}


def shown(root) -> dict[str, str]:
    return {element.get_attribute("data-key"): element.text for element in root.find_elements("css selector", "[data-key]")}


def compare(root) -> list[float]:
    """The page's numbers against Python's, to 6 digits; the values of the inputs."""
    data = widget_pages.data_of(root)
    values = [float(control.get_attribute("value")) for control in root.find_elements("css selector", "input[type=range]")]
    texts = shown(root)
    for key, expected in sliders.evaluate(data, values).items():
        if expected is None:
            assert texts[key] == "undefined"
        else:
            assert float(texts[key]) == pytest.approx(expected, rel=1e-6, abs=1e-9), f"{key} at {values}"
    return values


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_slider_moves_by_keyboard_and_shows_what_python_computes(visit, page):
    from selenium.webdriver.common.keys import Keys

    browser = visit(page)
    roots = browser.find_elements("css selector", "[data-tlm-slider]")
    assert roots, f"{page} has no slider"
    for root in roots:
        wait_for(lambda: root.get_attribute("data-ready") == "yes", "the slider")
        before, start = shown(root), compare(root)
        for place, control in enumerate(root.find_elements("css selector", "input[type=range]")):
            for keys in ([Keys.ARROW_RIGHT] * 3, [Keys.HOME], [Keys.ARROW_RIGHT] * 7, [Keys.END], [Keys.ARROW_LEFT] * 11):
                control.send_keys(*keys)
                values = compare(root)
                assert float(control.get_attribute("aria-valuetext").split(" = ")[1]) == values[place]
            assert values[place] != start[place]
        assert shown(root) != before


@pytest.mark.parametrize("page", EVERY)
def test_nothing_scrolls_sideways_on_a_phone(visit, page):
    browser = visit(page)
    with widget_pages.phone(browser):
        if browser.find_elements("css selector", "article .math"):
            wait_for(lambda: maths_drawn(browser), "the formulas")
        boxes = browser.find_elements("css selector", "[data-tlm-slider], [data-tlm-slider] > .tlm-scroll")
        widget_pages.require_fit(browser, boxes)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_sliders_are_legible_in_both_themes(visit, theme):
    browser = visit(CHAPTERS[0])
    browser.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
    colours = browser.execute_script("""
        const style = getComputedStyle(document.querySelector('[data-tlm-slider] th[scope=row]'));
        return [style.color, style.backgroundColor];""")
    assert colours == ["rgb(26, 26, 26)", "rgb(255, 255, 255)"] or colours == ["rgba(26, 26, 26, 1)", "rgba(255, 255, 255, 1)"]
