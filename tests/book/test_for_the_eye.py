"""What a reader of a chapter meets: short lines, few open cells, a picture first, pictures throughout, tables as tables."""

import re

import book_files
import prose
import pytest

chapters = pytest.mark.parametrize("chapter", book_files.present(), ids=lambda path: path.stem[:2])
FOLDED = {"hide-input", "hide-cell"}
EXERCISE = re.compile(r"^:::\{exercise\} \d\d\.(\d+).*?^:::$", re.MULTILINE | re.DOTALL)


def body(notebook) -> list:
    """The cells before the exercises."""
    ends = [place for place, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and "## Exercises" in cell.source]
    return notebook.cells[: ends[0]]


def pictures(cell) -> int:
    """How many figures and widgets of a page a cell shows."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return sum("image/png" in each or "image/svg+xml" in each or "data-tlm-" in each.get("text/html", "") for each in data)


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


@chapters
def test_the_title_is_a_topic_and_a_question(chapter):
    title = book_files.read(chapter).cells[0].source.splitlines()[0]
    assert re.fullmatch(r"# [^:]+: .+\?", title)


@chapters
def test_no_line_of_code_is_cut_on_the_page(chapter):
    lines = [line for cell in book_files.code_cells(book_files.read(chapter)) for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 76] == []


@chapters
def test_few_cells_stand_open_and_a_folded_one_says_what_it_does(chapter):
    cells = [cell for cell in body(book_files.read(chapter)) if cell.cell_type == "code"]
    assert sum(not tags(cell) & FOLDED for cell in cells) <= 25
    assert [cell.source.splitlines()[0] for cell in cells if tags(cell) & FOLDED and not cell.source.startswith("# ")] == []


@chapters
def test_the_text_before_the_exercises_is_within_its_budget(chapter):
    assert sum(prose.words(cell.source) for cell in body(book_files.read(chapter)) if cell.cell_type == "markdown") <= 3000


@chapters
def test_one_picture_of_the_answer_comes_first_and_eight_in_all(chapter):
    notebook = book_files.read(chapter)
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and "## " in cell.source)
    assert any(pictures(cell) and "answer" in tags(cell) for cell in notebook.cells[:first]), "before the first section"
    assert sum(map(pictures, notebook.cells)) >= 8


@chapters
def test_every_figure_has_a_caption_with_a_name(chapter):
    cells = [cell for cell in book_files.code_cells(book_files.read(chapter))
             if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    named = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in cells]
    assert all(each.get("caption") and re.fullmatch(rf"fig-{chapter.stem[:2]}-[a-z0-9-]+", each.get("name", "")) for each in named)


@chapters
def test_five_exercises_and_the_first_takes_three_minutes(chapter):
    text = "\n\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    found = list(EXERCISE.finditer(text))
    assert len(found) >= 5 and re.search(r"\b3 minutes", found[0][0]) and "★☆☆" in found[0][0]
    assert all("<summary>Hint</summary>" in each[0] for each in found)


@chapters
def test_solutions_fold_in_every_front_end(chapter):
    text = "\n\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    solutions = re.findall(r"^:::\{solution\}.*?^:::$", text, re.MULTILINE | re.DOTALL)
    assert solutions and all("<details><summary>Solution</summary>" in each for each in solutions)


@chapters
def test_terms_lead_to_the_glossary(chapter):
    text = "\n\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    links = re.findall(r"\[([^\]]+)\]\(glossary\.md[^)]*\)", text)
    assert len(links) >= 3 and len({link.lower() for link in links}) == len(links)


NUMBER = re.compile(r"[−+~≈ ]*[\d.,]+ ?(%|x|×|s|ms|MB|kB)?")


@pytest.mark.parametrize("page", [*book_files.present(), *book_files.markdown_pages()], ids=lambda path: path.stem)
def test_columns_of_numbers_stand_right(page):
    cells = book_files.markdown_cells(book_files.read(page)) if page.suffix == ".ipynb" else []
    text = "\n\n".join(cell.source for cell in cells) or page.read_text(encoding="utf-8")
    for alignment, rows in re.findall(r"^(\|[ :|-]+\|)\n((?:\|.*\n?){2,})", text, re.MULTILINE):
        columns = zip(*([re.sub("<!--.*?-->", "", entry).strip() for entry in row.strip("|").split("|")] for row in rows.splitlines()))
        for column, mark in zip(columns, alignment.strip("|").split("|")):
            assert not all(NUMBER.fullmatch(entry) for entry in column) or mark.strip().endswith(":"), column
