"""What can be proven about polynomial models: exact distances to another class and sound bounds where there are none, exact
expectations and tails, and answers right over a whole domain."""

from tensorlm.proofs.attack import attack_radius
from tensorlm.proofs.bounds import box_radius, logits, radius_bound
from tensorlm.proofs.certify import certificate, worst_margin
from tensorlm.proofs.compact import fourier_layer, modular_proof, train_modular, unstructured_share
from tensorlm.proofs.distributions import Gaussian, Mixture, Samples
from tensorlm.proofs.forms import Quadratic, quadratic_forms
from tensorlm.proofs.moments import output_mean, output_moments, relu_moments
from tensorlm.proofs.rules import rule_proof, word_rules
from tensorlm.proofs.tails import tail_probability

__all__ = [
    "Gaussian", "Mixture", "Quadratic", "Samples", "attack_radius", "box_radius", "certificate", "fourier_layer", "logits",
    "modular_proof", "output_mean", "output_moments", "quadratic_forms", "radius_bound", "relu_moments", "rule_proof",
    "tail_probability", "train_modular", "unstructured_share", "word_rules", "worst_margin",
]
