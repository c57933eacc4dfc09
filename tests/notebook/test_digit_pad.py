"""The digit pad: its numbers are those of the layer and of its spectrum; and its page, as far as no browser is needed."""

import base64
import json
import math
import re

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given, settings, strategies as st

from tensorlm.notebook import digit_pad
from tensorlm.notebook.widgets import drawing, page as pages


def random_layer(seed: int, classes: int = 10, hidden: int = 32, kept: int = 6) -> dict[str, np.ndarray]:
    """Factors, and the `kept` eigenvalues of largest size with their eigenvectors for each class."""
    draw = np.random.default_rng(seed)
    D, L, R = (draw.normal(size=shape) / 8 for shape in ((classes, hidden), (hidden, 64), (hidden, 64)))
    values, vectors = np.linalg.eigh(interactions(D, L, R))
    order = np.argsort(-np.abs(values), axis=1)[:, :kept]
    return {"D": D, "L": L, "R": R, "values": np.take_along_axis(values, order, 1),
            "vectors": np.take_along_axis(vectors.transpose(0, 2, 1), order[..., None], 1)}


def interactions(D, L, R) -> np.ndarray:
    T = np.einsum("ch,hi,hj->cij", D, L, R)
    return (T + T.transpose(0, 2, 1)) / 2


LAYER = random_layer(0)
IMAGES = {f"image {i}": np.random.default_rng(i).integers(0, 17, 64) / 16 for i in range(10)}
PAD = digit_pad.pad("digits", **LAYER, examples=IMAGES, mean=0.3, scale=2.5)
images = st.lists(st.integers(0, 16), min_size=64, max_size=64).map(lambda ink: np.array(ink) / 16)
few = settings(max_examples=25)


def page(pad) -> BeautifulSoup:
    return BeautifulSoup(pad._repr_html_(), "html.parser")


def exact(pixels, chosen: int):
    """Logits and contributions in float64 from the factors as they were before rounding."""
    x = (pixels - 0.3) * 2.5
    logits = LAYER["D"] @ ((LAYER["L"] @ x) * (LAYER["R"] @ x))
    return logits, LAYER["values"][chosen] * (LAYER["vectors"][chosen] @ x) ** 2


@few
@given(images, st.integers(0, 9))
def test_shows_the_layer_and_its_spectrum(pixels, chosen):
    shown, (logits, parts) = PAD.evaluate(pixels, chosen), exact(pixels, chosen)
    size = np.abs(logits).max()
    assert [shown[f"logit{c}"] for c in range(10)] == pytest.approx(logits, abs=1e-5 * size)
    assert [shown[f"part{i}"] for i in range(1, 7)] == pytest.approx(parts, abs=1e-5 * max(size, np.abs(parts).max()))
    assert shown["part1"] == pytest.approx(shown["lambda1"] * shown["square1"])
    assert shown["rest"] + sum(shown[f"part{i}"] for i in range(1, 7)) == pytest.approx(shown["total"], abs=1e-9)
    assert shown["total"] == shown[f"logit{chosen}"] and shown["chosen"] == str(chosen)


@few
@given(images)
def test_explains_the_prediction_unless_told_otherwise(pixels):
    shown, best = PAD.evaluate(pixels), int(exact(pixels, 0)[0].argmax())
    assert shown["predicted"] == shown["chosen"] == str(best)
    assert shown == PAD.evaluate(pixels.reshape(8, 8), best)


def test_nothing_is_left_over_when_all_eigenvectors_are_kept():
    layer = random_layer(1, classes=2, hidden=3, kept=6)
    pad = digit_pad.pad("whole", **layer, examples=IMAGES)
    assert abs(pad.evaluate(IMAGES["image 1"])["rest"]) < 1e-5
    fewer = digit_pad.pad("part", **{**layer, "values": layer["values"][:, :2], "vectors": layer["vectors"][:, :2]}, examples=IMAGES)
    assert abs(fewer.evaluate(IMAGES["image 1"])["rest"]) > 1e-3


def test_empty_paper_says_nothing_where_its_logits_are_all_alike():
    pad = digit_pad.pad("plain", **LAYER, examples=IMAGES)
    shown = pad.evaluate(np.zeros(64))
    assert shown["predicted"] is None and shown["chosen"] == "0" and shown["total"] == 0
    assert PAD.evaluate(np.zeros(64))["predicted"] is not None, "there a mean is taken off, and the paper is not zero"


def test_weights_are_rounded_to_six_digits_and_evaluated_rounded():
    for key in ("D", "L", "R", "values"):
        stored = np.array(PAD.data[key])
        assert np.array_equal(stored, np.round(LAYER[key], 5 - int(np.floor(np.log10(np.abs(LAYER[key]).max())))))  # of the largest
        assert not np.array_equal(stored, LAYER[key])
    D, L, R = (np.array(PAD.data[key]) for key in "DLR")
    x = (IMAGES["image 3"] - 0.3) * 2.5
    assert [PAD.evaluate(IMAGES["image 3"])[f"logit{c}"] for c in range(10)] == pytest.approx(D @ ((L @ x) * (R @ x)), rel=1e-14)


