"""What an experiment is: arms that differ in named settings, run over seeds and budgets from one declaration."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from tensorlm.checks import require, require_counts, require_number, require_one_of
from tensorlm.model import ModelConfig, preset
from tensorlm.training.config import TrainConfig, recipe
from tensorlm.training.evaluation import PROBES
from tensorlm.training.trainer import count_parameters


@dataclass(frozen=True)
class Arm:
    """One variant: changes of both configurations, budgets of its own; `size` "free" may differ from the baseline's."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[float, ...] | None = None
    size: str = "matched"

    def __post_init__(self) -> None:
        require_one_of(f"size of arm {self.name!r}", self.size, ("matched", "free"))

    @property
    def slug(self) -> str:
        """The name as part of a file's: `two-layers-no-norm` for "two layers, no norm"."""
        return re.sub(r"[^\w.+=-]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class Experiment:
    """One question and everything that is run to answer it.

    | field | meaning |
    | --- | --- |
    | name, question | of the table; what it is to tell |
    | data | arguments of `tensorlm.data.load` |
    | preset, model, train | sizes and recipe, and what all arms change in them (fields of the two configurations) |
    | arms, baseline | the variants; the arm that the others are compared with |
    | seeds | of weights and batches: the same seed gives all arms the same batches |
    | budgets | every arm is trained once for each of these fractions of its steps, each with a whole schedule |
    | steps_scale | factor on all steps |
    | evaluations, curve_windows | points of a run's curve, and held-out windows behind each, spread evenly |
    | probes | names in `evaluation.PROBES`: what else is measured on every finished model |
    | matched | largest deviation of an arm's parameter count from the baseline's, a fraction |
    | check, tolerance | arm that a test runs again, to the first point of its curve, and how near the loss has to be |

    Final losses are over the whole held-out text. Raises ValueError naming field, what is allowed and value.
    """

    name: str
    question: str
    data: dict[str, Any]
    arms: tuple[Arm, ...]
    baseline: str
    preset: str = "micro"
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[float, ...] = (1.0,)
    steps_scale: float = 1.0
    evaluations: int = 10
    curve_windows: int = 128
    probes: tuple[str, ...] = ()
    matched: float = 0.01
    check: str | None = None
    tolerance: float = 0.002

    def __post_init__(self) -> None:
        slugs = [arm.slug.casefold() for arm in self.arms]
        repeated = [arm.name for arm, slug in zip(self.arms, slugs) if slugs.count(slug) > 1 or not slug]
        require(self.arms and not repeated, "arms", repeated or self.arms, "one or more whose names differ in letters and digits")
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "different whole numbers, at least one")
        require_number("steps_scale", self.steps_scale, above=0)
        require_counts(evaluations=self.evaluations, curve_windows=self.curve_windows)
        require(set(self.probes) <= set(PROBES), "probes", self.probes, f"names among {', '.join(PROBES)}")
        for budgets in map(self.budgets_of, self.arms):
            require(budgets and min(budgets) > 0, "budgets", budgets, "at least one number above 0")
        for name in (self.baseline, self.check or self.baseline):
            self.arm(name)

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        arms = {arm.name: arm for arm in self.arms}
        require_one_of(f"arm of {self.name!r}", name, arms)
        return arms[name]

    def budgets_of(self, arm: Arm) -> tuple[float, ...]:
        return self.budgets if arm.budgets is None else arm.budgets

    def settings(self, arm: Arm, seed: int, budget: float, vocab_size: int) -> tuple[ModelConfig, TrainConfig]:
        """The two configurations of one run; ValueError for a field or value that they do not have."""
        model = preset(self.preset, **{"vocab_size": vocab_size, **self.model, **arm.model})
        whole = recipe(self.preset, norm=model.norm, **{**self.train, **arm.train})
        steps = max(1, round(budget * self.steps_scale * whole.steps))
        return model, whole.replace(seed=seed, steps=steps, validate_every=max(1, steps // self.evaluations))

    def parameters(self, arm: Arm, vocab_size: int) -> int:
        return count_parameters(self.settings(arm, 0, 1.0, vocab_size)[0])

    def require_matched(self, vocab_size: int) -> None:
        """Raise ValueError where an arm's parameter count is further from the baseline's than `matched` allows."""
        goal = self.parameters(self.arm(self.baseline), vocab_size)
        for arm in (arm for arm in self.arms if arm.size == "matched"):
            found = self.parameters(arm, vocab_size)
            require(abs(found - goal) <= self.matched * goal, f"parameters of arm {arm.name!r}", found,
                    f"within {self.matched:.1%} (matched) of the {goal} of {self.baseline!r}")


class PlannedRun(NamedTuple):
    """An arm at a seed for a number of steps, with everything that decides it; `name` is that of its file."""

    name: str
    arm: str
    seed: int
    model: ModelConfig
    train: TrainConfig


def plan(experiment: Experiment, vocab_size: int, arms: Sequence[str] | None = None,
         seeds: Sequence[int] | None = None) -> list[PlannedRun]:
    """The runs in their order: seed by seed, in each all arms, each with its budgets."""
    runs = {}
    for seed in experiment.seeds if seeds is None else seeds:
        for arm in experiment.arms if arms is None else map(experiment.arm, arms):
            for budget in experiment.budgets_of(arm):
                model, train = experiment.settings(arm, seed, budget, vocab_size)
                name = f"{arm.slug}_{train.steps}_seed{seed}"
                runs[name] = PlannedRun(name, arm.name, seed, model, train)
    return list(runs.values())


class SpreadWindows:
    """A corpus with only `count` held-out windows, number floor(i n / count) of n (all where there are fewer)."""

    def __init__(self, data: Any, count: int) -> None:
        self.data, self.count = data, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def valid_windows(self, context: int) -> Tensor:
        windows = self.data.valid_windows(context)
        count = min(self.count, len(windows))
        return windows[[i * len(windows) // count for i in range(count)]]
