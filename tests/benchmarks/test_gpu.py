"""The command for a GPU, rehearsed on a CPU: every part makes its rows, a second run makes none, a killed one goes on."""

import csv
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_parts import REHEARSAL, Bench
from tensorlm.model import ModelConfig, TensorTransformer

pytestmark = pytest.mark.slow

BENCH = Bench(torch.device("cpu"), REHEARSAL)
ROOT = Path(__file__).resolve().parents[2]


def rehearse(out, *parts):
    gpu.main(["--out", str(out), "--rehearse", *(["--parts", *parts] if parts else [])])


def rows_of(out, part):
    with open(out / f"gpu_{part}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    rehearse(out)
    return out


@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_part_makes_its_rows(rehearsed, part):
    rows, plan = rows_of(rehearsed, part), gpu.PARTS[part].plan(BENCH)
    assert len(rows) == len(plan) > 0 and {row["error"] for row in rows} == {""}
    for row, asked in zip(rows, plan):
        assert all(row[name] == str(value) for name, value in asked.items())
        assert row["card"] == "CPU (rehearsal)" and row["torch"] == torch.__version__ and row["date"] and row["seconds"]
        on_a_card = {"peak_memory", "utilisation", "failures", "seconds_to_target"}
        assert all(row[name] for name in gpu.PARTS[part].fields if name not in on_a_card)
    assert (rehearsed / f"gpu_{part}.json").exists() and f"| {part} |" in gpu.__doc__


def test_the_tests_of_tests_gpu_pass_on_a_cpu(rehearsed):
    (row,) = rows_of(rehearsed, "tests")
    assert int(row["passed"]) >= 10 and row["failed"] == "0" and row["failures"] == ""


def test_a_second_run_measures_nothing(rehearsed, capsys):
    before = {path.name: path.read_bytes() for path in rehearsed.iterdir()}
    rehearse(rehearsed)
    assert capsys.readouterr().out.count(": 0 rows to measure") == len(gpu.PARTS)
    assert before == {path.name: path.read_bytes() for path in rehearsed.iterdir()}


def test_a_killed_run_keeps_its_rows_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--rehearse", "--parts", "attention"]
    table = tmp_path / "gpu_attention.csv"
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (table.exists() and table.read_text().count("\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = rows_of(tmp_path, "attention")
    with table.open("a") as file:
        file.write("16,64,forward,bil")  # what a kill in the middle of a row leaves
    rehearse(tmp_path, "attention")
    rows = rows_of(tmp_path, "attention")
    assert len(kept) >= 2 and rows[: len(kept)] == kept
    keys = [tuple(row[name] for name in gpu.PARTS["attention"].keys) for row in rows]
    assert len(set(keys)) == len(keys) == len(gpu.PARTS["attention"].plan(BENCH))


def test_what_fails_stands_in_its_row_and_is_tried_again_but_not_what_is_too_large(tmp_path, monkeypatch):
    part, calls = gpu.PARTS["language"], []

    def measure(row, bench, rows):
        calls.append(row["data"])
        if len(calls) == 1:
            raise ZeroDivisionError("no\n luck")
        if row["data"] == "toy":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"loss": 1.0}

    monkeypatch.setitem(gpu.PARTS, "language", replace(part, measure=measure))
    rehearse(tmp_path, "language")
    assert [row["error"] for row in rows_of(tmp_path, "language")] == ["ZeroDivisionError: no luck", "out of memory"]
    rehearse(tmp_path, "language")
    rehearse(tmp_path, "language")
    assert calls == ["bpe", "toy", "bpe"]
    left = [(row["data"], row["error"], row["loss"]) for row in rows_of(tmp_path, "language")]
    assert left == [("toy", "out of memory", ""), ("bpe", "", "1.0")]


def test_a_lost_card_ends_its_part_and_a_new_process_takes_the_others(tmp_path, monkeypatch):
    class Replaced(Exception):
        pass

    def execv(program, arguments):
        assert program == sys.executable
        raise Replaced(*arguments[1:])

    def measure(row, bench, rows):
        monkeypatch.setattr(gpu, "lost", lambda device: True)  # no kernel can break a CPU
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setitem(gpu.PARTS, "language", replace(gpu.PARTS["language"], measure=measure))
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Replaced) as replaced:
        gpu.main(["--out", str(tmp_path), "--corpus", "x.txt", "--rehearse", "--parts", "language", "step"])
    assert replaced.value.args == ("-m", "benchmarks.gpu", "--out", str(tmp_path), "--corpus", "x.txt", "--parts", "step")
    assert [row["error"] for row in rows_of(tmp_path, "language")] == ["RuntimeError: an illegal memory access was encountered"]


def test_the_rows_of_another_card_are_measured_anew(tmp_path):
    table = gpu.Table(tmp_path / "table.csv", ["suite", *gpu.FACTS])
    table.add({"suite": "a", "card": "one"})
    assert table.has({"suite": "a"}, "one") and not table.has({"suite": "a"}, "two") and not table.has({"suite": "b"}, "one")


def test_without_a_gpu_the_command_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--rehearse"):
        gpu.main(["--out", str(tmp_path)])


def test_a_corpus_that_is_missing_is_named():
    with pytest.raises(ValueError, match="--corpus"):
        Bench(torch.device("cpu"), replace(REHEARSAL, name="full")).data("characters")


@pytest.mark.parametrize("attention", ["squared", "bilinear"])
def test_the_stated_operations_are_those_of_the_products(attention):
    """Counted by torch over a forward pass by the quadratic algorithm, which takes all T keys instead of (T + 1) / 2."""
    config = ModelConfig(vocab_size=97, context=32, width=48, layers=3, attention=attention)
    model, tokens = TensorTransformer(config), torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    branches = 2 if attention == "bilinear" else 1
    beyond_causal = (branches + 1) * config.layers * config.width * (2 * 32 - 33)
    assert counter.get_total_flops() == tokens.numel() * (gpu_parts.flops_per_token(model) // 3 + beyond_causal)


def test_a_report_of_pytest_is_read():
    cases = '<testcase name="a"/><testcase name="b[x]"><failure>no</failure></testcase><testcase name="c"><skipped/></testcase>'
    assert gpu_parts.read_report(ElementTree.fromstring(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")) == {
        "passed": 1, "failed": 1, "skipped": 1, "failures": "b[x]"}


def test_a_compiled_run_of_the_peer_begins_compiled():
    """The start-up run compiles for the run that is timed after it."""
    row = dict(steps=4, batch=8, compiled=True, seed=0)
    counts, usual = [], gpu_parts.gpt2_baseline.Run.train

    def train(run, iterations=None):
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return usual(run, iterations)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_parts.gpt2_baseline.Run, "train", train)
        gpu_parts.peer_curve(row, BENCH)
    assert counts == [0, torch._dynamo.utils.counters["stats"]["unique_graphs"]] and counts[1] > 0
