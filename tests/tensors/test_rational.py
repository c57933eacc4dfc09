"""Norms as ratios of polynomials: blocks, stacks, rays, the cubic tensor and its misprint, and where a root remains."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from tensor_cases import single

from tensorlm.layers import Attention, Norm
from tensorlm.layers.norm import EPS
from tensorlm.polynomials.powers import Polynomial, Ratio
from tensorlm.tensors import CPTensor, RationalBlock, RationalStack, cubic_tensor, rational_misfit, rational_scores, remaining_root

SETTINGS = settings(max_examples=25)
size = st.integers(1, 6)
seed = st.integers(0, 2**16)
eps = st.sampled_from([0.0, 1e-6, 0.3])


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_cp(width=4, hidden=6, out=None, seed=0):
    shapes = ((out or width, hidden), (hidden, width), (hidden, width))
    return CPTensor(*(draw(*shape, seed=seed + n) / shape[1] ** 0.5 for n, shape in enumerate(shapes)))


def make_stack(blocks=3, width=4, eps=1e-6):
    return RationalStack(tuple(RationalBlock(make_cp(width, seed=10 * n), eps) for n in range(blocks)))


def rms(x, eps):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def parts(block, x):
    """Numerator and denominator at points x: polynomials of one coefficient."""
    return tuple(part[0] for part in block.advance(x[None], torch.ones_like(x[None, ..., 0])))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


# One block

@SETTINGS
@given(size, size, eps, seed)
def test_a_normed_block_is_a_cubic_over_a_quadratic(width, hidden, eps, seed):
    block, x = RationalBlock(make_cp(width, hidden, seed=seed), eps), draw(5, width, seed=seed + 5) + 0.1
    close(block(x), x + block.cp(rms(x, eps)))
    close(parts(block, x)[0] / parts(block, x)[1][..., None], block(x))
    close(parts(block, x)[1], x.square().mean(-1) + eps)
    assert block.degrees == (3, 2)


@SETTINGS
@given(size, size, size, eps, seed)
def test_a_normed_layer_is_the_layer_over_the_mean_square(width, hidden, out, eps, seed):
    block, x = RationalBlock(make_cp(width, hidden, out, seed), eps, "none"), draw(5, width, seed=seed + 5) + 0.1
    close(block(x), block.cp(rms(x, eps)))
    close(block(x), block.cp(x) / (x.square().mean(-1, keepdim=True) + eps))
    direction = F.normalize(block(x), dim=-1)
    torch.testing.assert_close(direction, F.normalize(block.cp(x), dim=-1), rtol=1e-9, atol=1e-9)  # the norm never turns it


def test_with_the_residual_the_norm_does_turn_the_output():
    block, x = RationalBlock(make_cp()), draw(4, seed=1)
    assert not torch.allclose(F.normalize(block(x), dim=-1), F.normalize(x + block.cp(x), dim=-1), rtol=1e-3)


def test_the_block_is_that_of_the_model():
    block, x, norm = RationalBlock(make_cp(), EPS), draw(7, 4, seed=1), Norm("rms")
    close(block(x), x + block.cp(norm(x)))
    assert not torch.allclose(RationalBlock(make_cp(), 0.1)(x), block(x), rtol=1e-4)  # eps counts


@SETTINGS
@given(size, seed)
def test_numerators_of_a_ray_have_degree_three_and_two(width, seed):
    block, x, s = RationalBlock(make_cp(width, seed=seed), 0.1), *draw(2, width, seed=seed + 3)
    nodes = torch.linspace(-1, 1, 9, dtype=torch.float64)
    powers = nodes[:, None] ** torch.arange(4)
    top, bottom = parts(block, x + nodes[:, None] * s)
    for values, degree in ((top, 3), (bottom[:, None], 2)):
        fit = torch.linalg.lstsq(powers[:, : degree + 1], values).solution
        close(powers[:, : degree + 1] @ fit, values)
        lower = torch.linalg.lstsq(powers[:, :degree], values).solution
        assert not torch.allclose(powers[:, :degree] @ lower, values, rtol=1e-6, atol=1e-9)


# The cubic tensor and what it is easily taken for

@SETTINGS
@given(size, seed)
def test_the_cubic_of_the_residual_is_a_fourth_order_tensor(width, seed):
    x, tensor = draw(3, width, seed=seed), cubic_tensor(width)
    close(torch.einsum("iabc,na,nb,nc->ni", tensor, x, x, x), x * x.square().sum(-1, keepdim=True))
    for axes in ((0, 2, 1, 3), (0, 3, 2, 1), (1, 0, 2, 3)):
        assert torch.equal(tensor.permute(axes), tensor)


def test_copies_of_the_identity_are_another_map():
    x, tensor = draw(3, 4, seed=1), CPTensor(*[torch.eye(4, dtype=torch.float64)] * 3).dense()
    wrong = torch.einsum("iab,na,nb->ni", tensor, x, x)
    close(wrong, x * x)
    cubic = x * x.square().sum(-1, keepdim=True)
    assert not torch.allclose(wrong, cubic, rtol=0.1)
    close(torch.einsum("iab,na,nb->ni", tensor, 2 * x, 2 * x), 4 * wrong)  # and of degree 2, where the cubic has 3
    block = RationalBlock(make_cp(), 0.0)
    built = (torch.einsum("iabc,na,nb,nc->ni", cubic_tensor(4), x, x, x) / 4 + block.cp(x)) / parts(block, x)[1][:, None]
    mistaken = (wrong / 4 + block.cp(x)) / parts(block, x)[1][:, None]
    close(built, block(x))
    assert not torch.allclose(mistaken, block(x), rtol=0.01)


# Stacks

@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_stack_in_homogeneous_coordinates(blocks):
    stack, x = make_stack(blocks, eps=0.0), draw(5, 4, seed=2)
    numerator, denominator = stack.homogeneous(x)
    expected = x
    for block in stack.blocks:
        expected = expected + block.cp(rms(expected, 0.0))
    close(numerator / denominator[..., None], expected)
    close(stack(x), expected)
    assert stack.degrees == (3**blocks, 3**blocks - 1)
    assert not torch.allclose(stack.homogeneous(1.5 * x)[0], 1.5 ** (3**blocks) * numerator, rtol=1e-3)  # not in x alone


def test_degrees_without_residual_double():
    blocks = (RationalBlock(make_cp(out=3), residual="none"), RationalBlock(make_cp(3), residual="none"), RationalBlock(make_cp(3)))
    assert [RationalStack(blocks[:count]).degrees for count in (1, 2, 3)] == [(2, 2), (4, 4), (12, 12)]


@pytest.mark.parametrize("residual", ["identity", "none"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 6])
def test_a_ray_through_a_stack_is_a_ratio_of_its_degrees(residual, blocks):
    stack = RationalStack(tuple(RationalBlock(make_cp(6, 8, seed=n), 1e-6, residual) for n in range(blocks)))
    x, s = draw(2, 6, seed=99)
    s = s - (s @ x) / (x @ x) * x  # at a right angle, as random vectors of many dimensions are
    ray, alphas = stack.along(x, s), torch.linspace(-4, 4, 41, dtype=torch.float64)
    assert ray.degrees == stack.degrees and ray.numerator.shape == (6,)
    expected = stack(x + alphas[:, None] * s)
    error = (ray(alphas) - expected).norm(dim=-1) / expected.norm(dim=-1)
    lost = ray.cancellation(alphas)
    assert ((error < 1e-13 * lost) | lost.isinf()).all()
    assert (error[alphas.abs() < 0.3 * ray.numerator.unit] < 1e-12).all()


def test_lower_degrees_are_not_enough():
    stack, (x, s) = make_stack(2), draw(2, 4, seed=3)
    ray, alphas = stack.along(x, s), torch.linspace(-1, 1, 9, dtype=torch.float64)
    shorter = [Polynomial(side.coefficients[:-1], side.unit) for side in (ray.numerator, ray.denominator)]
    for cut in (Ratio(shorter[0], ray.denominator), Ratio(ray.numerator, shorter[1])):
        assert not torch.allclose(cut(alphas), ray(alphas), rtol=1e-3)


def test_digits_are_lost_where_the_steering_cancels_what_it_is_added_to():
    stack, x = make_stack(3), draw(4, seed=1)
    ray = stack.along(x, -x + 0.05 * draw(4, seed=2))
    away, onto = ray.cancellation(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert away < 1e3 and onto > 1e9


def test_a_ray_far_out_does_not_overflow():
    stack, (x, s) = make_stack(5), draw(2, 4, seed=3)
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    close(stack.along(x, s)(far), stack(x + far[:, None] * s))
    numerator, denominator = stack.homogeneous(x + far[:, None] * s)
    assert not torch.isfinite(numerator).all()  # the polynomials themselves do


# Where a root remains

def line(function, width=4, seed=5):
    """One entry of a function of a vector, on a ray that passes near the origin."""
    x, s = draw(2, width, seed=seed)
    return lambda alphas: function(0.3 * x + alphas[:, None] * s)[..., 0]


@pytest.mark.parametrize("reads", [1, 2, 3, 4])
def test_an_odd_number_of_reads_leaves_a_root(reads):
    factors = draw(reads, 4, seed=1)

    def product(x):  # a product of `reads` linear maps of the normed vector
        return torch.stack([rms(x, 0.01) @ factor for factor in factors]).prod(0)[..., None]
    misfit = rational_misfit(line(product), (reads, 2 * (reads // 2)) if reads % 2 == 0 else (reads + 3, reads + 3))
    assert (misfit > 1e-7) == remaining_root(reads) and (remaining_root(reads) or misfit < 1e-10)


def normed_attention(kind, qk_norm, width=4):
    """The output at the last of three tokens, where only that token, or only the first one, moves along a ray."""
    torch.manual_seed(1)
    layer, context = Attention(kind, width, width, 3, (), "none", qk_norm).double(), draw(3, width, seed=2)

    def moved(place, norm):
        def at(x):
            tokens = context.expand(len(x), 3, width).clone()
            tokens[:, place] = x
            return layer(norm(tokens))[0][:, -1].detach()
        return at
    return moved


@pytest.mark.parametrize("moved, degrees, rational", [(0, (3, 2), False), (2, (5, 4), False)])
def test_a_norm_before_attention_leaves_the_root_of_keys_and_values(moved, degrees, rational):
    at = normed_attention("bilinear", "none")
    misfit = rational_misfit(line(at(moved, lambda x: rms(x, 0.01))), tuple(degree + 2 for degree in degrees))
    assert (misfit < 1e-9) == rational and misfit > 1e-6
    assert rational_misfit(line(at(moved, lambda x: x)), (degrees[0], 0)) < 1e-9  # without a norm a polynomial


def test_a_norm_that_only_the_queries_read_is_rational():
    queries, keys = draw(2, 3, 4, seed=3), draw(2, 5, 4, seed=4)
    values = draw(5, 4, seed=5)

    def at(x):
        scores = [(rms(x, 0.01) @ query.mT) @ (key @ query.mT).mT for query, key in zip(queries, keys)]
        return (scores[0] * scores[1]) @ values
    assert rational_misfit(line(at), (2, 2)) < 1e-10 and not remaining_root(2)


@pytest.mark.parametrize("kind, degrees, rational", [("squared", (3, 2), True), ("bilinear", (7, 6), False)])
def test_qk_norm_is_rational_for_one_branch_and_not_for_two(kind, degrees, rational):
    misfit = rational_misfit(line(normed_attention(kind, "rms")(0, lambda x: x)), degrees)
    assert misfit < 1e-9 if rational else misfit > 1e-7
    assert remaining_root({"squared": 2, "bilinear": 1}[kind]) != rational


def test_the_rational_two_branch_norm_is_rational_and_bounded():
    weights = draw(4, 3, 4, seed=6)
    keys = [draw(5, 4, seed=7) @ weight.mT for weight in weights[2:]]

    def scores(x):
        return rational_scores(x @ weights[0].mT, keys[0], x @ weights[1].mT, keys[1])
    assert rational_misfit(line(scores), (2, 2)) < 1e-10
    assert scores(draw(200, 4)).abs().max() <= 1
    plain = (draw(200, 4) @ weights[0].mT @ keys[0].mT) * (draw(200, 4) @ weights[1].mT @ keys[1].mT)
    assert plain.abs().max() > 1


def test_the_norm_before_the_head_keeps_a_root():
    assert rational_misfit(line(lambda x: rms(x, 0.01)), (5, 5)) > 1e-6


@SETTINGS
@given(st.integers(0, 5), st.integers(0, 4), seed)
def test_the_misfit_of_a_ratio_is_rounding_error(numerator, denominator, seed):
    top, bottom = draw(numerator + 1, seed=seed), draw(denominator + 1, seed=seed + 1)

    def ratio(t):
        return (t[:, None] ** torch.arange(numerator + 1)) @ top / (1 + ((t[:, None] ** torch.arange(denominator + 1)) @ bottom).square())
    assert rational_misfit(ratio, (numerator, 2 * denominator)) < 1e-8


# Errors

BLOCK = RationalBlock(make_cp())
STACK = RationalStack((BLOCK,))


@pytest.mark.parametrize("call, error, message", [
    (lambda: RationalBlock(None), TypeError, "cp must be a CPTensor, got NoneType"),
    (lambda: RationalBlock(make_cp(), eps=-1), ValueError, "eps must be a finite number of at least 0, got -1"),
    (lambda: RationalBlock(make_cp(), eps=float("nan")), ValueError, "eps must be a finite number"),
    (lambda: RationalBlock(make_cp(), residual="yes"), ValueError, "residual must be one of 'identity', 'none', got 'yes'"),
    (lambda: RationalBlock(make_cp(out=3)), ValueError, r"of equal out and width .* got CPTensor of shape \(3, 4, 4\)"),
    (lambda: BLOCK(draw(5)), ValueError, "x must have 4 entries in its last axis"),
    (lambda: BLOCK(draw(4).float()), TypeError, "must be torch.float64 like"),
    (lambda: BLOCK(draw(1)[0]), ValueError, r"x must have 4 entries in its last axis, got shape \(\)"),
    (lambda: BLOCK([1.0]), TypeError, "x must be a Tensor, got list"),
    (lambda: RationalStack(BLOCK), ValueError, "blocks must be a tuple of at least one RationalBlock, got RationalBlock"),
    (lambda: rational_misfit(lambda a: 0 * a, (1, 1)), ValueError, "not all 0"),
    (lambda: rational_misfit(lambda a: a / 0, (1, 1)), ValueError, "values must be finite"),
    (lambda: rational_misfit(lambda a: a[:, None], (1, 1)), ValueError, "a number for each of 9 alphas"),
    (lambda: rational_misfit(lambda a: a.float(), (1, 1)), TypeError, "alphas must be torch.float32 like values"),
    (lambda: rational_scores(*[draw(3)] * 4), ValueError, r"\(..., tokens, head_dim\)"),
    (lambda: RationalStack(()), ValueError, "at least one RationalBlock"),
    (lambda: RationalStack((make_cp(),)), TypeError, r"blocks\[0\] must be a RationalBlock, got CPTensor"),
    (lambda: RationalStack((BLOCK, RationalBlock(make_cp(5)))), ValueError, r"blocks\[1\] must be of width 4"),
    (lambda: RationalStack((BLOCK, RationalBlock(single(make_cp())))), TypeError, "must be torch.float64"),
    (lambda: STACK.along(draw(4), draw(5)), ValueError, r"s must be a vector of shape \(4,\), got Tensor of shape \(5,\)"),
    (lambda: STACK.along(draw(4), draw(4) / 0), ValueError, "s must be finite"),
    (lambda: STACK.along(draw(4).float(), draw(4)), TypeError, "x must be torch.float64"),
    (lambda: RationalStack((RationalBlock(make_cp(), 0.0),)).along(0 * draw(4), 0 * draw(4)), ValueError, "other than 0, got 0.0"),
    (lambda: make_stack(3).along(1e110 * draw(4), draw(4)), ValueError, "coefficients within the number range"),
    (lambda: remaining_root(0), ValueError, "reads must be a whole number of at least 1"),
    (lambda: remaining_root(2.0), ValueError, "reads must be a whole number"),
    (lambda: cubic_tensor(200), ValueError, "would need 11.9 GiB"),
    (lambda: cubic_tensor(0), ValueError, "width must be a whole number of at least 1"),
    (lambda: rational_scores(draw(2, 4), draw(3, 4), draw(2, 5), draw(3, 4)), ValueError, "q2 must be of shape"),
    (lambda: rational_misfit(torch.sin, (-1, 2)), ValueError, "degree of the numerator must be a whole number from 0 to 200"),
])
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
