"""One widget three times on a page, and numbers of every size, in headless Chromium: ids of their own, and text as Python writes it."""

import re

import pytest
import test_digit_pad
import test_stacked_parts
import test_steered_words

from tensorlm.notebook import sliders
from tensorlm.notebook.widgets.page import asset, precise, rounded

WIDGETS = {"slider": sliders.bilinear("made-here", [[1, 2]], [[1, 0], [0, 1]], [[1, 1], [2, 1]], [1.0, 0.5]),
           "stack": test_stacked_parts.made_here(), "steer": test_steered_words.made_here(), "pad": test_digit_pad.made_here()}
SIZES = [0.0, 1.0, -1.5e-5, 9.9999996, 2.0**-11, 123456.75, -1234567.5, 12345678.0, 1e-7, -1.5e-12, 1e15, 3.3e21, -2.5e300, 0.125]


def load(browser, path, *bodies: str) -> None:
    path.write_text('<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title><body>' + "".join(bodies), encoding="utf-8")
    browser.get(path.as_uri())


@pytest.mark.parametrize("kind", WIDGETS)
def test_three_copies_on_a_page_have_ids_of_their_own_and_move_alone(browser, tmp_path, kind):
    load(browser, tmp_path / "page.html", *[WIDGETS[kind]._repr_html_()] * 3)
    roots = browser.find_elements("css selector", ".tlm-slider")
    assert [root.get_attribute("id") for root in roots] == ["tlm-made-here", "tlm-made-here-2", "tlm-made-here-3"]
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(set(ids)) == len(ids) > 6
    astray = browser.execute_script("""
        const inside = (element, key) => element.closest('.tlm-slider').contains(document.getElementById(element.getAttribute(key)));
        return ['for', 'aria-labelledby', 'aria-describedby', 'aria-activedescendant'].flatMap(key =>
            [...document.querySelectorAll(`[${key}]`)].filter(element => !inside(element, key)).map(element => element.outerHTML));""")
    assert astray == []
    before = [root.text for root in roots]
    browser.execute_script("""
        const control = arguments[0].querySelector('input[type=range], tr:not([data-chosen]) input[type=radio]');
        if (control.type === 'radio') { control.click(); return; }
        control.value = control.max;
        control.dispatchEvent(new Event('input'));""", roots[1])
    after = [root.text for root in roots]
    assert after[1] != before[1] and (after[0], after[2]) == (before[0], before[2])
    assert all(len(root.find_elements("css selector", "input[type=radio]:checked")) == (kind == "pad") for root in roots)


def test_the_note_of_a_still_picture_is_gone_where_scripts_run(browser, tmp_path):
    load(browser, tmp_path / "page.html", *(widget._repr_html_() for widget in WIDGETS.values()))
    assert [each.is_displayed() for each in browser.find_elements("css selector", ".tlm-still")] == [False] * 4
    bare = [re.sub("<script.*?</script>", "", widget._repr_html_(), flags=re.S) for widget in WIDGETS.values()]
    load(browser, tmp_path / "bare.html", *bare)
    notes = browser.find_elements("css selector", ".tlm-still")
    assert all(each.is_displayed() and "run this cell" in each.text for each in notes) and len(notes) == 4


def test_numbers_of_every_size_are_written_alike(browser, tmp_path):
    load(browser, tmp_path / "page.html")
    words = browser.execute_script("return arguments[0].map(number => number.toPrecision(7))", SIZES)
    assert words == [precise(n) for n in SIZES]
    signed = re.search(r"function signed.*?\n  }", asset("strength.js"), re.S)[0]
    assert browser.execute_script(signed + "return arguments[0].map(signed)", SIZES) == [rounded(n, signed=True) for n in SIZES]
    text = re.search(r"function text.*?\n  }", asset("digit_pad.js"), re.S)[0]
    words = browser.execute_script(text + "return arguments[0].map(number => text(number, 3, true))", SIZES)
    assert words == [rounded(n, 3, signed=True) for n in SIZES]


@pytest.mark.parametrize("low, high, step, start", [(-1234567, 1234567, None, 0), (-2, 2, 1 / 3, 1), (0, 4, 1 / 11, 4),
                                                    (-3e-7, 3e-7, 1e-8, 1e-7)])
def test_a_slider_starts_where_python_starts_and_reaches_its_end(browser, tmp_path, low, high, step, start):
    slider = sliders.polynomial("made-here", {"square": [0, 0, 1e9], "line": [1, 1]}, low=low, high=high, step=step, start=start)
    load(browser, tmp_path / "page.html", slider._repr_html_())
    control = browser.find_element("css selector", "input")
    for value in (slider.data["inputs"][0]["start"], slider.data["inputs"][0]["last"]):
        assert float(control.get_attribute("value")) == pytest.approx(value, rel=1e-15)
        shown = [cell.text for cell in browser.find_elements("css selector", "[data-key]")]
        expected = slider.evaluate([float(control.get_attribute("value"))])
        assert [float(number) for number in shown] == pytest.approx(list(expected.values()), rel=1e-6)
        assert control.get_attribute("aria-valuetext") == "a = " + browser.find_element("css selector", "output").text
        browser.execute_script("arguments[0].value = arguments[0].max; arguments[0].dispatchEvent(new Event('input'))", control)
    assert float(control.get_attribute("value")) == pytest.approx(high, rel=1e-12)
