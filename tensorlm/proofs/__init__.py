"""What can be proven of bilinear layers from their weights: expectations, tails, and bounds over whole domains."""

from tensorlm.proofs.compact import fourier_layer, modular_proof, train_modular, unstructured_share
from tensorlm.proofs.distributions import Gaussian, Mixture, Samples
from tensorlm.proofs.forms import Quadratic
from tensorlm.proofs.moments import output_mean, output_moments, relu_moments
from tensorlm.proofs.rules import rule_margin, rule_proof, word_rules
from tensorlm.proofs.tails import tail_probability

__all__ = [
    "Gaussian", "Mixture", "Quadratic", "Samples", "fourier_layer", "modular_proof", "output_mean", "output_moments", "relu_moments",
    "rule_margin", "rule_proof", "tail_probability", "train_modular", "unstructured_share", "word_rules",
]
