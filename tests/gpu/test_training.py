"""Runs on the device: resumed there and on a CPU, annealed, compiled, without the host waiting; and generation."""

import functools
import shutil

import numpy as np
import pytest
import torch

from tensorlm.data import TokenData
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import TrainConfig, train
from tensorlm.training.trainer import Trainer

MODEL = ModelConfig(vocab_size=7, context=16, width=32, layers=2)
ANNEALED = ModelConfig(vocab_size=7, context=16, width=32, layers=2, norm="anneal", qk_norm="anneal", bigram="table")
PLAN = TrainConfig(steps=12, batch_size=8, micro_batch=4, precision="float32", checkpoint_every=5, log_every=4)


class Stop(Exception):
    pass


def stop_at(step):
    def progress(row):
        if row["step"] >= step:
            raise Stop
    return progress


def corpus():
    tokens = np.random.default_rng(0).integers(0, 7, 3000)
    tokens[1::2] = (tokens[::2] + 1) % 7
    return TokenData("pairs", "numbers", 7, "0" * 64, train=tokens[:2500], valid=tokens[2500:])


def furthest(one, other):
    """The largest difference of two models' weights, over the largest weight of its tensor. Muon lifts rounding errors up to 500-fold."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(((a.cpu().double() - b.cpu().double()).abs().max() / b.abs().max().clamp(min=1e-3).item()).item() for a, b in pairs)


@pytest.mark.parametrize("config", [MODEL, ANNEALED], ids=["rms", "anneal"])
def test_a_run_resumes_on_the_device_and_on_a_cpu(config, device, tmp_path):
    whole = train(config, PLAN, corpus(), device=str(device))
    with pytest.raises(Stop):
        train(config, PLAN, corpus(), out=tmp_path / "run", progress=stop_at(8), device=str(device))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    here = train(config, PLAN, corpus(), out=tmp_path / "run", resume=True, device=str(device))
    there = train(config, PLAN, corpus(), out=tmp_path / "copy", resume=True, device="cpu")
    assert furthest(here.model, whole.model) <= 1e-3 and furthest(there.model, whole.model) <= 2e-2
    assert here.loss_valid == pytest.approx(whole.loss_valid, abs=1e-4) and there.loss_valid == pytest.approx(whole.loss_valid, abs=1e-3)
    assert [row["step"] for row in here.history] == [row["step"] for row in there.history] == [4, 8, 12]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_and_resumes(precision, device, tmp_path):
    plan = PLAN.replace(precision=precision)
    exact = train(MODEL, PLAN, corpus(), device="cpu")
    with pytest.raises(Stop):
        train(MODEL, plan, corpus(), out=tmp_path, progress=stop_at(8), device=str(device))
    half = train(MODEL, plan, corpus(), out=tmp_path, resume=True, device=str(device))
    assert half.loss_valid == pytest.approx(exact.loss_valid, abs=0.05) and half.history[-1]["skipped"] <= 3


def test_annealed_norms_end_as_the_constants_of_a_cpu_run_and_fold(device):
    here, there = (train(ANNEALED, PLAN, corpus(), device=where).model.eval() for where in (str(device), "cpu"))
    assert here.anneal_fraction() == 1.0 and here.polynomial_degree() == there.polynomial_degree()
    for site, other in zip(here.norm_sites(), there.norm_sites()):
        if site.kind == "anneal":  # the first block's input has been normed already
            torch.testing.assert_close(site.log_constant.cpu(), other.log_constant, rtol=0, atol=2e-3)
    tokens = torch.arange(32).view(2, 16) % 7
    torch.testing.assert_close(here.fold_norms()(tokens.to(device)), here(tokens.to(device)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("choices", [{}, {"norm": "anneal", "qk_norm": "anneal"}, {"attention": "softmax", "mlp": "relu2"}], ids=str)
def test_a_compiled_run_is_the_same_run_and_compiles_once(choices, device, monkeypatch):
    """On a CPU the graphs are traced and run as they are; only a GPU compiles them."""
    if device.type == "cpu":
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    counts = []
    config = ModelConfig(vocab_size=7, context=16, width=32, layers=1, **choices)
    plan = PLAN.replace(compile="on", log_every=1, checkpoint_every=None, anneal=(0.1, 0.5))
    result = train(config, plan, corpus(), device=str(device),
                   progress=lambda row: counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"]))
    plain = train(config, plan.replace(compile="off"), corpus(), device=str(device))
    assert result.loss_valid == pytest.approx(plain.loss_valid, abs=5e-3)
    assert counts[0] >= 1 and counts[2] == counts[4] and counts[7] == counts[-1]  # annealed norms are constants from step 6 on


def test_the_host_never_waits_between_two_rows_of_the_log(device):
    if device.type == "cpu":
        pytest.skip("on a CPU there is nothing to wait for")
    trainer = Trainer(MODEL, PLAN.replace(precision="auto"), corpus(), str(device))
    for _ in range(3):
        trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.done == 4


@pytest.mark.parametrize("choices", [{}, {"attention": "squared", "positions": ("rope",)}, {"attention": "softmax", "bigram": "table"}],
                         ids=str)
def test_generation_is_that_of_the_full_forward_pass(choices, device):
    model = TensorTransformer(ModelConfig(vocab_size=17, context=32, width=32, output_init="normal", **choices), seed=0).to(device).eval()
    prompt = torch.arange(8, device=device).view(2, 4)
    text = model.generate(prompt, 12, temperature=0.0)
    with torch.no_grad():
        logits = model(text[:, :-1])[:, 3:]
    chosen = logits.gather(2, text[:, 4:, None])[..., 0]
    assert text.device.type == device.type and (logits.amax(-1) - chosen).max() <= 1e-3  # at a tie either token will do
    draws = [model.generate(prompt, 6, top_k=5, generator=torch.Generator(device).manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draws) and int(draws[0].max()) < 17
