"""Two Sphinx directives: `:::{gallery}` shows every stored figure once, under its chapter; `:::{chapter-map}` one a chapter.

Figures and their alt texts are read from the chapters' stored outputs; small copies of them are written into the built book, so that
the page stays light. Loaded by name in `_config.yml`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402

FOLDER = "_static/gallery"
WIDTH, QUALITY = 280, 36                   # of a small copy, in pixels and as WebP counts
HEADING = re.compile(r"^(#{1,6}) +(.*?) *$", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~|:::).*?^\1", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A stored figure: its PNG, what it shows, and the heading that it stands under."""

    png: bytes
    alt: str
    heading: str

    @property
    def file(self) -> str:
        return hashlib.sha256(self.png).hexdigest()[:16] + ".webp"

    @property
    def anchor(self) -> str:
        """The id that the page gives the heading, whose straight quotes it curls."""
        return nodes.make_id(self.heading.replace("'", "’"))


def headings(text: str) -> list[str]:
    """The headings of a Markdown cell, without those inside of fences.

    >>> headings("# One" + chr(10) * 2 + "```" + chr(10) + "# code" + chr(10) + "```" + chr(10) + "## Two, `x`")
    ['One', 'Two, x']
    """
    return [match[2].replace("`", "") for match in HEADING.finditer(FENCED.sub("", text))]


def figures(chapter: Path) -> list[Figure]:
    """The figures of a chapter in reading order. Raises `ValueError` for one without alt text."""
    found, heading = [], ""
    for cell in book_files.read(chapter).cells:
        if cell.cell_type == "markdown":
            heading = (headings(cell.source) or [heading])[-1]
            continue
        for output in cell.get("outputs", []):
            if "image/png" not in output.get("data", {}):
                continue
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
            if not alt:
                raise ValueError(f"{chapter.name}: a figure under {heading!r} has no alt text in the metadata of its cell")
            found.append(Figure(base64.b64decode(output.data["image/png"]), alt, heading))
    return found


def title(chapter: Path) -> str:
    """The first heading of a chapter."""
    return next(text for cell in book_files.markdown_cells(book_files.read(chapter)) for text in headings(cell.source))


def small(png: bytes) -> bytes:
    """A figure as WebP, at most `WIDTH` pixels wide: a third of the bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    into = io.BytesIO()
    picture.save(into, "WEBP", quality=QUALITY, method=6)
    return into.getvalue()


def entry(chapter: Path, figure: Figure) -> str:
    """A figure that leads to the section it stands in; its words are read out once, as the name of the link."""
    width, height = Image.open(io.BytesIO(figure.png)).size
    shown = min(width, WIDTH)
    alt = escape(figure.alt)
    return (f'<figure><a href="{chapter.stem}.html#{figure.anchor}"><img src="../{FOLDER}/{figure.file}" alt="{alt}" loading="lazy"'
            f' width="{shown}" height="{round(height * shown / width)}"></a><figcaption aria-hidden="true">{alt}</figcaption></figure>')


def once() -> Iterator[tuple[Path, list[Figure]]]:
    """Every chapter that has figures, with those that no chapter before it has shown."""
    seen: set[str] = set()
    for chapter in book_files.present():
        new = [figure for figure in figures(chapter) if figure.file not in seen]
        seen |= {figure.file for figure in new}
        if new:
            yield chapter, new


class Gallery(Directive):
    """A section for every chapter that has figures."""

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        for chapter in book_files.present():
            env.note_dependency(str(chapter))
        sections: list[nodes.Node] = []
        for chapter, shown in once():
            section = nodes.section(ids=[f"figures-{chapter.stem[:2]}"])
            section += nodes.title("", title(chapter))
            inner = "\n".join(entry(chapter, figure) for figure in shown)
            section += nodes.raw("", f'<div class="book-gallery">\n{inner}\n</div>', format="html")
            sections.append(section)
        return sections


class ChapterMap(Directive):
    """A card for each line `NN: topic: question` of the body: the chapter's first figure, and a link to it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        chapters = {chapter.stem[:2]: chapter for chapter in book_files.present()}
        cards = []
        for line in filter(str.strip, self.content):
            number, topic, question = (part.strip() for part in line.split(":", 2))
            first = figures(chapters[number])[0]
            cards.append(f'<a class="book-card" href="{chapters[number].stem}.html">'
                         f'<img src="../{FOLDER}/{first.file}" alt="{escape(first.alt)}" loading="lazy">'
                         f'<span class="book-card-topic">{number} {escape(topic)}</span><span>{escape(question)}</span></a>')
        return [nodes.raw("", '<div class="book-map">\n' + "\n".join(cards) + "\n</div>", format="html")]


def write_copies(app) -> None:
    """Put the small copies into the book before its pages are written."""
    if app.builder.format != "html":
        return
    folder = Path(app.outdir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for _, shown in once():
        for figure in shown:
            if not (folder / figure.file).exists():
                (folder / figure.file).write_bytes(small(figure.png))


def setup(app) -> dict[str, bool]:
    app.add_directive("gallery", Gallery)
    app.add_directive("chapter-map", ChapterMap)
    app.connect("builder-inited", write_copies)
    return {"parallel_read_safe": True}
