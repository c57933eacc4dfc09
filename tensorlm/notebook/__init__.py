"""What the chapters use beside the models: set-up, recorded numbers, exercise checks, figures, widgets, live views."""

from tensorlm.notebook import figures, path_figure, tensor_networks
from tensorlm.notebook.checks import check
from tensorlm.notebook.session import record, setup
from tensorlm.notebook.widgets import digit_pad, language_model, live, sliders, stacked_parts, steered_tokens

__all__ = ["check", "digit_pad", "figures", "language_model", "live", "path_figure", "record", "setup", "sliders", "stacked_parts",
           "steered_tokens", "tensor_networks"]
