"""Who may import whom in `tensorlm`, and that nothing in it is left unused or grown too long."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import book_files
import pytest
import torch

PACKAGE = book_files.ROOT / "tensorlm"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUND = {"checks", "files", "provenance", "scaling", "studies", "tables", "ties", "polynomials"}
FLOORS = {
    **dict.fromkeys(GROUND, GROUND),
    "layers": {"layers"} | GROUND,
    "tensors": {"tensors", "layers"} | GROUND,
    "model": {"model", "layers", "tensors"} | GROUND,
    "data": {"data", "checks", "files"},
    "training": {"training", "model", "layers", "tensors", "data"} | GROUND,
    "data_attribution": {"data_attribution", "tensors", "model", "layers", "data"} | GROUND,
    "steering": {"steering", "tensors", "model", "layers", "data"} | GROUND,
    "proofs": {"proofs", "tensors", "model", "layers", "data"} | GROUND,
    "evolution": {"evolution", "model", "layers", "tensors", "data"} | GROUND,
    "notebook": {"notebook", "checks", "files", "tables"},
    "released": {"released"},
}
TORCH_ONLY = {"layers", "tensors", "polynomials"}
QUESTION_ROOMS = {"data_attribution": "11", "proofs": "12", "evolution": "13"}  # each with names of its own, for one chapter


def dotted(path: Path) -> str:
    parts = path.relative_to(book_files.ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, package: str) -> set[str]:
    """The dotted names that `source`, a module inside `package`, imports anywhere, relative ones resolved."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tensorlm."):
            names.add(node.value)  # imported by name, when asked for
    return names


def imports_of(path: Path) -> set[str]:
    name = dotted(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return imported(path.read_text(encoding="utf-8"), package)


def parts_used(names: set[str]) -> set[str]:
    """The parts of tensorlm among dotted names: `layers` for `tensorlm.layers.mlp`."""
    return {name.split(".")[1] for name in names if name.startswith("tensorlm.") and name.split(".")[1] in FLOORS}


def test_relative_imports_are_resolved():
    assert imported("from .mlp import Mlp\nfrom ..data import load", "tensorlm.layers") >= {"tensorlm.layers.mlp", "tensorlm.data"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_keep_to_their_floor(path):
    part = (dotted(path).split(".") + [""])[1]
    if part:
        assert part in FLOORS, f"tensorlm.{part} has no floor: add it to FLOORS"
        trained = {"training", "released"} if path.stem == "declared" else set()  # a study may load or train a model
        assert parts_used(imports_of(path)) <= FLOORS[part] | trained
    else:
        assert not imports_of(path), "importing tensorlm alone stays light"


@pytest.mark.parametrize("path", [path for path in MODULES if TORCH_ONLY & set(dotted(path).split(".")[1:2])], ids=dotted)
def test_layers_stand_on_torch_alone(path):
    roots = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
    assert roots <= {"torch", "einops", "numpy", "tensorlm"} | ({"triton"} if path.stem == "kernels" else set())


def test_importing_the_package_does_not_import_torch():
    subprocess.run([sys.executable, "-c", "import sys, tensorlm; assert 'torch' not in sys.modules"], check=True)


def test_no_module_is_an_orphan():
    """Every module is imported by another one, by a chapter or by a benchmark; packages and entry points are not asked."""
    users = {path: imports_of(path) for path in MODULES}
    users |= {path: imported(path.read_text(encoding="utf-8"), "") for folder in ("benchmarks", "scripts")
              for path in (book_files.ROOT / folder).glob("*.py")}
    for chapter in book_files.present():
        cells = "\n".join(cell.source for cell in book_files.code_cells(book_files.read(chapter)) if not cell.source.startswith("%"))
        users[chapter] = imported(cells, "")
    asked = [path for path in MODULES if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "exercises"]
    orphans = [dotted(path) for path in asked if not any(dotted(path) in names for user, names in users.items() if user != path)]
    assert not orphans


FACES = sorted(dotted(path) for path in PACKAGE.rglob("__init__.py") if path.parent not in (PACKAGE, PACKAGE / "notebook" / "widgets",
                                                                                       PACKAGE / "notebook" / "exercises"))


def face(package: str) -> set[str]:
    """The public names of a package: its `__all__`, else its own functions."""
    module = importlib.import_module(package)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == package and not name.startswith("_")}
    return set(getattr(module, "__all__", own))


def asked_of_faces(source: str) -> set[tuple[str, str]]:
    """(module, name) of everything that a text in Python takes from tensorlm, by import or as `steering.NAME` of an imported room."""
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tensorlm":
            found |= {(node.module, alias.name) for alias in node.names}
    rooms = {name for module, name in found if module == "tensorlm"}
    return found | {(f"tensorlm.{node.value.id}", node.attr) for node in ast.walk(tree)
                    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in rooms}


def chapter_cells(path: Path) -> str:
    cells = [cell.source for cell in book_files.code_cells(book_files.read(path)) if not cell.source.startswith("%")]
    return "\n".join(line for cell in cells for line in cell.split("\n") if not line.lstrip().startswith(("%", "!")))


@pytest.mark.parametrize("path", book_files.present(), ids=lambda path: path.stem[:2])
def test_chapters_import_from_faces_only(path):
    asked = asked_of_faces(chapter_cells(path)) | {
        pair for cell in book_files.read(path).cells if cell.cell_type == "markdown"
        for block in re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL) for pair in asked_of_faces(block)}
    assert {pair for pair in asked if ".".join(pair) not in FACES and (pair[0] not in FACES or pair[1] not in face(pair[0]))} == set()


