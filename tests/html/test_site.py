"""The site as a whole: logo, icon and card; what a link shows; gallery and start page; search from disk; the weight of a page."""

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import book_files
import draw_logo
import finish_pages
import gallery
import numpy as np
import pytest
from PIL import Image

PAGES = book_files.pages()
STATIC = book_files.ROOT / "book" / "_static"
HEAVIEST = 1_000_000                                   # bytes of a page, without formulas, fonts and models
FREE = ("mathjax", "_static/models/", ".woff", ".ttf")
each = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """What the script draws now."""
    out = tmp_path_factory.mktemp("drawn")
    draw_logo.main(["--out", str(out)])
    return out


def test_the_logo_is_what_the_script_draws(drawn):
    assert (STATIC / "logo.svg").read_text(encoding="utf-8") == (drawn / "logo.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name, size", [("favicon", (64, 64)), ("social_card", (1200, 630))])
def test_pictures_are_what_the_script_draws(drawn, name, size):
    stored, now = (Image.open(folder / f"{name}.png") for folder in (STATIC, drawn))
    assert stored.size == now.size == size
    pixels = [np.asarray(picture.convert("RGBA"), dtype=float) for picture in (stored, now)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 2 and pixels[0].std() > 10


@each
def test_page_wears_logo_and_icon(read, html, page):
    here = (html / page).parent
    for element, key in ((read(page).select_one(".navbar-brand img"), "src"), (read(page).select_one("link[rel=icon]"), "href")):
        assert (here / urlparse(element[key]).path).resolve().is_file()
    assert read(page).select_one(".navbar-brand img")["alt"]


@each
def test_a_link_to_the_page_shows_title_words_and_card(read, html, page):
    tags = {tag["property"]: tag["content"] for tag in read(page).select("meta[property^='og:']")}
    words = [part for part in read(page).select_one("article h1").find_all(string=True)
             if not part.find_parent(class_=["section-number", "headerlink"])]
    assert tags["og:title"] == "".join(words).strip()
    assert len(tags["og:description"]) > 40 and tags["og:description"] == read(page).select_one("meta[name=description]")["content"]
    assert tags["og:url"] == f"{finish_pages.site()}{page}.html"
    assert (html / tags["og:image"].removeprefix(finish_pages.site())).is_file()


def test_the_start_page_comes_first_and_is_short(read):
    assert PAGES[1] == "book/start"
    text = (book_files.ROOT / "book" / "start.md").read_text(encoding="utf-8")
    assert len(re.findall(r"\w[\w'-]*", re.sub(r"\]\([^)]*\)", "]", text))) <= 400
    led_to = [link["href"] for link in read("book/start").select("article a.internal") if re.match(r"\d\d_", link["href"])]
    assert len(set(led_to)) >= 3


def test_the_gallery_shows_every_figure_once(read, html):
    shown = read("book/gallery").select(".book-gallery img")
    assert len({image["src"] for image in shown}) == len(shown)
    stored = {figure.file: figure.alt for chapter in book_files.present() for figure in gallery.figures(chapter)}
    assert {Path(image["src"]).name: image["alt"] for image in shown} == stored
    for image in shown:
        picture = Image.open((html / "book" / image["src"]).resolve())
        assert picture.width <= gallery.WIDTH and image["loading"] == "lazy"
        assert picture.width / picture.height == pytest.approx(int(image["width"]) / int(image["height"]), rel=0.05)


def test_every_chapter_with_figures_stands_in_the_gallery(read):
    links = [link["href"] for link in read("book/gallery").select(".book-gallery a")]
    for chapter in book_files.present():
        in_page = len(read(f"book/{chapter.stem}").select(".cell_output img[src*='_images']"))
        assert (in_page > 0) == any(link.startswith(f"{chapter.stem}.html#") for link in links), chapter.stem


def results(browser) -> list[str]:
    """Where a search leads, once it is done."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda page: re.search(r"(found|did not match)", page.find_element("id", "search-results").text))
    return [link.get_attribute("href") for link in browser.find_elements("css selector", "#search-results li a")]


def test_search_works_from_disk_without_a_network(browser, html):
    from selenium.webdriver.common.keys import Keys

    browser.get((html / "book" / "start.html").resolve().as_uri())
    browser.find_element("css selector", ".search-button-field").click()
    browser.switch_to.active_element.send_keys("eigenvector", Keys.ENTER)
    found = results(browser)
    assert any("book/06_tensor_form.html" in link for link in found) and len(found) > 2
    browser.find_element("css selector", "#search-results li a").click()
    assert "eigenvector" in browser.find_element("css selector", "article").text.lower()
    browser.get((html / "search.html").resolve().as_uri() + "?q=zzyzx")
    assert results(browser) == []


def fetched_by(soup, page: Path) -> set[Path]:
    """The files that a page asks for: styles and what they ask for, scripts, pictures; lazy ones too."""
    found = soup.select("link[rel=stylesheet], link[rel=icon], script[src], article img[src], .navbar-brand img[src], source[src]")
    files = {(page.parent / unquote(urlparse(address).path)).resolve() for element in found
             if not (address := element.get("src") or element["href"]).startswith("data:")}
    for sheet in [file for file in files if file.suffix == ".css"]:
        asked = re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
        files |= {(sheet.parent / urlparse(address).path).resolve() for address in asked if not address.startswith(("data:", "#"))}
    return {file for file in files if file.is_file() and not any(part in file.as_posix() for part in FREE)}


@each
def test_page_weighs_less_than_a_megabyte(read, html, page):
    here = (html / f"{page}.html").resolve()
    weights = {file.name: file.stat().st_size for file in {here, *fetched_by(read(page), here)}}
    total = sum(weights.values())
    assert 100_000 < total < HEAVIEST, f"{total} bytes: {sorted(weights.items(), key=lambda pair: -pair[1])[:8]}"
