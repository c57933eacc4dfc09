"""Arms x seeds from one declaration: run them, keep what is finished, and say what can be told apart."""

from tensorlm.training.experiments.analysis import (
    crossing,
    curve,
    equal_seconds,
    finals,
    ladder,
    loss_at,
    paces,
    probed,
    step_seconds,
    steps_ratio,
    steps_ratios,
    to_target,
)
from tensorlm.training.experiments.declared import EXPERIMENTS
from tensorlm.training.experiments.experiment import Arm, Experiment, open_data
from tensorlm.training.experiments.runs import check_again, compare
from tensorlm.training.experiments.spread import Difference, Ratio, paired, ratio_interval, smallest_difference, t_quantile
from tensorlm.training.experiments.table import summary

__all__ = ["Arm", "Difference", "EXPERIMENTS", "Experiment", "Ratio", "check_again", "compare", "crossing", "curve",
           "equal_seconds", "finals", "ladder", "loss_at", "open_data", "paces", "paired", "probed", "ratio_interval",
           "smallest_difference", "step_seconds", "steps_ratio", "steps_ratios", "summary", "t_quantile", "to_target"]
