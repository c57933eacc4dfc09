"""Print pages of the built book as PDF files with headless Chromium, without LaTeX; formulas are drawn first.

    python scripts/print_chapters.py                    # every chapter, into _build/pdf
    python scripts/print_chapters.py 01 06              # only these
    python scripts/print_chapters.py --out FOLDER --html FOLDER
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402

BUILD = book_files.ROOT / "_build"
HTML = Path(os.environ.get("BOOK_HTML", BUILD / "html"))
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
FOOT = ('<div style="width:100%;font:8px sans-serif;color:#555;padding:0 17mm;display:flex;justify-content:space-between">'
        '<span class="title"></span><span><span class="pageNumber"></span> / <span class="totalPages"></span></span></div>')
PAPER = {"printBackground": True, "preferCSSPageSize": True, "displayHeaderFooter": True, "headerTemplate": "<span></span>",
         "footerTemplate": FOOT, "generateTaggedPDF": True, "generateDocumentOutline": True}
READY = """
    const done = arguments[arguments.length - 1];
    document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light';
    const pictures = [...document.images].map(image => { image.loading = 'eager'; return image.decode().catch(() => null); });
    const formulas = window.MathJax?.startup ? MathJax.startup.promise : Promise.resolve();
    Promise.all([formulas, document.fonts.ready, ...pictures]).then(() => done());"""


def browser() -> Any:
    """Headless Chromium without a network. Raises `SystemExit` where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        raise SystemExit("Chromium and chromedriver print the chapters, and are not installed here (Debian: chromium, chromium-driver).")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_script_timeout(300)
    return started


def printed(driver: Any, page: Path) -> bytes:
    """A page as a PDF, once its formulas and pictures are drawn."""
    driver.get(page.resolve().as_uri())
    driver.execute_async_script(READY)
    return base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", PAPER)["data"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="two-digit numbers of chapters; all without any")
    parser.add_argument("--out", type=Path, default=BUILD / "pdf")
    parser.add_argument("--html", type=Path, default=HTML)
    asked = parser.parse_args(arguments)
    wanted = [chapter.stem for chapter in book_files.present() if not asked.numbers or chapter.stem[:2] in asked.numbers]
    pages = [asked.html / "book" / f"{stem}.html" for stem in wanted]
    if not pages or not all(page.exists() for page in pages):
        raise SystemExit(f"there are no such built chapters in {asked.html}: run 'make book' first")
    asked.out.mkdir(parents=True, exist_ok=True)
    driver = browser()
    try:
        for page in pages:
            (asked.out / f"{page.stem}.pdf").write_bytes(printed(driver, page))
            print(asked.out / f"{page.stem}.pdf", flush=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
