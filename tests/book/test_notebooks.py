"""The form of every chapter: normalised, executed from top to bottom, within its budget, with alt text and no surprises."""

import ast
import copy
import re

import book_files
import nbformat
import notebooks
import prose
import pytest
import sync_address

ROOT = book_files.ROOT
chapters = pytest.mark.parametrize("chapter", book_files.present(), ids=lambda chapter: chapter.name)
MACHINE = re.compile(r"(?:/home/|/root/|/Users/|/work/|/tmp/|/usr/|/opt/|[A-Z]:\\|site-packages)")


def ignored(cell) -> bool:
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def figures(notebook) -> list[tuple[int, nbformat.NotebookNode]]:
    """The code cells that show a picture, with their numbers."""
    return [(number, cell) for number, cell in enumerate(book_files.code_cells(notebook), start=1)
            if any("image/png" in output.get("data", {}) or "image/svg+xml" in output.get("data", {}) for output in cell.outputs)]


def alt_problem(cell) -> str | None:
    """What is wrong with the alt text of a cell that shows a picture."""
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    if len(alt.split()) < 5 or not alt[0].isupper() or not alt.rstrip().endswith("."):
        return f"alt text {alt!r} is not a sentence that says the finding"
    return None


@chapters
def test_is_normalised(chapter):
    stored = chapter.read_text(encoding="utf-8")
    tidy = book_files.dump(notebooks.normalise(nbformat.reads(stored, as_version=4)))
    assert stored == tidy, "run: python scripts/notebooks.py --normalise"


@chapters
def test_starts_with_title_colab_link_and_the_common_cell(chapter):
    notebook = book_files.read(chapter)
    title, first = notebook.cells[0], notebook.cells[1]
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert sync_address.badge(ROOT, chapter) in title.source.splitlines()
    assert first.cell_type == "code" and first.source == sync_address.first_cell(ROOT)


@chapters
def test_has_one_title_and_no_skipped_heading_level(chapter):
    text = "\n\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    text = re.sub(r"^(`{3,}).*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels


@chapters
def test_was_executed_from_top_to_bottom_without_errors(chapter):
    cells = book_files.code_cells(book_files.read(chapter))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@chapters
def test_no_cell_is_skipped_and_hardly_any_output_is_ignored(chapter):
    cells = book_files.code_cells(book_files.read(chapter))
    tags = {tag for cell in cells for tag in cell.metadata.get("tags", [])}
    assert not tags & {"nbval-skip", "skip-execution", "raises-exception"}
    assert not [cell.source for cell in cells if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source)]
    left_out = [cell for cell in cells if ignored(cell)]
    assert all(cell.metadata.get("why", "").strip() for cell in left_out), "an ignored output needs a 'why' in the cell's metadata"


def test_three_percent_of_the_outputs_are_ignored_at_most():
    cells = [cell for chapter in book_files.present() for cell in book_files.code_cells(book_files.read(chapter))]
    assert sum(map(ignored, cells)) <= 0.03 * len(cells)


@chapters
def test_keeps_to_its_budget(chapter):
    notebook = book_files.read(chapter)
    cells = book_files.code_cells(notebook)
    assert chapter.stat().st_size <= 600_000
    assert 15 <= len(cells) <= 40
    assert {number: lines for number, cell in enumerate(cells, 1) if (lines := len(cell.source.splitlines())) > 20} == {}
    assert 1500 <= sum(prose.words(cell.source) for cell in book_files.markdown_cells(notebook)) <= 3000


@chapters
def test_every_figure_has_alt_text_that_says_its_finding(chapter):
    wrong = {number: problem for number, cell in figures(book_files.read(chapter)) if (problem := alt_problem(cell))}
    assert not wrong


@chapters
def test_outputs_name_no_place_on_a_machine(chapter):
    outputs = [str(output) for cell in book_files.code_cells(book_files.read(chapter)) for output in cell.outputs]
    assert not [match[0] for output in outputs for match in MACHINE.finditer(re.sub(r"'image/png': '[^']*'", "", output))]


@chapters
def test_training_names_its_device(chapter):
    """Where there is a GPU, `train` takes it unless told otherwise, and what a chapter does with the model next expects it on the CPU."""
    code = "\n".join(cell.source for cell in book_files.code_cells(book_files.read(chapter)))
    trains = re.search(r"from tensorlm\.training import [^\n]*\btrain\b", code)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and trains
             and "train" in [getattr(place, "id", "") for place in (node.func, *node.args[:1])]]
    assert not [ast.unparse(call) for call in calls if "device" not in [keyword.arg for keyword in call.keywords]]


@chapters
def test_exercises_and_directives_use_colon_fences(chapter):
    """Colab shows what stands between colon fences as text, and what stands between backticks as code."""
    text = "\n".join(cell.source for cell in book_files.markdown_cells(book_files.read(chapter)))
    assert not re.findall(r"^`{3,}\{(?!math)\w", text, re.MULTILINE)


# The checks above, checked on a small notebook that is right and on copies of it that are wrong.

def small() -> nbformat.NotebookNode:
    code = nbformat.v4.new_code_cell("print(1)", execution_count=7)
    code.outputs = [nbformat.v4.new_output("stream", name="stdout", text="1"), nbformat.v4.new_output("stream", name="stdout", text="\n")]
    view = nbformat.v4.new_code_cell("view", execution_count=9)
    data = {"text/plain": "a view", notebooks.WIDGET: {"model_id": "f00d"}}
    view.outputs = [nbformat.v4.new_output("display_data", data=data)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), code, view], metadata={"widgets": {}})


