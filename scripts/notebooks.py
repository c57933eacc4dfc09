"""Execute the chapters and store their outputs, normalised, so that two runs on one machine give the same file.

    python scripts/notebooks.py                  # all chapters of _toc.yml
    python scripts/notebooks.py 01 03            # only these
    python scripts/notebooks.py --normalise      # only tidy what is stored, run nothing

Stored: outputs, execution counts 1..n, the kernel `python3`. Not stored: times, widget state, widget ids, random cell ids.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402
import sync_address  # noqa: E402

WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_CELL_METADATA = ("tags", "mystnb", "why", "slideshow")


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without all that differs from run to run or from editor to editor."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata})
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        cell.id = _cell_id(cell, seen)
        cell.pop("attachments", None)
    for count, cell in enumerate(book_files.code_cells(notebook), start=1):
        _number(cell, count)
    return notebook


def _cell_id(cell: nbformat.NotebookNode, seen: dict[str, int]) -> str:
    """A cell id made from the cell's text, so that it moves with the cell and no editor makes it differ."""
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
    seen[digest] = seen.get(digest, 0) + 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _number(cell: nbformat.NotebookNode, count: int) -> None:
    """Execution counts from 1, no widget ids, recorded numbers last, and the streams that they had parted joined."""
    cell.outputs = sorted(cell.outputs, key=lambda output: book_files.RECORD in output.get("data", {}))
    if cell.execution_count is not None:
        cell.execution_count = count
    joined: list[nbformat.NotebookNode] = []
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = cell.execution_count
        if "data" in output:
            output.data.pop(WIDGET, None)
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def execute(chapter: Path, timeout: float) -> nbformat.NotebookNode:
    """The chapter with fresh outputs, from a fresh kernel in its own folder. Raises `CellExecutionError`."""
    notebook = book_files.read(chapter)
    for cell in book_files.code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", store_widget_state=False, record_timing=False,
                            resources={"metadata": {"path": str(chapter.parent)}})
    return client.execute()


def renew(chapter: Path, run: bool, timeout: float) -> str:
    """Set up, run (if asked), normalise and store one chapter; a line that says what happened."""
    root, began = chapter.parent.parent, time.perf_counter()
    cell, link = sync_address.first_cell(root), sync_address.badge(root, chapter)
    prepared = sync_address.set_up(book_files.read(chapter), cell, link)
    chapter.write_text(book_files.dump(prepared), encoding="utf-8")
    notebook = normalise(execute(chapter, timeout) if run else prepared)
    chapter.write_text(book_files.dump(notebook), encoding="utf-8")
    size = chapter.stat().st_size / 1000
    return f"{chapter.name}: {len(book_files.code_cells(notebook))} code cells, {time.perf_counter() - began:.0f} s, {size:.0f} kB"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the chapters and store their outputs, normalised.")
    parser.add_argument("chapters", nargs="*", help="two-digit numbers, such as 01 03 (default: all)")
    parser.add_argument("--normalise", action="store_true", help="run nothing, only tidy the files")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that one cell may take")
    parser.add_argument("--root", type=Path, default=book_files.ROOT, help="another book, for a try-out")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = 0
    for chapter in _chosen(options.chapters, options.root):
        try:
            print(renew(chapter, not options.normalise, options.timeout), flush=True)
        except CellExecutionError as error:
            failed += 1
            print(f"{chapter.name}: FAILED, outputs left as they were\n{error}", file=sys.stderr)
    return int(failed > 0)


def _chosen(numbers: list[str], root: Path) -> list[Path]:
    """The chapters to do, in reading order. Raises `SystemExit` for a number that no chapter has."""
    found = book_files.present(root)
    if missing := set(numbers) - {chapter.name[:2] for chapter in found}:
        raise SystemExit(f"no chapter {', '.join(sorted(missing))}; there are: {', '.join(chapter.name for chapter in found) or 'none'}")
    return [chapter for chapter in found if not numbers or chapter.name[:2] in numbers]


if __name__ == "__main__":
    sys.exit(main())
