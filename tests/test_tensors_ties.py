"""Order, sign and basis at ties: what rounding would decide is decided by one rule."""

import pytest
import torch
from tensor_cases import close, randn

from tensorlm.tensors import CPTensor, canonical, compose, eigen, hosvd, layer_hosvd, odt, permute, rescale, swap
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
    return [CPTensor(cp.D, 3 * cp.L, cp.R / 3), swap(cp), rescale(cp, scale, -1 / scale.flip(0)), permute(cp, list(range(cp.hidden))[::-1])]


ORTHOGONAL = CPTensor(*(torch.tensor([row], dtype=torch.float64) for row in ([1.0], [0.6, 0.8], [0.8, -0.6])))  # values +-1/2
EYE = torch.eye(6, dtype=torch.float64)
DOUBLE = CPTensor(torch.ones(1, 2, dtype=torch.float64), EYE[:2], EYE[2:4])  # x1 x3 + x2 x4: +-1/2, twice each
SPHERE = CPTensor(torch.ones(2, 4, dtype=torch.float64), EYE[:4], EYE[:4])  # |x|^2 of four inputs, in both outputs
TURNED = CPTensor(*[torch.linalg.qr(randn(4, 4, seed=3)).Q] * 3)


@pytest.mark.parametrize("cp", [ORTHOGONAL, DOUBLE, SPHERE, TURNED])
def test_spectra_are_those_of_the_function_and_not_of_its_factors(cp):
    expected, moment = eigen(cp, method="dense"), torch.diag(torch.arange(1.0, cp.width + 1).double())
    for other in [cp, *gauges(cp)]:
        for method in ("dense", *(("reduced",) if 2 * cp.hidden < cp.width else ())):
            spectrum = eigen(other, method=method)
            found = int((expected.values.abs() > 1e-9).sum(-1).min())
            assert torch.allclose(spectrum.values[:, :found], expected.values[:, :found], rtol=0, atol=1e-9)
            assert torch.allclose(spectrum.vectors[:, :found], expected.vectors[:, :found], rtol=0, atol=1e-9)
            importance = [each.importance(second_moment=moment)[:, :found] for each in (spectrum, expected)]
            assert torch.allclose(*importance, rtol=0, atol=1e-9)
            for k in range(1, found + 1):
                assert torch.allclose(spectrum.matrix(k), expected.matrix(k), rtol=0, atol=1e-9)
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
        assert torch.allclose(found.directions, expected.directions, atol=1e-9)
        assert torch.allclose(found.stack.layers[0].dense(), expected.stack.layers[0].dense(), atol=1e-9)
        assert torch.allclose(found.stack.dense(), expected.stack.dense(), atol=1e-9)


def test_canonical_order_of_equal_units_does_not_hang_on_rounding():
    cp = CPTensor(torch.ones(1, 3, dtype=torch.float64) / 3, *[torch.linalg.qr(randn(3, 3, seed=5)).Q] * 2)
    for other in gauges(cp):
        for name in "DLR":
            assert torch.allclose(getattr(canonical(other), name), getattr(canonical(cp), name), atol=1e-9)


def slopes(function, point, step=1e-6):
    """Central differences."""
    units = torch.eye(point.numel(), dtype=point.dtype).view(-1, *point.shape)
    return torch.stack([(function(point + step * unit) - function(point - step * unit)) / (2 * step) for unit in units]).view_as(point)


D = torch.tensor([[1.0, 1.0, 0.3]], dtype=torch.float64)
WEIGHTS, X = randn(9, 9, seed=1), randn(9, seed=2)
SMOOTH = {
    "matrix": lambda L: (eigen(CPTensor(D, L, L)).matrix() * WEIGHTS[: L.shape[1], : L.shape[1]]).sum(),
    "matrix(2)": lambda L: (eigen(CPTensor(D, L, L)).matrix(2) * WEIGHTS[: L.shape[1], : L.shape[1]]).sum(),
    "evaluate": lambda L: eigen(CPTensor(D, L, L)).evaluate(X[: L.shape[1]]).sum(),
    "evaluate(2)": lambda L: eigen(CPTensor(D, L, L)).evaluate(X[: L.shape[1]], 2).sum(),
    "error": lambda L: eigen(CPTensor(D, L, L)).error(2).sum(),
    "hosvd error": lambda L: hosvd(CPTensor(D, L, L), 2).error,
}


@pytest.mark.parametrize("width", [3, 9])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_at_equal_eigenvalues_are_those_of_the_function(name, width):
    L = torch.eye(3, width, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(SMOOTH[name](L), L)
    assert torch.allclose(gradient, slopes(SMOOTH[name], L.detach()), atol=1e-8)


@pytest.mark.parametrize("function, message", [
    (lambda L: eigen(CPTensor(D, L, L)).matrix(1).sum(), "k must not cut through eigenvalues of equal size, .* got k = 1"),
    (lambda L: eigen(CPTensor(D, L, L)).evaluate(X[:3], 1).sum(), "k must not cut through"),
    (lambda L: eigen(CPTensor(D, L, L)).contributions(X[:3])[0, 0], "equal eigenvalues have no gradient of their own"),
    (lambda L: hosvd(CPTensor(D, L, L), 1).error, "equal eigenvalues have no gradient of their own"),
    (lambda L: hosvd(CPTensor(D, L, L), 2).core.sum(), "equal eigenvalues have no gradient of their own"),
])
def test_what_has_no_gradient_at_equal_eigenvalues_says_so(function, message):
    L = torch.eye(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        function(L).backward()
    apart = torch.eye(3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    other = apart.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(other), other)
    assert torch.allclose(gradient, slopes(lambda L: function(L).detach(), apart), atol=1e-7)
