"""What the chapters use beside the models: set-up, recorded numbers, exercise checks, figures, sliders, live views.

Stands on torch, matplotlib and IPython; imports nothing else of ours. Only notebooks import it.
"""

from tensorlm.notebook import figures, tensor_networks as networks
from tensorlm.notebook.checks import check
from tensorlm.notebook.environment import setup
from tensorlm.notebook.records import record
from tensorlm.notebook.widgets import digit_pad, live, sliders, stacked_parts

__all__ = ["check", "digit_pad", "figures", "live", "networks", "record", "setup", "sliders", "stacked_parts"]
