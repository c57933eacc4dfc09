"""The declared experiments of the book: chapter 04 (MLPs, attention, encoders, the tensor), chapter 05 (norms, what exactness costs).

Sizes, budgets and rates were chosen on `tensorlm.data.tuning_split`, without the held-out text, at seed 0 unless said.
"""

from typing import Any

from tensorlm.training.experiments.declare import Arm, Experiment

FIVE_SEEDS = (0, 1, 2, 3, 4)

# Chapter 04. All but the last: three layers of width 96 on Shakespeare in 1,024 tokens. Of the rates 0.016 and 0.025 for
# the matrices each MLP has the better one after 300 steps; all attentions and all numbers of encoders have 0.016.

SETTING: dict[str, Any] = dict(
    data={"name": "shakespeare", "tokenizer": "bpe1024"}, evaluations=10, curve_windows=64, budgets=(0.5, 1.0),
    train=dict(steps=300, batch_size=16, lr_matrix=0.016, lr_head=0.016, precision="float32"))
SIZES: dict[str, Any] = dict(width=96, layers=3, context=128, positions=("decay", "toeplitz"))
SOFTMAX: dict[str, Any] = dict(attention="softmax", qk_norm="rms")
RATES = dict(relu=0.025, relu2=0.025, gelu=0.025, swiglu=0.025, geglu=0.016, reglu=0.016, glu=0.025, bilinear=0.016, square=0.025)

GLU = Experiment(
    name="glu", question="Which MLP learns best, at equal parameters and with the same (softmax) attention?",
    arms=tuple(Arm(kind, {"mlp": kind}, {"lr_matrix": rate}) for kind, rate in RATES.items()),
    baseline="relu", check="bilinear", model={**SIZES, **SOFTMAX}, **SETTING)


def _attention(kind: str, qk_norm: str = "none", row_scale: str = "sqrt") -> Arm:
    words = [kind, *(["qk"] if qk_norm == "rms" else []), *([] if kind == "softmax" else [row_scale])]
    return Arm(" ".join(words), dict(attention=kind, qk_norm=qk_norm, row_scale=row_scale))


ATTENTION = Experiment(
    name="attention",
    question="What do softmax, QK-norm and the scale of the rows do, with the same positions, at equal parameters?",
    arms=(_attention("softmax"), _attention("softmax", "rms"),
          *(_attention(kind, "none", row_scale) for kind in ("squared", "bilinear") for row_scale in ("none", "sqrt", "mean")),
          _attention("squared", "rms"), _attention("bilinear", "rms")),
    baseline="softmax qk", check="bilinear sqrt", model=SIZES, **SETTING)

BATCHES = Experiment(
    name="batches", question="How many more batches do squared and bilinear attention need for the loss of softmax?",
    arms=(Arm("softmax", SOFTMAX, budgets=(0.5, 0.7, 0.85, 1.0)), Arm("squared", {"attention": "squared"}),
          Arm("bilinear"), Arm("bilinear, larger", {"mlp_hidden": 256}, budgets=(1.0,), size="free")),
    baseline="softmax", check="bilinear", seeds=FIVE_SEEDS, model=SIZES, **SETTING)

ENCODERS = Experiment(
    name="encoders",
    question="What is better than two encoders? D[(E1 x) * ... * (Ek x)] at equal parameters, for several k",
    arms=(*(Arm(f"k={k}", {"encoders": k}) for k in (1, 2, 3, 4)), Arm("k=8", {"encoders": 8, "mlp_hidden": 85})),
    baseline="k=2", check="k=3", model={**SIZES, **SOFTMAX, "mlp": "product"}, **SETTING)


def _tensor(width: int, kind: str, hidden: int | None = None, **train: Any) -> Arm:
    """An arm named after MLP, width and what else is not usual, such as "CP 32 h=128"; `hidden` None: the size of S."""
    model = dict(width=width, mlp=kind)
    if kind == "bilinear":
        model["mlp_hidden"] = hidden or round(width * (width + 1) / 6)
    words = ["CP" if kind == "bilinear" else kind, str(width), *([f"h={hidden}"] if hidden else []), *(["AdamW"] if train else [])]
    matched = width == 24 and kind != "full" and hidden is None
    budgets = (0.4, 0.7, 1.0) if (width, kind) == (48, "symmetric") else None
    return Arm(" ".join(words), model, train, budgets, "matched" if matched else "free")


