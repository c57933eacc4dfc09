"""Tensor networks: the open lines drawn are the order, every name stands there, and no word lies on a shape or on another word."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Patch

from tensorlm.notebook import figures, tensor_networks

READY = {"layer": tensor_networks.layer, "two_layers": tensor_networks.two_layers,
         "attention_head": tensor_networks.attention_head, "odt_sweep": tensor_networks.odt_sweep}
each = pytest.mark.parametrize("build", READY.values(), ids=READY)
PAIR = {"A": (0.0, 0.0), "B": (1.5, 0.0)}


@pytest.fixture(autouse=True)
def book_style():
    figures.style()
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return tensor_networks.canvas(6, 4)[1]


def named(fig, kind: str) -> list[str]:
    """What the shapes or lines of one kind are of: `node`, `wire`, `leg` or `group`."""
    gids = [patch.get_gid() or "" for patch in fig.findobj(Patch)]
    return [gid.partition(" ")[2] for gid in gids if gid.startswith(f"{kind} ")]


def drawn(ax, kind: str) -> list[Patch]:
    return [patch for patch in ax.patches if patch.get_gid().startswith(f"{kind} ")]


def boxes(fig):
    """Extents in pixels of all words, and of all shapes with their names."""
    renderer = fig.canvas.get_renderer()
    words = [(text.get_text(), text.get_window_extent(renderer)) for text in fig.findobj(plt.Text) if text.get_text()]
    shapes = [(patch.get_gid()[5:], patch.get_window_extent(renderer)) for patch in fig.findobj(Patch)
              if (patch.get_gid() or "").startswith("node ")]
    return words, shapes


def overlaps(a, b) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def collisions(fig) -> list[tuple[str, str]]:
    """Words on words, and words on shapes other than the one that they name."""
    words, shapes = boxes(fig)
    touching = [(a, b) for (a, box), (b, other) in itertools.combinations(words, 2) if overlaps(box, other)]
    for (word, box), (name, shape) in itertools.product(words, shapes):
        inside = shape.x0 <= box.x0 and box.x1 <= shape.x1 and shape.y0 <= box.y0 and box.y1 <= shape.y1
        if overlaps(box, shape) and not (inside and word.strip("$") == name.split(" ")[0]):
            touching.append((word, name))
    return touching


def test_order_is_the_number_of_open_lines(ax):
    legs = [("A", "up"), ("C", 45, "j"), ("C", "down", "l")]
    tensor_networks.draw(ax, PAIR | {"C": (3.0, 0.0)}, [("A", "B"), ("B", "C", "k")], legs)
    assert len(drawn(ax, "leg")) == 3 and len(drawn(ax, "wire")) == 2 and set(named(ax, "node")) == set("ABC")
    assert [text.get_text() for text in ax.texts] == ["$k$", "$j$", "$l$", "$A$", "$B$", "$C$"]


def test_lines_end_where_they_should(ax):
    tensor_networks.draw(ax, {"A": (2.0, 1.0), "B": (3.5, 1.0)}, [("A", "B")], [("B", "up")])
    assert drawn(ax, "wire")[0].get_path().vertices[[0, -1]].tolist() == [[2.0, 1.0], [3.5, 1.0]]
    start, end = drawn(ax, "leg")[0].get_path().vertices[[0, -1]]
    assert start.tolist() == [3.5, 1.0] and end[0] == pytest.approx(3.5) and end[1] > 1.5


def test_a_bent_wire_passes_beside_a_straight_one(ax):
    tensor_networks.draw(ax, PAIR, [("A", "B"), ("A", "B", "", 0.4)])
    heights = [line.get_path().to_polygons(closed_only=False)[0][:, 1] for line in drawn(ax, "wire")]
    assert abs(heights[0]).max() == 0 and heights[1].max() == pytest.approx(0.4, abs=0.1)


def test_names_and_kinds(ax):
    kinds = {"A": "box", "dot": "dot", "V'": "isometry"}
    tensor_networks.draw(ax, {"A": (0, 0), "A 2": (1, 0), "dot": (2, 0), "V'": (3, 0)}, kinds=kinds)
    assert [text.get_text() for text in ax.texts] == ["$A$", "$A$", "$V'$"]
    assert [type(shape).__name__ for shape in drawn(ax, "node")] == ["FancyBboxPatch", "Circle", "Circle", "Polygon"]
    apex = drawn(ax, "node")[-1].get_xy()
    assert max(apex, key=lambda point: point[1])[0] == 3.0


def test_draws_on_any_axes_and_keeps_all_in_sight():
    _, ax = plt.subplots()
    tensor_networks.draw(ax, {"A": (-20, 5), "B": (30, 9)}, [("A", "B")])
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < -20.3 and right > 30.3 and low < 4.7 and high > 9.3 and not ax.axison


def test_letters_stand_out_from_every_shape():
    def brightness(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    fig, ax = tensor_networks.canvas(20, 2)
    tensor_networks.draw(ax, {name: (i, 1) for i, name in enumerate("DLRTQKVOUCx")})
    letters = brightness((0x1A / 255,) * 3)
    assert min((brightness(shape.get_facecolor()[:3]) + 0.05) / (letters + 0.05) for shape in drawn(ax, "node")) > 7


@each
def test_ready_figures_are_opaque_small_enough_and_large_enough_to_read(build):
    fig = build()
    assert fig.get_facecolor() == (1, 1, 1, 1)
    width, height = fig.get_size_inches()
    assert width <= 7 and height <= 5.5
    assert min(text.get_fontsize() for text in fig.findobj(plt.Text) if text.get_text()) * 6.4 / width >= 9


@each
def test_no_word_lies_on_a_shape_or_on_another_word_or_outside(build):
    fig = build()
    assert collisions(fig) == []
    assert all(fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1 and fig.bbox.y0 <= box.y0 and box.y1 <= fig.bbox.y1
               for found in boxes(fig) for _, box in found)


@each
def test_ready_figures_are_the_same_every_time(build):
    pictures = []
    for _ in range(2):
        fig = build()
        fig.canvas.draw()
        pictures.append(np.asarray(fig.canvas.buffer_rgba()))
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("name, orders", [
    ("layer", [3, 3, 1]), ("two_layers", [5, 5]), ("attention_head", [6, 2]), ("odt_sweep", [5, 5, 5, 5]),
])
def test_ready_figures_have_the_orders_of_their_tensors(name, orders, monkeypatch):
    legs, draw = [], tensor_networks.draw

    def counted(ax, *args, **kwargs):
        before = len(drawn(ax, "leg"))
        draw(ax, *args, **kwargs)
        legs.append(len(drawn(ax, "leg")) - before)

    monkeypatch.setattr(tensor_networks, "draw", counted)
    assert len(named(READY[name](), "leg")) == sum(orders) and legs == orders


def test_one_tree_is_the_folded_form_of_the_other():
    """Two layers: 3 tensors and 2 sums folded; each tensor of three factors and a copy tensor, 3 sums more, unfolded."""
    fig = tensor_networks.two_layers()
    assert len(named(fig, "node")) == 3 + 3 * 4 and len(named(fig, "wire")) == 2 + (2 + 3 * 3)
    words = [word for word, _ in boxes(fig)[0]]
    assert all(words.count(f"${index}$") == 2 for index in ("o", "i", "j", "k", r"\ell", "m", "n"))


def test_the_mask_joins_the_two_positions():
    fig = tensor_networks.attention_head()
    assert sorted(wire for wire in named(fig, "wire") if "c" in wire.split(" - ")) == ["c - dot i", "c - dot j"]
    into_j = {wire for wire in named(fig, "wire") if wire.endswith("dot j")}
    assert into_j == {"c - dot j", "X K_1 - dot j", "X K_2 - dot j", "X V - dot j"}


def test_collisions_are_noticed(ax):
    tensor_networks.draw(ax, {"A": (1, 1), "B": (1.7, 1)}, [("A", "B", "a_{long}name")])
    assert collisions(ax.figure)


@pytest.mark.parametrize("arguments", [dict(wires=[("A", "Z")]), dict(legs=[("Z", "up")]), dict(legs=[("A", "upwards")])])
def test_unknown_names_are_refused(ax, arguments):
    with pytest.raises(KeyError, match="Z|upwards"):
        tensor_networks.draw(ax, PAIR, **arguments)
