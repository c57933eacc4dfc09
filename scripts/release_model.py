"""Put a trained model into the package, where later chapters find it.

    python -m tensorlm.training --preset micro --data shakespeare --out runs/micro-tensor
    python scripts/release_model.py runs/micro-tensor micro-tensor

The weights are stored in float16 (at most 4 MB); the loss on the card is that of the stored weights on the whole
held-out text, which a test evaluates again.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from tensorlm.training import evaluate, load_model
from tensorlm.training.checkpoint import export_model, load_checkpoint

LIMIT = 4_000_000
FOLDER = Path(__file__).resolve().parent.parent / "tensorlm" / "released" / "checkpoints"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="name of the released model")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(release(options.run, options.name, FOLDER))


def release(run: Path, name: str, folder: Path) -> str:
    """Export the final model of `run`; returns one line about it. Raises SystemExit if the file is too large."""
    trained = load_checkpoint(run / "model.safetensors")
    path = folder / f"{name}.safetensors"
    export_model(trained.model, path, trained.card, trained.source, dtype=torch.float16)
    loss = evaluate(load_model(path), trained.data().valid_windows(trained.model_config.context))
    card = {**trained.card, "loss_valid": round(loss, 4), "parameters": trained.model.parameter_count()}
    export_model(trained.model, path, card, trained.source, dtype=torch.float16)
    size = path.stat().st_size
    if size > LIMIT:
        path.unlink()
        sys.exit(f"{path.name}: {size:,} bytes, more than the {LIMIT:,} that a released model may have")
    return f"{path.name}: {size:,} bytes, {loss:.4f} nats per token; card: {json.dumps(card)[:200]}"


if __name__ == "__main__":
    main()
