"""What a workshop hands out: agendas that name what is there and add up, copies without and with solutions, slides, handout, map."""

import hashlib
import json
import os
import re

import agendas
import book_files
import concept_map
import copies
import nbformat
import pytest
import slides
import workshop
from bs4 import BeautifulSoup
from nbclient import NotebookClient

CHAPTERS = book_files.present()
PAGE = agendas.PAGE.read_text(encoding="utf-8")
AGENDAS = agendas.agendas()
SHORT = ("02", "06")  # student copies that every run of the tests executes; EVERY_COPY=1 executes all
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem[:2])
each_agenda = pytest.mark.parametrize("agenda", AGENDAS, ids=lambda agenda: f"{agenda.minutes}-{len(agenda.rows)}")


# Agendas ---------------------------------------------------------------------------------------------------------------

def test_there_are_agendas_for_an_hour_for_ninety_minutes_for_three_hours_and_for_two_days():
    assert [agenda.minutes for agenda in AGENDAS] == [60, 90, 180, 360, 360]


@each_agenda
def test_minutes_add_up(agenda):
    assert sum(row.minutes for row in agenda.rows) == agenda.minutes


@each_agenda
def test_what_an_agenda_names_is_there(agenda):
    files = {chapter.name: chapter for chapter in CHAPTERS}
    for row in agenda.rows:
        if row.section:
            named = row.section
            assert named["file"].startswith(named["chapter"]) and named["anchor"] == agendas.anchor(named["heading"])
            assert agendas.section(files[named["file"]], named["heading"]), f"{named['file']} has no section {named['heading']!r}"
        elif row.exercise:
            assert row.minutes >= agendas.tasks()[row.exercise].minutes, f"exercise {row.exercise} takes longer than its row"
        else:
            assert re.fullmatch(r"[A-Z][a-z ]+", row.part), f"neither a section, nor an exercise, nor plain words: {row.part}"


@each_agenda
def test_a_teacher_is_told_what_to_say_and_what_goes_wrong(agenda):
    work = [row for row in agenda.rows if row.section or row.exercise]
    assert all(row.say for row in agenda.rows if row.name != "Break")
    assert sum(bool(row.wrong) for row in work) >= 0.9 * len(work)


def test_each_agenda_says_what_to_skip():
    assert len(re.findall(r"^\*\*Skip\*\*", PAGE, re.MULTILINE)) == 4


def test_every_chapter_is_taught_in_two_days_and_every_stated_exercise_is_one():
    taught = {row.section["chapter"] for agenda in AGENDAS[-2:] for row in agenda.rows if row.section}
    assert taught == {chapter.stem[:2] for chapter in CHAPTERS}
    from tensorlm.notebook.checks import registry

    assert {name: task.title for name, task in agendas.tasks().items()} == {name: one.title for name, one in registry().items()}


@pytest.mark.parametrize("old, new", [
    ("| 10 | 01 [Two encoders, multiplied]", "| 11 | 01 [Two encoders, multiplied]"),
    ("[Exercise 01.1](#ex-01-1)", "[Exercise 01.9](#ex-01-9)"),
    ("02 [Adding a vector is not scaling]", "02 [Adding a vector scales it]"),
])
def test_a_wrong_agenda_is_noticed(tmp_path, old, new):
    (tmp_path / "page.md").write_text(PAGE.replace(old, new), encoding="utf-8")
    hour = agendas.agendas(tmp_path / "page.md")[0]
    with pytest.raises((AssertionError, KeyError)):
        test_minutes_add_up(hour)
        test_what_an_agenda_names_is_there(hour)


def test_ten_questions_have_folded_answers():
    folded = r"^\*\*(\d+)\. .*?\*\*\n\n<details><summary>Answer</summary>\n\n.{80,}?\n\n</details>$"
    assert re.findall(folded, PAGE, re.MULTILINE | re.DOTALL) == [str(number) for number in range(1, 11)]


def test_the_page_shows_the_cells_for_machines_and_progress():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks == [f"from tensorlm.notebook import {name}\n\n{call}\n" for name, call in
                      (("preflight", "preflight()"), ("check", "check.progress()"))]


# The map ---------------------------------------------------------------------------------------------------------------

