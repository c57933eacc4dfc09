"""The agendas of `book/teaching.md`: their rows, and the sections and exercises of the chapters that the rows name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import book_files
import nbformat

PAGE = book_files.ROOT / "book" / "teaching.md"
LENGTH = re.compile(r"^#{2,3} (?P<title>.*?\b(?P<minutes>\d+) minutes\b.*)$", re.MULTILINE)
SECTION = re.compile(r"(?P<chapter>\d\d) \[(?P<heading>[^]]+)\]\((?P<file>\w+\.ipynb)#(?P<anchor>[\w-]+)\)")
EXERCISE = re.compile(r"\[Exercise (?P<id>\d\d\.\d)\]\(#ex-(?P<label>\d\d-\d)\)")
DIRECTIVE = re.compile(r"^:{3,}\{exercise\} (?P<id>\d\d\.\d) (?P<title>[^\n]*)\n(?::[^\n]*\n)*(?P<body>.*?)^:{3,}$",
                       re.MULTILINE | re.DOTALL)
DURATION = re.compile(r"★[★☆]*, (?P<minutes>\d+) minutes\.")


@dataclass(frozen=True)
class Row:
    """One line of an agenda. `part` is the cell as written: a section, an exercise, or a word such as Break."""

    minutes: int
    part: str
    say: str
    wrong: str

    @property
    def section(self) -> re.Match[str] | None:
        return SECTION.fullmatch(self.part)

    @property
    def exercise(self) -> str | None:
        match = EXERCISE.fullmatch(self.part)
        return match["id"] if match else None

    @property
    def name(self) -> str:
        """The part without its link."""
        return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", self.part)


@dataclass(frozen=True)
class Agenda:
    """The minutes that its heading promises, and its rows."""

    title: str
    minutes: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Task:
    """An exercise as its chapter states it."""

    id: str
    title: str
    minutes: int
    body: str


def agendas(page: Path = PAGE) -> list[Agenda]:
    """Every agenda of the page: each heading that names minutes, with the table under it."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in LENGTH.finditer(text):
        following = re.split(r"^#{2,3} ", text[match.end():], maxsplit=1, flags=re.MULTILINE)[0]
        found.append(Agenda(match["title"], int(match["minutes"]), tuple(rows(following))))
    return found


def agenda(minutes: int) -> Agenda:
    """The agenda of that length. Raises `ValueError` where there is not exactly one."""
    found = [one for one in agendas() if one.minutes == minutes]
    if len(found) != 1:
        raise ValueError(f"minutes must be the length of one agenda in {PAGE.name}, got {minutes}, of which there are {len(found)}")
    return found[0]


def rows(text: str) -> Iterator[Row]:
    """The rows of the first table in a text, without its head.

    >>> list(rows("| minutes | part | say | wrong |\\n| --- | --- | --- | --- |\\n| 5 | Break | Tea. | |"))
    [Row(minutes=5, part='Break', say='Tea.', wrong='')]
    """
    for line in re.findall(r"^\| *\d+ *\|.*\|$", text, re.MULTILINE):
        minutes, part, say, wrong = (cell.strip() for cell in line[1:-1].split("|"))
        yield Row(int(minutes), part, say, wrong)


@functools.cache
def tasks() -> dict[str, Task]:
    """Every exercise of the chapters by its number."""
    texts = (cell.source for chapter in book_files.present() for cell in book_files.markdown_cells(book_files.read(chapter)))
    return {match["id"]: task(match) for text in texts for match in DIRECTIVE.finditer(text)}


def task(match: re.Match[str]) -> Task:
    duration = DURATION.search(match["body"])
    if not duration:
        raise ValueError(f"exercise {match['id']}: got no line such as '★☆☆, 5 minutes.'")
    return Task(match["id"], match["title"].strip(), int(duration["minutes"]), match["body"].strip())


def anchor(heading: str) -> str:
    """The anchor that the page gives a heading.

    >>> anchor("A bar that counts can't pass"), anchor("6,400 predictions")
    ('a-bar-that-counts-cant-pass', '6400-predictions')
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(chapter: Path, heading: str) -> list[nbformat.NotebookNode]:
    """The cells of a section with all below it; its first cell starts at the heading. Empty where there is no such section."""
    found: list[nbformat.NotebookNode] = []
    level = 0
    for cell in split_at_headings(book_files.read(chapter)):
        head = re.match(r"(#+) (.*)", cell.source) if cell.cell_type == "markdown" else None
        if head and head[2].strip() == heading:
            level, found = len(head[1]), [cell]
        elif head and len(head[1]) <= level:
            return found
        elif level:
            found.append(cell)
    return found


def split_at_headings(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """The cells, a Markdown cell with a heading in its middle cut in two there."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=#{1,4} )", cell.source, flags=re.MULTILINE):
                if part.strip():
                    yield nbformat.v4.new_markdown_cell(part.strip())
        else:
            yield cell
