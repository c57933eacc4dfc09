"""The exercises of the book, one module a chapter: ``ch01.py`` holds ``EXERCISES``, a tuple of ``Exercise``."""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType


def modules() -> dict[str, ModuleType]:
    """The exercise modules by chapter number, in order.

    >>> all(len(number) == 2 for number in modules())
    True
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if re.fullmatch(r"ch\d\d", info.name))
    return {name[2:]: importlib.import_module(f"{__name__}.{name}") for name in names}
