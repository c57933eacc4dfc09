"""The declared studies of compact proofs: modular addition, with the proof in the loss or not, and rules of words."""

import json
from functools import cache
from typing import Any

from safetensors import safe_open

from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.proofs import compact, rules
from tensorlm.proofs.compact import modular_proof, train_modular, unstructured_share
from tensorlm.proofs.rules import rule_proof, word_rules
from tensorlm.provenance import RELEASED
from tensorlm.studies import Row, Study

CHECKPOINTS = ("toy-polynomial", "toy-polynomial-1", "toy-polynomial-2")
MOST_TEXTS = 20_000  # that are run one by one


def run_modular(seed: int, p: int, hidden: int, **training: Any) -> list[Row]:
    """Rows of `proof_compact`: one layer trained on half of the pairs, and its three proofs."""
    run = train_modular(p, hidden, seed, **training)
    proofs = [modular_proof(run.layer, method) for method in compact.METHODS]
    trained = dict(p=p, hidden=hidden, generalised_at=float(run.generalised_at or -1), train_loss=run.train_loss,
                   held_out_loss=run.held_out_loss, unstructured_share=float(unstructured_share(run.layer)))
    brute = proofs[0]
    return [dict(**trained, accuracy=brute.share, method=proof.method, proven=proof.share, failing=float(proof.failing),
                 multiply_adds=proof.multiply_adds, times_shorter=brute.multiply_adds / proof.multiply_adds)
            for proof in proofs]


def run_rules(seed: int, kind: str, length: int) -> list[Row]:
    """Rows of `proof_rules`: what sets of words prove of a released model, beside running texts where these are few."""
    model, shapes = released_model(CHECKPOINTS[seed]), word_rules(kind, length)
    few = sum(rule.inputs for rule in shapes) <= MOST_TEXTS
    rows = []
    for method in rules.METHODS if few else ("sets",):
        proof = rule_proof(model, shapes, method)
        rows.append(dict(model=CHECKPOINTS[seed], words=len(shapes[0].words), method=method, texts=proof.inputs,
                         proven=proof.share, least_margin=proof.margin,
                         multiply_adds=proof.multiply_adds, multiply_adds_a_text=proof.multiply_adds / proof.inputs))
    return rows


@cache
def released_model(name: str) -> TensorTransformer:
    """A released model with its constant norms folded into the weights, from its file."""
    with safe_open(RELEASED.parent / "checkpoints" / f"{name}.safetensors", framework="pt") as file:
        config = ModelConfig.from_dict(json.loads(file.metadata()["model_config"]))
        weights = {key.removeprefix("model."): file.get_tensor(key) for key in file.keys()}
    model = TensorTransformer(config)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    return model.eval().fold_norms()


SIZES = {11: dict(p=11, hidden=18, steps=600), 23: dict(p=23, hidden=32, steps=1500), 59: dict(p=59, hidden=64, steps=1500),
         113: dict(p=113, hidden=96, steps=1500)}
PENALTIES = {"plain": {}, "penalty 3": dict(penalty=3.0)}
MORE = {"penalty 30": dict(penalty=30.0), "penalty 3, late": dict(penalty=3.0, penalty_from=750),
        "plain, decay 0.1": dict(decay=0.1), "penalty 3, decay 0.1": dict(penalty=3.0, decay=0.1)}
COMPACT = Study(
    "proof_compact",
    "How much of modular addition is proven, by proofs of three lengths, with and without the proof in the loss?",
    ("p", "hidden", "generalised_at", "train_loss", "held_out_loss", "unstructured_share", "accuracy", "method", "proven",
     "failing", "multiply_adds", "times_shorter"),
    run_modular,
    {f"p {p}, {name}": {**sizes, **penalty} for p, sizes in SIZES.items() for name, penalty in
     {**PENALTIES, **(MORE if p == 59 else {})}.items()},
    seeds=(0, 1, 2, 3, 4), check=("p 11, penalty 3", 0, {}), keys=("method",), tolerance=0.05)

RULES = Study(
    "proof_rules",
    "Is a rule of the toy language proven of an exactly polynomial model for every text of a shape, by sets of words?",
    ("model", "words", "method", "texts", "proven", "least_margin", "multiply_adds", "multiply_adds_a_text"),
    run_rules,
    {f"{kind} {length}": dict(kind=kind, length=length) for kind in ("bigram", "agreement") for length in (0, 1, 2, 3)},
    seeds=(0, 1, 2), check=("bigram 0", 0, {}), keys=("method",))
