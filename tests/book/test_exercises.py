"""Every exercise of the book: registered, solved by the solution printed under it, and not by its known wrong answers."""

import ast
import re

import book_files
import pytest

from tensorlm.notebook.checks import Checker, Exercise, registry

SOLUTION = re.compile(r"^:{3,}\{solution\}.*?^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def calls(source: str) -> list[tuple[str, str]]:
    """The exercises that a cell checks: id and the expression given as the answer."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]
    return [(ast.literal_eval(node.args[0]), ast.unparse(node.args[1])) for node in nodes]


def definitions(source: str) -> str:
    """The imports and definitions of a cell: what a solution may use from the cells above it."""
    kept = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)]
    return ast.unparse(ast.Module(kept, []))


def stubs() -> list[tuple[str, str, int, str, str]]:
    """Every exercise in the chapters: id, chapter number, cell, answer expression, solution code (empty if there is none)."""
    found = []
    for chapter in book_files.present():
        cells = book_files.read(chapter).cells
        for place, cell in enumerate(cells):
            for exercise_id, answer in calls(cell.source) if cell.cell_type == "code" else []:
                following = next((later.source for later in cells[place + 1:] if later.cell_type == "markdown"), "")
                solution = SOLUTION.search(following)
                found.append((exercise_id, chapter.name[:2], place, answer, solution[1] if solution else ""))
    return found


def namespace(chapter: str, place: int) -> dict:
    """Imports and definitions of the cells above a stub, executed."""
    notebook = next(path for path in book_files.present() if path.name.startswith(chapter))
    names: dict = {}
    for cell in book_files.read(notebook).cells[:place]:
        if cell.cell_type == "code":
            exec(definitions(cell.source), names)
    return names


def solve(exercise_id: str, chapter: str, place: int, answer: str, solution: str) -> str:
    names = namespace(chapter, place)
    exec(solution, names)
    return registry()[exercise_id].verdict(eval(answer, names))


STUBS = stubs()
stubbed = pytest.mark.parametrize("stub", STUBS, ids=[stub[0] for stub in STUBS])


def test_registered_and_used_are_the_same():
    used = [stub[0] for stub in STUBS]
    assert len(used) == len(set(used)), "an exercise is checked in two cells"
    chapters = {chapter.name[:2] for chapter in book_files.present()}
    registered = {exercise_id for exercise_id in registry() if exercise_id[:2] in chapters}
    assert set(used) == registered


@stubbed
def test_stands_in_its_own_chapter(stub):
    assert stub[0].partition(".")[0] == stub[1]


@stubbed
def test_printed_solution_is_accepted(stub):
    assert stub[4], f"exercise {stub[0]}: the next Markdown cell has no :::{{solution}} with a python block"
    assert solve(*stub) == f"Exercise {stub[0]}: correct."


@stubbed
def test_stub_says_that_it_is_not_answered_yet(stub):
    notebook = book_files.read(next(path for path in book_files.present() if path.name.startswith(stub[1])))
    printed = "".join(output.get("text", "") for output in notebook.cells[stub[2]].outputs)
    assert f"Exercise {stub[0]}: not answered yet." in printed


@pytest.mark.parametrize("exercise", registry().values(), ids=registry().keys())
def test_every_known_wrong_answer_is_rejected_with_a_hint(exercise):
    assert len(exercise.mutants) >= 2
    for number, mutant in enumerate(exercise.mutants):
        verdict = exercise.verdict(mutant)
        assert verdict.startswith(f"Exercise {exercise.id}: not yet. "), f"wrong answer {number}: {verdict}"
        assert len(verdict.split("not yet. ")[1].split()) >= 4, f"wrong answer {number} gets no hint: {verdict}"


# The mechanism itself.

def doubles(answer):
    if answer(3) != 6:
        raise AssertionError("Expected twice the argument: did you add 2?")


SOLVED = ([[1, 0], [0, 1]], [[1, 0], [1, 1]], [[0, 1], [1, -1]])
TWICE = Exercise("00.1", "Double it", doubles, mutants=(lambda x: x + 2, lambda x: x * x))


@pytest.mark.parametrize("answer, verdict", [
    (lambda x: 2 * x, "correct."),
    (lambda x: x + 2, "not yet. Expected twice the argument: did you add 2?"),
    (lambda x: None, "not answered yet."),
    (lambda x: ..., "not answered yet."),
    (None, "not answered yet."),
    (..., "not answered yet."),
    (lambda x: 1 / 0, "your code raised ZeroDivisionError: division by zero"),
    (5, "not yet. A function is wanted, got int."),
])
def test_verdicts(answer, verdict):
    assert TWICE.verdict(answer) == f"Exercise 00.1: {verdict}"


def test_a_check_that_accepts_everything_is_caught():
    lax = Exercise("00.2", "Anything goes", lambda answer: None, mutants=(1, 2))
    with pytest.raises(AssertionError):
        test_every_known_wrong_answer_is_rejected_with_a_hint(lax)


def test_one_wrong_answer_is_too_few():
    with pytest.raises(ValueError, match="00.3"):
        Exercise("00.3", "Too few", doubles, mutants=(1,))


def test_solutions_are_found_and_definitions_kept():
    text = ":::{solution} ex-1\n:class: dropdown\n\n```python\ndef f(x):\n    return 2 * x\n```\n\nWhy: two.\n:::"
    assert SOLUTION.search(text)[1] == "def f(x):\n    return 2 * x\n"
    assert definitions("import math\nx = 1\ndef f():\n    return x") == "import math\n\ndef f():\n    return x"
    assert calls("check('01.1', f)\nprint(check)") == [("01.1", "f")]


def test_progress_counts_tries_and_remembers_what_was_solved(capsys):
    mine = Checker()
    mine.progress()
    assert capsys.readouterr().out == "No exercise was checked in this session yet.\n"
    for answer in (None, ..., [[[1]], [[1]]], SOLVED, None, [[[1]], [[1]], [[1]]]):
        mine("01.1", answer)
    mine("01.2", lambda d, k: ...)
    with pytest.raises(ValueError, match="exercise must be one of"):
        mine("77.7", 1)
    capsys.readouterr()
    mine.progress()
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["exercise", "solved", "tries"],
        ["01.1", "Two", "units,", "two", "outputs", "yes", "3"],
        ["01.2", "How", "many", "monomials?", "no", "0"],
        ["1", "of", "2", "solved"]]


def test_progress_is_that_of_the_running_session(capsys):
    from tensorlm.notebook import check

    check("01.1", SOLVED)
    assert "01.1" in check.solved and check.tries["01.1"] >= 1
    check.progress()
    assert "Two units, two outputs" in capsys.readouterr().out


def test_checking_prints_one_line_as_before(capsys):
    Checker()("01.1", None)
    assert capsys.readouterr().out == "Exercise 01.1: not answered yet.\n"
