"""Experiments: what is run, what survives a kill, what is refused, and what the numbers allow to be said."""

import csv
import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from experiment_check import check_again, declared, stated
from scipy import stats

from tensorlm.data import load
from tensorlm.data.toy.corpus import kl_by_rule
from tensorlm.files import write_json
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.provenance import code_state
from tensorlm.training import evaluate, train
from tensorlm.training.evaluation import weights
from tensorlm.training.experiments import (
    EXPERIMENTS,
    Arm,
    SpreadWindows,
    Table,
    crossing,
    paired,
    run as run_module,
    run_experiment,
    smallest_difference,
)
from tensorlm.training.experiments.__main__ import main
from tensorlm.training.experiments.analyse import ladder_ratio, t_quantile
from tensorlm.training.experiments.declare import Experiment, plan
from tensorlm.training.experiments.run import COLUMNS, PROBE_COLUMNS, execute

CLOCKS = ("seconds", "cpu_seconds")
TINY = Experiment(
    name="tiny", question="Does it run?", data={"name": "toy", "valid_documents": 40}, preset="nano",
    model={"width": 16, "layers": 1, "context": 8, "bigram": "none"},
    train={"steps": 12, "batch_size": 4, "precision": "float32", "log_every": 2}, seeds=(0, 1),
    arms=(Arm("ReLU layer", {"mlp": "relu"}), Arm("bilinear", budgets=(0.5, 1.0))), baseline="ReLU layer",
    evaluations=3, curve_windows=8, check="bilinear", matched=0.0)
TOY = load(**TINY.data)


def without_clocks(rows):
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def from_csv(path):
    texts = ("arm", "row", "probe")
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: cell if name in texts else json.loads(cell) if cell else None for name, cell in row.items()}
                for row in csv.DictReader(file)]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json") if path.parent.name == "runs"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder and the rows of the whole tiny experiment, undisturbed."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, run_experiment(TINY, folder, device="cpu")


# --- the runs ---------------------------------------------------------------------------------------------------------


def test_runs_are_interleaved_seed_by_seed():
    assert [(run.seed, run.arm, run.train.steps) for run in plan(TINY, 54)] == [
        (seed, *run) for seed in (0, 1) for run in (("ReLU layer", 12), ("bilinear", 6), ("bilinear", 12))]
    assert [run.name for run in plan(TINY, 54, ["ReLU layer"], [7])] == ["ReLU-layer_12_seed7"]
    halved = dataclasses.replace(TINY, steps_scale=0.5)
    assert {run.train.steps for run in plan(halved, 54)} == {6, 3}


def test_a_row_is_what_training_that_arm_alone_gives(tiny):
    _, rows = tiny
    run = plan(TINY, TOY.vocab_size, ["bilinear"], [1])[-1]
    alone = train(run.model, run.train, SpreadWindows(TOY, 8))
    mine = [row for row in rows if (row["arm"], row["seed"], row["steps"]) == ("bilinear", 1, 12)]
    assert [(row["step"], row["row"]) for row in mine] == [(4, "curve"), (8, "curve"), (12, "curve"), (12, "final")]
    assert [row["loss"] for row in mine[:3]] == [round(row["loss_valid"], 5) for row in alone.history if row["loss_valid"]]
    assert mine[-1]["loss"] == round(evaluate(alone.model, TOY.valid_windows(8)), 5) != mine[-2]["loss"]
    assert {row["parameters"] for row in mine} == {alone.model.parameter_count()}
    assert [row["tokens"] for row in mine] == [128, 256, 384, 384] and mine[0]["cpu_seconds"] < mine[2]["cpu_seconds"]


def test_the_table_on_disk_is_the_rows_with_their_provenance(tiny):
    folder, rows = tiny
    assert from_csv(folder / "tiny.csv") == rows and tuple(rows[0]) == COLUMNS
    record = json.loads((folder / "tiny.json").read_text())
    assert record["command"] == "python -m tensorlm.training.experiments tiny --out FOLDER"
    assert (record["runs"], record["corpus_sha256"], record["failures"]) == (6, TOY.sha256, {})
    assert {"commit", "torch", "threads"} <= set(record["environments"][0]) and len(record["environments"]) == 1
    assert str(folder) not in json.dumps(record)
    assert declared(record["declaration"]) == TINY


