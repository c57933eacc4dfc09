"""The built book: its pages as they lie in ``_build/html``, or in the folder that ``BOOK_HTML`` names."""

import functools
import os
from pathlib import Path

import book_files
import pytest
from bs4 import BeautifulSoup

HTML = Path(os.environ.get("BOOK_HTML", book_files.ROOT / "_build" / "html"))


def pytest_sessionstart(session):
    if not (HTML / "index.html").exists():
        raise pytest.UsageError(f"there is no built book in {HTML}: run 'make book' first")


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="session")
def html() -> Path:
    return HTML


@pytest.fixture(scope="session")
def read():
    """A page of the book, parsed: ``read("book/index")``."""
    return lambda page: soup(HTML / f"{page}.html")
