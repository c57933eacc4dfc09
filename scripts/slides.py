"""The slide deck of an agenda: a notebook made of the chapters' own words, predictions, pictures and widgets, then one HTML file."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import agendas
import book_files
import concept_map
import copies
import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode

PARTS = Path(__file__).resolve().parent / "workshop_parts"
PREDICT = re.compile(r"\*\*Predict.*?(?=\n\n|\Z)", re.DOTALL)
FORMULA = re.compile(r"^\$\$.*?\$\$$", re.MULTILINE | re.DOTALL)
LETTERS = 520  # of text on a slide
LINES = 14  # of printed output on a slide
PROMISE = ("By the end you have seen a language model that is exactly one polynomial, and a steering vector whose effect was known before "
           "the model was run.")
PREFLIGHT = "Does every chapter run on your machine?\n\n```python\nfrom tensorlm.notebook import preflight\n\npreflight()\n```"


def deck(agenda: agendas.Agenda) -> NotebookNode:
    """The slides of an agenda, in order: a title, the plan, then a group for each row."""
    cells = [*title(agenda), *(cell for row in agenda.rows for cell in group(row))]
    for number, cell in enumerate(cells):
        cell.id = f"slide-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": f"Tensor-transformers, {agenda.minutes} minutes"})


def title(agenda: agendas.Agenda) -> Iterator[NotebookNode]:
    yield text(f"# Language models that are polynomials\n\nA workshop of {agenda.minutes} minutes\n\n"
               f"{PROMISE}\n\nThe space bar moves on, and `s` opens the speaker's notes.", "slide")
    plan = "\n".join(f"| {row.minutes} | {row.name} |" for row in agenda.rows)
    yield text(f"## The plan\n\n| minutes | |\n| --- | --- |\n{plan}", "slide")


def group(row: agendas.Row) -> Iterator[NotebookNode]:
    """The slides of one row, with the page's words for the teacher as notes."""
    if row.section:
        chapter = book_files.ROOT / "book" / row.section["file"]
        slides = list(section(agendas.section(chapter, row.section["heading"]), row))
    elif row.exercise:
        slides = list(exercise(agendas.tasks()[row.exercise], row))
    else:
        words = {"Welcome": f"{PROMISE}\n\n{PREFLIGHT}", "Close": PROMISE}.get(row.name, "")
        slides = [text(f"## {row.name} {minutes(row)}\n\n{words}", "slide"), *([shown(concept_map.draw())] if row.name == "Close" else [])]
    yield slides[0]
    yield text(f"{row.say}\n\n{row.wrong}", "notes")
    yield from slides[1:]


def minutes(row: agendas.Row) -> str:
    return f'<span class="minutes">{row.minutes} minutes</span>'


def section(cells: list[NotebookNode], row: agendas.Row) -> Iterator[NotebookNode]:
    """What a section says first; then, in its order, what it asks the room to predict, its formulas, pictures and widgets."""
    heading, _, body = cells[0].source.partition("\n")
    small = f"### {heading.lstrip('# ')}\n\n"
    yield text(f"{heading} {minutes(row)}\n\n{opening(copies.readable(body).strip())}", "slide")
    asks = any(cell.cell_type == "markdown" and PREDICT.search(cell.source) for cell in cells)
    for place, cell in enumerate(cells):
        words = copies.readable(cell.source) if cell.cell_type == "markdown" else ""
        if place and FORMULA.search(words):
            yield text(small + opening(words), "subslide")
        for question in PREDICT.findall(words):
            yield text(small + question, "subslide")
            yield from printed(cells[place + 1:], "", "fragment")
        if cell.cell_type == "code":
            yield from printed([] if asks else [cell], small, "subslide")
            yield from picture(cell)


def opening(body: str) -> str:
    """The first paragraphs, as many as fit, with a formula that stands among them; predictions have slides of their own."""
    kept: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n(?![^$]*\$\$\s*$)", PREDICT.sub("", body)):
        size += 0 if FORMULA.search(paragraph) else len(paragraph)
        if paragraph.startswith(("#", "|", "```")) or kept and size > LETTERS:
            break
        kept.append(paragraph.strip())
    return "\n\n".join(filter(None, kept))


def printed(following: list[NotebookNode], head: str, kind: str) -> Iterator[NotebookNode]:
    """What the next code cell printed, its first lines."""
    code = next((cell for cell in following if cell.cell_type == "code"), None)
    lines = [line for output in (code.outputs if code else []) if output.get("name") == "stdout" for line in output.text.splitlines()]
    if lines:
        yield text(head + "```text\n" + "\n".join(lines[:LINES]) + "\n```", kind)


def picture(cell: NotebookNode) -> Iterator[NotebookNode]:
    """A slide with the figure of a cell, or with its widget, which works there as on the page."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            source = "".join(data["image/png"].split())
            yield shown(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">')
        elif "data-tlm-" in data.get("text/html", ""):
            yield shown(data["text/html"])


def shown(markup: str) -> NotebookNode:
    output = nbformat.v4.new_output("display_data", data={"text/html": markup})
    return nbformat.v4.new_code_cell("", outputs=[output], metadata={"slideshow": {"slide_type": "subslide"}})


def exercise(task: agendas.Task, row: agendas.Row) -> Iterator[NotebookNode]:
    """The task without its hint, then one solution."""
    words = re.sub(r"<details>.*?</details>", "", task.body, flags=re.DOTALL)
    yield text(f"## Exercise {task.id}: {task.title} {minutes(row)}\n\n{copies.readable(words).strip()}", "slide")
    yield text(f"## One answer\n\n{solution(task.id)}", "subslide")


def solution(task: str) -> str:
    texts = (cell.source for chapter in book_files.present() for cell in book_files.markdown_cells(book_files.read(chapter)))
    found = next(match for source in texts for match in copies.SOLUTION.finditer(source) if match["label"] == task.replace(".", "-"))
    return copies.readable(found["body"]).strip()


def text(source: str, kind: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def render(notebook: NotebookNode) -> str:
    """The deck as one HTML file that fetches nothing."""
    exporter = SlidesExporter(template_name=PARTS.name, extra_template_basedirs=[str(PARTS.parent)], exclude_input=True,
                              exclude_input_prompt=True, exclude_output_prompt=True)
    reveal = PARTS / "reveal"
    inside = {"reveal_css": (reveal / "reveal.css").read_text(encoding="utf-8"), "reveal_js": script(reveal / "reveal.js"),
              "notes_js": script(reveal / "notes.js"), "mathjax_js": script(mathjax() / "tex-svg.js"),
              "slides_css": (PARTS / "slides.css").read_text(encoding="utf-8")}
    return exporter.from_notebook_node(notebook, resources={"workshop": inside})[0]


def script(path: Path) -> str:
    """A script as it may stand inside a page: what would end its element, or open a comment in it, is written with a backslash."""
    return path.read_text(encoding="utf-8").replace("</script", r"<\/script").replace("<!--", r"<\!--")


def mathjax() -> Path:
    """MathJax as the package sphinx-mathjax-offline brings it, for the book too. Raises `ModuleNotFoundError` where it is not installed."""
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or not found.origin:
        raise ModuleNotFoundError("the slides need sphinx-mathjax-offline; run `make install`")
    return Path(found.origin).parent / "static" / "mathjax"
