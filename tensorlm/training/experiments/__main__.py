"""`python -m tensorlm.training.experiments EXPERIMENT --out FOLDER`: run a declared experiment, or go on with it.

`--release` writes its table and provenance into the package, where chapters read them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from tensorlm.training.experiments.analyse import Table
from tensorlm.training.experiments.declare import SPLITS, Experiment, open_data, plan
from tensorlm.training.experiments.declared import EXPERIMENTS
from tensorlm.training.experiments.run import RUNNING_NAME, read_runs, release, rows_of, run_experiment
from tensorlm.training.loop import say
from tensorlm.training.trainer import TrainingError

RELEASE_RUNS = Path("runs/experiments")


def main(arguments: list[str] | None = None, experiments: Mapping[str, Experiment] = EXPERIMENTS) -> int:
    """Run the command line: 0, 1 (training had to stop), 2 (arguments, files), 130 or 143 (Ctrl-C, SIGTERM)."""
    options = parser(experiments).parse_args(sys.argv[1:] if arguments is None else arguments)
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
    """The list of experiments, the arms of one, or its table (what is missing is trained, unless only the table is wanted)."""
    if options.experiment is None:
        return "\n".join(f"{name:>16}  {found.question}" for name, found in experiments.items())
    experiment = dataclasses.replace(experiments[options.experiment], split=options.split, steps_scale=options.steps_scale)
    if options.list:
        return describe(experiment)
    out = options.out or (RELEASE_RUNS if options.release else None)
    if out is None:
        raise ValueError("--out is missing: the folder of the runs and of the table")
    if options.table:
        rows = rows_of(read_runs(out / experiment.name), experiment)
        if not rows:
            raise ValueError(f"--table: there are no finished runs in {out / experiment.name}")
    else:
        report = functools.partial(say, write=tqdm.write)
        rows = run_experiment(experiment, out, options.arms, options.seeds, device=options.device, report=report)
    if options.release:
        rows = release(experiment, out, open_data(experiment))
    table = Table(rows).summary(experiment.baseline, experiment.targets)
    return table.to_string(na_rep="-", float_format="{:.4f}".format)


def describe(experiment: Experiment) -> str:
    """The arms of an experiment with their sizes, and how many runs and steps it takes."""
    data = open_data(experiment)
    runs = plan(experiment, data.vocab_size)
    lines = [f"{experiment.name}: {experiment.question}", data.describe()]
    for arm in experiment.arms:
        steps = sorted({run.train.steps for run in runs if run.arm == arm.name})
        changes = ", ".join(f"{name}={value}" for name, value in {**arm.model, **arm.train}.items())
        lines.append(f"{arm.name:>24}  {experiment.parameters(arm, data.vocab_size):,} parameters, "
                     f"steps {' and '.join(map(str, steps))}: {changes or 'no change'}")
    total = sum(run.train.steps for run in runs)
    return "\n".join([*lines, f"{len(runs)} runs over seeds {experiment.seeds}, {total:,} steps in all"])


def parser(experiments: Mapping[str, Experiment]) -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tensorlm.training.experiments", allow_abbrev=False,
                                description="Run an experiment: arms x seeds, interleaved, to be killed and taken up again.",
                                epilog=f"Finished runs are kept; the one in {RUNNING_NAME}/ begins anew or goes on from its checkpoint.")
    p.add_argument("experiment", nargs="?", choices=sorted(experiments), help="without it: list what there is")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the runs and of the table")
    p.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms (all)")
    p.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds (those declared)")
    p.add_argument("--steps-scale", type=float, default=1.0, metavar="X", help="all steps times X (1.0)")
    p.add_argument("--split", choices=SPLITS, default="validation", help="tuning: hold out a tenth of the training text instead")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    p.add_argument("--list", action="store_true", help="show the arms and their sizes, run nothing")
    p.add_argument("--table", action="store_true", help="print the table of the finished runs, run nothing")
    p.add_argument("--release", action="store_true", help=f"write the whole table into the package too (--out: {RELEASE_RUNS})")
    return p


if __name__ == "__main__":
    sys.exit(main())
