"""Where the book's files are: configuration, table of contents, chapters, and the text of their cells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import yaml

RECORD = "application/vnd.tensorlm.record"  # what `tensorlm.notebook.record` stores: no front end shows it
ROOT = Path(__file__).resolve().parent.parent


def config(root: Path = ROOT) -> dict[str, Any]:
    """The parsed `_config.yml`."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def slug(root: Path = ROOT) -> str:
    """`OWNER/NAME` of the repository, from its address in `_config.yml`. Raises `ValueError` for other addresses."""
    url = config(root)["repository"]["url"]
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)", url)
    if not match:
        raise ValueError(f"repository.url in _config.yml: got {url!r}, allowed: https://github.com/OWNER/NAME")
    return match[1]


def pages(root: Path = ROOT) -> list[str]:
    """Every page of `_toc.yml` in reading order, without suffix, such as `book/01_bilinear_layer`."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def chapters(root: Path = ROOT) -> list[Path]:
    """The chapters of the table of contents, which are notebooks with a two-digit number; existing or not."""
    return [root / f"{page}.ipynb" for page in pages(root) if re.match(r"book/\d\d_", page)]


def present(root: Path = ROOT) -> list[Path]:
    """The chapters that exist."""
    return [chapter for chapter in chapters(root) if chapter.exists()]


def markdown_pages(root: Path = ROOT) -> list[Path]:
    """The pages of the table of contents that are Markdown files; existing or not."""
    return [root / f"{page}.md" for page in pages(root) if not re.match(r"book/\d\d_", page)]


def read(notebook: Path) -> nbformat.NotebookNode:
    """A notebook in format 4."""
    return nbformat.read(notebook, as_version=4)


def dump(notebook: nbformat.NotebookNode) -> str:
    """The notebook as the file holds it: one space of indentation, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def records(notebook: nbformat.NotebookNode) -> str:
    """All numbers that the code cells recorded, `name = value`, one a line."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "\n".join(output.data[RECORD] for output in outputs if RECORD in output.get("data", {}))


if __name__ == "__main__":
    print(*(chapter.relative_to(ROOT) for chapter in chapters()))
