"""The experiments of chapter 04, each declared as one table.

All of them train small models on Shakespeare in 1,024 tokens: three layers of width 96 with 128 tokens of context, 16
windows a step. Sizes, budgets and rates were chosen with ``--split tuning``, which never sees the held-out plays: of the
rates 0.016 and 0.025 for the matrices, each MLP has the one with the lower loss after 300 steps at seed 0.
"""

from __future__ import annotations

from typing import Any

from tensorlm.training.compare.experiment import Arm, Experiment

SETTING: dict[str, Any] = dict(
    data={"name": "shakespeare", "tokenizer": "bpe1024"}, evaluations=10, curve_windows=64, targets=(4.0, 3.8),
    train=dict(steps=300, batch_size=16, lr_matrix=0.016, lr_head=0.016, precision="float32"))
SIZES: dict[str, Any] = dict(width=96, layers=3, context=128, positions=("decay", "toeplitz"))
SOFTMAX: dict[str, Any] = dict(attention="softmax", qk_norm="rms")
RATES = dict(relu=0.025, relu2=0.025, gelu=0.025, swiglu=0.025, geglu=0.016, reglu=0.016, glu=0.025, bilinear=0.016, square=0.025)

GLU = Experiment(
    name="glu",
    question="Which MLP learns best, at equal parameters and with the same (softmax) attention?",
    arms=tuple(Arm(kind, {"mlp": kind}, {"lr_matrix": rate}) for kind, rate in RATES.items()),
    baseline="relu", check="bilinear", budgets=(0.5, 1.0), model={**SIZES, **SOFTMAX}, **SETTING,
)


def _attention(kind: str, qk_norm: str = "none", row_scale: str = "sqrt") -> Arm:
    """An arm named after its choices, such as "bilinear qk mean"."""
    words = [kind, *(["qk"] if qk_norm == "rms" else []), *([] if kind == "softmax" else [row_scale])]
    return Arm(" ".join(words), dict(attention=kind, qk_norm=qk_norm, row_scale=row_scale))


ATTENTION = Experiment(
    name="attention",
    question="What do softmax, QK-norm and the scale of the rows do, with the same positions, at equal parameters?",
    arms=(_attention("softmax"), _attention("softmax", "rms"),
          *(_attention(kind, "none", row_scale) for kind in ("squared", "bilinear") for row_scale in ("none", "sqrt", "mean")),
          _attention("squared", "rms"), _attention("bilinear", "rms")),
    baseline="softmax qk", check="bilinear sqrt", model=SIZES, **SETTING,
)

BATCHES = Experiment(
    name="batches",
    question="How many more batches do squared and bilinear attention need for the loss of softmax?",
    arms=(Arm("softmax", SOFTMAX, budgets=(0.5, 0.7, 0.85, 1.0)), Arm("squared", {"attention": "squared"}),
          Arm("bilinear"), Arm("bilinear, larger", {"mlp_hidden": 256}, budgets=(1.0,), size="free")),
    baseline="softmax", check="bilinear", budgets=(0.5, 1.0), seeds=(0, 1, 2, 3, 4), model=SIZES, **SETTING,
)

ENCODERS = Experiment(
    name="encoders",
    question="What is better than two encoders? D[(E1 x) * ... * (Ek x)] at equal parameters, for several k",
    arms=(*(Arm(f"k={k}", {"encoders": k}) for k in (1, 2, 3, 4)), Arm("k=8", {"encoders": 8, "mlp_hidden": 85})),
    baseline="k=2", check="k=3", budgets=(0.5, 1.0), model={**SIZES, **SOFTMAX, "mlp": "product"}, **SETTING,
)

EXPERIMENTS = (GLU, ATTENTION, BATCHES, ENCODERS)
