"""What each trick of the fast recipe buys: one change at a time, three seeds.

    python -m benchmarks.ablation --corpus tinyshakespeare.txt --out tensorlm/released/results/speedrun_ablation.csv

Base: the tensor arm of target "1.8857" in `recipes.py` (one layer, width 64, 110 steps of 2,048 characters). Loss is
over the full validation set as in `time_to_loss`. The settings of the base were chosen on a split of the training
text; nothing is tuned here. CPU-seconds are those of training, in one process after a throw-away run.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.provenance import write_provenance, write_table
from benchmarks.recipes import settings
from benchmarks.time_to_loss import read_corpus
from tensorlm.training import train

TARGET, ARM = "1.8857", "tensor"
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what a reader sees: (model fields, training fields)
    "none": ({}, {}),
    "no bigram table": (dict(bigram="none"), {}),
    "no Toeplitz table": (dict(positions=("decay",)), {}),
    "no decay": (dict(positions=("toeplitz",)), {}),
    "RoPE instead of both": (dict(positions=("rope",)), {}),
    "no position signal at all": (dict(positions=(), smear="none", bigram="none"), {}),
    "key offset added": (dict(positions=("decay", "toeplitz", "key_offset")), {}),
    "no smear": (dict(smear="none"), {}),
    "rows divided by their sum": (dict(row_scale="mean"), {}),
    "rows not scaled": (dict(row_scale="none"), {}),
    "heads of 32 instead of 16": (dict(head_dim=32), {}),
    "squared attention": (dict(attention="squared"), {}),
    "softmax attention": (dict(attention="softmax", positions=("toeplitz",), qk_norm="rms"), dict(lr_scalar=0.2)),
    "QK-norm added": (dict(qk_norm="rms"), {}),
    "ReLU² MLP": (dict(mlp="relu2"), {}),
    "no MLP": (dict(mlp="none"), {}),
    "no norms": (dict(norm="none"), {}),
    "two layers": (dict(layers=2), {}),
    "two layers, value residual and shortcut": (dict(layers=2, value_residual="learned", shortcut="learned"), {}),
    "outputs not zero at the start": (dict(output_init="normal"), {}),
    "tied head": (dict(head="tied"), {}),
    "AdamW at 0.004 instead of Muon": ({}, dict(optimizer="adamw", lr_matrix=0.004)),
    "AdamW at 0.01 instead of Muon": ({}, dict(optimizer="adamw", lr_matrix=0.01)),
    "cool-down over the last 30 %": ({}, dict(cooldown=0.3)),
    "cool-down over all steps": ({}, dict(cooldown=1.0)),
    "batch 16, twice the steps": ({}, dict(batch_size=16, steps=220)),
    "batch 64, half the steps": ({}, dict(batch_size=64, steps=55)),
    "twice the steps": ({}, dict(steps=220)),
}
FIELDS = ["change", "seed", "loss", "cpu_seconds", "parameters"]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    _, _, data = read_corpus(options.corpus, "validation")
    run(data, "none", seed=0)  # warms the kernels up
    rows = [run(data, change, seed) for seed in options.seeds for change in options.changes]
    rows.sort(key=lambda row: list(CHANGES).index(row["change"]))
    write_table(options.out, FIELDS, rows)
    write_provenance(options.out, "python -m benchmarks.ablation", data, seeds=options.seeds)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="tiny-shakespeare as one text file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    return parser.parse_args(arguments)


def run(data, change: str, seed: int) -> dict:
    """Train and validate one variant."""
    model, training = settings(TARGET, ARM, seed, CHANGES[change][0], {"precision": "float32", **CHANGES[change][1]})
    result = train(model, training, data)
    row = dict(change=change, seed=seed, loss=round(result.loss_valid, 4), cpu_seconds=round(result.cpu_seconds, 2),
               parameters=result.model.parameter_count())
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