def test_faces_are_small_and_every_name_is_used():
    users = [chapter_cells(path) for path in book_files.present()]
    users += [path.read_text(encoding="utf-8") for folder in ("benchmarks", "scripts") for path in (book_files.ROOT / folder).glob("*.py")]
    users += re.findall(r"```python\n(.*?)```", (book_files.ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    asked = set().union(*map(asked_of_faces, users))
    names = {(package, name) for package in FACES for name in face(package)}
    counts = Counter(package.split(".")[1] for package, _ in names)
    assert sum(count for room, count in counts.items() if room not in QUESTION_ROOMS) <= 110 + len(QUESTION_ROOMS)  # a widget each
    assert max((counts[room] for room in QUESTION_ROOMS), default=0) <= 22
    chapters = {path.stem[:2] for path in book_files.present()}
    waiting = {room for room, chapter in QUESTION_ROOMS.items() if chapter not in chapters}  # for the chapter that will use them
    assert {pair for pair in names - asked if pair[0].split(".")[1] not in waiting} == set()


def functions(path: Path) -> dict[str, int]:
    """Lines of every function of a module, docstrings left out."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            found[f"{dotted(path)}.{node.name}"] = node.end_lineno - documented
    return found


def test_functions_and_modules_stay_short():
    lengths = {name: lines for path in MODULES for name, lines in functions(path).items()}
    assert {name: lines for name, lines in lengths.items() if lines > 45} == {}
    assert statistics.median(lengths.values()) <= 12
    assert {dotted(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 440} == {}


def ours_called(call) -> tuple[int, set[str]]:
    """How many functions of tensorlm a call runs, and in which files."""
    files: list[str] = []
    sys.setprofile(lambda frame, event, _: files.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        call()
    finally:
        sys.setprofile(None)
    mine = [name for name in files if name.startswith(str(PACKAGE))]
    return len(mine), set(mine)


def test_few_calls_stand_between_a_question_and_its_answer():
    """A newcomer with a debugger: a forward pass of two layers, and a steering response down to the numbers of a page."""
    from tensorlm.model import ModelConfig, TensorTransformer
    from tensorlm.steering import steering_response

    tokens, model = torch.arange(16), TensorTransformer(ModelConfig()).eval()
    exact = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    for call, most_calls, most_files in ((lambda: model(tokens[None]), 60, 5),
                                         (lambda: steering_response(exact, tokens, torch.ones(64) / 80, 1).as_json(), 450, 12)):
        call()  # what is kept from call to call is there by now
        calls, files = ours_called(call)
        assert calls <= most_calls and len(files) <= most_files, (calls, files)