# Characters, two layers of head dim 8. S has as many numbers as a CP layer with h = width (width + 1) / 6, which is
# 4 width at width 23. Of the rates 0.01, 0.02 and 0.04 with Muon, 0.02 was best or next to it (0.003) for S, T and CP,
# and of 0.003 to 0.05 with AdamW, 0.012. S and T start at zero, as D does; random ones were no better.
TENSOR = Experiment(
    name="tensor",
    question="The symmetric third-order tensor itself, trained, against the CP form of a bilinear layer: what is better?",
    data={"name": "shakespeare", "tokenizer": "chars"}, preset="nano", baseline="symmetric 24", check="CP 24",
    arms=(*(_tensor(width, kind) for width in (16, 24, 32, 48) for kind in ("symmetric", "bilinear")),
          *(_tensor(width, "bilinear", 4 * width) for width in (16, 32, 48)), _tensor(24, "full"),
          *(_tensor(24, kind, optimizer="adamw", lr_matrix=0.012) for kind in ("symmetric", "bilinear"))),
    model=dict(bigram="none", context=64, layers=2, head_dim=8, **SOFTMAX), evaluations=10, curve_windows=256,
    train=dict(steps=400, batch_size=16, lr_matrix=0.02, precision="float32"), budgets=(0.5, 1.0))

# Chapter 05. Characters: Shakespeare's, two layers of width 64 with 64 characters of context and the table of pairs. Toy: the
# language with known rules, where the loss of each rule is exact. The polynomial's rates for the long run on tokens were chosen
# at seeds 0 to 2.

GUARD: dict[str, Any] = dict(clip=1.0, skip_factor=5.0)
QUARTER = "quarter rate"


def _norms(matrix: float, penalty: float, squared_hidden: int | None = None) -> tuple[Arm, ...]:
    """What was tried in place of a per-token norm; `squared_hidden` gives the squared arm equal size."""
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
        Arm("constant afterwards", annealed, dict(anneal=(1.0, 1.0), **penalised)),
        Arm("constant from the start", annealed, dict(anneal=(0.0, 0.02), **penalised)),
        Arm("anneal, qk joint", dict(norm="anneal", qk_norm="joint"), penalised),
        Arm("squared, anneal, qk rms", dict(attention="squared", norm="anneal", qk_norm="rms", mlp_hidden=squared_hidden), penalised),
    )


TOY: dict[str, Any] = dict(
    data={"name": "toy"}, evaluations=10, curve_windows=256, preset="nano",
    model=dict(context=64, width=32, layers=2, mlp_hidden=64, positions=("decay", "toeplitz", "key_offset"), smear="none",
               head_norm="none", bigram="none"))
TOY_TRAIN: dict[str, Any] = dict(batch_size=32, lr_matrix=0.02, lr_embedding=0.03, lr_head=0.004, lr_scalar=0.02, warmup=10,
                                 weight_decay=0.01, precision="float32", **GUARD)

NORMS_TOY = Experiment(
    name="norms_toy",
    question="Which norm, or what in its place, lets a tensor-transformer learn the rules of the toy language?",
    arms=_norms(0.02, 0.3, squared_hidden=85), baseline="rms", check="anneal, qk anneal", probes=("rules", "random"),
    train=dict(steps=400, **TOY_TRAIN), **TOY)

PRICE_TOY = Experiment(
    name="price_toy", question="How near do a normed and an exactly polynomial model come to the true probabilities, rule by rule?",
    arms=(Arm("normed tensor", dict(norm="rms", qk_norm="rms")),
          Arm("polynomial", dict(norm="anneal", qk_norm="anneal"), dict(norm_penalty=0.3)),
          Arm("polynomial, penalty 1", dict(norm="anneal", qk_norm="anneal"), dict(norm_penalty=1.0))),
    baseline="normed tensor", check="polynomial", train=dict(TOY_TRAIN, steps=700), probes=("rules", "random", "lengths"),
    **TOY)

CHARS: dict[str, Any] = dict(data={"name": "shakespeare", "tokenizer": "chars"}, evaluations=10, curve_windows=256, preset="nano")
SHORT: dict[str, Any] = dict(steps=300, precision="float32", **GUARD)  # the rates of the preset
LONG: dict[str, Any] = dict(steps=1500, lr_matrix=0.014, lr_bigram=0.1, lr_head=0.008, precision="float32", **GUARD)
TOY_ONLY = ("rms, qk joint", f"none, {QUARTER}", "none, spectral", "anneal, no penalty")

