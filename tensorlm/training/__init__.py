"""Training: one loop, Muon and AdamW, checkpoints that survive anything. Start at `train` and `recipe`."""

from tensorlm.training.checkpoint import Checkpoint, CheckpointError, export_model, load_checkpoint, load_model, save_checkpoint
from tensorlm.training.config import TrainConfig, recipe
from tensorlm.training.evaluation import evaluate, evaluate_worst
from tensorlm.training.loop import TrainResult, train
from tensorlm.training.trainer import TrainingError

__all__ = ["Checkpoint", "CheckpointError", "TrainConfig", "TrainResult", "TrainingError", "evaluate", "evaluate_worst",
           "export_model", "load_checkpoint", "load_model", "recipe", "save_checkpoint", "train"]