def test_the_sign_of_an_eigenvector_changes_nothing():
    flipped = digit_pad.pad("digits", **{**LAYER, "vectors": -LAYER["vectors"]}, examples=IMAGES, mean=0.3, scale=2.5)
    assert flipped.data == PAD.data
    assert (np.array(PAD.data["vectors"]) @ np.sum(list(IMAGES.values()), axis=0) >= 0).all()


def test_takes_tensors_and_images_in_two_axes():
    layer = {key: torch.tensor(weights, dtype=torch.float32, requires_grad=True) for key, weights in LAYER.items()}
    image, mean = torch.tensor(IMAGES["image 0"]).reshape(8, 8), torch.full((8, 8), 0.3)
    pad = digit_pad.pad("digits", **layer, examples={"t": image}, mean=mean, scale=2.5)
    assert pad.evaluate(IMAGES["image 1"])["total"] == pytest.approx(PAD.evaluate(IMAGES["image 1"])["total"], rel=1e-4)


def test_examples_are_stored_in_sixteenths():
    pad = digit_pad.pad("x", **LAYER, examples={"grey": np.full(64, 0.34), "black": np.ones(64)})
    assert [each["ink"][0] for each in pad.data["examples"]] == [5, 16]


def test_page_is_small_always_the_same_and_asks_no_other_host():
    text = PAD._repr_html_()
    assert text == PAD._repr_html_() and len(text.encode()) < 150_000
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|\bimport\b|\bfetch\b|XMLHttp", text)
    assert repr(PAD) == "DigitPad 'digits': Draw a digit, and see why the layer calls it what it does"


def test_page_carries_the_data_it_evaluates():
    data = json.loads(page(PAD).select_one("script[data-tlm-data]").string)
    assert data.pop("stops") == [list(stop) for stop in digit_pad.STOPS]
    assert data == PAD.data
    assert digit_pad.evaluate(data, IMAGES["image 2"], 4) == PAD.evaluate(IMAGES["image 2"], 4)


def test_page_without_scripts_shows_the_first_example_and_its_numbers():
    soup, shown = page(PAD), PAD.evaluate(IMAGES["image 0"])
    for element in soup.select("[data-key]"):
        value = shown[element["data-key"]]
        if isinstance(value, str):
            assert element.text == value
        else:
            assert float(element["data-exact"]) == pytest.approx(value, rel=1e-6)
            assert float(element.text.replace("−", "-")) == pytest.approx(value, abs=0.0051)
    assert {element["data-key"] for element in soup.select("[data-key]")} == set(shown)
    ink = [int(re.search(r"ink (\d+) of 16", cell["aria-label"])[1]) for cell in soup.select("[role=gridcell]")]
    assert ink == [round(16 * pixel) for pixel in IMAGES["image 0"]]
    assert "still picture" in soup.select_one(".tlm-still").text


def test_page_marks_the_predicted_and_the_chosen_class():
    soup, shown = page(PAD), PAD.evaluate(IMAGES["image 0"])
    for mark in ("[data-top]", "[data-chosen]"):
        assert [row["data-class"] for row in soup.select(f"tr{mark}")] == [shown["predicted"]]
    assert [radio["value"] for radio in soup.select("input[checked][type=radio]")] == [shown["predicted"]]


def test_longest_bars_stay_in_their_tracks():
    bars = [dict(part.split(":") for part in bar["style"].split(";")) for bar in page(PAD).select("[data-bar]")]
    ends = [(float(bar["left"][:-1]), float(bar["left"][:-1]) + float(bar["width"][:-1])) for bar in bars]
    assert all(-0.01 <= left <= 50.01 and 49.99 <= right <= 100.01 for left, right in ends)
    assert max(right - left for left, right in ends) > 5


def test_everything_has_a_name_and_ids_of_its_own():
    soup = page(PAD)
    group = soup.select_one("[role=group][data-tlm-pad=digits]")
    assert group["aria-labelledby"] == soup.select_one(".tlm-title")["id"] == "tlm-digits-title"
    ids = [element["id"] for element in soup.select("[id]")]
    assert len(ids) == len(set(ids)) and all(name == "tlm-digits" or name.startswith("tlm-digits-") for name in ids)
    paper = soup.select_one("[role=grid]")
    assert paper["aria-label"] and soup.find(id=paper["aria-describedby"]).text
    assert len(paper.select("[role=row] > [role=gridcell]")) == 64
    assert soup.select_one("[role=status][aria-live=polite] [data-key=predicted]")
    assert all(button.text.strip() for button in soup.select("button"))
    assert all(radio["aria-label"].endswith(radio.parent.text) for radio in soup.select("input[type=radio]"))
    assert all(image["alt"] for image in soup.select("img"))
    assert [label["aria-labelledby"] for label in soup.select(".tlm-examples")] == ["tlm-digits-load"]