def test_normalising_numbers_joins_and_strips():
    tidy = notebooks.normalise(small())
    code, view = book_files.code_cells(tidy)
    assert (code.execution_count, view.execution_count) == (1, 2)
    assert [output.text for output in code.outputs] == ["1\n"]
    assert dict(view.outputs[0].data) == {"text/plain": "a view"}
    assert "widgets" not in tidy.metadata and tidy.metadata.kernelspec.name == "python3"
    nbformat.validate(tidy)


def test_normalising_twice_changes_nothing_and_ids_follow_the_text():
    once = notebooks.normalise(small())
    assert book_files.dump(notebooks.normalise(copy.deepcopy(once))) == book_files.dump(once)
    other = small()
    other.cells[1].source = "print(2)"
    changed = notebooks.normalise(other)
    assert [a.id == b.id for a, b in zip(once.cells, changed.cells)] == [True, False, True]


def test_cells_with_the_same_text_get_different_ids():
    twins = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass") for _ in range(3)])
    assert len({cell.id for cell in notebooks.normalise(twins).cells}) == 3


def test_set_up_puts_link_and_cell_in_place_once():
    notebook = small()
    for _ in range(2):
        sync_address.set_up(notebook, "import tensorlm", "[Open in Colab](https://example.org)")
    assert notebook.cells[0].source == "# Title\n\n[Open in Colab](https://example.org)"
    assert notebook.cells[1].source == "import tensorlm"


@pytest.mark.parametrize("alt", ["", "figure.png", "A heat map", "the loss falls with every step of training."])
def test_a_poor_alt_text_is_noticed(alt):
    cell = nbformat.v4.new_code_cell("show", metadata={"mystnb": {"image": {"alt": alt}}})
    assert alt_problem(cell)


def test_a_good_alt_text_passes():
    alt = "The loss falls fastest in the first hundred steps."
    assert alt_problem(nbformat.v4.new_code_cell("show", metadata={"mystnb": {"image": {"alt": alt}}})) is None


@pytest.mark.slow
def test_a_chapter_that_fails_keeps_its_outputs(tmp_path, capsys):
    (tmp_path / "book").mkdir()
    for name in ("_config.yml", "_toc.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    chapter = tmp_path / "book" / book_files.chapters()[0].name
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("pass"),
                                             nbformat.v4.new_code_cell("1 / 0", outputs=[nbformat.v4.new_output("stream", text="kept")])])
    nbformat.write(broken, chapter)
    assert notebooks.main([chapter.name[:2], "--root", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert book_files.read(chapter).cells[2].outputs[0].text == "kept"
