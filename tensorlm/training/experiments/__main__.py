"""`python -m tensorlm.training.experiments NAME --out FOLDER`: run a declared experiment, or go on with it.

`--release` writes its table and provenance into the package, where chapters read them.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from tensorlm.data import load
from tensorlm.training.experiments.analyse import Table
from tensorlm.training.experiments.declare import Experiment, plan
from tensorlm.training.experiments.declared import EXPERIMENTS
from tensorlm.training.experiments.run import release, run_experiment
from tensorlm.training.loop import say
from tensorlm.training.trainer import TrainingError


def main(arguments: list[str] | None = None, experiments: Mapping[str, Experiment] = EXPERIMENTS) -> int:
    """Run the command line: 0, 1 (training had to stop), 2 (arguments, files), 130 or 143 (Ctrl-C, SIGTERM)."""
    p = argparse.ArgumentParser(prog="python -m tensorlm.training.experiments", allow_abbrev=False,
                                description="Run an experiment: arms x seeds, interleaved, to be killed and taken up again.")
    p.add_argument("experiment", nargs="?", choices=sorted(experiments), help="without it: list what there is")
    p.add_argument("--out", type=Path, default=Path("runs/experiments"), metavar="FOLDER", help="of runs and table")
    p.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms (all)")
    p.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds (those declared)")
    p.add_argument("--list", action="store_true", help="show the arms and their sizes, run nothing")
    p.add_argument("--release", action="store_true", help="write the whole table into the package too")
    options = p.parse_args(arguments)
    try:
        say(answer(options, experiments))
        return 0
    except (TrainingError, ValueError, ImportError, OSError) as error:
        print(f"tensorlm.training.experiments: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt as stop:
        print("tensorlm.training.experiments: interrupted; the same command goes on from here", file=sys.stderr)
        return 143 if stop.args == ("SIGTERM",) else 130


def answer(options: argparse.Namespace, experiments: Mapping[str, Experiment]) -> str:
    """The list of experiments, the arms of one, or its table (what is missing is trained)."""
    if options.experiment is None:
        return "\n".join(f"{name:>16}  {found.question}" for name, found in experiments.items())
    experiment = experiments[options.experiment]
    if options.list:
        return describe(experiment)
    rows = run_experiment(experiment, options.out, options.arms, options.seeds, report=say)
    if options.release:
        rows = release(experiment, options.out, load(**experiment.data))
    return Table(rows).summary(experiment.baseline).to_string(na_rep="-", float_format="{:.4f}".format)


def describe(experiment: Experiment) -> str:
    """The arms of an experiment with their sizes, and how many runs and steps it takes."""
    data = load(**experiment.data)
    runs, lines = plan(experiment, data.vocab_size), [f"{experiment.name}: {experiment.question}", data.describe()]
    for arm in experiment.arms:
        changes = ", ".join(f"{name}={value}" for name, value in {**arm.model, **arm.train}.items())
        lines.append(f"{arm.name:>24}  {experiment.parameters(arm, data.vocab_size):,} parameters: {changes or 'no change'}")
    total = sum(run.train.steps for run in runs)
    return "\n".join([*lines, f"{len(runs)} runs over seeds {experiment.seeds}, {total:,} steps in all"])


if __name__ == "__main__":
    sys.exit(main())
