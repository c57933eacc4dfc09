"""Training: one loop, Muon and AdamW, checkpoints that survive anything. Start at `train` and `recipe`."""

from tensorlm.scaling import newton_schulz
from tensorlm.training.checkpoint import load_model
from tensorlm.training.config import TrainConfig, recipe
from tensorlm.training.evaluation import PROBES, evaluate
from tensorlm.training.loop import train
from tensorlm.training.optim import Muon, lr_scale

__all__ = ["Muon", "PROBES", "TrainConfig", "evaluate", "load_model", "lr_scale", "newton_schulz", "recipe", "train"]
