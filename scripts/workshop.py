"""All that a workshop hands out, into _build/workshop/: `make workshop`, or python scripts/workshop.py [--to DIR].

`student/` and `teacher/` copies of the chapters, `slides.html` for the 90-minute agenda of book/teaching.md, and `handout.html`, one page
of A4. The same sources give the same bytes; nothing is run and nothing fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import agendas  # noqa: E402
import book_files  # noqa: E402
import concept_map  # noqa: E402
import copies  # noqa: E402
import slides  # noqa: E402

MINUTES = 90  # the agenda of slides and handout
OUT = book_files.ROOT / "_build" / "workshop"


def build(out: Path) -> None:
    """Write everything into `out`, in place of what a former call left there."""
    agenda = agendas.agenda(MINUTES)
    for folder, copy in (("student", copies.student), ("teacher", copies.teacher)):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
        for chapter in book_files.present():
            (out / folder / chapter.name).write_text(book_files.dump(copy(book_files.read(chapter))), encoding="utf-8")
    (out / "slides.html").write_text(slides.render(slides.deck(agenda)), encoding="utf-8")
    (out / "handout.html").write_text(handout(agenda), encoding="utf-8")


def handout(agenda: agendas.Agenda) -> str:
    """One page: formulas, the exercises of the agenda, the lines to type, the map."""
    tasks = [agendas.tasks()[row.exercise] for row in agenda.rows if row.exercise]
    listed = "".join(f"<tr><td>{task.id}</td><td>{escape(task.title)}</td><td>{task.minutes} min</td></tr>" for task in tasks)
    parts = {"minutes": str(agenda.minutes), "address": book_files.config()["repository"]["url"].removeprefix("https://"),
             "exercises": listed, "map": concept_map.draw()}
    page = (slides.PARTS / "handout.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace(f"{{{name}}}", value)
    return page


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write student and teacher notebooks, slides and a handout.")
    parser.add_argument("--to", type=Path, default=OUT, help="folder (default: _build/workshop)")
    out = parser.parse_args(arguments).to
    began = time.perf_counter()
    build(out)
    deck = (out / "slides.html").stat().st_size / 1e6
    print(f"{len(book_files.present())} chapters for students and for teachers, slides.html ({deck:.1f} MB) and handout.html in {out}, "
          f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
