"""The language model of the pages, in a browser without network: equal to Python's, quick, moved by keyboard, fit for a phone."""

import contextlib
import copy
import json
import random

import page_models
import pytest
import torch
import widget_pages
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from tensorlm.data.shakespeare import plays
from tensorlm.data.toy import ToyData
from tensorlm.notebook import language_model
from tensorlm.steering import as_polynomial, embedding_difference, steering_response

SPEAKERS = page_models.speakers()[:2]
ODD = " \n\t'sabcé日本🎭1234567890.,;!?-—\u00a0\u0085\u2003\ufeffl'llreveTHE"
TEXTS = 1000
AFTER_FRAMES = """var left = arguments[0], done = arguments[1];
    (function next() { if (left-- > 0) { requestAnimationFrame(next); } else { done(); } })();"""


@pytest.fixture(scope="module")
def root(browser, tmp_path_factory):
    """A page with both models of the front page inside it, and the toy model in two more widgets."""
    widget = language_model.language_model("speaks", SPEAKERS, inside=True)
    path = widget_pages.make_page(tmp_path_factory.mktemp("speaks") / "made.html", widget)
    browser.set_script_timeout(120)
    browser.get(path.resolve().as_uri())
    found = browser.find_element("css selector", "[data-tlm-speaks]")
    settled(browser, found)
    return found


def settled(browser, root):
    """Wait until the widget has compared the model with all its marks."""
    WebDriverWait(browser, 60).until(lambda _: root.get_attribute("data-ready") and root.get_attribute("data-agreed"))


def ask(root, script, *arguments):
    """Run a function body with the widget's `model` and `engine` and the arguments `given`."""
    return root.parent.execute_script(
        f"var {{model, engine}} = arguments[0].tlm, given = [].slice.call(arguments, 1); {script}", root, *arguments)


def choose(browser, root, key, value):
    box = root.find_element("css selector", f"[data-{key}]")
    if box.get_attribute("value") != str(value):
        root.parent.execute_script("arguments[0].dataset.agreed = ''", root)
        Select(box).select_by_value(str(value))
    settled(browser, root)


@pytest.fixture(scope="module", params=range(len(SPEAKERS)), ids=lambda number: SPEAKERS[number].name)
def speaker(request, browser, root):
    choose(browser, root, "model", request.param)
    return SPEAKERS[request.param]


def texts_of(speaker):
    draw = random.Random(0)
    if speaker.name == "toy-polynomial":
        return [ToyData().decode(row[: draw.randrange(1, 30)]) for row in ToyData().valid_windows(64)[:TEXTS]]
    play = plays()["macbeth"]
    starts = [draw.randrange(len(play)) for _ in range(TEXTS - 100)]
    odd = ["".join(draw.choices(ODD, k=draw.randrange(1, 60))) for _ in range(100)]
    return [play[a : a + draw.randrange(1, 120)] for a in starts] + odd


def test_a_thousand_texts_have_the_same_tokens(root, speaker):
    texts = texts_of(speaker)
    both = "return given[0].map(function (text) { var ids = model.tokens.encode(text); return [ids, model.tokens.decode(ids)]; });"
    found = ask(root, both, texts)
    assert len(texts) == TEXTS and found == [[speaker.codec.encode(text), text] for text in texts]


