"""Views that need a running kernel (JupyterLab, Colab; ipywidgets 7 and 8), always beside a slider that needs none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from tensorlm.notebook.arguments import finite, real, require, require_text
from tensorlm.notebook.widgets.page import exact


@dataclass(frozen=True)
class LiveView:
    """A displayed ``ipywidgets`` box. Where no kernel runs, the page shows its sentence instead."""

    box: Any
    sentence: str

    def _ipython_display_(self) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        display({"text/plain": self.sentence, "application/vnd.jupyter.widget-view+json": view}, raw=True)


def slider(function: Callable[[float], str | float], variable: str = "a", low: float = -2.0, high: float = 2.0,
           start: float = 1.0, description: str = "", step: float | None = None) -> LiveView:
    """A slider whose value goes through ``function``, called in the kernel; its HTML string or number is shown below.

    ``step`` defaults to a hundredth of the range. Raises ``ValueError`` unless ``low <= start <= high`` and ``low < high``,
    and ``ImportError`` where ipywidgets is not installed.

    >>> view = slider(lambda a: a * a, "a", -2, 2, start=1.5, description="square of a")
    >>> print(view.sentence)
    Live view, in Jupyter or Colab: run this cell,
    then move a from -2 to 2 and see square of a.
    >>> control, shown = view.box.children
    >>> control.value = 2.0; shown.value
    'square of a = 4'
    """
    require(callable(function), "function", function, "a function of one number")
    require_text(variable=variable, description="" if description is None else description)
    low, high, start = real("low", low), real("high", high), real("start", start)
    each = (high - low) / 100 if step is None else finite("step", step, above=0)
    if not (low <= start <= high and 0 < high - low < math.inf):
        raise ValueError(f"start: got {start}, allowed: a value from low={low} to high={high}, low below high")
    import ipywidgets

    what = description or f"f({variable})"
    control = ipywidgets.FloatSlider(value=start, min=low, max=high, step=each, description=variable)
    shown = ipywidgets.HTML(value=_shown(what, function(start)))
    control.observe(lambda change: setattr(shown, "value", _shown(what, function(change["new"]))), names="value")
    sentence = f"Live view, in Jupyter or Colab: run this cell,\nthen move {variable} from {exact(low)} to {exact(high)} and see {what}."
    return LiveView(ipywidgets.VBox([control, shown]), sentence)


def _shown(what: str, result: str | float) -> str:
    """HTML strings as they are, numbers with their name and four digits."""
    return result if isinstance(result, str) else f"{what} = {real('result of the function', result):.4g}"
