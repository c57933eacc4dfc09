"""The slides and the handout of a workshop in headless Chromium, from disk with the network blocked."""

import base64
import re
import zlib

import pytest
import widget_pages
import workshop
from test_browser import wait_for

READY = "return Boolean(window.Reveal && Reveal.isReady() && document.querySelectorAll('mjx-container').length)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("workshop")
    workshop.build(out)
    return out


@pytest.fixture(scope="module")
def deck(browser, folder):
    browser.get_log("performance")
    browser.get((folder / "slides.html").as_uri())
    wait_for(lambda: browser.execute_script(READY), "the deck")
    return browser


def each_slide(browser):
    """Every slide with its fragments, from the first to the last, by the keys of a teacher."""
    browser.execute_script("Reveal.slide(0)")
    while True:
        yield browser.execute_script("return Reveal.getCurrentSlide()")
        if browser.execute_script("return Reveal.isLastSlide()"):
            return
        browser.execute_script("while (Reveal.availableFragments().next) Reveal.nextFragment(); Reveal.next()")


def test_the_deck_opens_without_a_network(deck):
    addresses = widget_pages.fetched(deck)
    assert addresses and not widget_pages.from_afar(addresses)
    assert deck.execute_script("return Reveal.getTotalSlides()") > 10
    assert not deck.find_elements("css selector", "mjx-merror, [data-mml-node=merror]")
    assert not [entry for entry in deck.get_log("browser") if entry["level"] == "SEVERE"] if "browser" in deck.log_types else True


def test_the_deck_has_a_slide_for_each_row_of_the_agenda_and_moves_by_keyboard(deck):
    from selenium.webdriver.common.keys import Keys

    rows = workshop.agendas.agenda(workshop.MINUTES).rows
    heads = deck.execute_script("return [...document.querySelectorAll('.slides h2')].map(h => h.textContent)")
    for row in rows:
        name = re.sub(r"^\d\d ", "", row.name)
        assert any(head.startswith(name) and f"{row.minutes} minutes" in head for head in heads), name
    deck.execute_script("Reveal.slide(0)")
    deck.find_element("css selector", "body").send_keys(Keys.SPACE)
    assert deck.execute_script("return Reveal.getIndices().h") == 1
    assert all(deck.execute_script("return [...document.querySelectorAll('aside.notes')].map(n => n.textContent.trim().length > 10)"))


def test_every_slide_fits(deck):
    cut = [root.text[:40] for root in each_slide(deck) if deck.execute_script(
        "const s = arguments[0]; return s.scrollHeight > 700 || s.scrollWidth > s.clientWidth + 1", root)]
    assert cut == []


def test_widgets_of_the_deck_answer(deck):
    from selenium.webdriver.common.keys import Keys

    moved = 0
    for root in each_slide(deck):
        for control in root.find_elements("css selector", ".tlm-slider input[type=range]")[:1]:
            before = root.text
            control.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
            assert root.text != before and deck.execute_script("return Reveal.getCurrentSlide() === arguments[0]", root)
            moved += 1
    assert moved >= 3


def pages(pdf: bytes) -> int:
    """How many pages a PDF has: its page objects stand in the open or in compressed streams."""
    parts = [pdf]
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            parts.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return sum(len(re.findall(rb"/Type\s*/Page\b(?!s)", part)) for part in parts)


def printed(browser) -> bytes:
    return base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})["data"])


def test_the_handout_is_one_page_of_a4(browser, folder):
    browser.get_log("performance")
    browser.get((folder / "handout.html").as_uri())
    pdf = printed(browser)
    assert pages(pdf) == 1
    width, height = (float(number) for number in re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups())
    assert (round(width), round(height)) == (595, 842)
    assert not widget_pages.from_afar(widget_pages.fetched(browser))
    used = browser.execute_script("return document.body.scrollHeight")
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<p style=\"height:' + arguments[0] + 'px\">more</p>')", used)
    assert pages(printed(browser)) > 1, "a handout that is too long is noticed"


def test_the_handout_can_be_read_on_a_phone(browser, folder):
    with widget_pages.phone(browser):
        browser.get((folder / "handout.html").as_uri())
        widget_pages.require_fit(browser, [])
