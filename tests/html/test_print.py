"""Chapters on paper: what a printed page leaves out and keeps, and a PDF from headless Chromium."""

import re

import book_files
import print_chapters
import pytest

CHAPTER = book_files.chapters()[1]
CUT = """
    return [...document.querySelectorAll('article pre, article img, article table, article .tlm-slider')]
        .filter(box => getComputedStyle(box).display !== 'none' && box.scrollWidth > box.clientWidth + 2 && box.clientWidth > 0)
        .map(box => box.outerHTML.slice(0, 100));"""
SHOWN = """
    return [...document.querySelectorAll(arguments[0])].filter(element => element.checkVisibility({contentVisibilityAuto: true}))
        .map(element => element.outerHTML.slice(0, 100));"""
LEFT_OUT = (".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, .bd-footer, .headerlink,"
            "button, input[type=range]")


@pytest.fixture
def on_paper(browser, html):
    """The chapter in the dark theme as a printer sees it, on a sheet of A4."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 665, "height": 960, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.get((html / "book" / f"{CHAPTER.stem}.html").resolve().as_uri())
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_is_white_and_has_no_controls(on_paper):
    assert on_paper.execute_script(SHOWN, LEFT_OUT) == []
    assert len(on_paper.execute_script(SHOWN, "article h2, article pre, article .tlm-slider svg, article .cell_output img")) > 20
    looks = on_paper.execute_script("""
        const look = selector => getComputedStyle(document.querySelector(selector));
        return [look('body').backgroundColor, look('article p').color, look('article pre').whiteSpace];""")
    assert looks[0] == "rgb(255, 255, 255)" and looks[1] == "rgb(26, 26, 26)" and looks[2].startswith("pre-wrap")


def test_nothing_is_cut_and_what_is_folded_is_printed(on_paper):
    assert on_paper.execute_script(CUT) == []
    assert on_paper.execute_script(SHOWN, "article details:not(.tlm-slider details) > :not(summary)")
    assert not on_paper.execute_script("""return [...document.querySelectorAll('article details:not(.tlm-slider details):not([open]) pre')]
        .filter(code => code.getBoundingClientRect().height < 5).length""")


def test_a_chapter_becomes_a_pdf(browser, html, tmp_path, capsys):
    print_chapters.main([CHAPTER.stem[:2], "--html", str(html), "--out", str(tmp_path)])
    made = tmp_path / f"{CHAPTER.stem}.pdf"
    assert str(made) in capsys.readouterr().out
    pdf = made.read_bytes()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 5
    titles = {bytes.fromhex(found.decode()).decode("utf-16") for found in re.findall(rb"/Title <([0-9A-F]+)>", pdf)}
    titles |= {found.decode("latin-1") for found in re.findall(rb"/Title \(([^)]*)\)", pdf)}
    title = re.search(r"^# (.*)", book_files.markdown_cells(book_files.read(CHAPTER))[0].source, re.MULTILINE)[1]
    assert any(title in each for each in titles) and any(each.endswith("What you will be able to do") for each in titles)


def test_a_chapter_that_is_not_built_is_named(tmp_path):
    with pytest.raises(SystemExit, match="make book"):
        print_chapters.main(["02", "--html", str(tmp_path)])
