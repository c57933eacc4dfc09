"""A checkpoint is what it says, or it is refused with the reason; nothing in a file is ever run."""

import json
import pickle
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tensorlm import released
from tensorlm.files import write_atomically
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import TrainConfig, load_model
from tensorlm.training.checkpoint import CheckpointError, content_hash, export_model, load_checkpoint, save_checkpoint

MODEL = ModelConfig(vocab_size=11, context=8, width=16, layers=1, head_dim=8, norm="anneal")
SOURCE = {"corpus": "noise", "tokenizer": "digits", "sha256": "0" * 64}


@pytest.fixture
def path(tmp_path):
    model = TensorTransformer(MODEL, seed=4)
    torch.nn.init.normal_(model.head)
    return save_checkpoint(tmp_path / "a.safetensors", model, train_config=TrainConfig(steps=7), source=SOURCE,
                           state={"step": 3})


def rewrite(path, change_metadata=lambda m: None, change_tensors=lambda t: None):
    """The same file with something else in it, and without the hash (as files of former versions have none)."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del metadata["sha256"]
    change_metadata(metadata)
    change_tensors(tensors)
    save_file(tensors, path, metadata)
    return path


def test_round_trip(path):
    c = load_checkpoint(path)
    assert (c.model_config, c.train_config.steps, c.source, c.state["step"]) == (MODEL, 7, SOURCE, 3)
    model = TensorTransformer(MODEL, seed=4)
    assert torch.equal(c.model.embedding, model.embedding) and not torch.equal(c.model.head, model.head)
    assert not load_model(path).training


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.9999])
def test_a_file_cut_off_anywhere_is_refused(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(CheckpointError, match="a.safetensors: is not a complete safetensors file"):
        load_checkpoint(path)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    for name, write in (("plain", lambda p: p.write_bytes(pickle.dumps(Payload()))),
                        ("torch", lambda p: torch.save({"x": Payload()}, p))):
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(CheckpointError, match="not a complete safetensors file"):
            load_checkpoint(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload())).close()
    assert marker.exists()  # the payload does work where it is unpickled


def set_config(**changes):
    def change(metadata):
        metadata["model_config"] = json.dumps({**json.loads(metadata["model_config"]), **changes})
    return change


@pytest.mark.parametrize("change, message", [
    (lambda m: m.pop("format"), "format must be one of 'tensorlm-checkpoint', got None"),
    (lambda m: m.update(version="9"), "version must be one of '1', got '9'"),
    (lambda m: m.pop("model_config"), "not valid here: 'model_config'"),
    (lambda m: m.update(model_config="{"), "'model_config' is not JSON"),
    (lambda m: m.update(model_config="[]"), "must be a JSON object"),
    (lambda m: m.update(train_config='{"steps": 0}'), "TrainConfig.steps must be .* got 0"),
    (lambda m: m.update(train_config='{"stepz": 3}'), "no field 'stepz'"),
    (set_config(wdith=3), "wdith"),
    (set_config(norm="layer"), "norm must be one of"),
    (set_config(positions=[[]]), "not valid here"),
    (set_config(width=32), "has shape"),
    (set_config(width=16 * 10**4), "has shape"),
    (set_config(width=16 * 10**9), "no model can be built"),
    (set_config(layers=2), "is missing"),
    (set_config(layers=999), "is missing"),
    (set_config(layers=10**12), "layers must be at most 1,000"),
    (set_config(width=10**4200), "configuration is not valid here|no model can be built"),
    (lambda m: m.update(card="[" * 100_000), "'card' is not JSON that can be read: maximum recursion"),
    (lambda m: m.update(source=f'{{"a": {"9" * 6000}}}'), "'source' is not JSON that can be read: Exceeds the limit"),
    (lambda m: m.update(positions="{}"), "its metadata must be one of .* got 'positions'"),
    (set_config(head="tied"), "'model.head' is not expected"),
])
def test_metadata_that_does_not_fit_is_refused(path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(rewrite(path, change_metadata=change))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("model.head"), "'model.head' is missing"),
    (lambda t: t.update({"model.extra": torch.zeros(1)}), "'model.extra' is not expected"),
    (lambda t: t.update({"code": torch.zeros(1)}), "first part of tensor 'code' must be one of 'model', 'optimizer', 'rng', got 'code'"),
    (lambda t: t.update({"model.head": torch.zeros(11, 17)}), r"'model.head' has shape \(11, 17\)"),
    (lambda t: t.update({"model.head": torch.zeros(11, 16, dtype=torch.int32)}), "'model.head' is torch.int32"),
])
def test_tensors_that_do_not_fit_are_refused(path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(rewrite(path, change_tensors=change))


def test_a_file_without_a_hash_loads_and_one_with_another_content_does_not(path):
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    assert metadata["sha256"] == content_hash(metadata, tensors)
    tensors["model.head"][0, 0] += 1
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="a.safetensors: is damaged: its content does not have the sha256"):
        load_checkpoint(path)
    assert load_checkpoint(rewrite(path)).model.head[0, 0] == tensors["model.head"][0, 0]


def flips(path, count, seed=0):
    """Copies of a file's bytes, each with one bit turned, spread over header and tensors."""
    raw, draw = path.read_bytes(), random.Random(seed)
    header = 8 + int.from_bytes(raw[:8], "little")
    for index in range(count):
        place = draw.randrange(header) if index % 2 else draw.randrange(header, len(raw))
        yield raw[:place] + bytes([raw[place] ^ 1 << draw.randrange(8)]) + raw[place + 1 :]