def test_logits_at_every_position_are_those_of_python(root, speaker):
    tokens = speaker.codec.encode(" ".join(texts_of(speaker)[:6]))[:90]  # past the window of the learned table
    assert len(tokens) > speaker.model.config.context
    each = "var state = model.state(); return given[0].map(function (token) { return Array.from(model.step(token, state)); });"
    found = ask(root, each, tokens)
    with torch.no_grad():
        expected = copy.deepcopy(speaker.model).double().eval()(torch.tensor([tokens]))[0]
    error = (torch.tensor(found, dtype=torch.float64) - expected).abs().amax() / expected.abs().amax()
    assert error < 1e-12, "six digits were asked for"


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("place", ["all", "last"])
def test_tipping_points_are_those_of_python(root, speaker, layer, place):
    model, pair = as_polynomial(speaker.model), speaker.pairs[0]
    vector = embedding_difference(model, *map(speaker.codec.encode, pair))
    tokens = speaker.codec.encode(speaker.prompt)
    response = steering_response(model, torch.tensor(tokens), vector, layer, "all" if place == "all" else -1, interval=(-2.0, 2.0))
    found = ask(root, "var last = given[0].length - 1, at = function (place) { return given[3] === 'all' || place === last; };"
                      "var found = model.response(given[0], Float64Array.from(given[1]), given[2], at, 2);"
                      "return engine.tippingPoints(found, -2, 2, 400);", tokens, vector.tolist(), layer, place)
    expected = response.tipping_points()
    assert [(p["before"], p["after"]) for p in found] == [(p.before, p.after) for p in expected] and len(expected) > 0
    assert max(abs(p["strength"] - q.strength) for p, q in zip(found, expected)) < 1e-8


def test_the_running_model_turns_over_at_every_mark(browser, root, speaker):
    for layer in (1, 0):
        choose(browser, root, "layer", layer)
        marks = root.find_elements("css selector", "[data-mark]")
        assert len(marks) == int(root.get_attribute("data-agreed")) > 0
        places = [float(mark.get_attribute("data-mark")) for mark in marks]
        gaps = [end - start for start, end in zip(places, [*places[1:], 2.0])]
        widest = max(range(len(gaps)), key=gaps.__getitem__)
        assert gaps[widest] > 0.03, "three steps of the slider, so that the next mark is not passed too"
        for place in (-2.0, None):  # from the left end to just above the mark, by the slider and then by the button of the mark
            before = root.get_attribute("data-updated")
            if place is None:
                marks[widest].click()
            else:
                root.parent.execute_script("var c = arguments[0].querySelector('[data-input]'); c.value = arguments[1];"
                                           "c.dispatchEvent(new Event('input', {bubbles: true}));", root, place)
            WebDriverWait(browser, 20).until(lambda _, before=before: root.get_attribute("data-updated") != before)
        assert root.get_attribute("data-leads") == marks[widest].get_attribute("data-after")
    choose(browser, root, "layer", 1)


def test_the_page_shows_what_python_computes(browser, root, speaker):
    alone = language_model.language_model("alone", [speaker], inside=True)
    for strength in (-1.5, 0.0, 0.7):
        before = root.get_attribute("data-updated")
        root.parent.execute_script("var c = arguments[0].querySelector('[data-input]'); c.value = arguments[1];"
                                   "c.dispatchEvent(new Event('input', {bubbles: true}));", root, strength)
        WebDriverWait(browser, 20).until(lambda _, before=before: root.get_attribute("data-updated") != before)
        rows = root.find_elements("css selector", "[data-next]")
        assert len(rows) == language_model.ROWS
        for row, (piece, chance) in zip(rows, alone.evaluate(strength).items()):
            assert speaker.codec.decode([int(row.get_attribute("data-token"))]) == piece
            shown = row.find_element("css selector", "[data-now]")
            assert float(shown.get_attribute("data-exact")) == pytest.approx(chance, rel=1e-6, abs=1e-9)


def test_temperature_and_top_k_are_those_of_python(root, speaker):
    tokens = torch.tensor([speaker.codec.encode(speaker.prompt)])
    with torch.no_grad():
        logits = copy.deepcopy(speaker.model).double().eval()(tokens)[0, -1]
    for temperature, top in ((0.5, 5), (2.0, 0), (1.0, 1)):
        kept = logits.argsort(descending=True, stable=True)[: top or len(logits)]
        expected = torch.zeros_like(logits).index_put_((kept,), (logits[kept] / temperature).softmax(-1))
        found = ask(root, "return Array.from(engine.probabilities(given[0], given[1], given[2]));", logits.tolist(), temperature, top)
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-9, atol=1e-12)


