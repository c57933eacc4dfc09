"""All that needs a GPU, in one command: about 8 minutes on an H200, no network, going on where it was stopped.

    python -m benchmarks.gpu --out DIR [--corpus tinyshakespeare.txt] [--parts step attention ...]
    python -m benchmarks.gpu --out DIR --rehearse        # every part from end to end on a CPU, at tiny sizes

| part | what is measured | on an H200 |
| --- | --- | --- |
| tests | `tests/gpu`, chapter 03 among them: how many passed, failed, were skipped, and the names of those that failed | 120 s, estimated |
| colab | what chapter 03 trains where there is a GPU, and shows where there is none | 17 s |
| language | preset `small` on Shakespeare's BPE tokens and on the toy language: loss, tokens/s, a sample of text | 16 s |
| attention | attention alone by each algorithm, forward and with backward, beside torch's fused softmax | 60 s, estimated |
| loss | seconds to nanoGPT's documented loss on tiny-shakespeare characters, its recipe beside two of our arms | 100 s, estimated |
| step | a training step of the presets: tokens/s, peak memory, share of the card's peak, compiled and not | 180 s, estimated |

Each part writes DIR/gpu_PART.csv, each row at once, and DIR/gpu_PART.json says how it came about. A row that is there for this card is not
measured again, one that failed is. "out of memory" is a result. Card, driver, versions and the clock of the busy card stand in every row,
`seconds` is what the row took altogether. A part that fails leaves its error in a row, and the others go on.
"""

import argparse
import csv
import gc
import importlib.metadata
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_parts
from benchmarks.gpu_parts import FULL, REHEARSAL, Bench
from benchmarks.provenance import write_provenance
from tensorlm.files import write_csv

FACTS = ["card", "capability", "driver", "torch", "cuda", "triton", "clock_mhz", "date", "seconds", "error"]
OUT_OF_MEMORY = "out of memory"
MUCH_MEMORY = 1 << 28  # bytes that a row may leave behind
BUSY_PRODUCTS = 500  # of matrices of side 4096, while the clock is read: about 0.2 s on an H100


@dataclass(frozen=True)
class Part:
    """Rows: what is asked (`keys`), what comes out (`fields`); `plan(bench)` lists the one, `measure(row, bench, rows)` gives the other."""

    keys: Sequence[str]
    fields: Sequence[str]
    plan: Callable[[Bench], list[dict]]
    measure: Callable[[dict, Bench, list[dict]], dict]


