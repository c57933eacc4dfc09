"""Ranked digits: the lists are the ends of the scores, the page has only the pictures that it shows, and bad input is named."""

import numpy as np
import pytest

from tensorlm.notebook import ranked_digits


def made(count=3, **changes):
    draw = np.random.default_rng(0)
    given = dict(train=draw.integers(0, 17, (30, 64)) / 16, labels=draw.integers(0, 10, 30).tolist(),
                 tests=draw.integers(0, 17, (4, 64)) / 16, test_labels=[3, 1, 4, 1],
                 scores={"one": draw.normal(size=(30, 4)), "other": draw.normal(size=(30, 4))})
    return ranked_digits.ranked("made", **{**given, **changes}, count=count), {**given, **changes}


def test_the_lists_are_the_ends_of_the_scores():
    widget, given = made()
    shown = widget.evaluate(2, 1)
    column = given["scores"]["other"][:, 2]
    assert [index for index, _ in shown["helpful"]] == np.argsort(column)[:3].tolist()
    assert [index for index, _ in shown["harmful"]] == np.argsort(column)[::-1][:3].tolist()
    assert [score for _, score in shown["helpful"]] == [round(value, 3) for value in np.sort(column)[:3]]
    assert shown["label"] == 4 and shown != widget.evaluate(2, 0)


def test_the_page_holds_the_pictures_that_it_shows_and_no_other():
    widget, _ = made(count=1)
    assert len(widget.data["train"]) <= 2 * 2 * 4
    html = widget._repr_html_()
    assert html == made(count=1)[0]._repr_html_() and html.count("<img") == 3
    assert "<details>" in html and "http" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(("change", "message"), [
    (dict(train=np.ones((30, 63))), "train must be images"), (dict(tests=np.full((4, 64), 2.0)), "tests must be images"),
    (dict(labels=[1]), "labels must be one for each"), (dict(scores={}), "scores must be a mapping of 1 to 6 names"),
    (dict(scores={"one": np.ones((4, 30))}), "scores of 'one' must be of shape"),
    (dict(count=16), "count must be a whole number from 1 to 15"),
])
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        count = change.pop("count", 3)
        made(count, **change)


def test_numbers_of_lists_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="chosen must be"):
        made()[0].evaluate(4, 0)
