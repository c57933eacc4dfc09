"""A Sphinx extension that finishes the built pages: what a link to them shows elsewhere, names for screen readers, and less to load.

The theme's own HTML is mended where a screen reader is told something else than the eye, and where a page loads 1.5 MB of icons to
draw a dozen, and styles of which it uses a third. Loaded by name in `_config.yml`; `test_accessibility.py` and `test_site.py` in
`tests/html` hold it to that.
"""

from __future__ import annotations

import io
import json
import re
import sys
from html import escape
from pathlib import Path

from docutils import nodes
from PIL import Image, UnidentifiedImageError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import book_files  # noqa: E402

CARD = "_static/social_card.png"
LONGEST = 200                              # letters of a description
MENDED = {
    # The name of a control is the words that it shows.
    r'(<button class="btn search-button-field [^>]*?) title="Search" aria-label="Search"': r"\1",
    r'<span class="search-button__kbd-shortcut">': '<span class="search-button__kbd-shortcut" aria-hidden="true">',
    r'(<i class="theme-switch [^>]*?) +title="[^"]*"': r'\1 aria-hidden="true"',
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    # Names, marks and blanks in code have the colour of their block anyway.
    r'<span class="[npw]">([^<]*)</span>': r"\1",
    # A list holds items of a list.
    r'role="doc-biblioentry"': 'role="listitem"',
    # All that is on a page lies in a part of it that has a name.
    r'<div class="sidebar-primary-items__start sidebar-primary__section">':
        '<div class="sidebar-primary-items__start sidebar-primary__section" role="region" aria-label="The book">',
    # The icons are in the theme's fonts too, which a page loads anyway.
    r' *<!-- So that users can add custom icons -->\s*<script src="[^"]*fontawesome\.js[^"]*"></script>\n': "",
    # A formula keeps its full stop and its bracket.
    r'(?<!book-together">)(?<!book-together">\()(\(?<span class="math notranslate nohighlight">[^<]*</span>[.,;:?!)]+)':
        r'<span class="book-together">\1</span>',
}
PERCENT = re.compile(r"<(pre|script)\b.*?</\1>|(\d) %", re.DOTALL)    # no line begins with its sign either
RULE = re.compile(r"([^{}]+)\{[^{}]*\}")    # of a style sheet, the innermost
NAME = re.compile(r"[\w-]+")
BUILT = ("bs-", "tooltip")                  # names that scripts put together from parts


def mend(page: str) -> str:
    """The HTML of a page with what is in `MENDED`; the same again for a page that is mended.

    >>> mend('<div class="citation" role="doc-biblioentry">')
    '<div class="citation" role="listitem">'
    >>> mend("<pre>5 % 3</pre> is not 5 %") == "<pre>5 % 3</pre> is not 5\\u00a0%"
    True
    """
    for old, new in MENDED.items():
        page = re.sub(old, new, page)
    return PERCENT.sub(lambda found: found[0] if found[1] else f"{found[2]}\u00a0%", page)


def is_used(selector: str, names: set[str]) -> bool:
    """Whether all classes of a selector are among `names`; when in doubt, yes.

    >>> is_used(".dark pre:not(.bright)", {"dark"}), is_used(".dark .bug", {"dark"})
    (True, False)
    """
    selector = re.sub(r":not\([^()]*\)", "", selector)
    classes = re.findall(r"\.([A-Za-z_][\w-]*)", selector)
    return "(" in selector or all(name in names or name.startswith(BUILT) for name in classes)


def only_used(sheet: str, names: set[str]) -> str:
    """A style sheet without the rules whose classes stand nowhere in the book: most of a theme's.

    >>> only_used(".a,.b{top:0}@media print{.b{top:1px}.a{top:2px}}", {"a"})
    '.a,.b{top:0}@media print{.a{top:2px}}'
    """
    def kept(rule: re.Match) -> str:
        selectors = rule[1]
        special = "@" in selectors or "/*" in selectors
        return rule[0] if special or any(is_used(each, names) for each in re.split(r",(?![^()]*\))", selectors)) else ""

    return RULE.sub(kept, sheet)


def lighter(png: bytes) -> bytes:
    """The same opaque picture in fewer bytes.

    >>> lighter(b"no picture")
    b'no picture'
    """
    try:
        picture = Image.open(io.BytesIO(png))
    except UnidentifiedImageError:
        return png
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
        return png
    into = io.BytesIO()
    picture.convert("RGB").save(into, "PNG", optimize=True)
    return min(png, into.getvalue(), key=len)


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
    title = re.sub('<span class="section-number">.*?</span>|<[^>]+>', "", context.get("title") or app.config.html_title)
    open_graph = {"title": title, "description": said, "type": "article", "site_name": app.config.html_title,
                  "url": f"{site()}{pagename}.html", "image": site() + CARD, "image:width": "1200", "image:height": "630",
                  "image:alt": "A tensor with three legs, D above, L and R below, beside the title of the book."}
    tags = [f'<meta property="og:{key}" content="{escape(value)}" />' for key, value in open_graph.items()]
    tags += [f'<meta name="description" content="{escape(said)}" />', '<meta name="twitter:card" content="summary_large_image" />']
    context["metatags"] = context.get("metatags", "") + "\n    ".join(["", *tags])


def without_records(app, docname: str, source: list[str]) -> None:
    """Take recorded numbers out of a notebook that is read: they are there for tests, and a captioned cell may show one thing only."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if book_files.RECORD not in output.get("data", {})]
    source[0] = json.dumps(notebook)


def finish(app, exception) -> None:
    """Mend and lighten all that a build that went well has written."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for path in out.rglob("*.html"):
        path.write_text(mend(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (out / "_static" / "scripts").glob("fontawesome.js*"):
        path.unlink()
    names = {name for path in [*out.rglob("*.html"), *own(out, "*.js")] for name in NAME.findall(path.read_text(encoding="utf-8"))}
    for path in own(out, "*.css"):
        path.write_text(only_used(path.read_text(encoding="utf-8"), names), encoding="utf-8")
    for path in (out / "_images").glob("*.png"):
        path.write_bytes(lighter(path.read_bytes()))


def own(out: Path, pattern: str) -> list[Path]:
    """The files of the site without those of MathJax."""
    return [path for path in (out / "_static").rglob(pattern) if "mathjax" not in path.parts]


def setup(app) -> dict[str, bool]:
    app.connect("source-read", without_records)
    app.connect("html-page-context", add_meta)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
