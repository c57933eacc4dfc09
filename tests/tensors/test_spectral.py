"""Interaction matrices and their spectra: Eckart-Young, contributions, both routes, the HOSVD of a layer, errors."""

import pytest
import torch
from hypothesis import given, strategies as st
from tensor_cases import SETTINGS, close, randn, random_cp

from tensorlm.tensors import CPTensor, eigen, interaction, layer_hosvd

size = st.integers(1, 6)
seed = st.integers(0, 2**16)


def size_of(cp):
    return cp.symmetric().norm()


def from_pairs(spectrum, k=None):
    """sum of lambda v v^T over the k largest |lambda|, for every direction."""
    return torch.einsum("mr,mri,mrj->mij", spectrum.values[:, :k], *[spectrum.vectors[:, :k]] * 2)


cps = st.builds(random_cp, out=size, hidden=size, width=size, seed=seed)
low_rank = st.builds(random_cp, out=size, hidden=st.integers(1, 2), width=st.integers(5, 9), seed=seed)


@SETTINGS
@given(cps, st.integers(1, 5))
def test_an_interaction_matrix_is_the_function_along_its_direction(cp, count):
    directions, x = randn(count, cp.out), randn(7, cp.width, seed=2)
    matrices = interaction(cp, directions)
    close(torch.einsum("mij,bi,bj->bm", matrices, x, x), cp(x) @ directions.mT)
    close(matrices, torch.einsum("mo,oij->mij", directions, cp.symmetric()))
    assert torch.equal(matrices, matrices.mT)
    close(interaction(cp, directions[0]), matrices[0])
    close(interaction(cp), cp.symmetric())


@SETTINGS
@given(cps | low_rank)
def test_contributions_sum_to_the_function(cp):
    spectrum, x = eigen(cp), randn(2, 3, cp.width)
    assert spectrum.contributions(x).shape == (2, 3, *spectrum.values.shape)
    close(spectrum.contributions(x).sum(-1), cp(x))
    close(spectrum.evaluate(x, spectrum.values.shape[-1]), cp(x))
    close(from_pairs(spectrum), cp.symmetric())
    sizes = spectrum.values.abs()
    assert bool((sizes[:, :-1] >= sizes[:, 1:]).all())
    gram = spectrum.vectors @ spectrum.vectors.mT
    close(gram, torch.eye(gram.shape[-1], dtype=torch.float64).expand_as(gram))


@SETTINGS
@given(cps | low_rank, st.data())
def test_truncation_leaves_the_dropped_eigenvalues_and_nothing_is_nearer(cp, data):
    spectrum, matrices = eigen(cp), interaction(cp)
    k = data.draw(st.integers(1, spectrum.values.shape[1]))
    error = torch.linalg.matrix_norm(matrices - from_pairs(spectrum, k))
    close(error, spectrum.error(k), scale=size_of(cp))
    close(spectrum.evaluate(randn(5, cp.width), k), torch.einsum("mij,bi,bj->bm", from_pairs(spectrum, k), *[randn(5, cp.width)] * 2))
    dropped = torch.linalg.svdvals(matrices)[:, k:].square().sum(-1).sqrt()  # Eckart-Young
    close(dropped, spectrum.error(k), scale=size_of(cp))


def test_the_largest_values_rather_than_the_largest_sizes_are_not_the_best_to_keep():
    cp = CPTensor(torch.tensor([[1.0, -3.0]]).double(), torch.eye(2).double(), torch.eye(2).double())  # x1^2 - 3 x2^2
    spectrum = eigen(cp)
    assert spectrum.values.tolist() == [[-3.0, 1.0]] and spectrum.error(1).item() == 1.0
    by_value = spectrum.values[0, 1] * torch.outer(spectrum.vectors[0, 1], spectrum.vectors[0, 1])
    assert torch.linalg.matrix_norm(interaction(cp)[0] - by_value) > 2.9


@SETTINGS
@given(cps, st.data())
def test_deleting_an_eigenvector_takes_its_contribution_away(cp, data):
    spectrum, x = eigen(cp), randn(7, cp.width)
    number = data.draw(st.integers(0, spectrum.values.shape[1] - 1))
    for out, vector in enumerate(spectrum.vectors[:, number]):
        without = x - (x @ vector).unsqueeze(-1) * vector
        close(cp(without)[:, out] - cp(x)[:, out], -spectrum.contributions(x)[:, out, number], scale=cp(x).abs().max())


def test_deleting_another_direction_does_more_than_its_own_square():
    cp, x = random_cp(out=1), randn(7, 4)
    v = torch.nn.functional.normalize(randn(4, seed=3), dim=0)
    change = cp(x - (x @ v).unsqueeze(-1) * v) - cp(x)
    own = -cp(v) * (x @ v).square().unsqueeze(-1)
    assert float((change - own).abs().max()) > 0.1


@SETTINGS
@given(low_rank)
def test_the_reduced_route_is_the_dense_one(cp):
    reduced, dense = eigen(cp), torch.linalg.eigvalsh(interaction(cp)).abs().sort(descending=True).values
    assert reduced.values.shape[1] == 2 * cp.hidden and dense.shape[1] == cp.width
    close(reduced.values.abs(), dense[:, : 2 * cp.hidden], scale=size_of(cp))
    close(from_pairs(reduced), interaction(cp))
    assert float(dense[:, 2 * cp.hidden :].max()) < 1e-12 * (1 + float(size_of(cp)))  # all that was left out is zero


