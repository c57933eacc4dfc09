"""Views that need a running kernel (JupyterLab, Colab; ipywidgets 7 and 8), always beside a slider that needs none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from tensorlm.checks import require, require_instance, require_interval, require_number, unfit
from tensorlm.notebook.widgets.page import exact


@dataclass(frozen=True)
class LiveView:
    """A displayed `ipywidgets` box. Where no kernel runs, the page shows its sentence instead."""

    box: Any
    sentence: str

    def _ipython_display_(self) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        display({"text/plain": self.sentence, "application/vnd.jupyter.widget-view+json": view}, raw=True)


def slider(function: Callable[[float], str | float], variable: str = "a", low: float = -2.0, high: float = 2.0,
           start: float = 1.0, description: str = "", step: float | None = None) -> LiveView:
    """A slider whose value goes through `function`, called in the kernel; its HTML string or number is shown below.

    Raises ValueError unless `low <= start <= high` and `low < high`, and ImportError where ipywidgets is not installed.

    >>> control, shown = slider(lambda a: a * a, "a", -2, 2, start=1.5, description="square of a").box.children
    >>> control.value = 2.0; shown.value
    'square of a = 4'
    """
    require(callable(function), "function", function, "a function of one number")
    for name, words in (("variable", variable), ("description", description)):
        require_instance(name, words, str)
    low, high = require_interval((low, high), "low, high")
    start = require_number("start", start, least=low, most=high)
    step = require_number("step", (high - low) / 100 if step is None else step, above=0)
    import ipywidgets

    what = description or f"f({variable})"
    control = ipywidgets.FloatSlider(value=start, min=low, max=high, step=step, description=variable)
    shown = ipywidgets.HTML(value=_shown(what, function(start)))
    control.observe(lambda change: setattr(shown, "value", _shown(what, function(change["new"]))), names="value")
    sentence = f"Live view, in Jupyter or Colab: run this cell,\nthen move {variable} from {exact(low)} to {exact(high)} and see {what}."
    return LiveView(ipywidgets.VBox([control, shown]), sentence)


def _shown(what: str, result: str | float) -> str:
    try:
        return result if isinstance(result, str) else f"{what} = {float(result):.4g}"
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise unfit("result of the function", result, "a number or text") from None
