"""The experiments of the book, each declared as one table.

All of them train small models on Shakespeare in 1,024 tokens: three layers of width 96 with 128 tokens of context, 16
windows a step. Settings and budgets were chosen with ``--split tuning``, which never sees the held-out plays.
"""

from __future__ import annotations

from typing import Any

from tensorlm.training.compare.experiment import Arm, Experiment

DATA = {"name": "shakespeare", "tokenizer": "bpe1024"}
SIZES: dict[str, Any] = dict(width=96, layers=3, context=128, positions=("decay", "toeplitz"))
PLAN: dict[str, Any] = dict(steps=300, batch_size=16, lr_matrix=0.025, lr_head=0.016, precision="float32")
SOFTMAX: dict[str, Any] = dict(attention="softmax", qk_norm="rms")
TARGETS = (4.5, 4.0, 3.8)

GLU = Experiment(
    name="glu",
    question="Which MLP learns best, at equal parameters and with the same (softmax) attention?",
    data=DATA, model={**SIZES, **SOFTMAX}, train=PLAN, budgets=(0.5, 1.0), targets=TARGETS,
    arms=tuple(Arm(kind, {"mlp": kind}) for kind in (
        "relu", "relu2", "gelu", "swiglu", "geglu", "reglu", "glu", "bilinear", "square")),
    baseline="relu", check="bilinear",
)


def _attention(kind: str, qk_norm: str = "none", row_scale: str = "sqrt", **more: Any) -> Arm:
    """An arm named after its choices, such as "bilinear qk mean"."""
    words = [kind, *(["qk"] if qk_norm == "rms" else []), *([] if kind == "softmax" else [row_scale])]
    return Arm(" ".join(words), dict(attention=kind, qk_norm=qk_norm, row_scale=row_scale), **more)


ATTENTION = Experiment(
    name="attention",
    question="What do softmax, QK-norm and the scale of the rows do, with the same positions, at equal parameters?",
    data=DATA, model=SIZES, train=PLAN, targets=TARGETS,
    arms=(_attention("softmax"), _attention("softmax", "rms"),
          *(_attention(kind, qk_norm, row_scale) for kind in ("squared", "bilinear") for qk_norm in ("none", "rms")
            for row_scale in ("none", "sqrt", "mean"))),
    baseline="softmax qk", check="bilinear sqrt",
)

BATCHES = Experiment(
    name="batches",
    question="How many more batches do squared and bilinear attention need for the loss of softmax?",
    data=DATA, model=SIZES, train=PLAN, targets=TARGETS, seeds=(0, 1, 2, 3, 4), budgets=(0.5, 1.0),
    arms=(Arm("softmax", SOFTMAX, budgets=(0.5, 0.7, 0.85, 1.0)), Arm("squared", {"attention": "squared"}),
          Arm("bilinear"), Arm("bilinear, larger", {"mlp_hidden": 256}, budgets=(1.0,), size="free")),
    baseline="softmax", check="bilinear",
)

ENCODERS = Experiment(
    name="encoders",
    question="What is better than two encoders? D[(E1 x) * ... * (Ek x)] at equal parameters, for several k",
    data=DATA, model={**SIZES, **SOFTMAX, "mlp": "product"}, train=PLAN, budgets=(0.5, 1.0), targets=TARGETS,
    arms=(*(Arm(f"k={k}", {"encoders": k}) for k in (1, 2, 3, 4)), Arm("k=8", {"encoders": 8, "mlp_hidden": 85})),
    baseline="k=2", check="k=3",
)

EXPERIMENTS = {experiment.name: experiment for experiment in (GLU, ATTENTION, BATCHES, ENCODERS)}
