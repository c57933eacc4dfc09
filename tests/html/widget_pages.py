"""What browser tests of page widgets share: made pages, what was fetched, a phone, and how text looks."""

import contextlib
import json
from pathlib import Path

import book_files

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
LOOKS = """return [...arguments[0].querySelectorAll(arguments[1])].map(element => {
    let under = element;
    while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') { under = under.parentElement; }
    return getComputedStyle(element).color + ' on ' + getComputedStyle(under).backgroundColor; })"""
SMALL = """return [...arguments[0].querySelectorAll(arguments[1])].map(element => element.getBoundingClientRect())
    .filter(box => box.width < 24 || box.height < 24).length"""


def make_page(path: Path, widget) -> Path:
    """A page with this widget alone, long enough to be scrolled."""
    path.write_text('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A widget</title>'
                    '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
                    f'<body style="margin:8px"><article>{widget._repr_html_()}<p style="height:2000px"></p></article></body></html>',
                    encoding="utf-8")
    return path


def built_pages(html: Path, marker: str) -> list[Path]:
    """The pages of the built book that hold this attribute."""
    pages = [html / f"{page}.html" for page in book_files.pages()]
    return [path for path in pages if path.exists() and f"{marker}=" in path.read_text(encoding="utf-8")]


def data_of(root) -> dict:
    """What the page holds for a widget."""
    return json.loads(root.find_element("css selector", "script[data-tlm-data]").get_attribute("textContent"))


def fetched(browser) -> list[str]:
    """Every address that the page asked for since the log was last read."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]


def from_afar(addresses: list[str]) -> list[str]:
    """Those that are neither files nor part of the page."""
    return [address for address in addresses if not address.startswith(("file:", "data:", "blob:"))]


@contextlib.contextmanager
def phone(browser, theme: str = "light"):
    """A phone's screen, 390 pixels wide, in this theme; call the result after each page is loaded."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        yield lambda: browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def require_fit(browser, boxes) -> None:
    """Neither the page nor these boxes in it have to be moved sideways."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    for box in boxes:
        assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth + 1", box)


def require_targets(root, selector: str) -> None:
    assert root.parent.execute_script(SMALL, root, selector) == 0, "targets of 24 pixels at least"


def require_dark_on(root, selector: str, grounds: tuple[str, ...]) -> None:
    """All text is near black, on one of these grounds, in every theme."""
    assert set(root.parent.execute_script(LOOKS, root, selector)) <= {f"rgb(26, 26, 26) on rgb({ground})" for ground in grounds}


def require_nothing_fetched(widgets, browser) -> None:
    """A page with a widget asks for files alone."""
    for _ in widgets():
        asked = fetched(browser)
        assert asked and not from_afar(asked)


def require_a_phone(widgets, browser, theme: str, words: str, targets: str, grounds: tuple[str, ...] = ("255, 255, 255", "244, 244, 244")):
    """On a phone in this theme each widget fits, with what scrolls in it; its targets are large, its words legible."""
    with phone(browser, theme) as wear:
        for root, _ in widgets():
            wear()
            require_fit(browser, [root, *root.find_elements("css selector", ":scope > .tlm-scroll")])
            require_targets(root, targets)
            require_dark_on(root, words, grounds)