def test_finished_runs_are_kept_and_new_seeds_join_them(tiny):
    folder, rows = tiny
    before, told = files(folder), []
    assert run_experiment(TINY, folder, device="cpu", report=told.append) == rows and told == []
    run_experiment(TINY, folder, ["bilinear"], [2], device="cpu", report=told.append)
    assert [line.split(":")[0] for line in told] == ["1/2  bilinear, 6 steps, seed 2", "2/2  bilinear, 12 steps, seed 2"]
    assert before.items() <= files(folder).items() and len(files(folder)) == 8
    for path in (folder / "tiny" / "runs").glob("*_seed2.json"):
        path.unlink()
    assert run_experiment(TINY, folder, device="cpu") == rows


@pytest.mark.parametrize("changes, message", [
    (dict(train={**TINY.train, "lr_matrix": 0.5}), r"train.lr_matrix = 0.02, the declaration says 0.5; name another folder"),
    (dict(model={**TINY.model, "layers": 2}), "model.layers = 1, the declaration says 2"),
    (dict(data={"name": "toy", "valid_documents": 41}), "source.sha256 = "),
    (dict(curve_windows=9), "curve_windows = 8, the declaration says 9"),
    (dict(evaluations=2), "train.validate_every = 4, the declaration says 6"),
    (dict(steps_scale=0.25), "12 steps, arm 'ReLU layer' is now declared with 3"),
    (dict(arms=TINY.arms[:1], check=None), "arm of 'tiny' must be one of 'ReLU layer', got 'bilinear'"),
    (dict(arms=(TINY.arms[0], Arm("bilinear", {"mlp_hidden": 64})), matched=0.05),
     "parameters of arm 'bilinear' must be within 5.0% .matched. of the 4809 of 'ReLU layer', got 6345"),
])
def test_a_changed_declaration_is_refused(tiny, changes, message):
    folder, _ = tiny
    before = files(folder)
    with pytest.raises(ValueError, match=message):
        run_experiment(dataclasses.replace(TINY, **changes), folder, device="cpu")
    assert files(folder) == before


def test_a_file_that_is_no_run_is_named(tmp_path):
    (tmp_path / "tiny" / "runs").mkdir(parents=True)
    (tmp_path / "tiny" / "runs" / "a.json").write_text('{"name": "b"}')
    with pytest.raises(ValueError, match="a.json: is not the file of a finished run"):
        run_experiment(TINY, tmp_path, device="cpu")


def test_an_arm_that_diverges_is_a_result(tmp_path, capsys):
    arms = (*TINY.arms[:1], Arm("too fast", train={"lr_matrix": 1e30, "optimizer": "adamw", "log_every": 1}))
    experiment = dataclasses.replace(TINY, arms=arms, check=None, evaluations=12)
    rows = run_experiment(experiment, tmp_path, device="cpu")
    failed = [row for row in rows if row["row"] == "failed"]
    assert [(row["arm"], row["seed"], row["loss"]) for row in failed] == [("too fast", 0, None), ("too fast", 1, None)]
    assert math.isnan(Table(rows).finals()["too fast"][0]) and math.isfinite(Table(rows).finals()["ReLU layer"][0])
    why = json.loads((tmp_path / "tiny.json").read_text())["failures"]["too-fast_12_seed0"]["why"]
    assert "the loss" in why and str(tmp_path) not in why
    found = Table(rows).summary("ReLU layer").loc["too fast"]
    assert (found["parameters"], found["failed"]) == (4809, 2) and math.isnan(found["loss"])
    assert run_experiment(experiment, tmp_path, device="cpu") == rows  # nor is it run again


KILLED = dataclasses.replace(TINY, train={**TINY.train, "steps": 120, "checkpoint_every": 30}, seeds=(0,))
SCRIPT = """
import json, sys
sys.path.append("tests/training")
from experiment_check import declared
from tensorlm.training.experiments.__main__ import main
sys.exit(main(["tiny", "--out", sys.argv[2]], {"tiny": declared(json.loads(sys.argv[1]))}))
"""


