"""What makes a chapter reproducible: what is fixed at its start, and recorded numbers that its prose may quote.

`record("loss", 1.5871)` stores `loss = 1.587` with the cell, out of sight. A sentence of the chapter then says `1.59<!--=loss-->`.
"""

import random
import re

import numpy as np
import torch
from IPython.display import display

import tensorlm
from tensorlm.checks import as_array, require, require_instance, require_whole
from tensorlm.notebook import figures

RECORD = "application/vnd.tensorlm.record"  # a type of our own, which no front end shows
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
LINE = re.compile(rf"({NAME.pattern}) = ([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


def setup(threads: int = 1, seed: int = 0) -> torch.device:
    """Fix what a reader's machine would otherwise decide, and print one line that says what is left.

    Sets torch threads, float32 as the default dtype, all seeds, and the figure style. Returns the first GPU where there is
    one, else the CPU. Raises ValueError for a number of threads or a seed out of range.

    >>> device = setup(threads=1, seed=0)    # doctest: +ELLIPSIS
    tensorlm ..., torch ..., numpy ..., 1 thread, float32, ...
    """
    threads, seed = require_whole("threads", threads, 1, 2**15), require_whole("seed", seed, 0, 2**32 - 1)
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    figures.style()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"tensorlm {tensorlm.__version__}, torch {torch.__version__.partition('+')[0]}, numpy {np.__version__}, "
          f"{threads} thread{'s' * (threads > 1)}, float32, {name}")
    return device


def record(name: str, value: float, digits: int = 3) -> None:
    """Store `name = value` with `digits` decimals (integers as they are) in the output, where no reader sees it: prose is bound to it.

    A nonzero value that would read as zero is stored in scientific form. Raises ValueError naming the argument.

    >>> record("error", 2.345e-9, digits=1)
    {'application/vnd.tensorlm.record': 'error = 2.3e-09'}
    """
    require(isinstance(name, str) and NAME.fullmatch(name), "name", name, "a letter, then letters, digits, '_', '.' or '-'")
    one = as_array(value, f"value of {name!r}").size == 1 and not isinstance(value, list | tuple)
    require(one, f"value of {name!r}", value, "one number")
    number, digits = value.item() if hasattr(value, "item") else value, require_whole("digits", digits, 0, 100)
    fixed = f"{number:d}" if isinstance(number, int) else f"{number:.{digits}f}"
    display({RECORD: f"{name} = {f'{number:.{digits}e}' if number and float(fixed) == 0 else fixed}"}, raw=True)


def recorded(text: str) -> dict[str, str]:
    """All recorded lines in `text`, name to number as printed. Raises ValueError if a name stands there with two values."""
    require_instance("text", text, str)
    found: dict[str, str] = {}
    for match in filter(None, (LINE.fullmatch(row.strip()) for row in text.splitlines())):
        name, value = match.groups()
        require(found.setdefault(name, value) == value, name, value, f"recorded with one value, {found[name]}")
    return found
