"""`python -m tensorlm.training --preset micro --data shakespeare --out DIR`: train, watch, resume.

On several processes: `torchrun --nproc_per_node N -m tensorlm.training ...` with the same arguments.
"""

import argparse
import dataclasses
import math
import shlex
import sys
import typing
from typing import Any, NoReturn

from tensorlm.checks import require_one_of
from tensorlm.data import TokenData, load
from tensorlm.data.source import read_options
from tensorlm.model import ModelConfig, preset
from tensorlm.model.config import PRESETS
from tensorlm.training.checkpoint import checkpoints_in
from tensorlm.training.config import TrainConfig, recipe
from tensorlm.training.device import LostPeerError, World, joined_world, resolve_device
from tensorlm.training.folder import RunFolder
from tensorlm.training.loop import say, train
from tensorlm.training.trainer import TrainingError

PAD_FROM, PAD_TO = 8192, 64  # a table from so many entries on is padded: GPUs multiply 50,304 columns faster than 50,257
NO_MEMORY_WORDS = ("out of memory", "can't allocate memory")  # in the words of CUDA and of the CPU's allocator
DEFAULTS: dict[str, Any] = {"preset": "micro", "data": "shakespeare", "options": {}}
COUNTS = {"steps": "optimiser steps", "seed": "seed of weights and batches",
          "batch_size": "sequences a step, over all processes", "micro_batch": "sequences a forward pass",
          "threads": "CPU threads", "checkpoint_every": "steps between checkpoints",
          "validate_every": "steps between validations", "log_every": "steps between rows of the log"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: 0, 1 (training had to stop), 2 (arguments, files), 130 or 143 (Ctrl-C, SIGTERM)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    folder, leads = RunFolder(options.out), True
    try:
        with joined_world(options.device) as world:
            leads = world.leads
            run(options, world, "python -m tensorlm.training " + shlex.join(arguments))
        return 0
    except KeyboardInterrupt as stop:
        why, code = ("ended by SIGTERM", 143) if stop.args == ("SIGTERM",) else ("interrupted", 130)
        words = f"{why}; {prospects(folder)}"
    except (TrainingError, ValueError, ImportError) as error:
        words, code = str(error), 1 if isinstance(error, TrainingError) else 2
    except OSError as error:
        words, code = f"{error}; {prospects(folder)}" if folder.exists() else str(error), 2
    except LostPeerError as error:
        words, code, leads = f"{error}; {prospects(folder)}", 1, True  # whoever is left says so
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(mark in str(error) for mark in NO_MEMORY_WORDS)):
            raise
        reason = str(error).partition("\n")[0]
        words, code = f"out of memory: choose a smaller model or batch ({reason}); {prospects(folder)}", 1
    if leads:
        print(f"tensorlm.training: {words}", file=sys.stderr)
    return code


def prospects(folder: RunFolder) -> str:
    if checkpoints_in(folder.path):
        return f"last checkpoint: {folder.last_good()}; the same command with --resume goes on from it"
    words = "no checkpoint was written; the same command with --resume begins anew"
    return words if folder.exists() else "nothing was begun"


def run(options: argparse.Namespace, world: World, command: str) -> None:
    resolve_device(options.device)
    if world.leads and not options.resume:
        RunFolder(options.out).require_free()
    changes, choice = parse_settings(options.set), corpus_choice(options)
    tokenizer = {"tokenizer": choice["tokenizer"]} if choice.get("tokenizer") else {}
    try:
        data = load(choice["data"], **choice["options"], **tokenizer)
    except TypeError as error:
        raise ValueError(f"--data {choice['data']}: {error}") from None
    model, training = configurations(options, changes, data)
    if world.leads:
        say(f"{data.describe()}\n{choice['preset']}: {model.layers} layers of width {model.width}, context {model.context}; "
            f"{training.steps} steps of {training.batch_size} sequences")
    result = train(model, training, data, out=options.out, resume=options.resume, progress="auto", device=options.device,
                   card={"command": command, "choice": choice})
    if world.leads:
        size = data.bytes_per_token
        bits = f" ({result.loss_valid / math.log(2) / size:.3f} bits per byte)" if size else ""
        say(f"{result.data}\n{result.tokens:,} tokens seen in {result.seconds:.1f} s ({result.cpu_seconds:.1f} CPU-s); "
            f"{result.loss_valid:.4f} nats per token on held-out text{bits}\nmodel: {result.path}")


