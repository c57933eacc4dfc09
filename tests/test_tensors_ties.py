"""Order, sign and basis at ties: what rounding would decide is decided by one rule."""

import torch
from tensor_cases import close, randn

from tensorlm.tensors.ties import by_size, by_value, peak, ranks, settled, upward

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
