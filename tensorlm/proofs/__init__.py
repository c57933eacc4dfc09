"""What can be proven about polynomial models: exact distances to another class, and sound bounds where there are none."""

from tensorlm.proofs.attack import attack_radius
from tensorlm.proofs.bounds import box_radius, logits, radius_bound
from tensorlm.proofs.certify import certificate, worst_margin
from tensorlm.proofs.forms import Quadratic, quadratic_forms

__all__ = [
    "Quadratic", "attack_radius", "box_radius", "certificate", "logits", "quadratic_forms", "radius_bound", "worst_margin",
]
