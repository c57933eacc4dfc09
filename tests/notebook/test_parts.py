"""Set-up, recorded numbers, figures and live views."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tensorlm.notebook import (
    checks,
    digit_pad,
    figures,
    live,
    path_figure,
    session,
    setup,
    sliders,
    stacked_parts,
    steered_tokens,
    tensor_networks,
)


def test_setup_makes_two_runs_alike(capsys):
    device = setup(threads=1, seed=3)
    first = torch.randn(4), np.random.rand(4)
    setup(threads=1, seed=3)
    assert torch.equal(first[0], torch.randn(4)) and (first[1] == np.random.rand(4)).all()
    setup(threads=1, seed=4)
    assert not torch.equal(first[0], torch.randn(4))
    assert torch.get_num_threads() == 1 and torch.get_default_dtype() == torch.float32
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len(lines[0]) < 90 and device.type in ("cpu", "cuda")


def test_setup_refuses_no_threads():
    with pytest.raises(ValueError, match="threads must be .* got 0"):
        setup(threads=0)


@pytest.mark.parametrize("value, digits, text", [
    (1.58749, 3, "x = 1.587"), (torch.tensor(0.5), 2, "x = 0.50"), (np.float32(2.0), 1, "x = 2.0"), (7, 3, "x = 7"),
    (np.int64(12345), 3, "x = 12345"), (3.21e-12, 1, "x = 3.2e-12"), (0.0, 2, "x = 0.00"), (-0.5, 1, "x = -0.5"),
])
def test_records_read_back_what_they_store_and_print_nothing(value, digits, text, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(session, "display", lambda data, raw: shown.append(data))
    session.record("x", value, digits)
    assert shown == [{session.RECORD: text}] and not capsys.readouterr().out
    assert session.recorded(text) == {"x": text.removeprefix("x = ")}


@pytest.mark.parametrize("name, value", [("1x", 1.0), ("a b", 1.0), ("", 1.0), ("x", float("nan")), ("x", float("inf"))])
def test_records_refuse_bad_names_and_values(name, value):
    with pytest.raises(ValueError, match="must be"):
        session.record(name, value)


def test_a_name_recorded_with_two_values_is_an_error():
    assert session.recorded("x = 1.0\nx = 1.0") == {"x": "1.0"}
    with pytest.raises(ValueError, match="x must be recorded with one value, 1.0, got .2.0."):
        session.recorded("x = 1.0\nx = 2.0")


def test_a_band_that_is_never_wide_is_named_at_its_beginning():
    fig, ax = plt.subplots()
    figures.bands(ax, [0, 1, 2], {"thin": [0.1, 0.1, 0.2], "wide": [0.2, 0.9, 0.8]})
    assert [(name.get_text(), name.get_position()[0]) for name in ax.texts] == [("thin", 0.0), ("wide", 2.0)]
    plt.close(fig)


def test_images_have_zero_in_the_middle():
    fig = figures.images(torch.tensor([[[[0.5, -2.0], [1.0, 0.0]]]], requires_grad=True))
    image = fig.axes[0].images[0]
    assert image.get_clim() == (-2.0, 2.0)
    assert np.allclose(image.cmap(image.norm(0.0)), 1.0, atol=0.05), "zero is white"
    assert figures.images([[[[0.0]]]]).axes[0].images[0].get_clim() == (-1.0, 1.0)
    assert figures.images([[[[1.0]]]], limit=4.0).axes[0].images[0].get_clim() == (-4.0, 4.0)
    plt.close("all")


@pytest.mark.parametrize("pictures", [[1.0, 2.0], [[[[np.nan]]]]])
def test_images_refuse_what_is_none(pictures):
    with pytest.raises(ValueError, match="pictures must be"):
        figures.images(pictures)


def test_style_is_opaque_and_tells_lines_apart_without_colour():
    figures.style()
    assert plt.rcParams["figure.facecolor"] == "white" and not plt.rcParams["savefig.transparent"]
    cycle = list(plt.rcParams["axes.prop_cycle"])
    assert len({str(entry["linestyle"]) for entry in cycle}) == len({entry["color"] for entry in cycle}) == 7


def test_live_slider_follows_its_control():
    view = live.slider(lambda a: f"<b>{a:.1f}</b>", "a", -1, 1, start=0.5)
    control, shown = view.box.children
    assert shown.value == "<b>0.5</b>"
    control.value = -1.0
    assert shown.value == "<b>-1.0</b>"


def test_live_slider_is_a_sentence_where_no_kernel_runs(monkeypatch):
    sent = []
    monkeypatch.setattr(live, "display", lambda data, raw: sent.append(data))
    view = live.slider(abs, "a", -1, 1, start=0.5, description="size")
    view._ipython_display_()
    assert sent[0]["text/plain"] == view.sentence and "size" in view.sentence
    assert sent[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == view.box.model_id


def test_live_slider_refuses_a_start_outside():
    with pytest.raises(ValueError, match="start must be .* got 3"):
        live.slider(abs, "a", -1, 1, start=3)


# Odd inputs -------------------------------------------------------------------------------------------------------------

ODD = [None, "$T_$", "", -1, 0, 1.5, True, float("nan"), float("inf"), 1e308, 5e-324, 10**400, 10**5000, [], [[]], [None], ["a"], {},
       {"a": 1}, 1j, b"ab", object(), int, [[1.0], [1.0, 2.0]], np.array(["a", "b"]), np.array([[1j, 2.0]]),
       torch.tensor([[3, 1], [4, 1]]), torch.ones(1, 2, 3), torch.ones(2, 2, dtype=torch.complex64), torch.empty(0),
       torch.eye(2).to_sparse()]
EYE, ROW = [[1, 0], [0, 1]], np.eye(8).ravel()[None] / 8
RANGE = dict(low=-2.0, high=2.0, step=0.05, title="t")
LEAF = {"label": "vector", "kind": "vector", "value": 1.5, "children": []}
TREE = {"label": "are", "kind": "readout", "value": 2.0, "children": [LEAF, {**LEAF, "value": 0.5}]}
PARTS = dict(parts={"cross": 1, "self": 2}, choices={"output": ["first", "second"]}, values=[[3.0, 1.0], [0.0, -1.0]])
STEERED = dict(prompts=[steered_tokens.Prompt("the dog", {"is": 0, "are": 1}, "are")], vectors=["plural"], logits=[[[[1, 0], [0, 2]]]],
               paths=[[[[0, 2]]]], labels=["all"])
PAD = dict(D=[[1.0], [-1.0]], L=ROW, R=ROW, values=[[0.125], [-0.125]], vectors=np.repeat(8**0.5 * ROW[None], 2, axis=0),
           examples={"a": ROW[0]})


CALLS = {  # a function, and arguments that it takes
    "images": (lambda **given: figures.images(**given).draw_without_rendering(),
               dict(pictures=[[[[1.0]], [[2.0]]]], titles="ab", names="c", size=0.6)),
    "bilinear": (lambda **given: sliders.bilinear(**given)._repr_html_(), dict(name="n", D=[[1, -1]], L=EYE, R=EYE, point=[1, 0], **RANGE)),
    "scale": (lambda **given: sliders.scale(**given)._repr_html_(),
              dict(name="n", D=[[1, -1]], L=EYE, R=EYE, point=[1, 0], output=0, start=1.0, **RANGE)),
    "polynomial": (lambda **given: sliders.polynomial(**given)._repr_html_(),
                   dict(name="n", curves={"s": [0, 1]}, variable="a", start=1.0, y=(0, 4), **RANGE)),
    "curve": (lambda c, above, below: sliders.polynomial("n", {"c": c, "q": (above, below)})._repr_html_(),
              dict(c=[0, 1], above=[1.0], below=[1.0])),
    "slider": (lambda values: sliders.polynomial("n", {"s": [0, 1]}).evaluate(values), dict(values=[1.0])),
    "stack": (lambda **given: stacked_parts.stack(**given)._repr_html_(),
              dict(name="n", variable="a", total="sum", start=1.0, **PARTS, **RANGE)),
    "stack, entries": (lambda power, options: stacked_parts.stack("n", {"a": power, "b": 2}, {"o": options}, PARTS["values"]),
                       dict(power=1, options=["a", "b"])),
    "stacked": (lambda strength, chosen: stacked_parts.stack("n", **PARTS).evaluate(strength, chosen), dict(strength=1.0, chosen=[0])),
    "steer": (lambda **given: steered_tokens.steer(**given)._repr_html_(), dict(name="n", variable="a", start=1.0, **STEERED, **RANGE)),
    "prompt": (lambda **given: steered_tokens.steer("n", **{**STEERED, "prompts": [steered_tokens.Prompt(**given)]})._repr_html_(),
               dict(text="the dog", words={"is": 0}, contest="are")),
    "steer, entries": (lambda token, logits, paths: steered_tokens.steer("n", **{
        **STEERED, "prompts": [steered_tokens.Prompt("p", {"is": token}, "c")], "logits": [[logits]], "paths": [[paths]]})._repr_html_(),
        dict(token=0, logits=[[1, 0], [0, 2]], paths=[[0, 2]])),
    "steered": (lambda **given: steered_tokens.steer("n", **STEERED).evaluate(*given.values()), dict(strength=1.0, chosen=(0, 0))),
    "pad": (lambda **given: digit_pad.pad(**given)._repr_html_(), dict(name="n", labels=["a", "b"], mean=0.0, scale=1.0, title="t", **PAD)),
    "pad, shown": (lambda pixels, chosen: digit_pad.pad("n", **PAD).evaluate(pixels, chosen), dict(pixels=ROW[0], chosen=0)),
    "trace": (lambda **given: path_figure.draw_trace(**given).draw_without_rendering(), dict(tree=TREE, unit="logits", digits=1)),
    "node": (lambda **given: path_figure.draw_trace({**TREE, "children": [LEAF, given]}).draw_without_rendering(), LEAF),
    "root": (lambda **given: path_figure.draw_trace(given).draw_without_rendering(), TREE),
    "live": (lambda **given: live.slider(**given),
             dict(function=abs, variable="a", low=-2.0, high=2.0, start=1.0, description="d", step=0.1)),
    "live, result": (lambda result: live.slider(lambda a: result), dict(result=1.0)),
    "record": (session.record, dict(name="x", value=1.0, digits=2)),
    "recorded": (session.recorded, dict(text="x = 1")),
    "check": (lambda exercise_id: checks.check(exercise_id, 1), dict(exercise_id="02.1")),
    "exercise": (lambda mutants: checks.Exercise("00.1", "t", len, mutants), dict(mutants=(1, 2))),
    "setup": (setup, dict(threads=1, seed=0)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_odd_inputs_are_taken_or_refused_in_our_words(name):
    call, given = CALLS[name]
    if given:
        call(**given)
    for argument in given or ["ax"]:
        for odd in ODD:
            try:
                call(**{**given, argument: odd})
            except (ValueError, TypeError) as error:
                assert re.match(r".+ must be .+, got .+", str(error), re.DOTALL), (argument, odd, error)
            finally:
                plt.close("all")


@pytest.mark.parametrize("call, words", [  # taken before, and drawn wrong
    (lambda: figures.images([[[[1.0]]]], limit=-1.0), "limit must be a finite number above 0 .*got -1.0"),
    (lambda: figures.images(torch.ones(1, 1, 2, 2, dtype=torch.complex64)), "pictures must be real .*got ndarray of shape .1, 1, 2, 2."),
    (lambda: figures.images([[[["1", "2"]]]]), "pictures must be real numbers"),
    (lambda: figures.show(None), "fig must be a Figure, got NoneType"),
    (lambda: sliders.scale("n", [[1, 1]], EYE, EYE, [1, 1]).evaluate([1.0, 2.0]), "values must be 1 numbers"),
    (lambda: stacked_parts.stack("n", **PARTS).evaluate(1.0, [-1]), "chosen must be a whole number from 0 to 1, got -1"),
    (lambda: live.slider(abs, step=-1), "step must be .* got -1"),
    (lambda: live.slider(lambda a: None), "result of the function must be .* got None"),
    (lambda: session.record("x", 1.0, digits=-1), "digits must be .* got -1"),
    (lambda: setup(seed=-1), "seed must be a whole number from 0 to 4294967295, got -1"),
])
def test_what_would_be_drawn_wrong_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
    plt.close("all")


def test_images_take_any_real_numbers():
    for row in (torch.ones(2, dtype=torch.bfloat16), torch.tensor([1.0, 1.0]), np.array([1, 1], dtype=object), [True, 1]):
        pictures = row.reshape(1, 1, 1, 2) if hasattr(row, "reshape") else [[[row]]]
        assert figures.images(pictures).axes[0].images[0].get_array().tolist() == [[1.0, 1.0]]
    plt.close("all")


def test_drawing_says_nothing_beside_the_figure(caplog):
    for drawn in (tensor_networks.layer, tensor_networks.two_layers, tensor_networks.attention_head):
        drawn().draw_without_rendering()
    plt.close("all")
    assert not caplog.records


def test_tokens_with_dollars_are_drawn_as_they_are():
    fig = path_figure.draw_trace({**TREE, "label": "$T_$ - $5"})
    fig.canvas.draw()
    assert "$T_$ - $5" in [text.get_text() for text in fig.axes[0].texts if not text.get_parse_math()]
    plt.close(fig)
