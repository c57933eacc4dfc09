"""CPU-seconds to a stated loss on tiny-shakespeare characters, beside nanoGPT's documented CPU recipe.

    python -m benchmarks.time_to_loss --corpus tinyshakespeare.txt --out results.csv [--targets 1.8857 1.60] [--seeds 0 1 2]

Protocol: the standard 90/10 split; loss is the mean over the full validation set in non-overlapping windows of 64,
float32 forward, empty context at each window start; fixed steps and cool-down, no early stop, no look at validation
during training. Every run is a fresh process with one thread; arms are interleaved. `loop` is the CPU-seconds of
training cold (model construction to last step, no evaluation), `process` those of the whole process: import, data,
training and one validation pass. The peer's process holds its own nine evaluations, as its script does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.recipes import TARGETS, settings

FIELDS = ["target", "arm", "seed", "loss", "passed", "loop", "process", "steps", "characters", "parameters", "precision"]
BASELINE = "gpt2-baseline"
COUNTS = "n-gram counts"
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    rows = []
    for job in jobs(options):
        rows.append(run_apart(job))
        print(line(rows[-1]), flush=True)
        if options.out:
            save(rows, options)
    print(table(rows))


def save(rows: list[dict], options: argparse.Namespace) -> None:
    from benchmarks.provenance import write_provenance
    from tensorlm.files import write_csv

    write_csv(options.out, FIELDS, rows)
    write_provenance(options.out, "python -m benchmarks.time_to_loss", read_corpus(options.corpus, options.split)[2],
                     seeds=options.seeds, precision=options.precision, split=options.split)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="tiny-shakespeare as one text file")
    parser.add_argument("--out", type=Path, help="CSV of all runs")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--arms", nargs="+", default=[BASELINE, "relu2", "bilinear", "tensor", "polynomial"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--precision", default="float32", help="of activations; bfloat16 pays on CPUs that have it")
    parser.add_argument("--split", choices=["validation", "tuning"], default="validation",
                        help="tuning: train on the first 90 %% of the training text, evaluate on its last 10 %%")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change model or training fields")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def jobs(options: argparse.Namespace) -> list[dict]:
    """One dictionary a run, interleaved: all arms of a seed before the next seed."""
    common = dict(corpus=options.corpus, precision=options.precision, split=options.split, changes=options.set)
    planned = [dict(common, target="", arm=COUNTS, seed=0)]
    for seed in options.seeds:
        if BASELINE in options.arms:
            planned.append(dict(common, target="", arm=BASELINE, seed=seed))
        planned += [dict(common, target=target, arm=arm, seed=seed) for target in options.targets
                    for arm in TARGETS[target][3] if arm in options.arms]
    return planned


def run_apart(job: dict) -> dict:
    """Run one job in a fresh process and read its row from the last line it prints."""
    command = [sys.executable, "-m", "benchmarks.time_to_loss", "--corpus", job["corpus"], "--worker", json.dumps(job)]
    done = subprocess.run(command, env={**os.environ, **THREADS}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def work(job: dict) -> dict:
    """One run in this process: returns its row."""
    import torch

    torch.set_num_threads(1)
    windows, train, data = read_corpus(job["corpus"], job["split"])
    kind = {COUNTS: count_ngrams, BASELINE: run_baseline}.get(job["arm"], run_arm)
    row = {**dict.fromkeys(FIELDS), **{key: job[key] for key in ("target", "arm", "seed")}, **kind(job, windows, train, data)}
    return {**row, "process": round(time.process_time(), 2)}


def read_corpus(path: str, split: str):
    """(validation windows, training tokens, TokenData); the tuning split never sees the validation text."""
    from tensorlm.data import load
    from tensorlm.data.source import tuning_split

    data = load("text", path=path, tokenizer="chars")
    if split == "tuning":
        data = tuning_split(data)
    return data.valid_windows(64), data.train, data


def count_ngrams(job: dict, windows, train, data) -> dict:
    from benchmarks.ngrams import ngram_loss

    order = 4
    loss, seconds = ngram_loss(train, windows.numpy(), data.vocab_size, order)
    return dict(loss=round(loss, 4), loop=round(seconds, 2), characters=len(train), precision="counts")


def run_baseline(job: dict, windows, train, data) -> dict:
    import numpy as np
    import torch

    from benchmarks import gpt2_baseline
    from tensorlm.training import evaluate

    tokens, valid = (torch.from_numpy(np.asarray(part).astype(np.int64)) for part in (train, data.valid))
    recipe = gpt2_baseline.CPU
    run = gpt2_baseline.Run(recipe, tokens, valid, data.vocab_size, job["seed"]).train()
    return dict(loss=round(evaluate(run.model, windows, batch_size=256), 4), loop=round(run.seconds, 2), steps=recipe.iterations,
                characters=recipe.iterations * recipe.batch * recipe.context,
                parameters=sum(p.numel() for p in run.model.parameters()), precision="float32")


def run_arm(job: dict, windows, train, data) -> dict:
    from tensorlm.training import train as fit

    model_changes, training_changes = split_changes(job["changes"])
    config, training = settings(job["target"], job["arm"], job["seed"], model_changes,
                                {"precision": job["precision"], **training_changes})
    result = fit(config, training, data)  # ends with one pass over the full validation set
    passed = result.loss_valid <= TARGETS[job["target"]][2]
    return dict(loss=round(result.loss_valid, 4), passed=passed, loop=round(result.cpu_seconds, 2),
                steps=training.steps, characters=training.steps * training.batch_size * config.context,
                parameters=result.model.parameter_count(), precision=job["precision"])


def split_changes(changes: list[str]) -> tuple[dict, dict]:
    """FIELD=VALUE pairs, sorted into model fields and training fields; values are JSON where they can be."""
    from dataclasses import fields

    from tensorlm.model import ModelConfig

    names = {field.name for field in fields(ModelConfig)}
    parsed = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return ({k: v for k, v in parsed.items() if k in names}, {k: v for k, v in parsed.items() if k not in names})


def line(row: dict) -> str:
    verdict = {True: "reached", False: "MISSED", None: ""}[row["passed"]]
    return (f"{row['target'] or '-':>24} {row['arm']:>14} seed {row['seed']}: loss {row['loss']:.4f} {verdict:8} "
            f"loop {row['loop']:7.2f} s, process {row['process']:7.2f} s")


def table(rows: list[dict]) -> str:
    """Means over seeds, and how many times sooner than the baseline of the same sitting."""
    peers = [row for row in rows if row["arm"] == BASELINE]
    lines = ["| target | arm | loss (mean, worst) | reached | loop CPU-s | x | process CPU-s | x |", "|---|---|---|---|---|---|---|---|"]
    for key in dict.fromkeys((row["target"], row["arm"]) for row in rows):
        group = [row for row in rows if (row["target"], row["arm"]) == key]
        losses = [row["loss"] for row in group]
        passed = "-" if group[0]["passed"] is None else f"{sum(r['passed'] for r in group)}/{len(group)}"
        cells = [f"{statistics.mean(losses):.4f}, {max(losses):.4f}", passed]
        for name in ("loop", "process"):
            mean = statistics.mean(row[name] for row in group)
            ratio = f"{statistics.mean(row[name] for row in peers) / mean:.1f}" if peers else "-"
            cells += [f"{mean:.2f}", ratio]
        lines.append("| " + " | ".join([key[0] or "-", key[1], *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