def test_greedy_text_is_that_of_python_and_a_seed_gives_the_same_text_again(root, speaker):
    prompt = speaker.codec.encode(speaker.prompt)
    write = ("var state = model.state(), logits = model.logits(given[0], null, state), draw = engine.randomOf(given[2]), said = [], i;"
             "for (i = 0; i < 80; i += 1) {"
             "said.push(engine.sample(logits, given[1], 40, draw)); logits = model.step(said[i], state); } return said;")
    model = copy.deepcopy(speaker.model).double().eval()
    assert ask(root, write, prompt, 0, 1) == model.generate(torch.tensor([prompt]), 80, temperature=0.0)[0, len(prompt) :].tolist()
    first, again, other = (ask(root, write, prompt, 1, seed) for seed in (3, 3, 4))
    assert first == again != other


def test_memory_does_not_grow_with_the_text(root, speaker):
    sizes = ask(root, "var state = model.state(), i; for (i = 0; i < given[0]; i += 1) { model.step(1, state); }"
                      "return state.layers.map(function (past) { return [past.keys.length, past.values.length, past.sums.length]; });", 200)
    config = speaker.model.config
    assert sizes == [[config.context, config.context, config.width * config.head_dim**2]] * config.layers


def test_it_moves_by_keyboard_and_asks_no_other_host(browser, root):
    control = root.find_element("css selector", "[data-input]")
    before = root.get_attribute("data-updated"), control.get_attribute("value")
    control.send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(browser, 20).until(lambda _: root.get_attribute("data-updated") != before[0])
    assert float(control.get_attribute("value")) == pytest.approx(float(before[1]) + 0.01)
    assert control.get_attribute("aria-valuetext").startswith("α = ")
    assert not widget_pages.from_afar(widget_pages.fetched(browser))


def test_an_own_pair_an_unknown_word_and_an_empty_text_are_answered(browser, root):
    choose(browser, root, "model", 1)
    Select(root.find_element("css selector", "[data-pair]")).select_by_visible_text("your own")
    box = root.find_element("css selector", "[data-prompt]")
    status = root.find_element("css selector", "[data-status]")
    box.clear()
    box.send_keys("the unicorn near the birds")
    WebDriverWait(browser, 20).until(lambda _: "unicorn" in status.text)
    box.clear()
    box.send_keys(" ")
    WebDriverWait(browser, 20).until(lambda _: "empty" in status.text)
    root.parent.execute_script("arguments[0].dataset.agreed = ''", root)
    box.send_keys("the bird")
    settled(browser, root)
    assert root.find_element("css selector", "[data-from]").is_displayed()


def test_weights_that_are_not_there_are_named(browser, tmp_path):
    path = widget_pages.make_page(tmp_path / "page.html", language_model.language_model("lost", SPEAKERS[:1], inside=False))
    browser.get(path.resolve().as_uri())
    status = browser.find_element("css selector", "[data-status]")
    WebDriverWait(browser, 20).until(lambda _: "_static/models/shakespeare-polynomial.js" in status.text)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_front_page_speaks_from_its_file_on_a_phone(browser, html, theme):
    with widget_pages.phone(browser, theme) as wear:
        browser.get((html / "book" / "index.html").resolve().as_uri())
        wear()
        root = browser.find_element("css selector", "[data-tlm-speaks]")
        settled(browser, root)
        widget_pages.require_fit(browser, [root])
        widget_pages.require_targets(root, "button, select, textarea")
    assert int(root.get_attribute("data-agreed")) == len(root.find_elements("css selector", "[data-mark]")) > 0


def test_weights_on_the_wire_are_small_and_none_is_lost(html):
    for speaker in page_models.speakers():
        path = html / "_static" / "models" / f"{speaker.name}.js"
        assert path.stat().st_size < 2_500_000
        page = json.loads(path.read_text(encoding="utf-8").partition("=")[2].partition("=")[2].rstrip(";\n"))
        assert page["dtype"] == "float16" and page == speaker.page()


@pytest.fixture(scope="module")
def fades(browser, tmp_path_factory):
    """A page with the widget of two models whose norms fade; `browser` asks for less motion, as all these tests do."""
    english, toy, late = page_models.speakers()
    widget = language_model.fading("fades", late, toy, inside=True)
    path = widget_pages.make_page(tmp_path_factory.mktemp("fades") / "page.html", widget)
    browser.get(path.resolve().as_uri())
    root = browser.find_element("css selector", "[data-tlm-fades]")
    WebDriverWait(browser, 20).until(lambda _: root.get_attribute("data-ready"))
    return root


