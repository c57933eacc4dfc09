"""The command line: one sentence for a mistake, and a kill at any moment loses nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tensorlm.training.__main__ import main, parse_settings, prospects
from tensorlm.training.folder import RunFolder, read_log

pytestmark = pytest.mark.slow

SMALL = ["--preset", "nano", "--data", "text", "--precision", "float32", "--set", "width=16", "--set", "layers=1",
         "--set", "context=16", "--set", "bigram=none"]
KILLED = [*SMALL, "--steps", "250", "--batch-size", "4", "--checkpoint-every", "5", "--log-every", "7"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("the cat saw the dog. the dog saw the bird, and the bird saw the cat.\n" * 40)
    return ["--data-option", f"path={path}"]


def start(arguments):
    return subprocess.Popen([sys.executable, "-m", "tensorlm.training", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill_when(process, happened, seconds=600):
    """SIGKILL as soon as `happened()`; the process must still be running then."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the process did not get there"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_twice_and_resumed_it_ends_bit_for_bit_like_an_undisturbed_run(tmp_path, text):
    out, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [*KILLED, *text, "--out", str(out)]
    kill_when(start(arguments), lambda: list(out.glob("checkpoints/step_*.safetensors")))
    resumed = start(["--out", str(out), "--resume"])
    newest = max(out.glob("checkpoints/step_*.safetensors")).name
    kill_when(resumed, lambda: max(out.glob("checkpoints/step_*.safetensors")).name > newest)
    assert len(list(out.glob("checkpoints/step_*.safetensors"))) <= 3 and not (out / "model.safetensors").exists()
    assert main(["--out", str(out), "--resume"]) == 0
    assert main([*KILLED, *text, "--out", str(whole)]) == 0
    a, b = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    rows = [[(r["step"], r["loss"], r["loss_valid"]) for r in read_log(run / "log.csv")] for run in (out, whole)]
    assert rows[0] == rows[1] and len(rows[0]) == 250 // 7 + 1


def test_a_run_says_what_it_did(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert main([*SMALL, *text, "--steps", "20", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "book.txt" in said and "tokenizer chars" in said and "tokens seen in" in said and "held-out" in said
    assert str(out / "model.safetensors") in said and "step 20/20" in said
    result = json.loads((out / "result.json").read_text())
    assert result["history"][-1]["loss_valid"] == result["loss_valid"] and "--steps" in result["command"]


@pytest.mark.parametrize("arguments, complaint", [
    (["--preset", "huge"], "--preset: invalid choice: 'huge'"),
    (["--steps", "many"], "--steps: invalid int value: 'many'"),
    (["--step", "3"], "unrecognized arguments: --step 3"),
    (["--steps", "0"], "TrainConfig.steps must be a whole number of at least 1, got 0"),
    (["--data", "wiki"], "data must be one of"),
    (["--data-option", "colour=red"], "colour"),
    (["--data-option", "path"], "--data-option 'path': must be NAME=VALUE"),
    (["--data-option", "path=/no/such/file"], "/no/such/file"),
    (["--set", "norm=layer"], "norm must be one of"),
    (["--set", "colour=red"], "field of --set must be one of"),
    (["--set", "clip=much"], "--set clip=much: must be float | None"),
    (["--set", "vocab_size=3"], "vocab_size must be a whole number of at least"),
    (["--precision", "fp8"], "TrainConfig.precision must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'fp8'"),
    (["--device", "cuda:99"], "got 'cuda:99'"),
    (["--resume"], "holds no run to resume"),
    (["--device", "meta"], "device must be auto, cpu, cuda or cuda:N, got 'meta'"),
    (["--seed", "99999999999999999999"], "TrainConfig.seed must be a whole number from 0 to 9223372036854775807, got 99999999999999999999"),
    (["--data-option", "tokenizer=bpe1024"], "--data-option tokenizer: has an argument of its own, --tokenizer"),
    (["--set", "mlp=full", "--set", "width=160000"], "memory: this run needs at least"),
    (["--set", "layers=100000"], "layers must be at most 1,000, got 100000"),
    (["--set", "encoders=100000"], "encoders must be at most 1,000, got 100000"),
    (["--batch-size", "10000000000"], "memory: this run needs at least"),
    (["--set", "context=10000000000"], "memory: this run needs at least"),
    (["--data-option", "shards=" + "9" * 6000], "option shards: Exceeds the limit"),
    (["--data-option", "shards=" + "[" * 100_000], "option shards: maximum recursion depth"),
    (["--set", "layers=" + "9" * 6000], "must be int"),
])
def test_a_mistake_gets_one_sentence_and_exit_code_two(tmp_path, text, capsys, arguments, complaint):
    try:
        code = main([*SMALL, *text, "--out", str(tmp_path / "run"), *arguments])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2 and complaint in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_and_resume_keeps_its_settings(tmp_path, text, capsys):
    arguments = [*SMALL, *text, "--steps", "5", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert main(arguments) == 2 and "holds a run already" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments, "--resume", "--steps", "6"]) == 2 and "steps = 5, not 6" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "run"), "--resume", "--data", "toy"]) == 2
    assert "has data 'text', not 'toy'" in capsys.readouterr().err