def kill_when(folder, happened, seconds=600):
    """Start the command line in a process of its own and SIGKILL it as soon as `happened()`."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(dataclasses.asdict(KILLED)), str(folder)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the process did not get there"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.slow
def test_killed_and_started_again_it_makes_the_same_table(tmp_path):
    folder, home, told = tmp_path / "killed", tmp_path / "killed" / "tiny", []
    kill_when(folder, lambda: list(home.glob("running/bilinear_120_seed0/checkpoints/step_*.safetensors")))
    kept = files(folder)
    assert sorted(path.name for path in kept) == ["ReLU-layer_120_seed0.json", "bilinear_60_seed0.json"]
    assert len(from_csv(folder / "tiny.csv")) == 8  # the table is there after every run
    rows = run_experiment(KILLED, folder, device="cpu", report=told.append)
    assert [line.split(":")[0] for line in told] == ["3/3  bilinear, 120 steps, seed 0"]
    assert kept.items() <= files(folder).items() and not list(home.glob("running/*"))
    assert without_clocks(rows) == without_clocks(run_experiment(KILLED, tmp_path / "whole", device="cpu"))


@pytest.mark.parametrize("left", ["trained but not recorded", "recorded but not tidied", "hardly begun"])
def test_a_death_between_two_files_is_no_obstacle(tiny, tmp_path, left):
    _, rows = tiny
    run = plan(TINY, TOY.vocab_size, ["bilinear"], [0])[-1]
    working = tmp_path / "tiny" / "running" / run.name
    if left == "hardly begun":
        working.mkdir(parents=True)
        (working / ".run.json.77.tmp").write_text("half")
    else:
        record = execute(run, TINY, TOY, working, "cpu")
    if left == "recorded but not tidied":
        write_json(tmp_path / "tiny" / "runs" / f"{run.name}.json", {**record, "environment": {}})
    found = run_experiment(TINY, tmp_path, ["bilinear"], [0], device="cpu")
    undisturbed = [row for row in rows if (row["arm"], row["seed"]) == ("bilinear", 0)]
    assert without_clocks(found) == without_clocks(undisturbed) and not list((tmp_path / "tiny" / "running").glob("*"))


def test_the_windows_of_a_curve_are_spread_over_the_whole_text():
    whole = TOY.valid_windows(8)
    assert torch.equal(SpreadWindows(TOY, 4).valid_windows(8), whole[[0, 10, 20, 30]])
    assert torch.equal(SpreadWindows(TOY, 100).valid_windows(8), whole)
    assert SpreadWindows(TOY, 4).vocab_size == TOY.vocab_size


# --- running a table's check again ------------------------------------------------------------------------------------


def test_a_check_finds_the_loss_of_the_table_and_would_notice_another_model(tiny):
    _, rows = tiny
    again = check_again(TINY, device="cpu")
    assert (again["arm"], again["seed"], again["steps"], again["step"]) == ("bilinear", 0, 6, 2)
    assert again["loss"] == stated(rows, again)["loss"]
    other = check_again(dataclasses.replace(TINY, model={**TINY.model, "row_scale": "none"}), device="cpu")
    assert other["loss"] != again["loss"]


# --- probes -----------------------------------------------------------------------------------------------------------


def test_probes_are_measured_on_the_finished_model_and_kept_beside_the_table(tmp_path):
    probed = dataclasses.replace(TINY, name="probed", seeds=(0,), probes=("tails", "lengths", "random", "rules", "weights"),
                                 arms=(Arm("bilinear"),), baseline="bilinear", budgets=(1.0,))
    run_experiment(probed, tmp_path, device="cpu")
    found = {row["probe"]: row["value"] for row in from_csv(tmp_path / "probed_probes.csv")}
    run = plan(probed, TOY.vocab_size)[0]
    model = train(run.model, run.train, SpreadWindows(TOY, 8)).model.eval()
    batch = TOY.annotated_batch(step=10**6, batch_size=512, context=8, seed=123)
    with torch.no_grad():
        truth = kl_by_rule(model(batch.tokens[:, :-1]), batch)
    assert found["rule all"] == round(truth["all"], 5) and found["rule bigram"] == round(truth["bigram"], 5)
    losses = [evaluate(model, TOY.valid_windows(length)) for length in (8, 16)]
    assert found["loss at 2x"] == round(losses[1] - losses[0], 5) != found["loss at 4x"]
    assert found["worst batch"] > 0 and found["random logit at 4x"] >= found["random logit"] * 0.5 > 0
    assert found["zeros"] == 0 and 0 < found["hoyer"] < 1 and 1 < found["tensor rank"] <= 16
    table = Table(from_csv(tmp_path / "probed_probes.csv"))
    assert tuple(table.rows) == PROBE_COLUMNS and table.probed("zeros").to_dict() == {"bilinear": {0: 0}}
    with pytest.raises(ValueError, match="probe must be one of 'worst batch', 'loss at 2x', .*got 'ones'"):
        table.probed("ones")
    with pytest.raises(ValueError, match="probes must be names among tails"):
        dataclasses.replace(TINY, probes=("tail",))


def test_sizes_of_weights_are_told_by_hand():
    model = TensorTransformer(ModelConfig(vocab_size=5, width=4, head_dim=2, layers=1, mlp_hidden=4, attention="none"))
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        for name, value in (("L", torch.eye(4)), ("R", torch.eye(4)), ("D", torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])))):
            getattr(mlp, name).copy_(value)
    found = weights(model, None)
    assert found["zeros"] == pytest.approx((12 + 12 + 14) / 48) and found["units"] == pytest.approx(2)
    assert found["tensor rank"] == pytest.approx(2) and found["hoyer"] == pytest.approx((2 * 2 / 3 + (4 - 2**0.5) / 3) / 3)


# --- the declared experiments -----------------------------------------------------------------------------------------


@functools.cache
def vocabulary(**data):
    return load(**data).vocab_size


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_arms_of_a_declared_experiment_are_of_equal_size_and_differ(name):
    experiment = EXPERIMENTS[name]
    vocab_size = vocabulary(**experiment.data)
    experiment.require_matched(vocab_size)
    runs = plan(experiment, vocab_size, seeds=[0])
    assert len({(run.model, run.train) for run in runs}) == len(runs)
    assert experiment.check and experiment.baseline and len(experiment.seeds) >= 3
    wider = Arm("wider", {**experiment.arms[-1].model, "mlp_hidden": 512})
    with pytest.raises(ValueError, match="parameters of arm 'wider' must be within"):
        dataclasses.replace(experiment, arms=(*experiment.arms, wider)).require_matched(vocab_size)
    dataclasses.replace(experiment, arms=(*experiment.arms, dataclasses.replace(wider, size="free"))).require_matched(vocab_size)


@pytest.mark.parametrize("changes, message", [
    (dict(arms=()), "arms must be one or more .* got"),
    (dict(arms=(Arm("a b"), Arm("A-B")), baseline="a b"), r"arms must be .* names differ .* got \['a b', 'A-B'\]"),
    (dict(baseline="gelu"), "arm of 'tiny' must be one of 'ReLU layer', 'bilinear', got 'gelu'"),
    (dict(check="gelu"), "arm of 'tiny' must be one of .* got 'gelu'"),
    (dict(seeds=(1, 1)), r"seeds must be different .* got \(1, 1\)"),
    (dict(budgets=(1.0, 0.0)), r"budgets must be at least one number above 0, got \(1.0, 0.0\)"),
    (dict(evaluations=0), "evaluations must be a whole number of at least 1, got 0"),
])
def test_a_declaration_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_fields_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="wdith"):
        plan(dataclasses.replace(TINY, model={"wdith": 3}), 54)
    with pytest.raises(ValueError, match="no field 'stepz'"):
        plan(dataclasses.replace(TINY, train={"stepz": 3}), 54)
    with pytest.raises(ValueError, match="size of arm 'a' must be one of 'matched', 'free', got 'any'"):
        Arm("a", size="any")


def test_the_command_line_lists_tables_and_refuses(tiny, capsys):
    folder, _ = tiny
    tables = {"tiny": TINY}
    assert main([], tables) == 0 and "tiny  Does it run?" in capsys.readouterr().out
    assert main(["tiny", "--list"], tables) == 0
    assert "6 runs over seeds (0, 1), 60 steps in all" in capsys.readouterr().out
    assert main(["tiny", "--out", str(folder)], tables) == 0
    assert re.search(r"bilinear +4809 +2\.9\d\d\d +0\.\d\d\d\d +0 ", capsys.readouterr().out)
    assert main(["tiny", "--out", str(folder), "--arms", "gelu"], tables) == 2 and "got 'gelu'" in capsys.readouterr().err


def test_a_summary_says_what_the_table_tells():
    found = WHOLE.summary("a")
    assert list(found.index) == ["a", "b"] and found["parameters"].tolist() == [100, 100] and not found["failed"].any()
    assert found["minus a"].tolist() == pytest.approx([0, -0.1])
    finals = WHOLE.finals()
    assert found.loc["a", "least"] == 0 and found.loc["b", "least"] == pytest.approx(paired(finals["b"], finals["a"]).smallest)
    assert Table(ROWS).summary("c").loc["b", ["minus c", "least"]].isna().all()


def release_of(monkeypatch, tmp_path, arguments=()):
    monkeypatch.setattr(run_module, "RELEASED", tmp_path / "released")
    return main(["tiny", "--out", str(tmp_path / "runs"), "--release", *arguments], {"tiny": RELEASED})


RELEASED = dataclasses.replace(TINY, seeds=(0,), probes=("random",), train={**TINY.train, "steps": 4})


def test_release_writes_the_whole_table_with_its_provenance_and_no_part_of_it(tmp_path, monkeypatch, capsys):
    assert release_of(monkeypatch, tmp_path, ["--arms", "bilinear"]) == 2
    assert "--release: tiny lacks 1 runs" in capsys.readouterr().err and not (tmp_path / "released").exists()
    assert release_of(monkeypatch, tmp_path) == 0
    names = ["tiny.csv", "tiny.json", "tiny_probes.csv"]
    assert sorted(path.name for path in (tmp_path / "released").iterdir()) == names
    assert all((tmp_path / "released" / name).read_bytes() == (tmp_path / "runs" / name).read_bytes() for name in names)


def test_the_state_of_the_code_is_told(tmp_path):
    assert code_state(tmp_path) == (None, [])
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "a.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    commit, changed = code_state(tmp_path)
    assert len(commit) == 40 and changed == []
    (tmp_path / "a.py").write_text("2")
    assert code_state(tmp_path) == (commit, ["a.py"])


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_crossing_lies_between_its_neighbours():
    points = [(10, 5.0), (20, 4.0), (30, 4.2), (50, 3.8)]
    assert crossing(points, 4.25) == 17.5 and crossing(points, 4.0) == 20.0 and crossing(points, 5.0) == 10.0
    assert crossing(points, 3.9) == pytest.approx(45)
    assert crossing([(10, 5.0), (40, 4.0)], 4.5, "log") == pytest.approx(20)
    assert crossing(points, 3.7) is None and crossing([], 3.7) is None
    with pytest.raises(ValueError, match="loss must be at most that of the first point, 5.0000, got 6"):
        crossing(points, 6)
    with pytest.raises(ValueError, match="scale must be one of 'linear', 'log', got 'cubic'"):
        crossing(points, 4, "cubic")


def test_the_ratio_of_steps_is_that_of_the_law_behind_the_curves():
    def law(scale):  # loss = 3 + 2 / sqrt(steps / scale): `scale` times the steps for the same loss
        return [(steps, 3 + 2 / math.sqrt(steps / scale)) for steps in (600, 700, 850, 1000)]

    assert ladder_ratio(law(1), law(1)) == pytest.approx(1, abs=1e-12)
    assert ladder_ratio(law(1.04), law(1)) == pytest.approx(1.04, abs=0.004)
    assert ladder_ratio(law(1), law(1.04)) == pytest.approx(1 / 1.04, abs=0.004)
    assert ladder_ratio(law(1.3)[-1:], law(1)) == pytest.approx(1.3, abs=0.02)  # one budget of the worse arm is enough
    with pytest.raises(ValueError, match="loss must be at most"):
        ladder_ratio(law(3), law(1))


def table(arm, seed, steps, points, kind="final"):
    """Rows of one run whose curve has these (step, loss, seconds), with a final loss 0.1 above the last."""
    rows = [dict(arm=arm, seed=seed, steps=steps, row="curve", step=step, tokens=8 * step, seconds=s, cpu_seconds=2 * s,
                 loss=loss, parameters=100) for step, loss, s in points]
    return [*rows, {**rows[-1], "row": kind, "loss": rows[-1]["loss"] + 0.1 if kind == "final" else None}]


ROWS = [*table("a", 0, 20, [(10, 5.0, 1.0), (20, 4.0, 2.0)]), *table("a", 0, 40, [(20, 4.5, 2.0), (40, 3.5, 9.0)]),
        *table("a", 1, 20, [(10, 5.2, 1.0), (20, 4.2, 2.0)]), *table("a", 1, 40, [(20, 4.7, 2.0), (40, 3.7, 4.0)]),
        *table("b", 0, 20, [(10, 5.0, 2.0), (20, 4.0, 4.0)]), *table("b", 0, 40, [(20, 4.4, 4.0), (40, 3.4, 8.0)]),
        *table("b", 1, 20, [(10, 5.0, 2.0), (20, 4.0, 4.0)]), *table("b", 1, 40, [(20, 4.4, 4.0), (30, 4.3, 6.0)], "failed")]
PART = Table(ROWS)
WHOLE = Table([*ROWS[:-3], *table("b", 1, 40, [(20, 4.4, 4.0), (40, 3.6, 8.0)])])


def test_curves_and_ladders_are_picked_from_the_rows():
    assert PART.ladder("a", 1) == [(20, pytest.approx(4.3)), (40, pytest.approx(3.8))]
    assert PART.ladder("b", 1, "tokens") == [(160, pytest.approx(4.1))]  # the failed run is no point
    assert PART.to_target("a", 4.0).to_dict() == {0: 30.0, 1: 34.0} and PART.to_target("c", 4.0).empty
    assert PART.to_target("a", 4.0, "cpu_seconds").to_dict() == {0: 11.0, 1: pytest.approx(6.8)}
    seconds = PART.to_target("b", 4.0, "seconds")
    assert seconds[0] == pytest.approx(5.6) and math.isnan(seconds[1])
    finals = PART.finals()
    assert list(finals) == PART.arms == ["a", "b"] and finals["a"].to_dict() == {0: pytest.approx(3.6), 1: pytest.approx(3.8)}
    assert finals["b"][0] == pytest.approx(3.5) and math.isnan(finals["b"][1])
    for ask in (PART.ladder, PART.to_target):
        with pytest.raises(ValueError, match="by must be one of 'step', 'tokens', 'seconds', 'cpu_seconds', got 'hours'"):
            ask("a", 0, "hours")


def test_seconds_a_step_do_not_follow_a_disturbed_piece():
    assert PART.step_seconds("a", "seconds") == pytest.approx(0.1) and PART.step_seconds("b") == pytest.approx(0.4)
    with pytest.raises(ValueError, match="one with two points on a curve, got 'a'"):
        Table(ROWS[:1]).step_seconds("a")


def test_the_paces_of_two_arms_tell_how_well_the_ratio_of_their_clocks_is_known():
    a, b = PART.paces("a"), PART.paces("b", "seconds")
    by_hand = {(0, 20): math.log(4 / 20), (0, 40): math.log(18 / 40), (1, 20): math.log(4 / 20), (1, 40): math.log(8 / 40)}
    assert a.to_dict() == pytest.approx(by_hand)
    assert set(b.index) == {(0, 20), (0, 40), (1, 20)}  # the failed run has no pace
    assert b[0, 20] == pytest.approx(math.log(4 / 20)) and PART.paces("c").empty
    found = paired(a, PART.paces("b"))  # three pairs, one of them disturbed: 1/2, 9/8, 1/2
    assert found.count == 3 and math.exp(found.mean) == pytest.approx((9 / 32) ** (1 / 3)) and not found.significant
    with pytest.raises(ValueError, match="clock must be one of 'seconds', 'cpu_seconds', got 'steps'"):
        PART.paces("a", "steps")


def test_ratios_pair_the_ladders_of_two_arms_by_seed():
    # seed 0: b ends at 3.5, a at 3.6 (40 steps); b crosses 3.6 at the share (4.1 - 3.6) / (4.1 - 3.5) of the way from 20 to 40
    # seed 1: b ends at 3.7, a at 3.8; b crosses 3.8 at the share (4.1 - 3.8) / (4.1 - 3.7)
    ratios = [40 / (20 * 2**share) for share in (5 / 6, 3 / 4)]
    found = WHOLE.steps_ratio("a", "b")
    assert found.value == pytest.approx(math.sqrt(math.prod(ratios)))
    assert ladder_ratio(WHOLE.ladder("a", 0), WHOLE.ladder("b", 0)) == pytest.approx(ratios[0])
    assert WHOLE.steps_ratio("b", "a").value == pytest.approx(1 / found.value)
    assert WHOLE.steps_ratio("a", "b", "seconds").value == pytest.approx(found.value / 2)  # b's steps take twice as long
    with pytest.raises(ValueError, match="seeds must be at least two"):
        WHOLE.steps_ratio("a", "c")
    with pytest.raises(ValueError, match="points must be two ladders"):
        ladder_ratio([], [(1, 2.0)])


def test_losses_at_equal_seconds_come_from_whole_schedules():
    seconds, found = WHOLE.equal_seconds("seconds")
    assert seconds == pytest.approx(4.0)  # arm a: 40 steps of 0.1 s; arm b: 20 steps of 0.2 s
    assert found["a"][0] == pytest.approx(3.6) and found["b"].to_dict() == {0: pytest.approx(4.1), 1: pytest.approx(4.1)}
    with pytest.raises(ValueError, match=r"arms must be with runs at two budgets or more, got \['b'"):
        PART.equal_seconds()
    slow = [{**row, "arm": "c", "seconds": 10 * row["seconds"]} for row in ROWS if row["arm"] == "a"]
    with pytest.raises(ValueError, match="seconds must be at least those of every arm's shortest run"):
        Table([*WHOLE.rows.to_dict("records"), *slow]).equal_seconds("seconds")


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_t_quantiles_are_those_of_an_independent_library(level):
    for freedom in (1, 2, 3, 4, 5, 7, 16, 31, 200):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)
    with pytest.raises(ValueError, match="freedom must be a whole number of at least 1, got 0"):
        t_quantile(level, 0)


def test_a_paired_difference_by_hand():
    found = paired({0: 4.2, 1: 4.5, 2: 4.3, 9: 1.0}, {0: 4.0, 1: 4.1, 2: 4.0, 5: 9.0})  # differences 0.2, 0.4, 0.3
    assert found.mean == pytest.approx(0.3) and found.deviation == pytest.approx(0.1) and found.count == 3
    assert found.smallest == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6) and found.significant
    assert not paired({0: 4.2, 1: 4.0}, {0: 4.0, 1: 4.1}).significant
    with pytest.raises(ValueError, match=r"seeds must be at least two that both arms have, got \[0\]"):
        paired({0: 4.0, 1: 4.2}, {0: 3.9})


def test_both_tests_of_a_difference_are_wrong_one_time_in_twenty():
    """Equal arms whose losses share a large effect of the seed: 95 % of the differences stay below the smallest."""
    rng, alone, together, unpaired = np.random.default_rng(0), 0, 0, 0
    for _ in range(600):
        x = rng.normal(size=(4, 3)) * 0.01 + rng.normal(size=3) * 0.2
        losses = {str(i): dict(enumerate(row)) for i, row in enumerate(x.tolist())}
        difference, error = x[0].mean() - x[1].mean(), math.sqrt((x[0].var(ddof=1) + x[1].var(ddof=1)) / 3)
        alone += paired(losses["0"], losses["1"]).significant
        together += abs(difference) > smallest_difference(losses)
        unpaired += abs(difference) > 2.776 * error
    assert 15 < alone < 50 and 15 < together < 50 and unpaired < 3  # without pairs nothing would be told apart


def test_the_scatter_of_all_arms_tells_smaller_differences_apart():
    rng, wins = np.random.default_rng(1), 0
    for _ in range(200):
        losses = {str(i): dict(enumerate(row)) for i, row in enumerate((rng.normal(size=(9, 3)) * 0.01).tolist())}
        wins += smallest_difference(losses) < paired(losses["0"], losses["1"]).smallest
    assert wins > 150
    two = {"0": losses["0"], "1": losses["1"]}
    assert smallest_difference(two) == pytest.approx(paired(*two.values()).smallest)  # with two arms they are the same test
    with pytest.raises(ValueError, match="losses must be of two arms or more with the same seeds"):
        smallest_difference({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0}})


def test_the_interval_of_a_ratio_is_the_t_interval_of_its_logarithm():
    ratios = (1.05, 1.12, 1.09, 1.16, 1.08)
    ladders = [("base", seed, 100, [(50, 5.0, 1.0), (100, 4.0, 2.0)]) for seed in range(5)]
    ladders += [("slow", seed, 100 * ratio, [(50, 5.0, 1.0), (100 * ratio, 4.0, 2.0)]) for seed, ratio in enumerate(ratios)]
    both = Table([row for ladder in ladders for row in table(*ladder)])
    found, logs = both.steps_ratio("slow", "base"), np.log(ratios)
    low, high = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    assert (found.value, found.low, found.high) == pytest.approx((math.exp(logs.mean()), math.exp(low), math.exp(high)))
    upside_down = both.steps_ratio("base", "slow")
    assert (1 / upside_down.low, 1 / upside_down.high) == pytest.approx((found.high, found.low))
    narrow = both.steps_ratio("slow", "base", level=0.5)
    assert found.low < narrow.low < found.value < narrow.high < found.high
