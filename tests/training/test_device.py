"""The precision policy, with the GPU's capability stood in for: no GPU is needed to decide."""

import pytest
import torch

from tensorlm.training import device as policy
from tensorlm.training.device import choose_precision, resolve_device

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize("capability, dtype", [
    ((12, 0), torch.bfloat16), ((9, 0), torch.bfloat16), ((8, 9), torch.bfloat16),
    ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((7, 0), torch.float16),
    ((6, 1), torch.float32),
])
def test_auto_follows_the_compute_capability(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: pytest.fail("counts emulation as support"))
    chosen = choose_precision("auto", CUDA)
    assert chosen == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", [CUDA, CPU])
def test_a_named_precision_is_obeyed_without_asking_the_device(name, device):
    chosen = choose_precision(name, device)
    assert chosen == getattr(torch, name)


@pytest.mark.parametrize("faster", [True, False])
def test_on_a_cpu_the_probe_decides(monkeypatch, faster):
    monkeypatch.setattr(policy, "cpu_bf16_faster", lambda: faster)
    assert choose_precision("auto", CPU) == (torch.bfloat16 if faster else torch.float32)


def test_the_probe_compares_what_it_measures_and_is_asked_once(monkeypatch):
    for bf16, faster in ((0.5, True), (0.99, False), (2.0, False)):
        times = {torch.float32: 1e-3, torch.bfloat16: bf16 * 1e-3}
        calls = []
        monkeypatch.setattr(policy, "_time_layer", lambda dtype: calls.append(dtype) or times[dtype])
        policy.cpu_bf16_faster.cache_clear()
        assert policy.cpu_bf16_faster() is faster
        count = len(calls)
        policy.cpu_bf16_faster()
        assert len(calls) == count
    policy.cpu_bf16_faster.cache_clear()


@pytest.mark.parametrize("name", ["tpu-ish", "cuda:99", "cpux", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="device"):
        resolve_device(name)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of 'auto', .*, got 'half'"):
        choose_precision("half", CPU)