def test_the_map_is_what_its_code_draws_and_has_every_chapter():
    assert concept_map.TARGET.read_text(encoding="utf-8") == concept_map.draw(), "run: python scripts/concept_map.py"
    named = {number for idea in concept_map.IDEAS.values() for number in idea.chapters.split(", ")}
    assert named == {chapter.stem[:2] for chapter in CHAPTERS}
    alt = re.search(r"!\[([^]]+)\]\(img/concept_map\.svg\)", PAGE)[1]
    assert len(alt.split()) > 30 and alt.endswith(".")


def test_every_arrow_of_the_map_goes_down_one_row():
    for start, end, words in concept_map.ARROWS:
        assert concept_map.IDEAS[end].row == concept_map.IDEAS[start].row + 1 and words
    reached = {end for _, end, _ in concept_map.ARROWS}
    assert set(concept_map.IDEAS) - reached == {"layer"}


# Copies ----------------------------------------------------------------------------------------------------------------

def solutions(chapter) -> list[re.Match]:
    return [match for cell in book_files.markdown_cells(book_files.read(chapter)) for match in copies.SOLUTION.finditer(cell.source)]


def secrets(chapter) -> set[str]:
    """Lines of code and sentences that stand in the chapter's solutions and nowhere else in it."""
    cells = book_files.read(chapter).cells
    elsewhere = "\n".join(copies.SOLUTION.sub("", cell.source) for cell in cells)
    lines = {line.strip() for match in solutions(chapter) for line in match["body"].splitlines()}
    sentences = {part.strip() for match in solutions(chapter) for part in re.split(r"(?<=[.:;?])\s", match["body"].partition("```")[0])}
    return {text for text in lines | sentences if len(text) > 8 and text not in elsewhere}


def own_tasks(chapter) -> list[str]:
    return [name for name in agendas.tasks() if name[:2] == chapter.stem[:2]]


def leaks(chapter, copy: str) -> set[str]:
    """What of the solutions stands in the text of a notebook file."""
    return {text for text in secrets(chapter) if json.dumps(text, ensure_ascii=False)[1:-1] in copy}


@chapters
def test_student_copies_hold_no_sentence_and_no_line_of_a_solution(chapter):
    copy = book_files.dump(copies.student(book_files.read(chapter)))
    assert len(secrets(chapter)) > 2 * len(solutions(chapter))
    assert leaks(chapter, copy) == set()
    words = "\n".join(cell.source for cell in book_files.markdown_cells(nbformat.reads(copy, 4)))
    assert not re.search(r"\{solution\}|:::|dropdown", words)
    assert "[Open in Colab]" not in copy, "that link leads to the chapter with its solutions"


@chapters
def test_a_leak_would_be_noticed(chapter):
    """The same look at the teacher's copy, and at a student's into which one solution has slipped, finds them."""
    read = book_files.read(chapter)
    assert len(leaks(chapter, book_files.dump(copies.teacher(read)))) > 0.9 * len(secrets(chapter))
    student = copies.student(read)
    student.cells[-1].source += "\n\n" + solutions(chapter)[0]["body"]
    assert leaks(chapter, book_files.dump(student))


@chapters
def test_student_copies_keep_code_and_stubs_and_only_the_answers_picture(chapter):
    before, after = book_files.read(chapter), copies.student(book_files.read(chapter))
    nbformat.validate(after)
    assert [cell.source for cell in book_files.code_cells(after)] == [cell.source for cell in book_files.code_cells(before)]
    assert all(cell.execution_count is None for cell in book_files.code_cells(after))
    shown = [cell for cell in book_files.code_cells(after) if cell.outputs]
    assert len(shown) == 1 and copies.ANSWER in shown[0].metadata.tags
    assert [set(output.data) & set(copies.PICTURES) for output in shown[0].outputs] == [{"image/png"}]
    text = "\n".join(cell.source for cell in book_files.markdown_cells(after))
    assert re.findall(r"^### Exercise (\d\d\.\d): ", text, re.MULTILINE) == own_tasks(chapter)
    assert text.count("<details><summary>Hint</summary>") == len(solutions(chapter))


