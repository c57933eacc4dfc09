"""Which training example did it: models by the thousand, leave-one-out. Start at `train_bank`."""

from tensorlm.data_attribution.bank import Classifiers, Recipe, centred_digits, outcomes, train_bank, trajectory
from tensorlm.data_attribution.leave_one_out import RidgeHead, leave_one_out, two_way, without

__all__ = ["Classifiers", "Recipe", "RidgeHead", "centred_digits", "leave_one_out", "outcomes", "train_bank", "trajectory", "two_way",
           "without"]
