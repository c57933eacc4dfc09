"""Two processes see what one sees: the same batch, the same gradient, the same loss curve."""

import os
import socket
import subprocess
import sys
import time

import pytest

from tensorlm.training.__main__ import main
from tensorlm.training.checkpoint import load_checkpoint
from tensorlm.training.device import World
from tensorlm.training.folder import read_log

pytestmark = pytest.mark.slow

STEPS = 20


def run_of(tmp_path, *more):
    text = tmp_path / "book.txt"
    text.write_text("the cat saw the dog. the dog saw the bird, and the bird saw the cat.\n" * 40)
    return ["--preset", "nano", "--data", "text", "--data-option", f"path={text}", "--precision", "float32",
            "--set", "width=16", "--set", "layers=1", "--set", "context=16", "--set", "bigram=none",
            "--set", "norm=anneal", "--steps", str(STEPS), "--batch-size", "8", "--log-every", "1", *more]


def test_two_processes_follow_the_loss_curve_of_one(tmp_path):
    arguments = run_of(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", "-m", "tensorlm.training"]
    done = subprocess.run([*command, *arguments, "--micro-batch", "2", "--out", str(tmp_path / "two")], text=True,
                          capture_output=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens seen in") == 1
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert main([*arguments, "--seed", "1", "--out", str(tmp_path / "other")]) == 0
    one, two, other = (read_log(tmp_path / name / "log.csv") for name in ("one", "two", "other"))
    assert len(one) == len(two) == STEPS and one[-1]["loss"] < one[0]["loss"] - 0.3
    for a, b in zip(one, two):
        assert abs(a["loss"] - b["loss"]) < 1e-4
    assert abs(one[-1]["loss_valid"] - two[-1]["loss_valid"]) < 1e-4
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(one, other)) > 1e-3  # the tolerance means something


def test_a_killed_process_ends_the_other_with_one_sentence(tmp_path):
    """Two processes by hand, as torchrun starts them; the last checkpoint stays good."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [*run_of(tmp_path), "--steps", "100000", "--checkpoint-every", "5", "--out", str(out)]
    first, second = (subprocess.Popen([sys.executable, "-W", "ignore", "-m", "tensorlm.training", *arguments], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE, text=True, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01")
    while not list(out.glob("checkpoints/step_*.safetensors")):
        assert first.poll() is None and second.poll() is None, first.communicate()[1] + second.communicate()[1]
        time.sleep(0.01)
    second.kill()
    said = first.communicate()[1]
    second.communicate()
    [line] = [line for line in said.splitlines() if line.startswith("tensorlm")]
    assert first.returncode == 1 and "Traceback" not in said
    assert "rank 0: another process of this run has ended or cannot be reached" in line and "last checkpoint: " in line
    assert load_checkpoint(out).state["step"] >= 5


def test_rows_are_shared_out_equally_or_not_at_all():
    rows = [row for rank in range(4) for row in range(12)[World(rank=rank, size=4).rows(12)]]
    assert rows == list(range(12)) and World().rows(12) is None
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 4 processes, got 10"):
        World(size=4).rows(10)
