"""Which training example did it: models by the thousand, leave-one-out. Start at `train_bank`."""

from tensorlm.data_attribution.bank import Classifiers, Recipe, centred_digits, outcomes, train_bank, trajectory

__all__ = ["Classifiers", "Recipe", "centred_digits", "outcomes", "train_bank", "trajectory"]