def test_auto_picks_the_cheaper_route():
    assert eigen(random_cp(hidden=2, width=5)).values.shape[1] == 4
    assert eigen(random_cp(hidden=2, width=4)).values.shape[1] == 4
    assert eigen(random_cp(hidden=9, width=5)).values.shape[1] == 5


@SETTINGS
@given(cps)
def test_importance_is_the_mean_contribution(cp):
    spectrum, x = eigen(cp), randn(50, cp.width) + 1
    close(spectrum.importance(x), spectrum.contributions(x).mean(0))
    close(spectrum.importance(x).sum(-1), cp(x).mean(0), scale=cp(x).abs().max())


def test_the_largest_eigenvalue_need_not_be_the_most_important():
    cp = CPTensor(torch.tensor([[3.0, 1.0]]).double(), torch.eye(2).double(), torch.eye(2).double())
    inputs = torch.tensor([[0.1, 2.0], [-0.1, 2.0]]).double()  # hardly anything along the first eigenvector
    spectrum = eigen(cp)
    assert spectrum.values[0, 0] == 3 and int(spectrum.importance(inputs)[0].argmax()) == 1


@SETTINGS
@given(cps | low_rank)
def test_layer_hosvd_has_the_energy_of_the_layer(cp):
    parts = layer_hosvd(cp)
    assert len(parts.values) == min(cp.out, cp.hidden, cp.width * (cp.width + 1) // 2)
    close(parts.values.square().sum(), size_of(cp).square())
    close(parts.directions @ parts.directions.mT, torch.eye(len(parts.values), dtype=torch.float64))
    matrices = interaction(cp, parts.directions)
    close(torch.einsum("ro,rij->oij", parts.directions, matrices), cp.symmetric(), scale=1e3 * size_of(cp))  # 1e-7: roots of eigenvalues
    gram = matrices.flatten(1) @ matrices.flatten(1).mT
    close(gram, torch.diag(parts.values.square()), scale=size_of(cp).square())
    expected = torch.linalg.svdvals(cp.symmetric().flatten(1))[: len(parts.values)]
    close(parts.values.square(), expected.square(), scale=size_of(cp).square())


def test_the_energy_is_that_of_the_symmetric_part():
    cp = random_cp()
    assert abs(float(layer_hosvd(cp).values.square().sum()) - float(cp.dense().square().sum())) > 1
    close(layer_hosvd(cp).values, layer_hosvd(cp.symmetrised()).values)


def test_zero_functions_and_single_numbers():
    zero = CPTensor(torch.zeros(2, 3), torch.zeros(3, 4), torch.zeros(3, 4))
    assert float(eigen(zero).values.abs().max()) == 0 and float(layer_hosvd(zero).values.max()) == 0
    antisymmetric = CPTensor(torch.tensor([[1.0, -1.0]]), torch.eye(2), torch.eye(2).flip(0))  # x1 x2 - x2 x1
    assert float(eigen(antisymmetric).values.abs().max()) == 0
    one = CPTensor(torch.full((1, 1), 2.0), torch.ones(1, 1), torch.ones(1, 1))
    assert eigen(one).values.item() == 2.0 and round(layer_hosvd(one).values.item(), 6) == 2.0


def test_gradients_flow_through_eigenvalues():
    cp = random_cp()
    D = cp.D.clone().requires_grad_()
    eigen(CPTensor(D, cp.L, cp.R)).values.square().sum().backward()
    assert float(D.grad.abs().sum()) > 0


def test_errors_name_the_argument():
    cp = random_cp()
    spectrum = eigen(cp)
    with pytest.raises(ValueError, match=r"directions must have 3 entries in its last axis, got shape \(2, 4\)"):
        eigen(cp, randn(2, 4))
    with pytest.raises(ValueError, match=r"directions must be \(m, 3\) with m >= 1, or \(3,\), got Tensor of shape \(0, 3\)"):
        interaction(cp, randn(0, 3))
    with pytest.raises(TypeError, match="directions must be torch.float64 like D, got torch.float32"):
        interaction(cp, torch.ones(3))
    with pytest.raises(ValueError, match="L of cp must be finite, got 1 of 20"):
        eigen(CPTensor(cp.D, torch.where(cp.L == cp.L[0, 0], float("nan"), cp.L), cp.R))
    with pytest.raises(ValueError, match="D of cp must be finite"):
        layer_hosvd(CPTensor(cp.D / 0, cp.L, cp.R))
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 4, got 5"):
        spectrum.error(5)
    with pytest.raises(ValueError, match=r"inputs must be \(n, width\) with at least 1 row, got Tensor of shape \(0, 4\)"):
        spectrum.importance(randn(0, 4))
    with pytest.raises(ValueError, match="x must have 4 entries"):
        spectrum.contributions(randn(3))
    with pytest.raises(ValueError, match="dense tensor of shape .* fewer directions"):
        interaction(CPTensor(torch.ones(9000, 1), torch.ones(1, 200), torch.ones(1, 200)))