def test_a_diverging_run_exits_with_one(tmp_path, text, capsys):
    assert main([*SMALL, *text, "--out", str(tmp_path / "run"), "--set", "lr_matrix=1e30"]) == 1
    said = capsys.readouterr().err
    assert "the loss is" in said and "last good checkpoint: none" in said and "Traceback" not in said


def test_settings_take_the_type_of_their_field():
    items = ["width=32", "clip=0.5", "skip_factor=None", "mlp_hidden=none", "smear=none", "anneal=0,0.5",
             "positions=rope"]
    assert parse_settings(items) == {
        "model": {"width": 32, "mlp_hidden": None, "smear": "none", "positions": ("rope",)},
        "train": {"clip": 0.5, "skip_factor": None, "anneal": (0.0, 0.5)},
    }


@pytest.mark.parametrize("number, code, words", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")])
def test_control_c_or_sigterm_saves_the_run_and_says_the_truth(tmp_path, text, number, code, words):
    out = tmp_path / "run"
    assert prospects(RunFolder(out)) == "nothing was begun"
    process = start([*SMALL, *text, "--steps", "100000", "--batch-size", "4", "--out", str(out)])
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    if number is signal.SIGTERM:
        beside = start(["--out", str(out), "--resume"])
        assert "another process trains in this folder" in beside.communicate()[0] and beside.returncode == 2
    process.send_signal(number)
    said = process.communicate(timeout=600)[0]
    *_, saved = found = sorted(out.glob("checkpoints/step_*.safetensors"))
    assert process.returncode == code and f"{words}; last checkpoint: {saved}; the same command" in said
    for path in found:
        path.unlink()
    assert "no checkpoint was written; the same command with --resume begins anew" in prospects(RunFolder(out))


@pytest.mark.parametrize("encoding, name", [("ascii", "W?rter.txt"), ("utf-8", "Wörter.txt")])
def test_a_terminal_that_cannot_print_a_letter_gets_a_question_mark(tmp_path, monkeypatch, encoding, name):
    text = tmp_path / "Wörter.txt"
    text.write_text("Käse ☃ über Öl, größer als süß. ☃☃\n" * 40, encoding="utf-8")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([*SMALL, "--data-option", f"path={text}", "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    said = terminal.buffer.getvalue().decode(encoding)
    assert name in said and "nats per token on held-out text" in said


def test_a_corpus_whose_name_is_a_number(tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.rename("book.txt", "2024")
    assert main([*SMALL, "--data-option", "path=2024", "--steps", "1", "--out", "run"]) == 0
    assert main(["--data-option", "path=2024", "--out", "run", "--resume"]) == 0


@pytest.mark.parametrize("blocks, what", [(3, "log.csv"), (40, "step_00000001.safetensors")])
def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(tmp_path, text, blocks, what):
    """A limit on the size of a file, in blocks of 1,024 bytes, stands for the disk."""
    out = tmp_path / "run"
    arguments = [*SMALL, *text, "--steps", "60", "--log-every", "1", *([] if what == "log.csv" else ["--checkpoint-every", "1"])]
    code = (f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({1024 * blocks},) * 2);"
            "from tensorlm.training.__main__ import main; sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, *arguments, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 2 and f"{what}: could not be written: " in done.stderr and done.stderr.count("\n") == 1
    assert not list(out.rglob(".*")) and main(["--out", str(out), "--resume"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    a, b = load_file(out / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("name, value", [
    ("WORLD_SIZE", "abc"), ("WORLD_SIZE", "-1"), ("LOCAL_RANK", "x"), ("RANK", "1.5"), ("MASTER_PORT", "http"),
    ("MASTER_ADDR", "no-such-host.invalid")])
def test_variables_of_torchrun_that_make_no_sense_are_named(tmp_path, text, monkeypatch, capsys, name, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    assert main([*SMALL, *text, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"{name}='{value}': " in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("choice", ["x", [], {"preset": "nano"}, {"preset": "huge", "data": "text", "options": {}},
                                    {"preset": "nano", "data": "text", "options": []}, {"preset": 3, "data": "text", "options": {}}])
def test_notes_of_another_kind_are_refused_on_resume(tmp_path, text, capsys, choice):
    out = tmp_path / "run"
    assert main([*SMALL, *text, "--steps", "1", "--out", str(out)]) == 0
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "card": {"choice": choice}}))
    assert main(["--out", str(out), "--resume"]) == 2
    assert "run.json: is damaged: its choice of preset and corpus is" in capsys.readouterr().err
