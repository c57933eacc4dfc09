"""Student and teacher copies of a chapter: the same cells, without the solutions or with all of them open."""

from __future__ import annotations

import functools
import re

import agendas
import book_files
import nbformat
import notebooks

SOLUTION = re.compile(r"^(:{3,})\{solution\} ex-(?P<label>\d\d-\d)\n(?::[^\n]*\n)*"
                      r"(?:<details><summary>Solution</summary>\n)?(?P<body>.*?)(?:\n</details>\n)?^\1$\n?", re.MULTILINE | re.DOTALL)
BADGE = re.compile(r"^\[Open in Colab\]\([^)\n]*\)\n*", re.MULTILINE)
PAGE_LINK = re.compile(r"\]\((?P<page>\w+)\.md(?P<anchor>#[\w-]+)?\)")
PLACE_LINK = re.compile(r"\[([^\]]+)\]\(#[\w-]+\)")  # to a figure of the same page, which a copy has no anchor for
CITATION = re.compile(r"\{cite(?::\w+)?\}`(?P<keys>[^`]*)`")
BINDING = re.compile(r"<!--=[^>]*-->")
ANSWER = "answer"  # the tag of the cell whose picture answers the chapter's question
PICTURES = ("image/png", "image/svg+xml")


def student(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Stubs as they are, no solution, no output but the picture that answers the chapter's question."""
    return _copied(notebook, lambda match: "", _without_outputs)


def teacher(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """All outputs, and every solution and hint open."""
    copy = _copied(notebook, _open, lambda cell: cell)
    for cell in book_files.markdown_cells(copy):
        cell.source = cell.source.replace("<details>", "<details open>")
    return notebooks.normalise(copy)


def _copied(notebook: nbformat.NotebookNode, solution, code) -> nbformat.NotebookNode:
    cells = []
    for cell in notebook.cells:
        cell = nbformat.from_dict(cell)
        if cell.cell_type == "code":
            cells.append(code(cell))
        elif text := readable(SOLUTION.sub(solution, cell.source)).strip():
            cells.append(nbformat.v4.new_markdown_cell(text))
    return notebooks.normalise(nbformat.v4.new_notebook(cells=cells))


def _without_outputs(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    kept = [output for output in cell.outputs if ANSWER in cell.metadata.get("tags", []) and set(PICTURES) & set(output.get("data", {}))]
    cell.outputs, cell.execution_count = kept, None
    return cell


def _open(match: re.Match[str]) -> str:
    return f"**Solution of {match['label'].replace('-', '.')}.**\n\n{match['body'].strip()}\n"


def readable(text: str) -> str:
    """A Markdown cell for a reader without this book's tools: exercises with headings, other pages by their address."""
    text = agendas.DIRECTIVE.sub(lambda match: f"### Exercise {match['id']}: {match['title'].strip()}\n\n{match['body'].strip()}\n", text)
    place = f"{book_files.config()['repository']['url']}/blob/{book_files.config()['repository']['branch']}/book/"
    text = PAGE_LINK.sub(lambda match: f"]({place}{match['page']}.md{match['anchor'] or ''})", text)
    text = PLACE_LINK.sub(r"\1", text)
    return BADGE.sub("", CITATION.sub(_cited, BINDING.sub("", text)))


def _cited(match: re.Match[str]) -> str:
    return " and ".join(sources()[key.strip()] for key in match["keys"].split(","))


@functools.cache
def sources() -> dict[str, str]:
    """What `book/references.bib` calls by a key, as a copy names it: `Dauphin et al. (2016)`."""
    text, found = (book_files.ROOT / "book" / "references.bib").read_text(encoding="utf-8"), {}
    for key, fields in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        pairs = re.findall(r"^\s*(\w+)\s*=\s*\{(.*?)\},?$", fields, re.MULTILINE)
        said = {name: re.sub("[{}]", "", value) for name, value in pairs}
        names = [name.split(",")[0] for name in said["author"].split(" and ")]
        shown = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        found[key] = f"{shown} ({said['year']})" if "year" in said else shown
    return found
