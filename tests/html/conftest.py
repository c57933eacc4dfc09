"""The built book: its pages as they lie in `_build/html`, or in the folder that `BOOK_HTML` names."""

import functools
import os
import shutil
from pathlib import Path

import book_files
import pytest
import widget_pages
from bs4 import BeautifulSoup

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,1000", "--force-prefers-reduced-motion"]
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
    """A page of the book, parsed: `read("book/index")`."""
    return lambda page: soup(HTML / f"{page}.html")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium with the network blocked, logging what a page fetches; tests that ask for it are skipped without it."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium and its driver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    class PatientChrome(webdriver.Chrome):
        """Returns from `get` when that very page is whole: on a busy machine the driver may answer while it still loads."""

        def get(self, url: str) -> None:
            self.execute_script("window.leaving = arguments[0]", "#" not in url)  # a place on the same page is not loaded anew
            super().get(url)
            done = "return !window.leaving && document.readyState === 'complete'"
            WebDriverWait(self, 60).until(lambda driver: driver.execute_script(done))

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = PatientChrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def addresses(request, html, tmp_path_factory) -> list[str]:
    """A page with the module's `made_here()`, then the built pages that hold its `MARKER`."""
    made = widget_pages.make_page(tmp_path_factory.mktemp("widget") / "made.html", request.module.made_here())
    return [path.resolve().as_uri() for path in [made, *widget_pages.built_pages(html, request.module.MARKER)]]


@pytest.fixture
def widgets(browser, addresses, request):
    """Every widget of the module's kind in turn, fresh from its page and in view, with the data that the page holds."""
    selector = f"[{request.module.MARKER}]"

    def each():
        for address in addresses:
            browser.get(address)
            for place in range(len(browser.find_elements("css selector", selector))):
                browser.get_log("performance")
                browser.get(address)
                root = browser.find_elements("css selector", selector)[place]
                browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", root)
                yield root, widget_pages.data_of(root)

    return each