def shares(root):
    return float(root.find_element("css selector", "[data-input]").get_attribute("value"))


def shown(root, key, number):
    """The words of a column of the widget that are not hidden, and their numbers."""
    rows = [row for row in root.find_elements("css selector", f"[data-{key}='{number}']") if row.is_displayed()]
    exact = [float(row.find_element("css selector", "[data-now]").get_attribute("data-exact")) for row in rows]
    return [row.find_element("css selector", "th").text for row in rows], exact


def set_share(root, share):
    root.parent.execute_script("var c = arguments[0].querySelector('[data-input]'); c.value = arguments[1];"
                               "c.dispatchEvent(new Event('input', {bubbles: true}));", root, share)


def test_norms_fade_in_the_page_as_in_python(fades):
    speakers = page_models.speakers()[2], page_models.speakers()[1]
    for share in (1.0, 0.5, 0.0):
        before = fades.get_attribute("data-updated")
        set_share(fades, share)
        assert fades.get_attribute("data-updated") != before
        for number, speaker in enumerate(speakers):
            chances = speaker.probabilities(0.0, 0, "all", share)
            words, found = shown(fades, "of", number)
            assert found == pytest.approx(sorted(chances, reverse=True)[: len(found)], rel=1e-6, abs=1e-12) and len(found) == 6
            assert words[:2] == [speaker.codec.decode([token]) for token in (-chances).argsort(kind="stable")[:2]]
            words, found = shown(fades, "size", number)
            assert words == speaker.prompt.split() and found == pytest.approx(speaker.sizes(share), rel=1e-5)


@contextlib.contextmanager
def motion(browser, wish):
    """The reader's system asks for this: "reduce", or "no-preference"."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": wish}]})
    browser.execute_async_script(AFTER_FRAMES, 3)  # a page hears of it with its next frame
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_norms_fade_by_a_button_that_pauses(browser, fades):
    set_share(fades, 0.0)
    button = fades.find_element("css selector", "[data-play]")
    with motion(browser, "no-preference"):
        assert button.is_displayed() and button.text.startswith("Play")
        button.send_keys(Keys.ENTER)
        WebDriverWait(browser, 20).until(lambda _: shares(fades) > 0.02)
        assert button.text == "Pause" and fades.find_element("css selector", "output").get_attribute("aria-live") == "off"
        button.send_keys(Keys.SPACE)
        stopped, frames = shares(fades), fades.get_attribute("data-updated")
        assert 0 < stopped < 1 and button.text.startswith("Play")
        browser.execute_async_script(AFTER_FRAMES, 10)
        assert (shares(fades), fades.get_attribute("data-updated")) == (stopped, frames), "it rests"
        set_share(fades, 0.97)
        button.click()
        WebDriverWait(browser, 20).until(lambda _: button.text.startswith("Play"))
        assert shares(fades) == 1.0, "it ends where the norms are gone, and does not begin again"
        button.click()
        WebDriverWait(browser, 20).until(lambda _: 0 < shares(fades) < 0.9)
        set_share(fades, 0.5)
        browser.execute_async_script(AFTER_FRAMES, 10)
        assert shares(fades) == 0.5 and button.text.startswith("Play"), "the slider takes over"


def test_who_asked_for_less_motion_gets_still_steps(browser, fades):
    set_share(fades, 0.0)
    button = fades.find_element("css selector", "[data-play]")
    with motion(browser, "reduce"):
        assert button.text == "Next step"
        for expected in (0.25, 0.5, 0.75, 1.0, 0.0):
            frames = int(fades.get_attribute("data-updated"))
            button.send_keys(Keys.ENTER)
            browser.execute_async_script(AFTER_FRAMES, 5)
            assert shares(fades) == expected and int(fades.get_attribute("data-updated")) == frames + 1


def test_the_fading_widget_fits_a_phone(browser, fades):
    with widget_pages.phone(browser):
        widget_pages.require_fit(browser, [fades])
        widget_pages.require_targets(fades, "button, input")
