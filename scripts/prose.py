"""Numbers in prose: which are bound to a computed value, and which stand there with nothing behind them.

A bound number is written `1.59<!--=loss-->`, where a cell of the same chapter ran `record("loss", ...)`. On another page it is
written `1.59<!--=03_speedrun:loss-->`. A recorded share may be quoted in percent: `37 %<!--=share*100-->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-−+]?\d+)?"
BOUND = re.compile(rf"({NUMBER})(?:\s*\\?%)?[*$)]{{0,3}}<!--=([\w:.-]+?)(\*100)?-->")
MARK = re.compile(r"<!--=[^>]*-->")
LOOSE = re.compile(r"(?<![\w.])[-−+]?\d+\.\d+(?!\.?\d)")
NAMED = re.compile(r"(?:Exercise|Python|torch|PyTorch|NumPy|CUDA|CC BY|ipywidgets|Jupyter Book|version)\s+v?\d+\.\d+(?:\.\d+)*"
                   r"(?:(?:,| or| to| and)\s+\d+\.\d+)*|\b0\d\.\d\b|\{exercise\} 1\d\.\d\b")
HIDDEN = [re.compile(pattern, re.DOTALL) for pattern in (
    r"^(`{3,})[^\n]*\n.*?^\1`*[ \t]*$", r"\$\$.*?\$\$", r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"`[^`\n]*`", r"(?<!\\)\$[^$\n]+(?:\n[^$\n]+)*\$", r"\]\([^)]*\)", r"https?://\S+", r"<(?!!--=)[^>]*>")]


def problems(text: str, own: Mapping[str, str], everywhere: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the numbers in `text` (Markdown), one sentence each.

    `own` has the recorded values of this chapter by name, `everywhere` those of all chapters as `chapter:name`.

    >>> problems("The loss is 1.59<!--=loss-->.", {"loss": "1.587"})
    []
    >>> problems("The loss is 1.58<!--=loss-->, not 1.8.", {"loss": "1.587"})
    ["1.58 is bound to 'loss', which is 1.587", '1.8 has neither a binding nor a citation']
    """
    values = {**own, **(everywhere or {})}
    found: list[str] = []
    for paragraph in paragraphs(text):
        found += [problem for match in BOUND.finditer(paragraph) if (problem := mismatch(match, values))]
        rest = BOUND.sub(" ", paragraph)
        found += [f"{mark} stands behind no number" for mark in MARK.findall(rest)]
        if "{cite" not in rest:
            found += [f"{number} has neither a binding nor a citation" for number in LOOSE.findall(visible(rest))]
    return found


def paragraphs(text: str) -> Iterator[str]:
    """Blocks between blank lines, without code blocks, displayed maths and link targets; cite roles stay."""
    for pattern in HIDDEN[:3]:
        text = re.compile(pattern.pattern, re.DOTALL | re.MULTILINE).sub(" ", text)
    yield from re.split(r"\n\s*\n", text)


def visible(paragraph: str) -> str:
    """What is left of a paragraph for the reader to take as a statement: no inline maths, code, links' targets, or names with a number."""
    for pattern in HIDDEN[3:]:
        paragraph = pattern.sub(" ", paragraph)
    return NAMED.sub(" ", paragraph)


def mismatch(match: re.Match[str], values: Mapping[str, str]) -> str | None:
    """Why a bound number is wrong, or `None`: unknown name, more digits than were recorded, or another value."""
    written, name, percent = match.groups()
    if name not in values:
        return f"{written} is bound to {name!r}, which no cell records"
    said = Decimal(written.replace(",", "").replace("−", "-"))
    recorded = Decimal(values[name]) * (100 if percent else 1)
    shown, known = _half_unit(said), _half_unit(recorded)
    if shown < known or abs(said - recorded) > shown:
        return f"{written} is bound to {name!r}, which is {values[name]}"
    return None


def _half_unit(number: Decimal) -> Decimal:
    """Half a unit of the last digit written: 0.005 for 1.59, 0.5 for 37."""
    return Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)


def words(text: str) -> int:
    """How many words a reader reads: code blocks, comments and directive lines do not count.

    >>> words("Two words\\n\\n```python\\nx = 1\\n```\\n:::{note}\\nand three more\\n:::")
    5
    """
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*[ \t]*$", " ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|<summary>.*?</summary>|</?[a-z][^>]*>", " ", text, flags=re.DOTALL)
    text = re.sub(r"^:.*$", " ", text, flags=re.MULTILINE)
    return len(re.findall(r"[^\W\d_][\w'’-]*", re.sub(r"\]\([^)]*\)", "]", text)))
