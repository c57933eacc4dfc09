"""Set-up, recorded numbers, figures and live views."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tensorlm.notebook import environment, figures, live, records


def test_setup_makes_two_runs_alike(capsys):
    device = environment.setup(threads=1, seed=3)
    first = torch.randn(4), np.random.rand(4)
    environment.setup(threads=1, seed=3)
    assert torch.equal(first[0], torch.randn(4)) and (first[1] == np.random.rand(4)).all()
    environment.setup(threads=1, seed=4)
    assert not torch.equal(first[0], torch.randn(4))
    assert torch.get_num_threads() == 1 and torch.get_default_dtype() == torch.float32
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len(lines[0]) < 90 and device.type in ("cpu", "cuda")


def test_setup_refuses_no_threads():
    with pytest.raises(ValueError, match="threads: got 0"):
        environment.setup(threads=0)


@pytest.mark.parametrize("value, digits, text", [
    (1.58749, 3, "x = 1.587"), (torch.tensor(0.5), 2, "x = 0.50"), (np.float32(2.0), 1, "x = 2.0"), (7, 3, "x = 7"),
    (np.int64(12345), 3, "x = 12345"), (3.21e-12, 1, "x = 3.2e-12"), (0.0, 2, "x = 0.00"), (-0.5, 1, "x = -0.5"),
])
def test_records_read_back_what_they_print(value, digits, text, capsys):
    records.record("x", value, digits)
    printed = capsys.readouterr().out.rstrip("\n")
    assert printed == text
    assert records.read(printed) == {"x": text.removeprefix("x = ")}


@pytest.mark.parametrize("name, value", [("1x", 1.0), ("a b", 1.0), ("", 1.0), ("x", float("nan")), ("x", float("inf"))])
def test_records_refuse_bad_names_and_values(name, value):
    with pytest.raises(ValueError, match="allowed"):
        records.line(name, value)


def test_a_name_recorded_with_two_values_is_an_error():
    assert records.read("x = 1.0\nx = 1.0") == {"x": "1.0"}
    with pytest.raises(ValueError, match="twice"):
        records.read("x = 1.0\nx = 2.0")


def test_maps_have_zero_in_the_middle():
    fig, ax = plt.subplots()
    image = figures.diverging(ax, torch.tensor([[0.5, -2.0], [1.0, 0.0]], requires_grad=True), "weight")
    assert image.get_clim() == (-2.0, 2.0)
    assert np.allclose(image.cmap(image.norm(0.0)), 1.0, atol=0.05), "zero is white"
    assert figures.diverging(ax, [[0.0]]).get_clim() == (-1.0, 1.0)
    assert figures.diverging(ax, [[1.0]], limit=4.0).get_clim() == (-4.0, 4.0)
    plt.close(fig)


@pytest.mark.parametrize("matrix", [[1.0, 2.0], [[np.nan]]])
def test_maps_refuse_what_is_no_matrix(matrix):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match="two axes"):
        figures.diverging(ax, matrix)
    plt.close(fig)


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
    with pytest.raises(ValueError, match="start: got 3"):
        live.slider(abs, "a", -1, 1, start=3)
