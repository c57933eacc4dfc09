"""Order, sign and basis at ties: what rounding would decide is decided by one rule."""

import pytest
import torch
from tensor_cases import close, randn

from tensorlm.tensors import CPTensor, compose, eigen, hosvd, layer_hosvd, odt
from tensorlm.ties import by_size, by_value, peak, ranks, settled, upward

NOISE = torch.tensor([1.0, 1 - 1e-15, 1 + 1e-15, 1 + 2e-14], dtype=torch.float64)


def test_numbers_that_differ_by_rounding_have_one_rank():
    assert ranks(NOISE).tolist() == [0, 0, 0, 0]
    assert ranks(torch.tensor([1.0, 1 + 1e-12], dtype=torch.float64)).tolist() == [1, 0]
    assert ranks(torch.tensor([1.0, 1 + 1e-12], dtype=torch.float64), tolerance=1e-9).tolist() == [0, 0]
    assert ranks(torch.zeros(2, 0)).shape == (2, 0) and ranks(torch.zeros(3)).tolist() == [0, 0, 0]


def test_order_by_value_and_by_size_does_not_hang_on_rounding():
    values = torch.tensor([-0.5, 0.5, 2.0, -2.0], dtype=torch.float64)
    for factor in NOISE:
        noisy = values * torch.stack([factor, *NOISE[:3]])
        assert by_size(noisy).tolist() == [2, 3, 1, 0]
        assert by_value(noisy).tolist() == [2, 1, 0, 3]


def test_the_sign_is_that_of_the_first_of_the_largest_entries():
    assert peak(torch.tensor([[-1.0, 1.0 + 1e-6], [0.0, 2.0]])).tolist() == [[0], [1]]
    assert upward(torch.tensor([[-1.0, 1.0 + 1e-6], [0.0, 2.0]])).round(decimals=3).tolist() == [[1, -1], [0, 2]]


def test_a_common_subspace_has_one_basis_however_it_is_turned():
    vectors = torch.linalg.qr(randn(6, 6, seed=3)).Q
    values = torch.tensor([3.0, 2.0, 2.0, 2.0, -2.0, 0.0], dtype=torch.float64)
    expected = settled(values, vectors)
    close(expected @ expected.mT, torch.eye(6, dtype=torch.float64))
    for seed in range(5):
        turned = vectors.clone()
        turned[1:4] = torch.linalg.qr(randn(3, 3, seed=seed)).Q @ vectors[1:4]
        turned[[0, 4]] *= -1
        found = settled(values * (1 + 1e-15 * randn(6, seed=seed)), turned)
        close(found[:5], expected[:5])
    close(expected[1:4].mT @ expected[1:4], vectors[1:4].mT @ vectors[1:4])


def gauges(cp):
    """The same function by other factors."""
    scale = torch.linspace(0.1, 3, cp.hidden, dtype=torch.float64)
    return [CPTensor(cp.D, 3 * cp.L, cp.R / 3), cp.swap(), cp.rescale(scale, -1 / scale.flip(0)), cp.permute(list(range(cp.hidden))[::-1])]


def many_units(cp):
    """With units of zeros, so many that the matrices themselves are decomposed."""
    zeros = [(0, cp.width), (0, 0, 0, cp.width), (0, 0, 0, cp.width)]
    return CPTensor(*(torch.nn.functional.pad(factor, sides) for factor, sides in zip((cp.D, cp.L, cp.R), zeros)))


ORTHOGONAL = CPTensor(*(torch.tensor([row], dtype=torch.float64) for row in ([1.0], [0.6, 0.8], [0.8, -0.6])))  # values +-1/2
EYE = torch.eye(6, dtype=torch.float64)
DOUBLE = CPTensor(torch.ones(1, 2, dtype=torch.float64), EYE[:2], EYE[2:4])  # x1 x3 + x2 x4: +-1/2, twice each
SPHERE = CPTensor(torch.ones(2, 4, dtype=torch.float64), EYE[:4], EYE[:4])  # |x|^2 of four inputs, in both outputs
TURNED = CPTensor(*[torch.linalg.qr(randn(4, 4, seed=3)).Q] * 3)


@pytest.mark.parametrize("cp", [ORTHOGONAL, DOUBLE, SPHERE, TURNED])
def test_spectra_are_those_of_the_function_and_not_of_its_factors(cp):
    expected, points = eigen(many_units(cp)), randn(7, cp.width)
    for other in [cp, *gauges(cp), many_units(cp)]:
        spectrum = eigen(other)
        found = int((expected.values.abs() > 1e-9).sum(-1).min())
        assert torch.allclose(spectrum.values[:, :found], expected.values[:, :found], rtol=0, atol=1e-9)
        assert torch.allclose(spectrum.vectors[:, :found], expected.vectors[:, :found], rtol=0, atol=1e-9)
        importance = [each.importance(points)[:, :found] for each in (spectrum, expected)]
        assert torch.allclose(*importance, rtol=0, atol=1e-9)
        for k in range(1, found + 1):
            assert torch.allclose(spectrum.evaluate(points, k), expected.evaluate(points, k), rtol=0, atol=1e-9)
            assert torch.allclose(spectrum.error(k), expected.error(k), rtol=0, atol=1e-9)


