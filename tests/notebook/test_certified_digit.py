"""The pad of certified digits: its numbers are those of `tensorlm.proofs.certificate`; and its page, as far as no browser is needed."""

import json
import re

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given, settings, strategies as st

from tensorlm.notebook.widgets import certified_digit
from tensorlm.notebook.widgets.page import rounded
from tensorlm.proofs import certificate
from tensorlm.tensors import CPTensor

draw = np.random.default_rng(0)
LAYER = {"D": draw.normal(size=(5, 16)) / 4, "L": draw.normal(size=(16, 65)) / 8, "R": draw.normal(size=(16, 65)) / 8}
IMAGES = {f"image {i}": np.random.default_rng(i).integers(0, 17, 64) / 16 for i in range(4)}
PAD = certified_digit.certified_pad("digits", **LAYER, examples=IMAGES, title="Near <b>")
images = st.lists(st.integers(0, 16), min_size=64, max_size=64).map(lambda ink: np.array(ink) / 16)


def page(pad=PAD) -> BeautifulSoup:
    return BeautifulSoup(pad._repr_html_(), "html.parser")


def proven(pixels):
    """What the package certifies, from the weights as they stand in the page."""
    return certificate(CPTensor(*(torch.tensor(PAD.data[key], dtype=torch.float64) for key in "DLR")), torch.tensor(pixels)[None])


@settings(max_examples=25, deadline=None)
@given(images)
def test_shows_the_certificate(pixels):
    shown, exact = PAD.evaluate(pixels), proven(pixels)
    assert shown["radius"] == pytest.approx(float(exact.radius), rel=1e-8)
    assert shown["rival"] == str(int(exact.rival))
    assert {key: value for key, value in shown.items() if key.startswith("to")} == pytest.approx(
        {f"to{c}": float(size) for c, size in enumerate(exact.distances[0]) if size.isfinite()}, rel=1e-8)
    assert f"to{shown['predicted']}" not in shown
    assert np.array(shown["step"]) + pixels == pytest.approx(exact.nearest[0].numpy(), abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(images)
def test_the_step_flips_the_class_and_a_shorter_one_does_not(pixels):
    shown, D, L, R = PAD.evaluate(pixels), *(np.array(PAD.data[key]) for key in "DLR")

    def says(share: float) -> str:
        x = np.append(1.0, pixels + share * np.array(shown["step"]))
        return str(int((D @ ((L @ x) * (R @ x))).argmax()))

    assert says(1 - 1e-6) == shown["predicted"] and says(1 + 1e-6) == shown["rival"]
    assert np.linalg.norm(shown["step"]) == pytest.approx(shown["radius"], rel=1e-9)


def test_page_is_the_same_every_time_small_and_asks_no_other_host():
    text = PAD._repr_html_()
    assert text == PAD._repr_html_() and len(text) < 150_000
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)
    assert page().select_one("b") is None and "Near &lt;b&gt;" in text


def test_page_without_scripts_shows_the_first_example():
    soup, expected = page(), PAD.evaluate(IMAGES["image 0"])
    shown = {element["data-key"]: element for element in soup.select("[data-key]")}
    assert set(shown) == {"predicted", "rival", "radius", *(f"to{c}" for c in range(5))}
    assert shown["predicted"].text == expected["predicted"] and shown["rival"].text == expected["rival"]
    for c in range(5):
        own = f"to{c}" not in expected
        assert shown[f"to{c}"].text == ("is it" if own else rounded(expected[f"to{c}"]))
    assert [len(svg.select("rect")) for svg in soup.select("[data-image]")] == [64, 64, 64]
    assert soup.select_one("tr[data-top] th").text == expected["predicted"]
    assert soup.select_one("tr[data-chosen] th").text == expected["rival"]
    assert certified_digit.evaluate(json.loads(soup.select_one("script[data-tlm-data]").string), IMAGES["image 0"]) == expected
    assert all(element["id"].startswith("tlm-digits") for element in soup.select("[id]"))


def test_the_three_images_are_the_drawn_one_the_step_and_their_sum():
    pixels = IMAGES["image 0"]
    step = np.array(PAD.evaluate(pixels)["step"])
    colours = certified_digit.colours(pixels, step)
    assert colours["drawn"][:, 0].tolist() == [255 - int(14.5 * 16 * pixel + 0.4999) for pixel in pixels]
    assert (colours["step"][step > 0.5 * step.max(), 0] > colours["step"][step > 0.5 * step.max(), 2]).all()  # red adds ink
    darker = (pixels + step).clip(0, 1) > pixels + 0.01
    assert (colours["nearest"][darker, 0] < colours["drawn"][darker, 0]).all()


@pytest.mark.parametrize("changed, words", [
    (dict(L=LAYER["L"][:, 1:]), r"D, L, R must be of shapes \(classes, h\), \(h, 65\)"),
    (dict(D=LAYER["D"][:1]), "2 to 20 classes"),
    (dict(D=LAYER["D"][0]), "D, L, R must be of shapes"),
    (dict(examples={}), "examples must be a mapping"),
    (dict(examples={"a": np.full(64, 2.0)}), "values from 0 to 1"),
    (dict(labels=["a", "a", "b", "c", "d"]), "5 different names"),
    (dict(D=np.zeros((5, 16))), "each two classes differ by a Q of both signs"),
    (dict(L=LAYER["R"], D=np.outer([1, 2], np.abs(LAYER["D"][0]))), "each two classes differ by a Q of both signs"),
    (dict(L=LAYER["L"] * np.nan), "L must be"),
])
def test_wrong_arguments_are_named(changed, words):
    with pytest.raises(ValueError, match=words):
        certified_digit.certified_pad(**{"name": "n", **LAYER, "examples": IMAGES, **changed})