NORMS = Experiment(
    name="norms", question="What do norms buy on Shakespeare, and which substitutes keep it?",
    arms=tuple(arm for arm in _norms(0.02, 0.1) if arm.name not in TOY_ONLY), baseline="rms", check="anneal",
    probes=("tails", "lengths", "random"), train=SHORT, **CHARS)

NORMED, POLYNOMIAL, ORDINARY = "normed tensor", "polynomial", "softmax, ReLU²"
RELU2: dict[str, Any] = dict(attention="softmax", mlp="relu2", qk_norm="rms", positions=("toeplitz",))
PRICED = (Arm(NORMED), Arm(POLYNOMIAL, dict(norm="anneal")), Arm(ORDINARY, RELU2, dict(lr_scalar=0.2)))
ALL_TAILS: dict[str, Any] = dict(probes=("tails", "lengths", "random"), baseline=NORMED, check=POLYNOMIAL)

PRICE_CHARS = Experiment(
    name="price_chars", question="What does being exactly one polynomial cost, on characters, in a short run?",
    arms=PRICED, train=SHORT, **ALL_TAILS, **CHARS)

PRICE_CHARS_LONG = Experiment(
    name="price_chars_long", question="And in a run five times as long, and without the table of pairs?",
    arms=(*PRICED, Arm(f"{NORMED}, no pairs", dict(bigram="none"), size="free"),
          Arm(f"{POLYNOMIAL}, no pairs", dict(norm="anneal", bigram="none"), size="free")),
    train=LONG, **ALL_TAILS, **CHARS)

DEPTHS = Experiment(
    name="depths", question="Does the price grow with depth?",
    arms=tuple(Arm(f"{name}, {layers} layers", dict(norm=norm, layers=layers), size="free")
               for layers in (2, 3, 4) for name, norm in ((NORMED, "rms"), (POLYNOMIAL, "anneal"))),
    baseline=f"{NORMED}, 2 layers", check=f"{POLYNOMIAL}, 2 layers", train=SHORT, **CHARS)

KNOB = Experiment(
    name="knob", question="What does it cost to pull the factors towards few and small numbers?",
    arms=(Arm("none", train=dict(weight_decay=0.0)),
          *(Arm(f"L1 {size:g}", train=dict(weight_decay=0.0, sparsity=size)) for size in (0.003, 0.01, 0.02, 0.05)),
          *(Arm(f"decay {size:g}", train=dict(weight_decay=size)) for size in (0.5, 2.0, 5.0))),
    baseline="none", check="L1 0.01", probes=("weights",), model=dict(bigram="none"), train=SHORT, **CHARS)

WORDS: dict[str, Any] = {**CHARS, **dict(data={"name": "shakespeare", "tokenizer": "bpe1024"}, model=dict(bigram="none"))}
USUAL: dict[str, Any] = dict(momentum=0.95, cooldown=0.6)  # better for softmax in both runs, for the normed tensor model in the long one
CALM: dict[str, Any] = dict(momentum=0.9, cooldown=0.8)  # better for the polynomial in both runs


def _priced_words(**polynomial: Any) -> tuple[Arm, ...]:
    return (Arm(NORMED), Arm(POLYNOMIAL, dict(norm="anneal"), dict(anneal=(0.3, 0.95), **CALM, **polynomial)),
            Arm(ORDINARY, RELU2, dict(lr_scalar=0.2, **USUAL)))


PRICE_BPE = Experiment(
    name="price_bpe", question="What does being exactly one polynomial cost on BPE tokens, in a short run?",
    arms=_priced_words(), seeds=FIVE_SEEDS, train=dict(SHORT, **CALM, lr_matrix=0.016, lr_head=0.016), **ALL_TAILS, **WORDS)

PRICE_BPE_LONG = Experiment(
    name="price_bpe_long", question="And in a run five times as long?",
    arms=_priced_words(lr_matrix=0.011), seeds=FIVE_SEEDS, train=LONG, **ALL_TAILS, **WORDS)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (
    GLU, ATTENTION, BATCHES, ENCODERS, TENSOR, NORMS_TOY, PRICE_TOY, NORMS, PRICE_CHARS, PRICE_CHARS_LONG, PRICE_BPE,
    PRICE_BPE_LONG, DEPTHS, KNOB)}
