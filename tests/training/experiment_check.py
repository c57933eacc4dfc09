"""The check of a table: its `check` arm is run again, at its first seed and smallest budget, to the first point of its curve."""

import contextlib

from tensorlm.data import load
from tensorlm.training import train
from tensorlm.training.experiments import Arm, SpreadWindows
from tensorlm.training.experiments.declare import Experiment, plan
from tensorlm.training.experiments.run import table_row

RETIRED = {"split", "targets"}  # fields in the provenance of tables made before


def declared(values):
    """The experiment in a table's provenance."""
    tuples = {name: tuple(values.get(name, ())) for name in ("seeds", "budgets", "probes")}
    arms = tuple(Arm(**{**arm, "budgets": arm["budgets"] and tuple(arm["budgets"])}) for arm in values["arms"])
    return Experiment(**{name: value for name, value in values.items() if name not in RETIRED} | tuples | {"arms": arms})


class Reached(Exception):
    """A run that is not needed any further."""


def check_again(experiment, device="cpu"):
    """The row that names the one of the table that it must agree with: same arm, seed, steps and step."""
    data = load(**experiment.data)
    run = min(plan(experiment, data.vocab_size, [experiment.check], experiment.seeds[:1]), key=lambda run: run.train.steps)
    rows = []

    def stop(row):
        if row["loss_valid"] is not None:
            rows.append(table_row("curve", row, row["loss_valid"]))
            raise Reached

    with contextlib.suppress(Reached):
        train(run.model, run.train, SpreadWindows(data, experiment.curve_windows), progress=stop, device=device)
    return dict(arm=run.arm, seed=run.seed, steps=run.train.steps, **rows[0])


def stated(rows, again):
    """The row of a table (a list of rows) that `again` must agree with."""
    return next(row for row in rows if all(row[key] == again[key] for key in ("arm", "seed", "steps", "step", "row")))
