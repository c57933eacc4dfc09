"""What each trick of the fast recipe buys: one change at a time, three seeds, as an experiment of `tensorlm.training.experiments`.

    python -m benchmarks.ablation --corpus tinyshakespeare.txt --out tensorlm/released/results/speedrun_ablation.csv

Base: the tensor arm of target "1.8857" in `recipes.py` (one layer, width 64, 110 steps of 2,048 characters), whose settings
were chosen on a split of the training text; nothing is tuned here. Loss is over the full validation set as in
`time_to_loss`. CPU-seconds are those of training, after a warm-up. A killed one goes on where it was, from `--runs`.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.provenance import write_provenance
from benchmarks.recipes import settings
from benchmarks.time_to_loss import read_corpus
from tensorlm.files import write_csv
from tensorlm.training.experiments import Arm, run_experiment
from tensorlm.training.experiments.declare import Experiment

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
MODEL, TRAINING = (config.to_dict() for config in settings("1.8857", "tensor", 0, training={"precision": "float32"}))
ABLATION = Experiment(
    name="speedrun_ablation", question="What does each trick of the fast recipe buy?", data={"name": "text", "tokenizer": "chars"},
    arms=tuple(Arm(change, model, training, size="free") for change, (model, training) in CHANGES.items()), baseline="none",
    preset="nano", model={name: value for name, value in MODEL.items() if name != "vocab_size"}, train=TRAINING, evaluations=1)
FIELDS = ["change", "seed", "loss", "cpu_seconds", "parameters"]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    data = read_corpus(options.corpus, "validation")[2]
    rows = run_experiment(ABLATION, options.runs, options.changes, options.seeds, data=data, device="cpu", report=print)
    finals = [dict(change=row["arm"], seed=row["seed"], loss=round(row["loss"], 4), cpu_seconds=round(row["cpu_seconds"], 2),
                   parameters=row["parameters"]) for row in rows if row["row"] == "final"]
    write_csv(options.out, FIELDS, finals)
    write_provenance(options.out, "python -m benchmarks.ablation", data, seeds=options.seeds)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="tiny-shakespeare as one text file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of the finished runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
