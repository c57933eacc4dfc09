"""Every decimal number in the prose is bound to a value that a cell recorded, or stands beside a citation."""

import functools

import book_files
import prose
import pytest

from tensorlm.notebook.session import RECORD, recorded as read_recorded

ROOT = book_files.ROOT
OTHERS = [page for page in book_files.markdown_pages() if page.exists()] + [ROOT / "README.md"]


@functools.cache
def recorded(chapter) -> dict[str, str]:
    return read_recorded(book_files.records(book_files.read(chapter)))


def everywhere() -> dict[str, str]:
    return {f"{chapter.stem}:{name}": value for chapter in book_files.present() for name, value in recorded(chapter).items()}


@pytest.mark.parametrize("chapter", book_files.present(), ids=lambda chapter: chapter.name)
def test_numbers_of_a_chapter(chapter):
    cells = book_files.markdown_cells(book_files.read(chapter))
    found = [problem for cell in cells for problem in prose.problems(cell.source, recorded(chapter), everywhere())]
    assert not found


@pytest.mark.parametrize("chapter", book_files.present(), ids=lambda chapter: chapter.name)
def test_a_chapter_says_what_it_found(chapter):
    """At least three numbers of its prose are bound: without them a chapter would pass by saying nothing."""
    text = "\n\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    assert len(prose.BOUND.findall(text)) >= 3


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_numbers_of_the_other_pages(page):
    assert not prose.problems(page.read_text(encoding="utf-8"), {}, everywhere())


VALUES = {"loss": "1.587", "count": "12345", "share": "0.373", "error": "2.3e-09", "drop": "-0.512"}


@pytest.mark.parametrize("text", [
    "The loss is 1.59<!--=loss-->, about 1.6<!--=loss--> or 2<!--=loss-->.",
    "The loss is **1.587**<!--=loss-->.",
    "It has 12,345<!--=count--> and 12345<!--=count--> parameters.",
    "A share of 37 %<!--=share*100--> or 37.3 %<!--=share*100-->.",
    "An error of 2e-9<!--=error-->.",
    "It drops by −0.51<!--=drop-->.",
    "With $\\beta = 0.95$ and `lr=0.02`, and\n\n$$x = 1.5$$\n\n```python\nx = 2.5\n```\n",
    "They found 1.960 {cite}`shazeer2020glu`.",
    "Exercise 02.1 needs Python 3.11 and torch 2.9; see [there](https://example.org/1.5).",
    "In 3 steps of 10.",
], ids=range(10))
def test_accepts(text):
    assert prose.problems(text, VALUES) == []


@pytest.mark.parametrize("text", [
    "The loss is 1.58<!--=loss-->.",
    "The loss is 1.5870<!--=loss-->.",
    "The loss is 1.59<!--=los-->.",
    "The loss is 1.59.",
    "It has 12,346<!--=count--> parameters.",
    "A share of 38 %<!--=share*100-->.",
    "An error of 3e-9<!--=error-->.",
    "It drops by 0.51<!--=drop-->.",
    "They found 1.960.\n\nSo {cite}`shazeer2020glu` in the next paragraph.",
    "A value <!--=loss--> without a number.",
    "| size | loss |\n| --- | --- |\n| 10 | 1.59 |",
    "A number in *emphasis*: *0.3*.",
], ids=range(12))
def test_rejects(text):
    assert len(prose.problems(text, VALUES)) == 1


def test_numbers_of_another_chapter_are_found_by_its_name():
    assert prose.problems("1.59<!--=03_speedrun:loss-->", {}, {"03_speedrun:loss": "1.587"}) == []
    assert prose.problems("1.59<!--=loss-->", {}, {"03_speedrun:loss": "1.587"})


def test_words_of_a_reader():
    assert prose.words("# A title\n\nOne [link](https://example.org/a/b) and $x$.\n\n"
                       "```python\nnot these words\n```\n<!-- nor these -->") == 6


def test_recorded_numbers_are_of_a_type_that_no_front_end_shows():
    assert book_files.RECORD == RECORD
    for chapter in book_files.present():
        outputs = [output for cell in book_files.code_cells(book_files.read(chapter)) for output in cell.outputs]
        assert all(set(output.data) == {RECORD} for output in outputs if RECORD in output.get("data", {}))
