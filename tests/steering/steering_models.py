"""What the tests of steering accounts share: small polynomial models in float64 with every feature, and the released toy model."""

from functools import lru_cache

import torch

from tensorlm import released
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.steering.prepare import as_polynomial
from tensorlm.training import load_model

PLAIN: dict = {}
FULL = dict(shortcut="learned", value_residual="learned", positions=("rope", "key_offset", "toeplitz"), smear="learned")
SQUARED = dict(attention="squared", bigram="table", positions=("decay", "key_offset"), row_scale="mean")
VARIANTS = {"plain": PLAIN, "full": FULL, "squared": SQUARED, "no attention": dict(attention="none"), "no mlp": dict(mlp="none"),
            "full tensor": dict(mlp="full", head="tied"), "square mlp": dict(mlp="square")}
VOCAB, WIDTH, TIME = 7, 4, 5


@lru_cache
def model(variant="plain", layers=2) -> TensorTransformer:
    """Random weights, of a size at which two layers keep the stream within a few units."""
    sizes = dict(vocab_size=VOCAB, width=WIDTH, head_dim=2, layers=layers, context=TIME)
    options = dict(smear="none", norm="none", output_init="normal") | VARIANTS[variant] | sizes
    if options.get("mlp", "bilinear") not in ("none", "full"):
        options["mlp_hidden"] = 5
    made = TensorTransformer(ModelConfig(**options), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            last = name.split(".")[-1]
            if last in ("o", "D", "T"):
                weight.mul_(0.5)
            if last in ("toeplitz", "smear", "shortcut", "value_mix", "bigram"):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return as_polynomial(made)


@lru_cache
def toy_model() -> TensorTransformer:
    return as_polynomial(load_model(released.checkpoint("toy-polynomial")))


def tokens(batch=2, seed=0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, TIME), generator=torch.Generator().manual_seed(seed))


def vector(seed=1, width=WIDTH) -> torch.Tensor:
    return torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
