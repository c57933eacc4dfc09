"""The experiments of chapter 05, each declared as one table: norms, what replaces them, and what exactness costs.

Characters: Shakespeare's, two layers of width 64 with 64 characters of context and the table of pairs. Toy: the language with
known rules, where the loss of each rule is exact. Rates were chosen with ``--split tuning`` at seed 0 or taken over from
models of the same size.
"""

from __future__ import annotations

from typing import Any

from tensorlm.training.compare.experiment import Arm, Experiment

GUARD: dict[str, Any] = dict(clip=1.0, skip_factor=5.0)
AFTERWARDS = (1.0, 1.0)  # per-token norms in all of training, constants put in at the end
FROM_THE_START = (0.0, 0.02)
QUARTER = "quarter rate"


def _norms(matrix: float, penalty: float, squared_hidden: int | None = None) -> tuple[Arm, ...]:
    """Everything that was tried in place of a per-token norm; ``matrix`` is the usual rate of the hidden matrices.

    ``squared_hidden`` is the MLP's hidden width with which the squared arm, which has fewer projections, is of equal size.
    """
    annealed = dict(norm="anneal", qk_norm="anneal")
    penalised = dict(norm_penalty=penalty)
    return (
        Arm("rms", dict(norm="rms")),
        Arm("rms, qk rms", dict(norm="rms", qk_norm="rms")),
        Arm("rms, qk joint", dict(norm="rms", qk_norm="joint")),
        Arm("none", dict(norm="none")),
        Arm(f"none, {QUARTER}", dict(norm="none"), dict(lr_matrix=matrix / 4)),
        Arm("none, spectral", dict(norm="none"), dict(constraint="spectral", constraint_size=1.5)),
        Arm("none, orthogonal", dict(norm="none"), dict(constraint="orthogonal")),
        Arm("scale", dict(norm="scale")),
        Arm("channel", dict(norm="channel")),
        Arm(f"channel, {QUARTER}", dict(norm="channel"), dict(lr_matrix=matrix / 4)),
        Arm("batch", dict(norm="batch")),
        Arm("batch, qk batch", dict(norm="batch", qk_norm="batch")),
        Arm("anneal", dict(norm="anneal"), penalised),
        Arm("anneal, qk anneal", annealed, penalised),
        Arm("anneal, no penalty", annealed, dict(norm_penalty=0.0)),
        Arm("constant afterwards", annealed, dict(anneal=AFTERWARDS, **penalised)),
        Arm("constant from the start", annealed, dict(anneal=FROM_THE_START, **penalised)),
        Arm("anneal, qk joint", dict(norm="anneal", qk_norm="joint"), penalised),
        Arm("squared, anneal, qk rms", dict(attention="squared", norm="anneal", qk_norm="rms", mlp_hidden=squared_hidden), penalised),
    )


TOY: dict[str, Any] = dict(
    data={"name": "toy"}, evaluations=10, curve_windows=256, preset="nano",
    model=dict(context=64, width=32, layers=2, mlp_hidden=64, positions=("decay", "toeplitz", "key_offset"), smear="none",
               head_norm="none", bigram="none"),
    train=dict(steps=500, batch_size=32, lr_matrix=0.02, lr_embedding=0.03, lr_head=0.004, lr_scalar=0.02, warmup=10,
               weight_decay=0.01, precision="float32", **GUARD))

NORMS_TOY = Experiment(
    name="norms_toy",
    question="Which norm, or what in its place, lets a tensor-transformer learn the rules of the toy language?",
    arms=_norms(0.02, 0.3, squared_hidden=85), baseline="rms", check="anneal, qk anneal", probes=("rules", "random"), **TOY,
)

EXPERIMENTS = (NORMS_TOY,)
