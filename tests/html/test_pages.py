"""The built pages: all there, well formed for readers and screen readers, and complete without another host."""

import json
import re
from urllib.parse import unquote, urlparse

import book_files
import pytest

from tensorlm.notebook import sliders

PAGES = book_files.pages()
each = pytest.mark.parametrize("page", PAGES)
FOREIGN = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")
FILE_NAME = re.compile(r"\S*\.(?:png|svg|jpe?g|gif|webp)$", re.IGNORECASE)


def article(soup):
    return soup.select_one("article")


def is_foreign(address: str) -> bool:
    return bool(urlparse(address).netloc)


@each
def test_page_is_there_and_says_its_language(read, page):
    assert read(page).html.get("lang")
    assert len(article(read(page)).get_text().split()) > 20


def test_first_page_leads_to_the_book(read):
    assert "book/index.html" in str(read("index"))


@each
def test_page_has_one_title_and_no_skipped_heading_level(read, page):
    levels = [int(heading.name[1]) for heading in article(read(page)).find_all(re.compile(r"^h[1-6]$"))]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels


@each
def test_pictures_say_what_they_show(read, page):
    for image in article(read(page)).find_all("img"):
        alt = image.get("alt")
        assert alt and not FILE_NAME.fullmatch(alt.strip()), f"{image.get('src')}: alt text {alt!r}"


@each
def test_internal_links_and_anchors_resolve(read, html, page):
    here, broken = html / f"{page}.html", []
    for link in read(page).select("a[href]"):
        address = urlparse(link["href"])
        if address.scheme or address.netloc or link["href"] in ("#", ""):
            continue
        target = (here.parent / unquote(address.path)).resolve() if address.path else here
        if not target.exists():
            broken.append(link["href"])
        elif address.fragment and target.suffix == ".html":
            wanted = unquote(address.fragment)
            found = read(target.relative_to(html.resolve()).with_suffix("").as_posix()) if address.path else read(page)
            if not found.find(id=wanted) and not found.find(attrs={"name": wanted}):
                broken.append(link["href"])
    assert not broken


@each
def test_page_loads_nothing_from_another_host(read, page):
    loaded = [element.get("src") or element.get("data") or element.get("href") for element in
              read(page).select("script[src], img[src], iframe[src], video[src], audio[src], source[src], embed[src], object[data],"
                                "link[rel~=stylesheet], link[rel~=preload], link[rel~=icon], link[rel~=modulepreload]")]
    assert loaded and not [address for address in loaded if is_foreign(address)]
    inline = [style.string or "" for style in read(page).find_all("style")] + [element["style"] for element in read(page).select("[style]")]
    assert not [text for text in inline if FOREIGN.search(text)]


def test_stylesheets_load_nothing_from_another_host(html):
    sheets = list((html / "_static").rglob("*.css"))
    assert sheets and not [sheet.name for sheet in sheets if FOREIGN.search(sheet.read_text(encoding="utf-8", errors="replace"))]


def test_maths_comes_with_the_book(read, html):
    page = next(page for page in PAGES if read(page).select(".math"))
    scripts = [script["src"] for script in read(page).select("script[src]") if "mathjax" in script["src"].lower()]
    assert scripts and all((html / page).parent.joinpath(urlparse(script).path).exists() for script in scripts)


@each
def test_sliders_are_labelled_and_start_where_python_says(read, page):
    for root in read(page).select("[data-tlm-slider]"):
        data = json.loads(root.select_one("script[data-tlm-data]").string)
        expected = sliders.evaluate(data, [control["start"] for control in data["inputs"]])
        shown = {element["data-key"]: element.get_text() for element in root.select("[data-key]")}
        assert shown == {key: sliders.text(value) for key, value in expected.items()}
        assert all(root.select_one(f"label[for={control['id']}]") for control in root.select("input"))


@each
def test_no_id_stands_twice_in_a_slider_page(read, page):
    ids = [element["id"] for element in read(page).select("[id^=tlm-]")]
    assert len(ids) == len(set(ids))


@each
def test_comments_that_bind_numbers_stay_invisible(read, page):
    assert "<!--=" not in article(read(page)).get_text()


def test_chapters_have_outputs(read):
    for page in PAGES:
        if re.match(r"book/\d\d_", page):
            cells = read(page).select("div.cell")
            assert len(cells) > 2 and len(read(page).select("div.cell_output")) > len(cells) / 4


def test_checks_notice_what_they_are_for():
    assert is_foreign("https://example.org/x.js") and is_foreign("//example.org/x.js") and not is_foreign("../_static/x.js")
    assert FOREIGN.search("url('https://example.org/x.woff')") and not FOREIGN.search("url('x.woff')")
    assert FILE_NAME.fullmatch("../_images/0049a5.png") and not FILE_NAME.fullmatch("The loss falls.")
