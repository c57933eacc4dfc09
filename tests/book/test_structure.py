"""The book as a whole: its pages, its tools, its one address."""

import codecs
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

import book_files
import pytest
import sync_address

ROOT = book_files.ROOT
SYNCED = ["_config.yml", "_toc.yml", *sync_address.PLAIN]


@pytest.fixture
def copy(tmp_path):
    """The files that carry the repository's address, to play with."""
    for name in SYNCED:
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return tmp_path


@pytest.mark.parametrize("page", book_files.chapters() + book_files.markdown_pages(), ids=lambda page: page.name)
def test_every_page_of_the_contents_exists(page):
    assert page.exists(), f"{page.relative_to(ROOT)} stands in _toc.yml and is missing"


def test_every_page_stands_in_the_contents():
    written = {path for pattern in ("*.ipynb", "*.md") for path in (ROOT / "book").glob(pattern)}
    assert written <= set(book_files.chapters() + book_files.markdown_pages())


@pytest.mark.parametrize("chapter", book_files.chapters(), ids=lambda page: page.name)
def test_chapters_have_short_plain_names(chapter):
    assert re.fullmatch(r"\d\d_[a-z0-9_]{1,26}", chapter.stem)


@pytest.mark.parametrize("chapter", book_files.chapters(), ids=lambda page: page.name)
def test_chapters_are_linked_from_the_first_pages(chapter):
    readme, index = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "book/index.md"))
    assert f"](book/{chapter.name})" in readme and sync_address.badge(ROOT, chapter) in readme
    assert re.search(rf"^{chapter.stem[:2]}: .+: .+\?$", index, re.MULTILINE), "a line of the map"


def test_jupyter_book_is_of_the_first_major_version():
    assert importlib.metadata.version("jupyter-book").split(".")[0] == "1"


def test_the_book_is_built_from_stored_outputs_without_foreign_hosts():
    config = book_files.config()
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["sphinx"]["config"]["nb_ipywidgets_js"] == {}
    assert "sphinx-mathjax-offline" in config["sphinx"]["extra_extensions"]
    assert config["only_build_toc_files"] is True
    assert not (ROOT / "_static").exists(), "Jupyter Book would load every script and style below it on every page"


def test_nothing_answers_to_every_text_codec():
    """A dependency that does (future-typing, through the package of the plays) breaks the bibliography."""
    with pytest.raises(LookupError):
        codecs.lookup("no-such-codec")


def test_package_has_lower_bounds_only():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    requirements = re.findall(r'"([A-Za-z_]+)((?:[<>=~!]=?)[^"]*)"', text)
    assert len(requirements) > 8
    assert all(re.fullmatch(r">=[\d.]+", bound) for name, bound in requirements), requirements


def test_every_generated_address_is_up_to_date():
    assert not sync_address.outdated(ROOT), "run: python scripts/sync_address.py"


def test_a_new_address_reaches_every_file(copy, capsys):
    old, new = book_files.slug(copy), "someone-else/another.book"
    config = (copy / "_config.yml").read_text(encoding="utf-8")
    (copy / "_config.yml").write_text(config.replace(old, new), encoding="utf-8")
    assert sync_address.main(["--check"], root=copy) == 1
    assert sync_address.main([], root=copy) == 0
    assert sync_address.main(["--check"], root=copy) == 0
    files = [copy / name for name in sync_address.PLAIN] + book_files.present(copy) + book_files.markdown_pages(copy)
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert not [name for name, text in texts.items() if old in text]
    linking = {"README.md", "pyproject.toml", "CITATION.cff"} | {chapter.name for chapter in book_files.present(copy)}
    assert linking <= {name for name, text in texts.items() if new in text}


def test_a_release_reaches_the_cell_and_every_link_to_colab(copy, monkeypatch):
    monkeypatch.setattr(sync_address, "RELEASE", "v1.2")
    assert sync_address.main([], root=copy) == 0
    texts = [file.read_text(encoding="utf-8") for file in (copy / "README.md", *book_files.present(copy))]
    assert all("/blob/v1.2/book/" in text and "/blob/main/book/" not in text for text in texts) and len(texts) > 1
    assert all(".git@v1.2" in text for text in texts[1:])


def test_the_set_up_cell_says_in_one_sentence_that_the_package_cannot_be_fetched(tmp_path):
    """As on Colab without a network: pip finds no git and so fetches nothing."""
    cell = sync_address.first_cell(ROOT)
    assert max(map(len, cell.splitlines())) <= 76
    absent = "import importlib.util as u, sys; find = u.find_spec; u.find_spec = lambda name: None if name == 'tensorlm' else find(name)\n"
    for colab, said in (("sys.modules['google.colab'] = sys\n", "ConnectionError: no network? pip could not fetch https://github.com/"),
                        ("", "ModuleNotFoundError: run `make lab` in a clone of https://github.com/")):
        done = subprocess.run([sys.executable, "-c", absent + colab + cell], capture_output=True, text=True, cwd=tmp_path,
                              env={**os.environ, "PATH": str(tmp_path)})
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(said)


def test_a_wrong_address_is_refused(copy):
    config = (copy / "_config.yml").read_text(encoding="utf-8")
    (copy / "_config.yml").write_text(config.replace("https://github.com/", "http://example.org/"), encoding="utf-8")
    with pytest.raises(ValueError, match="repository.url"):
        book_files.slug(copy)