class OneSentence(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"tensorlm.training: {message} (--help lists the arguments)\n")


def parser() -> argparse.ArgumentParser:
    p = OneSentence(prog="python -m tensorlm.training", description="Train a tensor-transformer.", allow_abbrev=False)
    p.add_argument("--preset", choices=sorted(PRESETS), help=f"sizes and tuned settings ({DEFAULTS['preset']})")
    p.add_argument("--data", help=f"corpus: shakespeare, text, toy, shards, fineweb ({DEFAULTS['data']})")
    p.add_argument("--data-option", action="append", default=[], metavar="KEY=VALUE", help="of the corpus: path=book.txt")
    p.add_argument("--tokenizer", help="tokenizer of the corpus (shakespeare, text): bpe4096, bpe1024, chars")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the run; one that holds a run is refused")
    p.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    p.add_argument("--precision", help="auto, float32, bfloat16, float16")
    for name, what in COUNTS.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=what)
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of ModelConfig or TrainConfig")
    return p


def corpus_choice(options: argparse.Namespace) -> dict[str, Any]:
    """Preset, corpus and its options: as given, else as in the run to resume, else the defaults.

    A preset with a table of token pairs is a character model: its Shakespeare comes in characters unless asked otherwise.
    """
    start = RunFolder(options.out).choice(DEFAULTS) if options.resume else DEFAULTS
    pairs = _pairs(options.data_option, "--data-option")
    if "tokenizer" in pairs:
        raise ValueError("--data-option tokenizer: has an argument of its own, --tokenizer")
    given = {"preset": options.preset, "data": options.data, "tokenizer": options.tokenizer,
             "options": read_options(options.data or start["data"], pairs) if pairs else None}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given if options.resume else ():
        if given[name] != start.get(name):
            raise ValueError(f"resume: the run has {name} {start.get(name)!r}, not {given[name]!r}")
    choice = {**start, **given}
    if not options.resume and choice["data"] == "shakespeare" and PRESETS[choice["preset"]].bigram == "table":
        choice.setdefault("tokenizer", "chars")
    return choice


def configurations(options: argparse.Namespace, changes: dict[str, dict[str, Any]], data: TokenData) -> tuple[ModelConfig, TrainConfig]:
    """Model and training settings: the run's own when resuming, else preset and recipe; then the options."""
    given = {name: getattr(options, name) for name in (*COUNTS, "precision") if getattr(options, name) is not None}
    train_changes = {**given, **changes["train"]}
    if options.resume:
        stored = RunFolder(options.out).stored()
        return dataclasses.replace(stored.model_config, **changes["model"]), stored.train_config.replace(**train_changes)
    name, size = options.preset or DEFAULTS["preset"], data.vocab_size
    padded = size if size < PAD_FROM else -(-size // PAD_TO) * PAD_TO
    model = preset(name, **{"vocab_size": padded, **changes["model"]})
    return model, recipe(name, norm=model.norm, **train_changes)


def parse_settings(items: list[str]) -> dict[str, dict[str, Any]]:
    """`FIELD=VALUE` items sorted into {"model": ..., "train": ...}, values converted to the field's type."""
    kinds = {"model": typing.get_type_hints(ModelConfig), "train": typing.get_type_hints(TrainConfig)}
    found: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    for name, text in _pairs(items, "--set").items():
        owner = "model" if name in kinds["model"] else "train"
        require_one_of("field of --set", name, [*kinds["model"], *kinds["train"]])
        found[owner][name] = _convert(name, text, kinds[owner][name])
    return found


def _pairs(items: list[str], argument: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise ValueError(f"{argument} {item!r}: must be NAME=VALUE")
        pairs[name] = value
    return pairs


def _convert(name: str, text: str, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(_convert(name, part, typing.get_args(hint)[0]) for part in text.split(",") if part)
    kinds = typing.get_args(hint) or (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    try:
        return kinds[0](text)
    except ValueError:
        raise ValueError(f"--set {name}={text[:40]}: must be {hint if len(kinds) > 1 else hint.__name__}") from None


if __name__ == "__main__":
    sys.exit(main())
