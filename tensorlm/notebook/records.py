"""Numbers that the prose may quote: printed where they are computed, bound to the text by name.

``record("loss", 1.5871)`` prints the line ``loss = 1.587``. A sentence of the chapter then says ``1.59<!--=loss-->``: the
reader sees 1.59, and a test compares it with the stored line.
"""

from __future__ import annotations

import re

from tensorlm.notebook.arguments import finite, require, require_text, whole

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
LINE = re.compile(rf"({NAME.pattern}) = ([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


def record(name: str, value: float, digits: int = 3) -> None:
    """Print ``name = value`` with ``digits`` decimals (integers as they are), as a line that prose can be bound to.

    A nonzero value that would print as zero is printed in scientific form instead. ``value`` may be a zero-dimensional
    tensor or array. Raises ``ValueError`` for a bad name and for values that are not finite.

    >>> record("loss", 1.58749)
    loss = 1.587
    >>> record("parameters", 12_345)
    parameters = 12345
    >>> record("error", 2.345e-9, digits=1)
    error = 2.3e-09
    """
    print(line(name, value, digits))


def line(name: str, value: float, digits: int = 3) -> str:
    """The text that :func:`record` prints.

    >>> line("share", 0.25, digits=2)
    'share = 0.25'
    """
    require(isinstance(name, str) and NAME.fullmatch(name), "name", name, "a letter, then letters, digits, '_', '.' or '-'")
    finite(f"value of {name!r}", value)
    return f"{name} = {written(value.item() if hasattr(value, 'item') else value, whole('digits', digits, 0, 100))}"


def written(number: float, digits: int) -> str:
    """``number`` as text: integers plain, others with ``digits`` decimals, or scientific where those would all be zero.

    >>> written(7, 3), written(-0.5, 2), written(0.0, 1), written(1e-6, 2)
    ('7', '-0.50', '0.0', '1.00e-06')
    """
    if isinstance(number, int):
        return str(number)
    fixed = f"{number:.{digits}f}"
    if number != 0 and float(fixed) == 0:
        return f"{number:.{digits}e}"
    return fixed


def read(text: str) -> dict[str, str]:
    """All recorded lines in ``text``, name to number as printed. Raises ``ValueError`` if a name stands there with two values.

    >>> read("loss = 1.587\\nsome words\\nparameters = 12345")
    {'loss': '1.587', 'parameters': '12345'}
    """
    require_text(text=text)
    found: dict[str, str] = {}
    for row in text.splitlines():
        match = LINE.fullmatch(row.strip())
        if match and found.setdefault(match[1], match[2]) != match[2]:
            raise ValueError(f"{match[1]!r} is recorded twice: {found[match[1]]} and {match[2]}")
    return found
