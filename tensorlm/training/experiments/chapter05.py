"""The experiments of chapter 05, each declared as one table: norms, what replaces them, and what exactness costs.

Characters: Shakespeare's, two layers of width 64 with 64 characters of context and the table of pairs. Toy: the language with
known rules, where the loss of each rule is exact. Rates were chosen with ``--split tuning`` at seed 0 (the polynomial's for
the long run on tokens at seeds 0 to 2) or taken over from models of the same size.
"""

from __future__ import annotations

from typing import Any

from tensorlm.training.experiments.experiment import Arm, Experiment

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
    train=dict(steps=400, batch_size=32, lr_matrix=0.02, lr_embedding=0.03, lr_head=0.004, lr_scalar=0.02, warmup=10,
               weight_decay=0.01, precision="float32", **GUARD))

NORMS_TOY = Experiment(
    name="norms_toy",
    question="Which norm, or what in its place, lets a tensor-transformer learn the rules of the toy language?",
    arms=_norms(0.02, 0.3, squared_hidden=85), baseline="rms", check="anneal, qk anneal", probes=("rules", "random"), **TOY,
)

PRICE_TOY = Experiment(
    name="price_toy", question="How near do a normed and an exactly polynomial model come to the true probabilities, rule by rule?",
    arms=(Arm("normed tensor", dict(norm="rms", qk_norm="rms")),
          Arm("polynomial", dict(norm="anneal", qk_norm="anneal"), dict(norm_penalty=0.3)),
          Arm("polynomial, penalty 1", dict(norm="anneal", qk_norm="anneal"), dict(norm_penalty=1.0))),
    baseline="normed tensor", check="polynomial", probes=("rules", "random", "lengths"), **{**TOY, "train": {**TOY["train"], "steps": 700}},
)

CHARS: dict[str, Any] = dict(
    data={"name": "shakespeare", "tokenizer": "chars"}, evaluations=10, curve_windows=256, preset="nano")
SHORT: dict[str, Any] = dict(steps=300, precision="float32", **GUARD)  # the rates of the preset
LONG: dict[str, Any] = dict(steps=1500, lr_matrix=0.014, lr_bigram=0.1, lr_head=0.008, precision="float32", **GUARD)

ON_TOY_ALONE = ("rms, qk joint", f"none, {QUARTER}", "none, spectral", "anneal, no penalty")
NORMS = Experiment(
    name="norms",
    question="What do norms buy on Shakespeare, and which substitutes keep it?",
    arms=tuple(arm for arm in _norms(0.02, 0.1) if arm.name not in ON_TOY_ALONE), baseline="rms", check="anneal",
    probes=("tails", "lengths", "random"), train=SHORT, **CHARS,
)

NORMED, POLYNOMIAL, ORDINARY = "normed tensor", "polynomial", "softmax, ReLU²"
SOFTMAX: dict[str, Any] = dict(attention="softmax", mlp="relu2", qk_norm="rms", positions=("toeplitz",))
PRICED = (Arm(NORMED), Arm(POLYNOMIAL, dict(norm="anneal")), Arm(ORDINARY, SOFTMAX, dict(lr_scalar=0.2)))
ALL_TAILS: dict[str, Any] = dict(probes=("tails", "lengths", "random"), baseline=NORMED, check=POLYNOMIAL)

PRICE_CHARS = Experiment(
    name="price_chars", question="What does being exactly one polynomial cost, on characters, in a short run?",
    arms=PRICED, train=SHORT, **ALL_TAILS, **CHARS,
)

PRICE_CHARS_LONG = Experiment(
    name="price_chars_long", question="And in a run five times as long, and without the table of pairs?",
    arms=(*PRICED, Arm(f"{NORMED}, no pairs", dict(bigram="none"), size="free"),
          Arm(f"{POLYNOMIAL}, no pairs", dict(norm="anneal", bigram="none"), size="free")),
    train=LONG, **ALL_TAILS, **CHARS,
)

DEPTHS = Experiment(
    name="depths", question="Does the price grow with depth?",
    arms=tuple(Arm(f"{name}, {layers} layers", dict(norm=norm, layers=layers), size="free")
               for layers in (2, 3, 4) for name, norm in ((NORMED, "rms"), (POLYNOMIAL, "anneal"))),
    baseline=f"{NORMED}, 2 layers", check=f"{POLYNOMIAL}, 2 layers",
    train=SHORT, **CHARS,
)

KNOB = Experiment(
    name="knob", question="What does it cost to pull the factors towards few and small numbers?",
    arms=(Arm("none", train=dict(weight_decay=0.0)),
          *(Arm(f"L1 {size:g}", train=dict(weight_decay=0.0, sparsity=size)) for size in (0.003, 0.01, 0.02, 0.05)),
          *(Arm(f"decay {size:g}", train=dict(weight_decay=size)) for size in (0.5, 2.0, 5.0))),
    baseline="none", check="L1 0.01", probes=("weights",), model=dict(bigram="none"), train=SHORT, **CHARS,
)

WORDS: dict[str, Any] = dict(
    data={"name": "shakespeare", "tokenizer": "bpe1024"}, evaluations=10, curve_windows=256, preset="nano", model=dict(bigram="none"))
USUAL: dict[str, Any] = dict(momentum=0.95, cooldown=0.6)  # better for softmax in both runs, for the normed tensor model in the long one
CALM: dict[str, Any] = dict(momentum=0.9, cooldown=0.8)  # better for the polynomial in both runs
LATE = dict(anneal=(0.3, 0.95))
FIVE = (0, 1, 2, 3, 4)


def _priced_words(**polynomial: Any) -> tuple[Arm, ...]:
    """The three models; `polynomial` are what the polynomial's training differs in besides."""
    return (Arm(NORMED), Arm(POLYNOMIAL, dict(norm="anneal"), {**LATE, **CALM, **polynomial}),
            Arm(ORDINARY, SOFTMAX, dict(lr_scalar=0.2, **USUAL)))


PRICE_BPE = Experiment(
    name="price_bpe", question="What does being exactly one polynomial cost on BPE tokens, in a short run?",
    arms=_priced_words(), seeds=FIVE, train={**SHORT, **CALM, "lr_matrix": 0.016, "lr_head": 0.016}, **ALL_TAILS, **WORDS,
)

PRICE_BPE_LONG = Experiment(
    name="price_bpe_long", question="And in a run five times as long?",
    arms=_priced_words(lr_matrix=0.011), seeds=FIVE, train=LONG, **ALL_TAILS, **WORDS,
)

EXPERIMENTS = (NORMS_TOY, PRICE_TOY, NORMS, PRICE_CHARS, PRICE_CHARS_LONG, PRICE_BPE, PRICE_BPE_LONG, DEPTHS, KNOB)
