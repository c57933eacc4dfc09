"""A study: arms x seeds of any computation from one declaration, with its table and provenance.

What `tensorlm.training.experiments` is for runs of the language-model trainer, this is for everything else: a function
of (seed, settings) that returns rows. `python -m PACKAGE NAME --out FOLDER --release` is the command of each.
`spread` shares out a list of jobs, such as a thousand runs of the trainer, among processes or machines.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tensorlm.checks import require, require_one_of
from tensorlm.files import parse_json, write_csv, write_json
from tensorlm.provenance import RELEASED, environment

Row = dict[str, Any]
Settings = Mapping[str, Any]
SIGNIFICANT_DIGITS = 6


@dataclass(frozen=True)
class Study:
    """`run(seed=SEED, **arms[ARM])` returns rows of `columns`; the table has them under `arm`, `seed`.

    `check` is (arm, seed, settings that make it smaller): that run, made again, must give rows which stand in the table, with
    the same entries in `keys` and numbers that differ by at most `tolerance` of the larger of 1 and the number.
    """

    name: str
    question: str
    columns: tuple[str, ...]
    run: Callable[..., list[Row]]
    arms: Mapping[str, Settings]
    seeds: tuple[int, ...]
    check: tuple[str, int, Settings]
    keys: tuple[str, ...] = ()
    tolerance: float = 1e-4

    def declaration(self) -> dict[str, Any]:
        """What decides the table, as JSON values."""
        settings = {name: dict(arm) for name, arm in self.arms.items()}
        return json.loads(json.dumps(dict(question=self.question, columns=self.columns, arms=settings, seeds=self.seeds)))

    def rows(self, arm: str, seed: int, **smaller: Any) -> list[Row]:
        """Run one arm at one seed, with numbers of six significant digits; ValueError unless the rows have `columns`."""
        require_one_of("arm", arm, self.arms)
        found = self.run(seed=seed, **{**self.arms[arm], **smaller})
        for row in found:
            require(tuple(row) == self.columns, "columns", tuple(row), f"{self.columns}")
        return [{"arm": arm, "seed": seed, **{name: rounded(value) for name, value in row.items()}} for row in found]


def rounded(value: Any) -> Any:
    """A float to six significant digits; anything else as it is."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value


def run_study(study: Study, folder: str | Path, release: bool = False, progress: bool = True) -> list[Row]:
    """Run what is missing of `study` in `folder` and write its table there, with `release` into the package too.

    A finished run is one file and is never run again; NaN is an empty cell of the table. Raises ValueError where `folder` holds a run
    with other settings.

    >>> import tempfile
    >>> square = Study("square", "How large?", ("x", "y"), lambda seed, x: [dict(x=x, y=x * x + seed)],
    ...                {"small": {"x": 2}, "large": {"x": 10}}, (0, 1), check=("small", 0, {}))
    >>> [row["y"] for row in run_study(square, tempfile.mkdtemp(), progress=False)]
    [4, 5, 100, 101]
    """
    runs = [(arm, seed) for arm in study.arms for seed in study.seeds]
    records = [finished(study, Path(folder), arm, seed) for arm, seed in tqdm(runs, disable=None if progress else True)]
    rows = [{name: None if value != value else value for name, value in row.items()} for record in records for row in record["rows"]]
    environments = [json.loads(text) for text in dict.fromkeys(json.dumps(record["environment"]) for record in records)]
    for place in [Path(folder)] + [RELEASED] * release:
        write_csv(place / f"{study.name}.csv", ("arm", "seed", *study.columns), rows)
        write_json(place / f"{study.name}.json", dict(command=command(study), study=study.declaration(), environments=environments))
    return rows


def command(study: Study) -> str:
    return f"python -m {study.run.__module__.rpartition('.')[0]} {study.name} --out FOLDER --release"


