"""Arms x seeds from one declaration: run them, keep what is finished, and say which differences are significant."""

from tensorlm.training.experiments.analyse import Table, crossing, paired, smallest_difference
from tensorlm.training.experiments.declare import Arm, SpreadWindows
from tensorlm.training.experiments.declared import EXPERIMENTS
from tensorlm.training.experiments.run import run_experiment

__all__ = ["Arm", "EXPERIMENTS", "SpreadWindows", "Table", "crossing", "paired", "run_experiment", "smallest_difference"]
