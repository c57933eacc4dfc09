"""Every released table of a study is whole, of its declaration, and can be made again: one arm at one seed."""

import importlib
import json
import pkgutil

import pytest

import tensorlm
from tensorlm import released
from tensorlm.provenance import RELEASED

PACKAGES = [module.name for module in pkgutil.iter_modules(tensorlm.__path__, "tensorlm.") if module.ispkg]
STUDIES = {name: study for package in PACKAGES if importlib.util.find_spec(f"{package}.declared")
           for name, study in importlib.import_module(f"{package}.declared").STUDIES.items()}
studies = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)


@studies
def test_the_table_is_whole_and_of_this_declaration(study):
    record = json.loads((RELEASED / f"{study.name}.json").read_text(encoding="utf-8"))
    assert record["study"] == study.declaration(), f"make it: {record['command']}"
    runs = {(arm, str(seed)) for arm, seed in released.results(study.name)[["arm", "seed"]].itertuples(index=False)}
    assert runs == {(arm, str(seed)) for arm in study.arms for seed in study.seeds}


@studies
def test_one_arm_of_the_table_finds_its_rows_again(study):
    arm, seed, smaller = study.check
    again = study.rows(arm, seed, **smaller)
    table = released.results(study.name).to_dict("records")
    stated = {tuple(str(row[key]) for key in ("arm", "seed", *study.keys)): row for row in table}
    assert again
    for row in again:
        expected = stated[tuple(str(row[key]) for key in ("arm", "seed", *study.keys))]
        for name in row:
            value, stands = (None if each == "" or each != each else each for each in (row[name], expected[name]))  # an empty cell
            if isinstance(value, float):
                assert value == pytest.approx(stands, abs=study.tolerance, rel=study.tolerance), name
            else:
                assert str(value) == str(stands), name
