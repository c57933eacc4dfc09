"""The experiments of chapter 04, each declared as one table.

All but the last train models of the size of preset "micro" on Shakespeare in 1,024 tokens: three layers of width 96, 128 tokens
of context, 16 windows a step. Sizes, budgets and rates were chosen with ``--split tuning``, which never sees the held-out
plays: of the rates 0.016 and 0.025 for the matrices, each MLP has the one with the lower loss after 300 steps at seed 0; all
attentions and all numbers of encoders have 0.016.
"""

from __future__ import annotations

from typing import Any

from tensorlm.training.experiments.experiment import Arm, Experiment

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
    baseline="softmax qk", check="bilinear sqrt", budgets=(0.5, 1.0), model=SIZES, **SETTING,
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


def _tensor(width: int, kind: str, hidden: int | None = None, **train: Any) -> Arm:
    """An arm named after MLP, width and what else is not usual, such as "CP 32 h=128"; `hidden` None: the size of S."""
    model = dict(width=width, mlp=kind)
    if kind == "bilinear":
        model["mlp_hidden"] = hidden or round(width * (width + 1) / 6)
    words = ["CP" if kind == "bilinear" else kind, str(width), *([f"h={hidden}"] if hidden else []), *(["AdamW"] if train else [])]
    matched = width == 24 and kind != "full" and hidden is None
    return Arm(" ".join(words), model, train, size="matched" if matched else "free",
               budgets=(0.4, 0.7, 1.0) if (width, kind) == (48, "symmetric") else None)


# Characters, two layers of head dim 8. S has as many numbers as a CP layer with h = width (width + 1) / 6, which is
# 4 width at width 23. Of the rates 0.01, 0.02 and 0.04 with Muon, 0.02 was best or next to it (0.003) for S, T and CP on
# the tuning split, and of 0.003 to 0.05 with AdamW, 0.012. S and T start at zero, as D does; random ones were no better.
TENSOR = Experiment(
    name="tensor",
    question="The symmetric third-order tensor itself, trained, against the CP form of a bilinear layer: what is better?",
    data={"name": "shakespeare", "tokenizer": "chars"}, preset="nano", baseline="symmetric 24", check="CP 24",
    arms=(*(_tensor(width, kind) for width in (16, 24, 32, 48) for kind in ("symmetric", "bilinear")),
          *(_tensor(width, "bilinear", 4 * width) for width in (16, 32, 48)), _tensor(24, "full"),
          *(_tensor(24, kind, optimizer="adamw", lr_matrix=0.012) for kind in ("symmetric", "bilinear"))),
    model=dict(bigram="none", context=64, layers=2, head_dim=8, **SOFTMAX), evaluations=10, curve_windows=256, targets=(2.1, 2.0),
    train=dict(steps=400, batch_size=16, lr_matrix=0.02, precision="float32"), budgets=(0.5, 1.0),
)

EXPERIMENTS = (GLU, ATTENTION, BATCHES, ENCODERS, TENSOR)