@chapters
def test_teacher_copies_have_every_solution_open_and_all_outputs(chapter):
    before, after = book_files.read(chapter), copies.teacher(book_files.read(chapter))
    nbformat.validate(after)
    assert [cell.outputs for cell in book_files.code_cells(after)] == [cell.outputs for cell in book_files.code_cells(before)]
    text = "\n".join(cell.source for cell in book_files.markdown_cells(after))
    assert text.count("**Solution of ") == len(solutions(chapter)) and "dropdown" not in text and "<details>" not in text
    assert all(copies.readable(match["body"]).strip() in text for match in solutions(chapter))


@chapters
def test_links_of_a_copy_lead_somewhere(chapter):
    """To chapters beside it, to pages of the book by their address, or to a place in the web."""
    for copy in (copies.student, copies.teacher):
        text = "\n".join(cell.source for cell in book_files.markdown_cells(copy(book_files.read(chapter))))
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\$[^$]*\$|`[^`]*`", "", text)):
            assert target.startswith("https://") or target.partition("#")[0] in {path.name for path in CHAPTERS}, target


@pytest.mark.slow
@chapters
def test_student_copies_run_from_top_to_bottom_with_their_stubs(chapter, tmp_path):
    if chapter.stem[:2] not in SHORT and not os.environ.get("EVERY_COPY"):
        pytest.skip("the same code as in the chapter, which nbval runs; EVERY_COPY=1 runs this copy too")
    notebook = copies.student(book_files.read(chapter))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in book_files.code_cells(notebook) for output in cell.outputs)
    for name in own_tasks(chapter):
        assert f"Exercise {name}: not answered yet." in printed


# All together ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("workshop")
    workshop.main(["--to", str(out)])
    return out


def contents(folder) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_everything_is_there_and_the_same_each_time(built, tmp_path):
    files = contents(built)
    copied = {f"{who}/{chapter.name}" for who in ("student", "teacher") for chapter in CHAPTERS}
    assert set(files) == {"slides.html", "handout.html"} | copied
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "99_old.ipynb").write_text("{}")
    workshop.build(tmp_path)
    assert contents(tmp_path) == files


@pytest.mark.slow
def test_slides_hold_all_that_they_show(built):
    deck = (built / "slides.html").read_text(encoding="utf-8")
    page = BeautifulSoup(deck, "html.parser")
    loaded = [element.get("src") or element.get("href") for element in page.select("[src], link[href], use[href]")]
    assert loaded and all(address.startswith("data:image/png;base64,") for address in loaded)
    assert "unpkg" not in deck and "jsdelivr" not in "".join(map(str, page.find_all("style")))
    for row in agendas.agenda(workshop.MINUTES).rows:
        assert f'class="minutes">{row.minutes} minutes' in deck
    assert len(page.select("aside.notes")) == len(agendas.agenda(workshop.MINUTES).rows)
    assert all(len(image["alt"].split()) > 10 for image in page.select("img"))


def test_what_is_vendored_is_what_its_package_has():
    folder = slides.PARTS / "reveal"
    listed = dict(re.findall(r"^\| (\S+\.\w+) \| `[^`]+` \| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.MULTILINE))
    assert set(listed) == {path.name for path in folder.iterdir()} - {"README.md", "LICENSE"}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in listed} == listed
    assert "Permission is hereby granted, free of charge" in (folder / "LICENSE").read_text()


def test_a_script_cannot_end_the_element_that_holds_it(tmp_path):
    (tmp_path / "x.js").write_text('a = "</script><!--"')
    assert slides.script(tmp_path / "x.js") == r'a = "<\/script><\!--"'


def test_there_is_one_agenda_for_slides():
    with pytest.raises(ValueError, match="minutes must be the length of one agenda in teaching.md, got 360, of which there are 2"):
        agendas.agenda(360)


@chapters
def test_copies_name_what_the_book_cites(chapter):
    text = "\n".join(cell.source for cell in book_files.markdown_cells(copies.student(book_files.read(chapter))))
    cited = {key for cell in book_files.markdown_cells(book_files.read(chapter)) for keys in re.findall(r"\{cite\}`([^`]*)`", cell.source)
             for key in keys.split(",") if "{solution}" not in cell.source}
    assert all(copies.sources()[key.strip()] in text for key in cited) and "{cite" not in text
