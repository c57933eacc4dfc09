"""What the chapters use beside the models: set-up, recorded numbers, exercise checks, figures, widgets, live views."""

from tensorlm.notebook.machine import preflight

try:
    from tensorlm.notebook import figures, path_figure, tensor_networks
    from tensorlm.notebook.checks import check
    from tensorlm.notebook.session import record, setup
    from tensorlm.notebook.widgets import digit_pad, language_model, live, sliders, stacked_parts, steered_tokens
except ImportError as error:  # a package is missing or broken: `preflight` still answers, and says which
    cause = error

    def __getattr__(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{cause}; `from tensorlm.notebook import preflight; preflight()` says what mends it") from cause

__all__ = ["check", "digit_pad", "figures", "language_model", "live", "path_figure", "preflight", "record", "setup", "sliders",
           "stacked_parts", "steered_tokens", "tensor_networks"]