def test_of_equal_sizes_the_positive_eigenvalue_comes_first():
    assert eigen(ORTHOGONAL).values.sign().tolist() == [[1, -1]]
    assert eigen(DOUBLE).values[0, :4].sign().tolist() == [1, 1, -1, -1]
    assert eigen(CPTensor(-ORTHOGONAL.D, ORTHOGONAL.L, ORTHOGONAL.R)).values.sign().tolist() == [[1, -1]]
    assert bool((eigen(ORTHOGONAL).vectors.gather(-1, peak(eigen(ORTHOGONAL).vectors)) > 0).all())


@pytest.mark.parametrize("cp", [SPHERE, TURNED])
def test_bases_of_decompositions_are_those_of_the_function(cp):
    network = compose(TURNED, CPTensor(cp.D[:, :4], TURNED.L, TURNED.R))
    expected, cut, whole = odt(network, (2, 2)), hosvd(cp, 2), layer_hosvd(cp)
    for other in gauges(cp):
        assert torch.allclose(layer_hosvd(other).directions[:1], whole.directions[:1], atol=1e-9)
        assert torch.allclose(hosvd(other, 2).dense(), cut.dense(), atol=1e-9)
    for below in gauges(TURNED):
        found = odt(compose(below, network.layers[1]), (2, 2))
        assert torch.allclose(found.stack.layers[0].dense(), expected.stack.layers[0].dense(), atol=1e-9)
        assert torch.allclose(found.stack.dense(), expected.stack.dense(), atol=1e-9)


def test_canonical_order_of_equal_units_does_not_hang_on_rounding():
    cp = CPTensor(torch.ones(1, 3, dtype=torch.float64) / 3, *[torch.linalg.qr(randn(3, 3, seed=5)).Q] * 2)
    for other in gauges(cp):
        for name in "DLR":
            assert torch.allclose(getattr(other.canonical(), name), getattr(cp.canonical(), name), atol=1e-9)


def slopes(function, point, step=1e-6):
    """Central differences."""
    units = torch.eye(point.numel(), dtype=point.dtype).view(-1, *point.shape)
    return torch.stack([(function(point + step * unit) - function(point - step * unit)) / (2 * step) for unit in units]).view_as(point)


D = torch.tensor([[1.0, 2.0, 0.3]], dtype=torch.float64)
X, WEIGHTS = randn(9, seed=2), randn(3, 3, seed=1)
SPECTRAL = {
    "values": lambda L: (eigen(CPTensor(D, L, L)).values[0, :3] * D[0]).sum(),
    "contributions": lambda L: eigen(CPTensor(D, L, L)).contributions(X[: L.shape[1]])[0, 0],
    "evaluate": lambda L: eigen(CPTensor(D, L, L)).evaluate(X[: L.shape[1]], 2).sum(),
    "hosvd error": lambda L: hosvd(CPTensor(D, L, L), 2).error,
    "hosvd core": lambda L: (hosvd(CPTensor(D, L, L), 3).core.abs() * WEIGHTS).sum(),
}


@pytest.mark.parametrize("name, width", [("values", 3), ("values", 9), ("contributions", 3), ("evaluate", 3)])
def test_gradients_are_those_of_the_spectrum(name, width):
    apart = torch.eye(3, width, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [3.0]]) + 0.01 * randn(3, width)
    L = apart.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SPECTRAL[name](L), L)
    assert torch.allclose(gradient, slopes(lambda L: SPECTRAL[name](L).detach(), apart), atol=1e-6)


@pytest.mark.parametrize("name", ["hosvd error", "hosvd core"])
def test_gradients_are_those_of_the_decomposition(name):
    apart = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) + 0.01 * randn(3, 3)
    L = apart.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SPECTRAL[name](L), L)
    assert torch.allclose(gradient, slopes(lambda L: SPECTRAL[name](L).detach(), apart), atol=1e-6)


@pytest.mark.parametrize("name", ["contributions", "evaluate", "hosvd error", "hosvd core"])
def test_what_has_no_gradient_at_equal_eigenvalues_says_so(name):
    L = torch.diag(torch.tensor([2.0, 2.0**0.5, 3.0], dtype=torch.float64)).requires_grad_()
    with pytest.raises(ValueError, match="equal eigenvalues have no gradient of their own"):
        SPECTRAL[name](L).backward()