PARTS = {
    "tests": Part(["suite"], ["passed", "failed", "skipped", "failures"], gpu_parts.plan_tests, gpu_parts.run_tests),
    "colab": Part(["preset", "steps"], ["training_seconds", "loss", "tokens", "parameters", "peak_memory", "sample"], gpu_parts.plan_colab,
                  gpu_parts.run_colab),
    "language": Part(["data", "steps"],
                     ["loss", "tokens_per_second", "training_seconds", "tokens", "parameters", "peak_memory", "sample", "corpus"],
                     gpu_parts.plan_language, gpu_parts.run_language),
    "attention": Part(["head_dim", "time", "pass", "kind", "algorithm", "dtype"],
                      ["batch", "heads", "milliseconds", "low", "high", "ratio", "peak_memory"], gpu_parts.plan_attention,
                      gpu_parts.run_attention),
    "loss": Part(["arm", "steps", "batch", "compiled", "seed"],
                 ["target", "reached", "seconds_to_target", "loss", "best", "training_seconds", "start_up", "characters", "parameters",
                  "peak_memory", "curve"], gpu_parts.plan_loss, gpu_parts.run_loss),
    "step": Part(["preset", "attention", "time", "compiled", "optimizer"],
                 ["dtype", "tokens", "parameters", "milliseconds", "low", "high", "tokens_per_second", "peak_memory", "flops_per_token",
                  "utilisation", "start_up", "fused"], gpu_parts.plan_steps, gpu_parts.run_step),
}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device: --rehearse runs every part on a CPU, at tiny sizes.")
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if options.rehearse else "cuda")
    bench, started = Bench(device, REHEARSAL if options.rehearse else FULL, options.corpus), time.perf_counter()
    facts = machine(device)
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value), flush=True)
    for index, name in enumerate(options.parts):
        run_part(name, bench, options.out / f"gpu_{name}.csv", facts)
        others = options.parts[index + 1 :]
        if others and lost(device):  # such an error ends the process, but not the other parts
            corpus = ["--corpus", options.corpus] if options.corpus else []
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", "--out", str(options.out), *corpus, "--parts", *others])
    print(f"all parts: {time.perf_counter() - started:.0f} s", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables; an earlier run in it goes on")
    parser.add_argument("--corpus", help="tiny-shakespeare as one text file, for the part loss")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes: whether all parts work, no measurement")
    return parser.parse_args(arguments)


def run_part(name: str, bench: Bench, path: Path, facts: dict[str, Any]) -> None:
    """Measure the rows of a part that its table does not have yet."""
    part, started = PARTS[name], time.perf_counter()
    table = Table(path, [*part.keys, *part.fields, *FACTS])
    plan = part.plan(bench)
    missing = [row for row in plan if not table.has(row, facts["card"])]
    print(f"{name}: {len(missing)} rows to measure, {len(plan) - len(missing)} are there", flush=True)
    if missing:
        facts = {**facts, "clock_mhz": busy_clock(bench.device)}
        write_provenance(path, f"python -m benchmarks.gpu --parts {name}", device=str(bench.device), sizes=bench.sizes.name)
    for row in missing:
        table.add({**row, **attempt(part, row, bench, table.rows), **facts})
        print("  " + describe(table.rows[-1], part), flush=True)
        if lost(bench.device):
            break
    if missing:
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


def attempt(part: Part, row: dict, bench: Bench, rows: list[dict]) -> dict[str, Any]:
    """The results of a row, or its error; the memory of the card is free afterwards."""
    started, found, error = time.perf_counter(), {}, ""
    try:
        found = part.measure(row, bench, [other for other in rows if not other["error"]])
    except Exception as failure:  # noqa: BLE001 - whatever it was, it stands in the row
        short = isinstance(failure, torch.OutOfMemoryError) or str(failure).startswith("memory:")
        error = OUT_OF_MEMORY if short else " ".join(f"{type(failure).__name__}: {failure}".split())[:500]
    if bench.device.type == "cuda" and not lost(bench.device) and (error or torch.cuda.memory_allocated() > MUCH_MEMORY):
        gc.collect()
        torch.cuda.empty_cache()
    date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return {**found, "error": error, "seconds": round(time.perf_counter() - started, 2), "date": date}


class Table:
    """A CSV file of one line a row, each written when it comes. Half a row, of a killed run, and rows that failed go when it is opened."""

    def __init__(self, path: Path, fields: list[str]):
        self.path, self.fields = path, fields
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
        self.rows = [row for row in rows if set(row) == set(fields) and None not in row.values() and row["error"] in ("", OUT_OF_MEMORY)]
        write_csv(path, fields, self.rows)

    def has(self, row: dict, card: str) -> bool:
        asked = {name: str(value) for name, value in {**row, "card": card}.items()}
        return any(asked.items() <= other.items() for other in self.rows)

    def add(self, row: dict) -> None:
        self.rows.append({name: str(row.get(name, "")) for name in self.fields})
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.fields).writerow(self.rows[-1])


def describe(row: dict[str, str], part: Part) -> str:
    asked = "  ".join(f"{row[name]}" for name in part.keys)
    found = row["error"] or "  ".join(f"{name} {row[name][:60]}" for name in part.fields if row[name])
    return f"{asked}: {found}  [{row['seconds']} s]"


def machine(device: torch.device) -> dict[str, Any]:
    """Card, driver and versions; empty where something is not told."""
    facts: dict[str, Any] = dict(card="CPU (rehearsal)", capability="", driver="", torch=torch.__version__, cuda=torch.version.cuda or "")
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= dict(card=card.name, capability=f"{card.major}.{card.minor}", driver=ask_card(device, "driver_version"))
    try:
        return {**facts, "triton": importlib.metadata.version("triton")}
    except importlib.metadata.PackageNotFoundError:
        return {**facts, "triton": ""}


def ask_card(device: torch.device, what: str) -> str:
    """One value from nvidia-smi; empty where that is missing or says nothing."""
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([*command, f"--id=GPU-{uuid}"] if uuid else command, capture_output=True, text=True, timeout=20)
        return done.stdout.splitlines()[0].strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return ""


def busy_clock(device: torch.device) -> str:
    """The clock of the multiprocessors in MHz, read while the card multiplies matrices."""
    if device.type != "cuda" or lost(device):
        return ""
    x = torch.randn(4096, 4096, device=device, dtype=torch.float16) / 64
    for _ in range(BUSY_PRODUCTS):
        x @ x
    clock = ask_card(device, "clocks.sm")
    torch.cuda.synchronize(device)
    return clock


def lost(device: torch.device) -> bool:
    """Whether an error has made the card useless to this process."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return False
    except RuntimeError:
        return True


if __name__ == "__main__":
    main()
