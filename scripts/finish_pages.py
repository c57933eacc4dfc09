"""A Sphinx extension that finishes the built pages: what a link to them shows elsewhere, names for screen readers, and less to load.

The theme's own HTML is mended where a screen reader is told something else than the eye, and where a page loads 1.5 MB of icons to
draw a dozen. Loaded by name in `_config.yml`; `tests/html/test_accessibility.py` and `test_weight.py` say what for.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402

CARD = "_static/social_card.png"
LONGEST = 200                              # letters of a description
MENDED = {
    # The name of a control is the words that it shows.
    r'title="Search" aria-label="Search"(?= data-bs-placement)': "",
    r'<span class="search-button__kbd-shortcut">': '<span class="search-button__kbd-shortcut" aria-hidden="true">',
    r'(<i class="theme-switch [^>]*?) +title="[^"]*"': r'\1 aria-hidden="true"',
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    # A list holds items of a list.
    r'role="doc-biblioentry"': 'role="listitem"',
    # All that is on a page lies in a part of it that has a name.
    r'<div class="sidebar-primary-items__start sidebar-primary__section">':
        '<div class="sidebar-primary-items__start sidebar-primary__section" role="region" aria-label="The book">',
    # The icons are in the theme's fonts too, which a page loads anyway.
    r' *<!-- So that users can add custom icons -->\s*<script src="[^"]*fontawesome\.js[^"]*"></script>\n': "",
}
ICON = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"[^"]*"\}')


def mend(page: str) -> str:
    """The HTML of a page with what is in `MENDED`; the same again for a page that is mended.

    >>> mend('<div class="citation" role="doc-biblioentry">')
    '<div class="citation" role="listitem">'
    """
    for old, new in MENDED.items():
        page = re.sub(old, new, page)
    return page


def only_used(sheet: str, used: set[str]) -> str:
    """A style sheet without the rules of icons that no page uses.

    >>> only_used('.fa-bars:before,.fa-navicon:before{content:"x"}.fa-bug:before{content:"y"}a{top:0}', {"fa-bars"})
    '.fa-bars:before,.fa-navicon:before{content:"x"}a{top:0}'
    """
    return ICON.sub(lambda rule: rule[0] if used & set(re.findall(r"fa-[\w-]+", rule[1])) else "", sheet)


def first_words(document: nodes.document | None) -> str:
    """The first paragraph of a page that is a sentence, cut after a word."""
    for paragraph in document.findall(nodes.paragraph) if document else ():
        words = " ".join(paragraph.astext().split())
        if len(words) > 60 and not paragraph.next_node(nodes.math):
            return words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def site() -> str:
    """The address of the published book, which follows from that of the repository."""
    owner, name = book_files.slug().split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def add_meta(app, pagename, templatename, context, doctree) -> None:
    """Open Graph tags: what a message or a post shows of a page that it links to."""
    said = first_words(doctree) or book_files.config()["title"]
    title = re.sub("<[^>]+>", "", context.get("title") or app.config.html_title)
    open_graph = {"title": title, "description": said, "type": "article", "site_name": app.config.html_title, "url": f"{site()}{pagename}.html",
                  "image": site() + CARD, "image:width": "1200", "image:height": "630",
                  "image:alt": "A tensor with three legs, D above, L and R below, beside the title of the book."}
    tags = [f'<meta property="og:{key}" content="{escape(value)}" />' for key, value in open_graph.items()]
    tags += [f'<meta name="description" content="{escape(said)}" />', '<meta name="twitter:card" content="summary_large_image" />']
    context["metatags"] = context.get("metatags", "") + "\n    ".join(["", *tags])


def finish(app, exception) -> None:
    """Mend every page of a build that went well."""
    if exception or app.builder.format != "html":
        return
    out, used = Path(app.outdir), set()
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        path.write_text(mend(page), encoding="utf-8")
        used |= set(re.findall(r"fa-[\w-]+", page))
    for path in (out / "_static" / "scripts").glob("*theme.js"):
        used |= set(re.findall(r"fa-[\w-]+", path.read_text(encoding="utf-8")))
    for path in (out / "_static" / "styles").glob("pydata*.css"):
        path.write_text(only_used(path.read_text(encoding="utf-8"), used), encoding="utf-8")
    for path in (out / "_static" / "scripts").glob("fontawesome.js*"):
        path.unlink()


def setup(app) -> dict[str, bool]:
    app.connect("html-page-context", add_meta)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