def finished(study: Study, folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """The record of one run: from its file, or made and written now."""
    path, settings = folder / study.name / f"{arm}-{seed}.json", study.declaration()["arms"][arm]
    if not path.exists():
        write_json(path, dict(settings=settings, rows=study.rows(arm, seed), environment=environment()))
    record = parse_json(path.read_text(encoding="utf-8"), str(path))
    whole = isinstance(record, dict) and {"settings", "rows", "environment"} <= set(record)
    require(whole, str(path), record, "the file of a finished run")
    require(record["settings"] == settings, f"settings in {path}", record["settings"], f"{settings}; name another folder")
    return record


def spread(run: Callable[..., Any], jobs: Mapping[str, Settings], folder: str | Path, workers: int | None = None) -> dict[str, Any]:
    """What `run(**arguments)` returns for each of `jobs` (name -> arguments), computed by `workers` processes of joblib.

    Each result is written to `folder/NAME.json` as soon as it is there, and never computed again, so that a killed list goes on.
    Arguments and results are what JSON holds. Inside `joblib.parallel_config("dask")` the same call uses the machines of a Dask
    cluster. Raises ValueError where a name is no file name, or stands in the folder with other arguments; and RuntimeError, when
    all others have run, for jobs that failed: they are named, and run again by the next call.

    >>> import tempfile
    >>> spread(pow, {"square": {"base": 3, "exp": 2}, "cube": {"base": 3, "exp": 3}}, tempfile.mkdtemp())
    {'square': 9, 'cube': 27}
    """
    try:
        from joblib import Parallel, delayed
    except ModuleNotFoundError:
        raise ModuleNotFoundError("spread: needs joblib, which is missing; pip install joblib") from None
    for name in jobs:
        require(re.fullmatch(r"[\w.+=-]+", name), "a name of a job", name, "letters, digits and . + = - _ alone")
    paths, failures = {name: Path(folder) / f"{name}.json" for name in jobs}, {}
    calls = (delayed(attempt)(name, run, jobs[name]) for name, path in paths.items() if not path.exists())
    for name, result, failure in Parallel(workers, return_as="generator_unordered")(calls):
        if failure:
            failures[name] = failure
        else:
            write_json(paths[name], dict(arguments=jobs[name], result=result))
    for name, why in failures.items():
        raise RuntimeError(f"{len(failures)} of {len(jobs)} jobs failed, what the others found is kept; {name}: {why}")
    return {name: result_of(paths[name], arguments) for name, arguments in jobs.items()}


def attempt(name: str, run: Callable[..., Any], arguments: Settings) -> tuple[str, Any, str]:
    """One job in a worker: its name, its result, and why it failed, if it did."""
    try:
        return name, run(**arguments), ""
    except Exception as error:  # whatever it is, the other jobs go on
        return name, None, f"{type(error).__name__}: {error}"


def result_of(path: Path, arguments: Settings) -> Any:
    """The result in the file of a job; ValueError where it had other arguments."""
    record, wanted = parse_json(path.read_text(encoding="utf-8"), str(path)), json.loads(json.dumps(arguments))
    whole = isinstance(record, dict) and {"arguments", "result"} <= set(record)
    require(whole, str(path), record, "the file of a finished job")
    require(record["arguments"] == wanted, f"arguments in {path}", record["arguments"], f"{wanted}; name another folder")
    return record["result"]


def main(studies: Mapping[str, Study], arguments: Sequence[str] | None = None) -> int:
    """The command line of a package's studies: 0, or 2 for arguments and files that do not fit."""
    parser = argparse.ArgumentParser(description="Run a study: arms x seeds, to be killed and taken up again.", allow_abbrev=False)
    parser.add_argument("study", nargs="?", choices=sorted(studies), help="without it: list what there is")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), metavar="FOLDER", help="of runs and table")
    parser.add_argument("--release", action="store_true", help="write the table into the package too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.study is None:
        print("\n".join(f"{name:>24}  {study.question}" for name, study in studies.items()))
        return 0
    try:
        print(f"{len(run_study(studies[options.study], options.out, options.release))} rows")
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