@pytest.mark.parametrize("name", [None, "toy-polynomial", "shakespeare-polynomial"])
def test_every_turned_bit_is_noticed(path, tmp_path, name):
    original = path if name is None else released.checkpoint(name)
    copy = tmp_path / "copy.safetensors"
    if name is not None:
        shutil.copy(original.with_suffix(".json"), copy.with_suffix(".json"))
    for raw in flips(original, 40):
        copy.write_bytes(raw)
        with pytest.raises(CheckpointError, match="copy.safetensors"):
            load_checkpoint(copy)
    copy.write_bytes(original.read_bytes())
    load_checkpoint(copy)


def test_weights_that_are_no_numbers_are_named_and_load_only_when_asked_for(path):
    def spoil(tensors):
        tensors["model.blocks.0.mlp.D"][1, 2] = float("nan")
    with pytest.raises(CheckpointError, match=r"'model.blocks.0.mlp.D' must be finite, got 1 of \d+ entries NaN"):
        load_model(rewrite(path, change_tensors=spoil))
    assert load_model(path, allow_nonfinite=True).blocks[0].mlp.D.isnan().sum() == 1


def test_a_full_disk_is_said_in_one_sentence_and_leaves_the_old_file(path):
    """A process that may write no more than 2,000 bytes to a file stands for the disk."""
    before = path.read_bytes()
    code = ("import resource, sys; from tensorlm.training.checkpoint import load_checkpoint, save_checkpoint;"
            "c = load_checkpoint(sys.argv[1]);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); save_checkpoint(sys.argv[1], c.model)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert f"OSError: {path}: could not be written: " in done.stderr and "(what stood there before is whole)" in done.stderr
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype, exact", [(torch.float32, True), (torch.float16, False)])
def test_a_released_model_comes_back_in_float32_with_its_card(tmp_path, dtype, exact):
    model = TensorTransformer(MODEL, seed=1)
    torch.nn.init.normal_(model.head)
    path = export_model(model, tmp_path / "m.safetensors", {"loss": 1.25}, SOURCE, dtype=dtype)
    again, tokens = load_model(path), torch.arange(8)[None]
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.equal(again(tokens), model.eval()(tokens)) == exact
    torch.testing.assert_close(again(tokens), model(tokens), rtol=0, atol=0.05)
    assert json.loads(path.with_suffix(".json").read_text())["loss"] == 1.25 == load_checkpoint(path).card["loss"]


def test_half_precision_is_half_the_size_and_refuses_what_it_cannot_hold(tmp_path):
    model = TensorTransformer(ModelConfig(width=64))
    sizes = [export_model(model, tmp_path / f"{d}.safetensors", {}, dtype=d).stat().st_size
             for d in (torch.float32, torch.float16)]
    assert sizes[1] < 0.55 * sizes[0]
    torch.nn.init.constant_(model.head, 1e6)
    with pytest.raises(ValueError, match="head as torch.float16 must be finite"):
        export_model(model, tmp_path / "x.safetensors", {}, dtype=torch.float16)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = write_atomically(tmp_path / "f", lambda p: p.write_text("old"))

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="f: could not be written: disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_weights_that_could_not_be_read_back_are_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="is torch.float64; allowed: torch.float32"):
        save_checkpoint(tmp_path / "a.safetensors", TensorTransformer(MODEL).double())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.json", "m"])
def test_a_model_is_not_exported_where_its_card_would_go(tmp_path, name):
    with pytest.raises(ValueError, match="path must be a name that ends in .safetensors"):
        export_model(TensorTransformer(MODEL), tmp_path / name, {})
    assert not list(tmp_path.iterdir())
