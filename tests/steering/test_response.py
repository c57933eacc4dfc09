"""Responses against the running model: every configuration, degrees, methods, tipping points, what is refused."""

import json

import pytest
import torch
from hypothesis import Phase, assume, given, settings, strategies as st
from steering_models import toy_model
from tensor_cases import close, differ

from tensorlm import released
from tensorlm.data.toy.language import INDEX, PLURAL, SINGULAR
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.polynomials.chebyshev import ChebyshevSeries
from tensorlm.polynomials.powers import Polynomial
from tensorlm.steering import Injection, Steerable, joint_response, steered_logits, steering_response, unembedding_difference
from tensorlm.steering.propagation import propagate
from tensorlm.steering.vectors import SteeredPrompt
from tensorlm.training import load_model

VOCAB, WIDTH, TIME = 9, 4, 5
SIZES = dict(vocab_size=VOCAB, width=WIDTH, head_dim=2, context=4, mlp_hidden=3, norm="none")  # a context shorter than the prompt
PROMPT = torch.tensor([3, 1, 4, 1, 5])
ALPHAS = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)


def random_model(seed=0, size=0.5, **options) -> TensorTransformer:
    """Everything random, constants of norms too."""
    model = TensorTransformer(ModelConfig(**SIZES | options)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name.split(".")[-1] not in ("fraction", "steps", "input_scale"):
            value.data = size * torch.randn(value.shape, dtype=torch.float64, generator=generator)
    model.set_anneal(1.0)
    return model.requires_grad_(False)


def vector(seed=1, width=WIDTH, size=0.5):
    return size * torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def running(model, tokens, added, read=-1):
    """The model's own parts in a plain loop, with added[layer] (time, width) put into the stream: logits (vocab,)."""
    x = model.enter(tokens[None]).x
    x = x + added.get(0, 0)
    x0, first_values = x, None
    for layer, block in enumerate(model.blocks):
        x, values, _ = block(x + added.get(layer, 0) if layer else x, x0, first_values)
        first_values = values if layer == 0 else first_values
    return model.unembed(x + added.get(len(model.blocks), 0))[0, read]


def steered(model, s, layer, mask, read=-1, tokens=PROMPT):
    return lambda alpha: running(model, tokens, {layer: alpha * mask[:, None] * s}, read)


def relative(actual, expected):
    return float(((actual - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


# Every configuration

configurations = st.fixed_dictionaries(dict(
    attention=st.sampled_from(["bilinear", "squared", "none"]),
    mlp=st.sampled_from(["bilinear", "square", "product", "full", "symmetric", "none"]),
    positions=st.sets(st.sampled_from(["rope", "decay", "toeplitz", "key_offset"])).map(lambda names: tuple(sorted(names))),
    row_scale=st.sampled_from(["none", "sqrt", "mean"]), norm=st.sampled_from(["none", "anneal", "batch", "channel"]),
    qk_norm=st.sampled_from(["none", "anneal", "batch"]), smear=st.sampled_from(["none", "learned"]),
    head=st.sampled_from(["tied", "untied"]), head_norm=st.sampled_from(["same", "none"]), bigram=st.sampled_from(["none", "table"]),
    value_residual=st.sampled_from(["none", "learned"]), shortcut=st.sampled_from(["none", "learned"]), layers=st.integers(1, 2)))


@settings(max_examples=30, phases=[Phase.generate])
@given(configurations, st.integers(0, 2), st.sets(st.integers(0, TIME - 1), min_size=1), st.integers(0, TIME - 1), st.integers(0, 2**16))
def test_the_coefficients_are_those_of_the_running_model(options, layer, places, read, seed):
    model, s = random_model(seed, **options), vector(seed)
    layer = min(layer, model.config.layers)
    mask = torch.tensor([float(place in places) for place in range(TIME)], dtype=torch.float64)
    injection = Injection.make(Steerable.of(model), TIME, s, layer, sorted(places))
    coefficients, degree = propagate(SteeredPrompt.make(model, PROMPT, injection, read), unit=1.5)
    truth = torch.stack([steered(model, s, layer, mask, read)(alpha) for alpha in ALPHAS])
    polynomial = Polynomial(coefficients, 1.5)
    assume(polynomial.cancellation(ALPHAS).max() < 1e5)  # beyond, terms cancel, which responses see and avoid
    assert relative(polynomial(ALPHAS), truth) < 1e-10
    assert relative(steered_logits(model, PROMPT, injection, ALPHAS, read), truth) < 1e-12
    assert len(coefficients) == degree + 1


@pytest.mark.parametrize("options, layer, positions, read, degree", [
    (dict(layers=2), 0, "all", -1, 100), (dict(layers=2), 1, "all", -1, 10), (dict(layers=2), 1, 2, -1, 6), (dict(layers=2), 1, 4, -1, 10),
    (dict(layers=2), 1, 4, 3, 0), (dict(layers=2), 2, "all", -1, 1), (dict(layers=2), [0, 2], "all", -1, 100),
    (dict(layers=1, mlp="none"), 0, -1, -1, 5), (dict(layers=1, mlp="none"), 0, 0, -1, 3),
    (dict(layers=1, mlp="product"), 0, "all", -1, 15),
    (dict(layers=4, attention="none"), 0, "all", -1, 16), (dict(layers=3, attention="none"), 0, 2, -1, 0),
    (dict(layers=1, mlp="none", positions=("key_offset", "decay")), 0, 3, -1, 3)])
def test_degrees_are_exact(options, layer, positions, read, degree):
    options = dict(positions=("decay",)) | options
    response = steering_response(random_model(**options), PROMPT, vector(), layer, positions, read, interval=(-1.5, 1.5))
    assert response.degree == degree and response.exact and response.error < 1e-10
    if 0 < degree <= 16:  # one degree less is not enough
        fitted = ChebyshevSeries.of(response.logits, -60.0, 60.0, degree - 1)
        assert relative(fitted(40 * ALPHAS), response.logits(40 * ALPHAS)) > 1e-6


# Jets

def test_a_jet_is_the_beginning_of_the_whole_and_says_that_it_is_cut():
    model, s = random_model(layers=2, size=0.3), vector()
    whole = steering_response(model, PROMPT, s, 0, interval=(-0.5, 0.5), method="monomials")
    errors = []
    for order in (0, 2, 8):
        jet = steering_response(model, PROMPT, s, 0, interval=(-0.5, 0.5), order=order)
        close(jet.curve.coefficients, whole.curve.coefficients[: order + 1])
        assert not jet.exact and jet.degree == 100 and f"terms up to order {order} of a polynomial of degree 100" in jet.reason
        errors.append(jet.error)
    assert errors[0] > errors[1] > errors[2] > 100 * whole.error
    moved = steering_response(model, PROMPT, s, 0, interval=(0.2, 0.6), order=2, centre=0.4)
    close(moved.logits(0.4), whole.logits(0.4))
    at = torch.tensor(0.4, dtype=torch.float64)
    close(moved.curve.derivative(2)(at), whole.curve.derivative(2)(at))
    assert steering_response(model, PROMPT, s, 1, order=10).exact


def test_deep_models_are_resolved_without_all_their_coefficients():
    model = random_model(layers=4, size=0.3)
    response = steering_response(model, PROMPT, vector(), 0, interval=(-1, 1))
    assert response.method == "chebyshev" and response.degree == 10_000 and not response.exact and response.error < 1e-11
    assert "Degree 10,000 is above 128" in response.reason
    jet = steering_response(model, PROMPT, vector(), 0, interval=(-0.1, 0.1), order=4)
    assert 1e-15 < jet.error < 1e-3


def test_what_leaves_the_number_range_is_refused():
    model, both = random_model(layers=2), torch.stack([vector(1), vector(2)])
    response, pair = steering_response(model, PROMPT, vector(), 1), joint_response(model, PROMPT, both, 1)
    with pytest.raises(ValueError, match="strengths are too large: logits leave the number range"):
        response.logits(1e155)
    with pytest.raises(ValueError, match="strengths are too large: logits leave the number range between 1 and 1e"):
        pair.logits([1.0, 1e200])
    for reach, wanted in ((0, "finite number above 0"), (1e-60, "power 2 is between 1e-100 and 1e100"), (1e60, "power 2 is between")):
        with pytest.raises(ValueError, match=f"reach must be a .*{wanted}"):
            joint_response(model, PROMPT, both, 1, reach=reach)
    close(joint_response(model, PROMPT, both, 1, reach=1e-40).coefficient(1, 1), pair.coefficient(1, 1))


@pytest.mark.parametrize("size", [1e-200, 1e-60, 1e-9])
def test_short_vectors_and_narrow_intervals_lose_no_power(size):
    model = random_model(layers=2)
    plain = steering_response(model, PROMPT, vector(), 1, interval=(-2, 2))
    narrow = steering_response(model, PROMPT, vector(), 1, interval=(-size, size))
    short = steering_response(model, PROMPT, size * vector(), 1, interval=(-2, 2))
    close(narrow.logits(1.5), plain.logits(1.5), scale=10)
    close(short.logits(1.5 / size), plain.logits(1.5), scale=10)
    ratio = steering_response(random_model(norm="rms", attention="none"), PROMPT, size * vector(), 0, interval=(-1 / size, 1 / size))
    assert ratio.method == "ratio" and ratio.error < 1e-10


# Methods

def test_cancelling_terms_are_seen_and_the_chebyshev_basis_repairs_them():
    model = random_model(layers=2, mlp_hidden=6)
    rows = model.shift_in(model.embed(PROMPT[:1].repeat(1, 5)))[0]
    s = -rows[-1] / 3.3 + 0.05 * vector()  # at strength 3 little is left of the input rows
    ask = dict(tokens=PROMPT[:1].repeat(5), vector=s, layer=0, interval=(-3, 3.3))
    powers, chosen = steering_response(model, **ask, method="monomials"), steering_response(model, **ask)
    assert powers.degree == chosen.degree == 100 and powers.error_at(0.02) < 1e-10
    assert powers.error > 1e-6 and powers.curve.cancellation(torch.tensor([3.3], dtype=torch.float64)) > 1e9
    assert chosen.method == "chebyshev" and chosen.exact and chosen.error < 1e-10 and "terms would cancel" in chosen.reason
    with pytest.raises(ValueError, match="strengths must lie in the interval"):
        chosen.logits(3.4)


@pytest.mark.parametrize("options, degrees", [(dict(layers=2), (9, 18)), (dict(layers=2, head_norm="none", mlp="square"), (9, 8)),
                                              (dict(layers=1, mlp="none"), (1, 2))])
def test_normed_models_without_attention_are_ratios(options, degrees):
    model = random_model(norm="rms", attention="none", smear="none", **options)
    response = steering_response(model, PROMPT, vector(), 0, interval=(-2, 2))
    assert (response.method, response.degree, response.exact) == ("ratio", degrees, True)
    function = steered(model, vector(), 0, torch.ones(5, dtype=torch.float64))
    assert relative(response.logits(ALPHAS), torch.stack([function(alpha) for alpha in ALPHAS])) < 1e-10
    assert response.polynomial_fit_error(degrees[0]) > 1e-6  # no polynomial of that degree
    assert torch.isfinite(response.logits(1e6)).all() and not torch.isfinite(response.logits(1e6) - response.logits(1e6) * torch.inf).all()


@pytest.mark.parametrize("options, layers", [
    (dict(shortcut="learned"), [0, 1]), (dict(shortcut="learned"), [1, 2]), (dict(mlp="full"), [0, 1, 2]),
    (dict(mlp="symmetric", head_norm="none"), 1), (dict(mlp="none"), [0, 2])])
def test_ratios_pass_through_shortcuts_whole_tensors_and_several_steered_layers(options, layers):
    model = random_model(norm="rms", attention="none", layers=2, **options)
    response = steering_response(model, PROMPT, vector(), layers, interval=(-2, 2))
    injection = Injection.make(model, len(PROMPT), vector(), layers)
    assert (response.method, response.exact) == ("ratio", True)
    truth = steered_logits(model, PROMPT, injection, ALPHAS)
    assert relative(response.logits(ALPHAS), truth) < 1e-10
    if options.get("shortcut"):  # must fail: without the shortcut it is another function
        with torch.no_grad():
            model.blocks[1].shortcut[1] += 0.1
        assert relative(response.logits(ALPHAS), steered_logits(model, PROMPT, injection, ALPHAS)) > 1e-4


def test_a_norm_before_attention_is_no_ratio_and_one_before_the_head_is():
    model = random_model(norm="rms", layers=1)
    below, above = (steering_response(model, PROMPT, vector(), layer, interval=(-1, 1)) for layer in (0, 1))
    assert (below.method, below.exact, below.degree) == ("sweep", False, None) and below.error < 1e-10
    assert (above.method, above.exact, above.degree) == ("ratio", True, (1, 2)) and above.error < 1e-10
    assert "norm='rms' divides" in below.reason and "says nothing from the weights" in below.reason


@pytest.mark.parametrize("options", [dict(qk_norm="joint"), dict(attention="squared", qk_norm="rms")])
def test_norms_of_queries_and_keys_are_swept_and_the_report_says_why(options):
    response = steering_response(random_model(layers=1, **options), PROMPT, vector(), 0, interval=(-1, 1))
    assert (response.method, response.exact) == ("sweep", False) and response.error < 1e-9 and "qk_norm=" in response.reason
    with pytest.raises(ValueError, match="degree grows with the heads"):
        steering_response(random_model(layers=1, **options), PROMPT, vector(), 0, method="ratio")
    with pytest.raises(ValueError, match="needs no ratio"):  # before the head no query is left
        steering_response(random_model(layers=1, **options), PROMPT, vector(), 1, method="ratio")


def test_ordinary_models_are_swept_and_say_so():
    model = random_model(norm="rms", attention="softmax", mlp="relu2", layers=2)
    response = steering_response(model, PROMPT, vector(), 0, interval=(-1, 1))
    assert response.method == "sweep" and not response.exact and response.error < 1e-8
    errors = [response.polynomial_fit_error(degree) for degree in (2, 10, 40)]
    assert errors[0] > errors[1] > errors[2] > 1e-7
    same = steering_response(random_model(layers=1), PROMPT, vector(), 0, interval=(-1, 1))
    assert same.polynomial_fit_error(9) > 1e-13 > same.polynomial_fit_error(10)
    assert steering_response(random_model(layers=1), PROMPT, vector(), 0, 2, read=1).polynomial_fit_error(0) == 0.0
    assert steering_response(random_model(layers=1), PROMPT, vector(), 0, interval=(-1, 1), method="sweep").error < 1e-11


# On the released model

def toy_response(subject=8, layer=1, positions=8, **options):
    """The plural direction put on "cat" in a sentence; read at `subject`."""
    words = "<doc> farm the dogs are big . the cat near".split()
    tokens = torch.tensor([INDEX[word] for word in words])
    rows = toy_model().embed(torch.arange(len(INDEX))[None])[0]
    s = rows[[INDEX[word] for word in PLURAL]].mean(0) - rows[[INDEX[word] for word in SINGULAR]].mean(0)
    return steering_response(toy_model(), tokens, s, layer, positions, read=subject, **options)


@pytest.mark.parametrize("subject, layer, degree", [(8, 1, 10), (9, 1, 6), (8, 0, 100), (9, 0, 84)])
def test_the_toy_model_is_predicted_at_every_strength(subject, layer, degree):
    response = toy_response(subject, layer)
    assert response.degree == degree and response.exact and response.error < 1e-10
    close(response.log_probabilities(0.7).exp().sum(), 1.0)
    assert response.logits([0.0, 1.0]).shape == (2, 54) and response.logits(0.5).shape == (54,)


@pytest.mark.parametrize("layer", [0, 1])
def test_tipping_points_are_those_of_a_bisection_of_the_running_model(layer):
    response = toy_response(layer=layer)
    a, b = INDEX["is"], INDEX["are"]
    points = response.tipping_points(a, b)
    assert len(points) >= 2 and {(p.before, p.after) for p in points} == {(a, b), (b, a)}

    def gap(alpha):
        logits = response.prompt.logits(torch.tensor([[alpha]], dtype=torch.float64))[0]
        return float(logits[a] - logits[b])

    for point in points:
        low, high = point.strength - 0.05, point.strength + 0.05
        assert (gap(low) > 0) == (point.before == a) != (gap(high) > 0)
        while high - low > 1e-10:
            middle = (low + high) / 2
            low, high = (middle, high) if (gap(middle) > 0) == (point.before == a) else (low, middle)
        assert abs(point.strength - low) < 1e-8


def test_changes_of_the_most_likely_word_are_those_of_a_dense_sweep():
    response = toy_response()
    sweep = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    leaders = response.prompt.logits(sweep[:, None]).argmax(-1)
    places = torch.nonzero(leaders[:-1] != leaders[1:])[:, 0]
    points = response.tipping_points()
    assert len(points) >= 2 and [(p.before, p.after) for p in points] == [(int(leaders[i]), int(leaders[i + 1])) for i in places]
    assert all(float(sweep[i]) <= p.strength <= float(sweep[i + 1]) for p, i in zip(points, places))
    near = INDEX["near"]
    assert response.tipping_points(near) == tuple(p for p in points if near in p[1:])


# Who leads, where rows of the head are equal or nearly so

def require_the_leaders_of_a_sweep(response, count=2001):
    """The chain has no gap, starts and ends with argmax, and at every swept strength none is ahead of its leader by more than rounding."""
    points, sweep = response.tipping_points(), torch.linspace(*response.interval, count, dtype=torch.float64)
    logits = response.logits(sweep)
    leaders, chain = logits.argmax(-1), [point.after for point in points]
    chain.insert(0, points[0].before if points else int(leaders[0]))
    assert [point.before for point in points] == chain[:-1] and (chain[0], chain[-1]) == (int(leaders[0]), int(leaders[-1]))
    assert all(point.before != point.after for point in points)
    said = torch.tensor(chain)[torch.bucketize(sweep, torch.tensor([point.strength for point in points], dtype=torch.float64))]
    behind = logits.amax(-1) - logits.gather(1, said[:, None])[:, 0]
    assert bool((behind <= 2e-14 * logits.abs().amax(-1)).all())
    return points


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options, method", [
    (dict(layers=1), "monomials"), (dict(layers=1), "chebyshev"), (dict(layers=1), "jet"), (dict(layers=1, attention="softmax"), "sweep"),
    (dict(layers=2, attention="none", norm="rms"), "ratio"), (dict(layers=1, norm="rms"), "auto")])
def test_tokens_with_equal_and_nearly_equal_rows_lead_as_in_a_dense_sweep(seed, options, method):
    model, draw = random_model(seed, head="untied", vocab_size=40, **options), torch.Generator().manual_seed(seed)
    for index, far in enumerate([0.0, 1e-6, 1e-9, 1e-12, 1e-15] * 3):
        copy, of = torch.randint(40, (2,), generator=draw).tolist()
        model.head[copy] = model.head[of] + far * torch.randn(WIDTH, dtype=torch.float64, generator=draw) if index else model.head[of]
    model.head[30:] = model.head[int(model.head.norm(dim=-1).argmax())]  # ten alike that lead often
    middle, half = torch.randn(2, dtype=torch.float64, generator=draw).tolist()
    asked = dict(interval=(middle - abs(half) - 1, middle + 2)) | (dict(order=2) if method == "jet" else dict(method=method))
    response = steering_response(model, PROMPT, vector(seed), seed % 2, ["all", 2, [-1]][seed % 3], **asked)
    points = require_the_leaders_of_a_sweep(response)
    lowest = {int(token) for token in response.prompt.steerable.first_alike}
    assert {token for point in points for token in point[1:]} <= lowest
    for a, b in [(0, 1), (39, 2), *(point[1:] for point in points[:2])]:  # two tokens, in either order
        pair = response.tipping_points(a, b)
        assert pair == response.tipping_points(b, a) and all(one.after == two.before for one, two in zip(pair, pair[1:]))


@pytest.mark.slow
def test_the_released_models_lead_with_tokens_never_seen_as_targets():
    shakespeare = Steerable.of(load_model(released.checkpoint("shakespeare-polynomial")))
    alike = torch.nonzero(shakespeare.first_alike == 3)[:, 0].tolist()
    assert len(alike) == 177 and alike[:3] == [3, 5, 10]
    to_be = torch.tensor([407, 305, 12, 518, 322, 290, 305])  # "To be, or not to be"
    for layer, other in ((2, 400), (2, 14), (1, 16)):
        response = steering_response(shakespeare, to_be, unembedding_difference(shakespeare, other, 10), layer)
        points = require_the_leaders_of_a_sweep(response)
        assert points and (layer == 1 or points[-1].after == 3 == int(response.logits(4.0).argmax()))
        assert response.tipping_points(3, 10) == () == response.tipping_points(10)
    steerable = Steerable.of(toy_model())
    draw = torch.Generator().manual_seed(0)
    leaders = set()
    for layer in (0, 1, 2) * 3:
        prompt, s = torch.randint(54, (10,), generator=draw), torch.randn(32, generator=draw)
        for point in require_the_leaders_of_a_sweep(steering_response(steerable, prompt, s, layer, interval=(-20, 20))):
            leaders |= set(point[1:])
    assert 0 in leaders and 53 not in leaders  # these two have the same row


@pytest.mark.parametrize("mlp", ["bilinear", "square", "product", "full", "symmetric"])
def test_a_model_kept_ready_answers_as_one_asked_once(mlp):
    model, s = random_model(mlp=mlp, attention="bilinear"), vector()
    kept = Steerable.of(model)
    once, often = (steering_response(one, PROMPT, s, 1, interval=(-1, 1)) for one in (model, kept))
    close(often.logits(ALPHAS), once.logits(ALPHAS))
    assert kept.parts[1].encoders[0].is_contiguous() and torch.equal(kept.parts[1].encoders[0], model.blocks[1].mlp.encoders()[0].mT)
    assert torch.equal(steering_response(kept, PROMPT, s, 1, interval=(-1, 1)).logits(ALPHAS), often.logits(ALPHAS))


def test_a_model_kept_ready_is_not_reached_by_later_changes():
    model = random_model(attention="bilinear").double().requires_grad_(False).eval()
    kept, s = Steerable.of(model), vector()
    before = steering_response(kept, PROMPT, s, 0).logits(ALPHAS)
    model.blocks[1].mlp.D.zero_()
    assert torch.equal(steering_response(kept, PROMPT, s, 0).logits(ALPHAS), before)
    assert not torch.allclose(steering_response(model, PROMPT, s, 0).logits(ALPHAS), before)


def test_answers_are_tensors_that_may_be_changed_and_differentiated():
    response = steering_response(random_model(attention="none"), PROMPT, vector(), 0)
    response.curve.coefficients.mul_(1.0)
    alpha = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(response.logits(alpha)[0, 2], alpha)
    close(slope[0], response.curve.derivative()(torch.tensor(0.5, dtype=torch.float64))[2])


def test_the_page_gets_what_it_needs():
    response = toy_response()
    data = json.loads(json.dumps(response.as_json()))
    powers = 0.37 ** torch.arange(len(data["logits"][0]), dtype=torch.float64)
    close(torch.tensor(data["logits"], dtype=torch.float64) @ powers, response.logits(0.37), scale=30)
    assert data["exact"] and data["error"] < 1e-10 and data["degree"] == 10 and len(data["logits"]) == 54


# Several vectors

def test_two_vectors_at_once_and_their_interaction():
    model, first, second = random_model(layers=2), vector(1), vector(2)
    both = torch.stack([first, second])
    pair = joint_response(model, PROMPT, both, 1, order=10)
    assert pair.exact and pair.degree == 10 and pair.error < 1e-10 and len(pair.coefficients) == 66
    jet = joint_response(model, PROMPT, both, [1, 2], (3, "all"), order=3, reach=0.3)
    assert not jet.exact and jet.degree == 6 and 1e-10 < jet.error < 1e-3
    mask = torch.ones(5, dtype=torch.float64)

    def function(a, b):
        return running(model, PROMPT, {1: mask[:, None] * (a * first + b * second)})

    close(pair.logits([0.3, -0.2]), function(0.3, -0.2))
    apart = joint_response(model, PROMPT, both, 1, [2, [3, 4]], order=10)  # a list or tuple has an entry for each vector
    at = lambda *places: torch.tensor([float(place in places) for place in range(5)], dtype=torch.float64)[:, None]
    close(apart.logits([0.3, -0.2]), running(model, PROMPT, {1: 0.3 * at(2) * first - 0.2 * at(3, 4) * second}))
    for places in ([2, [3, 4]], [2, 3]):
        one, other = (joint_response(model, PROMPT, both, kind((1, 1)), kind(places)) for kind in (list, tuple))
        assert torch.equal(one.coefficients, other.coefficients)
    for name, several in (("layers", [1]), ("layers", (0, 1, 2)), ("positions", [0, 1, 2]), ("positions", ("all",))):
        with pytest.raises(ValueError, match=f"{name} must be one for all vectors, or a list of 2, one for each, got {len(several)}"):
            joint_response(model, PROMPT, both, **dict(layers=1) | {name: several})
    zero, one = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    mixed = torch.func.jvp(lambda b: torch.func.jvp(lambda a: function(a, b), (zero,), (one,))[1], (zero,), (one,))[1]
    close(pair.coefficient(1, 1), mixed)
    alone = steering_response(model, PROMPT, first, 1)
    close(pair.logits([[0.7, 0.0]]), alone.logits([0.7]))
    differ(pair.logits([0.7, 0.7]), alone.logits(0.7) + steering_response(model, PROMPT, second, 1).logits(0.7) - alone.logits(0.0))


def test_three_vectors_at_several_layers():
    model, vectors = random_model(layers=2, value_residual="learned"), torch.stack([vector(seed) for seed in (1, 2, 3)])
    joint = joint_response(model, PROMPT, vectors, [0, 1, 2], (1, [2, 3], "all"), order=4, reach=0.05)
    assert len(joint.coefficients) == 35 and joint.degree == 84 and joint.error < 1e-4
    assert joint_response(model, PROMPT, vectors, [0, 1, 2], (1, [2, 3], "all"), order=2, reach=0.05).error > 3 * joint.error
    close(joint.coefficient(0, 0, 1), Steerable.of(model).model.unembed(vectors[2]))
    close(joint.coefficient(0, 0, 2), torch.zeros(VOCAB, dtype=torch.float64))
    with pytest.raises(ValueError, match="powers must be 3 whole numbers"):
        joint.coefficient(1, 1)
    with pytest.raises(ValueError, match=r"order 12 in 3 strengths has 455|monomials, more than"):
        joint_response(model, PROMPT, vectors, 0, order=13)


# What does not fit

@pytest.mark.parametrize("change, error, message", [
    (dict(vector=torch.ones(3)), ValueError, r"vector must have shape \(4,\)"),
    (dict(vector=torch.tensor([1.0, float("nan"), 0, 0])), ValueError, "vector must be finite"),
    (dict(vector=torch.ones(4).bfloat16()), TypeError, "vector must be torch.float32 or torch.float64, got torch.bfloat16"),
    (dict(vector=torch.ones(3, 4), layer=[0, 1]), ValueError, "a row for each of the 2 layers"),
    (dict(layer=3), ValueError, "layer must be a whole number from 0 to 2"),
    (dict(layer=-1), ValueError, "layer must be a whole number from 0 to 2"),
    (dict(layer=[1, 1]), ValueError, "several distinct ones"), (dict(layer=[]), ValueError, "layer must be"),
    (dict(layer=1.0), ValueError, "layer must be a whole number"), (dict(layer=True), ValueError, "layer must be a whole number"),
    (dict(positions=5), ValueError, "positions must be in -5 .. 4"), (dict(positions=[]), ValueError, "positions must"),
    (dict(positions=torch.ones(4, dtype=torch.bool)), ValueError, r"mask of shape \(5,\)"),
    (dict(positions="last"), TypeError, "positions must be 'all'"), (dict(read=5), ValueError, "read must be a whole number from -5 to 4"),
    (dict(tokens=torch.zeros(0, dtype=torch.long)), ValueError, "tokens must be whole numbers"),
    (dict(tokens=torch.zeros(2, 3, dtype=torch.long)), ValueError, "tokens must be one prompt"),
    (dict(interval=(1, 1)), ValueError, "interval must be two finite numbers [(]low, high[)] with low < high"),
    (dict(interval=(0, float("inf"))), ValueError, "two finite numbers"),
    (dict(order=-1), ValueError, "order must be a whole number"), (dict(order=2, method="chebyshev"), ValueError, "asks for a jet"),
    (dict(method="fft"), ValueError, "method must be one of"), (dict(method="ratio"), ValueError, "norm='none' needs no ratio")])
def test_what_does_not_fit_is_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        steering_response(random_model(), **dict(tokens=PROMPT, vector=vector(), layer=1) | change)


def test_models_that_do_not_fit_are_refused():
    half, unfinished = random_model().to(torch.float16), random_model(norm="anneal")
    with pytest.raises(TypeError, match="weights of model must be torch.float32 or torch.float64, got torch.float16"):
        steering_response(half, PROMPT, vector(), 0)
    unfinished.set_anneal(0.6)
    with pytest.raises(ValueError, match="still 40% per-token norms"):
        steering_response(unfinished, PROMPT, vector(), 0)
    assert steering_response(unfinished, PROMPT, vector(), 0, method="sweep", interval=(-1, 1)).error < 1e-8
    with pytest.raises(ValueError, match="order=2 needs a polynomial, but softmax attention"):
        steering_response(random_model(attention="softmax"), PROMPT, vector(), 0, order=2)
    for options in (dict(norm="rms"), dict(qk_norm="joint"), dict(mlp="gelu")):
        steerable = Steerable.of(random_model(**options))
        with pytest.raises(ValueError, match="model must be a polynomial from layer 0 on, but"):
            propagate(SteeredPrompt.make(steerable, PROMPT, Injection.make(steerable, 5, vector(), 0)))
    broken = random_model()
    broken.embedding[0, 0] = torch.inf
    with pytest.raises(ValueError, match="embedding of model must be finite"):
        steering_response(broken, PROMPT, vector(), 0)
    with pytest.raises(ValueError, match="choose a smaller interval"):
        steering_response(random_model(layers=4), PROMPT, 100 * vector(), 0, interval=(-1, 1))


def test_questions_that_do_not_fit_are_refused():
    response = steering_response(random_model(), PROMPT, vector(), 1)
    for tokens in ((9,), (-1,), (True,), (0, 9), (2, 2), (None, 3)):
        with pytest.raises(ValueError, match="token"):
            response.tipping_points(*tokens)
    with pytest.raises(ValueError, match=r"strengths must be a number or \(n,\)"):
        response.logits(torch.ones(2, 2))
    with pytest.raises(ValueError, match="strengths must be finite"):
        response.logits(float("nan"))
