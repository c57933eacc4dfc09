"""Every built page for those who read with a screen reader, by keyboard, in the dark, or without motion: axe-core in Chromium, and focus.

All that is folded on a page is unfolded first. MathJax is left out except on one page: it draws the same everywhere, and slowly.
"""

import axe_core
import book_files
import pytest
import widget_pages

PAGES = [*book_files.pages(), "search", "genindex"]
DRAWN = "book/notation"                                # the page whose formulas are drawn
THEMES = ("light", "dark")
IN_A_THEME = ["color-contrast", "link-in-text-block"]  # the rules that a theme can break
GRAVE = ("serious", "critical")
each = pytest.mark.parametrize("page", PAGES)

WEAR = "document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0]"
UNFOLD = """
    document.querySelectorAll('details').forEach(details => { details.open = true; });
    document.querySelectorAll('.toggle-button-hidden').forEach(button => button.click());"""
SETTLE = "const done = arguments[0]; setTimeout(done, 400);"  # the theme looks for scrolling boxes 300 ms after a change
# Code has thousands of coloured words of a dozen kinds: one of each kind and ground stays, the others become plain text.
THIN = """
    const seen = new Set();
    const ground = element => (element.closest('.output, .cell_input, .admonition, dt, pre') || document.body).className;
    document.querySelectorAll('.highlight pre span, .sig-param, .sig-param span, .tlm-slider td').forEach(element => {
        const key = [element.tagName, element.className, ground(element)].join('|');
        if (seen.has(key) && element.tagName !== 'TD') { element.replaceWith(...element.childNodes); }
        else if (seen.has(key)) { element.setAttribute('data-same', ''); }
        seen.add(key);
    });"""
RUN = """
    const done = arguments[arguments.length - 1], only = arguments[0];
    axe.configure({rules: [{id: 'color-contrast', selector: '*:not([data-same])'}]});
    axe.run(document, {resultTypes: ['violations'], ...(only ? {runOnly: only} : {})}).then(
        found => done(found.violations.flatMap(rule => rule.nodes.map(
            node => [rule.impact, rule.id, node.target.join(' '), node.html.slice(0, 120), node.failureSummary.slice(0, 240)]))),
        error => done([['critical', 'axe-core', '', '', String(error)]]));"""
FOCUS = """
    const colour = element => getComputedStyle(element).backgroundColor;
    const opaque = element => !colour(element).startsWith('rgba') || parseFloat(colour(element).split(',')[3]) > 0.5;
    const ground = element => {
        while (element.parentElement && !opaque(element)) { element = element.parentElement; }
        return colour(element); };
    const able = 'a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex="-1"])';
    const seen = [...document.querySelectorAll(able)].filter(element => !element.disabled
        && element.checkVisibility({visibilityProperty: true, opacityProperty: true, contentVisibilityAuto: true}));
    return seen.map(element => {
        element.focus({preventScroll: true});
        const look = getComputedStyle(element);
        return [element.outerHTML.slice(0, 100), document.activeElement === element, look.outlineStyle, parseFloat(look.outlineWidth),
                look.outlineColor, ground(element.parentElement)]; });"""
MOVING = """
    const seconds = text => Math.max(...text.split(',').map(parseFloat));
    return [...document.querySelectorAll('*')].filter(element => {
        const look = getComputedStyle(element);
        return seconds(look.transitionDuration) > 0 || seconds(look.animationDuration) > 0 || look.scrollBehavior === 'smooth';
    }).map(element => element.outerHTML.slice(0, 100));"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core; tests that ask for it are skipped where npm cannot fetch it."""
    try:
        return axe_core.source()
    except axe_core.AbsentError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def visit(browser, html):
    """A page of the book, unfolded."""
    browser.execute_cdp_cmd("Network.enable", {})

    def load(page: str):
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [] if page == DRAWN else ["*mathjax*"]})
        browser.get((html / f"{page}.html").resolve().as_uri())
        browser.execute_script(UNFOLD)
        browser.execute_async_script("const done = arguments[0]; window.MathJax?.startup ? MathJax.startup.promise.then(done) : done();")
        browser.execute_async_script(SETTLE)
        return browser

    return load


def violations(browser, script: str, only: list[str] | None = None, impacts: tuple[str, ...] = GRAVE) -> list[str]:
    """What axe-core finds on the page that is open."""
    browser.execute_script(f"if (!window.axe) {{ {script} }}")
    return [" · ".join(found) for found in browser.execute_async_script(RUN, only) if found[0] in impacts]


@each
def test_no_serious_or_critical_violation_in_either_theme(visit, axe, page):
    browser = visit(page)
    browser.execute_script(THIN)
    for theme in THEMES:
        browser.execute_script(WEAR, theme)
        assert violations(browser, axe, None if theme == "light" else IN_A_THEME) == [], theme


def test_formulas_were_drawn_where_they_are_not_left_out(visit):
    assert visit(DRAWN).find_elements("css selector", "mjx-container")


@pytest.mark.parametrize("theme", THEMES)
def test_no_serious_or_critical_violation_on_a_phone(visit, axe, browser, theme):
    with widget_pages.phone(browser, theme) as wear:
        visit("book/start")
        wear()
        assert violations(browser, axe) == []


def test_checks_of_axe_notice_what_they_are_for(browser, axe, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<!DOCTYPE html><html lang="en"><title>x</title><main><h1>x</h1><p style="color:#bbb">Faint words.</p><button></button>'
                    '<pre class="highlight"><pre><span class="k">if</span> <span class="k">if</span></pre></pre></main>', encoding="utf-8")
    browser.get(page.as_uri())
    browser.execute_script(THIN)
    assert len(browser.find_elements("css selector", "pre span")) == 1
    found = "\n".join(violations(browser, axe))
    assert "button-name" in found and "color-contrast" in found


def luminance(colour: str) -> float:
    """The relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@each
def test_the_keyboard_reaches_every_control_and_is_seen_there(visit, page):
    from selenium.webdriver.common.keys import Keys

    browser = visit(page)
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    for theme in THEMES:
        browser.execute_script(WEAR, theme)
        controls = browser.execute_script(FOCUS)
        assert len(controls) > 10
        bad = [control for control in controls if not control[1] or control[2] == "none" or control[3] < 2 or contrast(*control[4:]) < 3]
        assert bad == [], theme


def test_nothing_moves_for_those_who_asked_for_that(visit, browser):
    still = visit("book/06_tensor_form").execute_script(MOVING)
    assert still == []
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "no-preference"}]})
        assert browser.execute_script(MOVING), "without the wish the theme moves: the check sees that"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_contrast_is_that_of_wcag():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgba(255, 255, 255, 1)") == pytest.approx(4.48, abs=0.01)


def test_axe_core_is_the_pinned_one_or_its_absence_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(axe_core.AbsentError, match="npm is not installed"):
        axe_core.source(tmp_path)
    (tmp_path / f"axe-core-{axe_core.VERSION}.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="got integrity sha512-"):
        axe_core.source(tmp_path)