def test_labels_are_escaped():
    hostile = digit_pad.pad("x", **random_layer(2, classes=2), labels=["</script><b>", '"&'], examples={'"><i>': np.ones(64)}, title="<u>")
    text = hostile._repr_html_()
    assert "</script><b>" not in text and page(hostile).select("b, i:not([data-bar]), u") == []
    assert page(hostile).select_one("[data-example]")["aria-label"] == 'Load: "><i>'


def test_pictures_are_bitmaps_of_eight_by_eight():
    address = drawing.bitmap(np.array([(10, 20, 30)] + [(0, 0, 0)] * 62 + [(1, 2, 3)]))
    raw = base64.b64decode(address.removeprefix("data:image/bmp;base64,"))
    assert raw[:2] == b"BM" and int.from_bytes(raw[2:6], "little") == len(raw) == 54 + 192
    assert raw[54 + 7 * 24:54 + 7 * 24 + 3] == bytes([30, 20, 10]) and raw[54 + 7 * 3:54 + 24] == bytes([3, 2, 1])


def test_colours_have_zero_in_the_middle():
    assert drawing.diverging(0.0, 3.0).tolist() == [247, 247, 247]
    red, blue = drawing.diverging(2.0, 2.0), drawing.diverging(-2.0, 2.0)
    assert red[0] > red[2] and blue[2] > blue[0]


@pytest.mark.parametrize("value, decimals, signed, words", [
    (0.125, 2, False, "0.13"), (-0.125, 2, True, "−0.13"), (2.0, 0, True, "+2"), (-0.001, 2, True, "0.00"), (0.0, 1, True, "0.0"),
    (12345.678, 1, False, "12345.7"),
])
def test_numbers_are_rounded_away_from_zero_with_a_true_minus(value, decimals, signed, words):
    assert pages.rounded(value, decimals, signed) == words


def changed(**other):
    arguments = {"name": "n", **LAYER, "examples": IMAGES, **other}
    return lambda: digit_pad.pad(arguments.pop("name"), **arguments)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
@pytest.mark.parametrize("build, words", [
    (changed(name="Bad Name"), "name must be .* got 'Bad Name'"),
    (changed(L=LAYER["L"][:, :63]), r"shapes of D, L, R, .* got \(10, 32\), \(32, 63\)"),
    (changed(R=LAYER["R"][:31]), "shapes of D, L, R"),
    (changed(values=LAYER["values"][:9]), r"must be \(classes, h\).* got .*\(9, 6\)"),
    (changed(vectors=LAYER["vectors"][..., :8]), r"got .*\(10, 6, 8\)"),
    (changed(**random_layer(0, classes=0)), "not empty"),
    (changed(**random_layer(0, classes=21)), "20 classes"),
    (changed(**random_layer(0, hidden=65)), "64 hidden"),
    (changed(**random_layer(0, kept=13)), "12 eigenvectors"),
    (changed(D=LAYER["D"] * math.nan), "D must be finite numbers"),
    (changed(vectors=random_layer(5)["vectors"]), "vectors must be .* got number 0 of class 0, no eigenvector"),
    (changed(values=-LAYER["values"]), "no eigenvector"),
    (changed(values=LAYER["values"] * 4, vectors=LAYER["vectors"] * 2), "of length 1"),
    (changed(labels=["a"] * 10), "labels must be"),
    (changed(labels=["a", "b"]), "labels must be 10 different names"),
    (changed(examples={}), "examples must be a mapping of 1 to 20"),
    (changed(examples={" ": np.ones(64)}), "examples must be a mapping of 1 to 20 names"),
    (changed(examples={3: np.ones(64)}), "examples must be a mapping of 1 to 20 names, got {3"),
    (changed(examples={"a": np.ones(63)}), r"example 'a' must be an image of shape \(64,\) or \(8, 8\), got ndarray of shape \(63,\)"),
    (changed(examples={"a": np.full(64, 16.0)}), "example 'a' must be values from 0 .* got values from 16 to 16"),
    (changed(examples={"a": np.full(64, np.nan)}), "example 'a' must be finite numbers"),
    (changed(mean=np.zeros(10)), r"mean must be .* got ndarray of shape \(10,\)"),
    (changed(mean=math.inf), "mean must be"),
    (changed(scale=0.0), "scale must be .* got 0.0"),
    (changed(scale=[1.0, 2.0]), "scale must be"),
    (changed(scale=1e200), "overflow"),
    (lambda: PAD.evaluate(np.ones((4, 16))), r"pixels must be .* got ndarray of shape \(4, 16\)"),
    (lambda: PAD.evaluate(np.full(64, -0.1)), "pixels must be .* got values from -0.1"),
    (lambda: PAD.evaluate(np.ones(64), 10), "chosen must be a whole number from 0 to 9, got 10"),
    (lambda: PAD.evaluate(np.ones(64), "3"), "chosen must be .* got '3'"),
])
def test_wrong_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
