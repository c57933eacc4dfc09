"""The symmetric third-order tensor as a layer: its function, its tensor, its size, its scale, and in a model."""

import pytest
import torch
from torch.autograd import gradcheck

from tensorlm.layers import FullTensorMLP, SymmetricMLP, build_mlp, init_weights
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.tensors import CPTensor, eigen

SMALL = dict(vocab_size=11, context=8, width=8, layers=2, head_dim=4)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(width=6, out=4, seed=0):
    layer = SymmetricMLP(width, out).double()
    init_weights(layer, torch.Generator().manual_seed(seed))
    return layer


def quadratic(tensor, x):
    return torch.einsum("oij,...i,...j->...o", tensor, x, x)


@pytest.mark.parametrize("width, out", [(1, 1), (2, 3), (6, 4), (7, 1)])
def test_the_layer_is_the_quadratic_form_of_its_symmetric_tensor(width, out):
    layer, x = make(width, out), random(2, 5, width)
    tensor = layer.tensor()
    assert tensor.shape == (out, width, width) and torch.equal(tensor, tensor.mT)
    torch.testing.assert_close(layer(x), quadratic(tensor, x), rtol=1e-12, atol=1e-12)
    if width > 1:
        assert not torch.allclose(layer(x), quadratic(tensor.triu(), x))


def test_any_tensor_becomes_the_layer_with_its_function_and_keeps_its_symmetric_part():
    tensor, x = random(3, 5, 5), random(9, 5, seed=1)
    layer = SymmetricMLP.from_tensor(tensor)
    assert layer.S.dtype == torch.float64
    torch.testing.assert_close(layer(x), quadratic(tensor, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.tensor(), (tensor + tensor.mT) / 2, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(layer.tensor(), tensor)
    again = SymmetricMLP.from_tensor(layer.tensor())
    torch.testing.assert_close(again.S, layer.S, rtol=1e-12, atol=1e-12)


def test_it_holds_every_bilinear_layer_and_cp_forms_are_made_from_its_tensor():
    torch.manual_seed(0)
    bilinear, x = build_mlp("bilinear", 6, 5, 4).double(), random(7, 6)
    layer = SymmetricMLP.from_tensor(CPTensor.from_layer(bilinear).dense())
    torch.testing.assert_close(layer(x), bilinear(x), rtol=1e-12, atol=1e-12)
    back = CPTensor.from_dense(layer.tensor().detach())
    torch.testing.assert_close(back(x), bilinear(x), rtol=1e-10, atol=1e-10)
    assert eigen(back).values.shape == (4, 6)
    torch.testing.assert_close(CPTensor.from_layer(layer)(x), bilinear(x), rtol=1e-10, atol=1e-10)


def test_a_turned_input_turns_the_stored_weights_and_plain_squares_would_not():
    layer = make()
    turn = torch.linalg.qr(random(6, 6, seed=2)).Q
    turned = SymmetricMLP.from_tensor(torch.einsum("oij,ia,jb->oab", layer.tensor().detach(), turn, turn))
    torch.testing.assert_close(turned.S @ turned.S.T, layer.S @ layer.S.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.S.square().sum(), 2 * layer.tensor().square().sum(), rtol=1e-12, atol=0)
    plain = [part.S * torch.cat([torch.full((6,), 0.5**0.5), torch.ones(15)]) for part in (turned, layer)]
    assert not torch.allclose(plain[0] @ plain[0].T, plain[1] @ plain[1].T, rtol=1e-2)


def test_gradients_agree_with_finite_differences():
    layer, x = make(4, 2), random(3, 4).requires_grad_()

    def function(x, S):
        return torch.func.functional_call(layer, {"S": S}, (x,))

    assert gradcheck(function, (x, layer.S))
    layer.tensor().square().sum().backward()
    torch.testing.assert_close(layer.S.grad, layer.S.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [6, 48])
def test_outputs_start_with_the_variance_stated(width):
    layer, x = SymmetricMLP(width, out=4000), random(width, seed=3).float()
    init_weights(layer, torch.Generator().manual_seed(1))
    x = x / x.square().mean().sqrt()
    assert layer(x).square().mean().item() == pytest.approx(width / (width + 1), rel=0.08)


def test_a_model_counts_it_folds_its_norms_and_states_its_degree():
    config = ModelConfig(**SMALL, mlp="symmetric", norm="anneal", output_init="normal")
    assert config.hidden == 0
    torch.manual_seed(0)
    model = TensorTransformer(config).double().eval()
    names = [name for name, _ in model.parameter_groups()["matrix"]]
    assert "blocks.0.mlp.S" in names
    full = TensorTransformer(ModelConfig(**{**SMALL, "mlp": "full"}))
    assert full.parameter_count() - model.parameter_count() == 2 * 8 * (64 - 36)
    model.set_anneal(1.0)
    for number, site in enumerate(site for site in model.norm_sites() if site.kind == "anneal"):
        site.log_constant.fill_(0.1 + 0.05 * number)
    tokens = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(4))
    folded = model.fold_norms()
    torch.testing.assert_close(folded(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    once = model.blocks[1].mlp.S * torch.exp(-model.blocks[1].mlp_norm.log_constant)
    assert not torch.allclose(folded.blocks[1].mlp.S, once)
    assert int(model.polynomial_degree()) == (5 * 2) ** 2


def test_the_full_tensor_has_the_same_function_with_more_numbers():
    full, x = FullTensorMLP(5, 3).double(), random(4, 5)
    layer = SymmetricMLP.from_tensor(full.T.detach().view(3, 5, 5))
    torch.testing.assert_close(layer(x), full(x), rtol=1e-12, atol=1e-12)
    assert (full.parameter_count, layer.parameter_count) == (75, 45)


@pytest.mark.parametrize("tensor, error, message", [
    (torch.zeros(2, 3, 4), ValueError, r"must be of shape \(out, width, width\).*\(2, 3, 4\)"),
    (torch.zeros(3, 3), ValueError, r"\(3, 3\)"),
    (torch.zeros(0, 3, 3), ValueError, r"none of them 0"),
    (torch.zeros(1, 2, 2, dtype=torch.long), TypeError, "torch.int64"),
    ([[1.0]], TypeError, "got list"),
])
def test_what_is_no_tensor_of_a_layer_is_refused(tensor, error, message):
    with pytest.raises(error, match=message):
        SymmetricMLP.from_tensor(tensor)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"6 features.*\(2, 5\)"):
        make()(random(2, 5))
