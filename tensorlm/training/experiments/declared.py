"""All declared experiments of the book, by name."""

from tensorlm.training.experiments import chapter04, chapter05
from tensorlm.training.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for chapter in (chapter04, chapter05) for experiment in chapter.EXPERIMENTS
}
