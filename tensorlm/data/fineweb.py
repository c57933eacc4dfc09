"""FineWeb in GPT-2 tokens, fetched from the Hugging Face hub once, in shards of 100M tokens (200 MB).

Files are those of the speedrun (`kjj0/fineweb10B-gpt2`; FineWeb: Penedo et al., 2024, arXiv 2406.17557). A partial download
is kept and resumed; a complete one is checked against the SHA-256 that the hub states and its own header before it gets its
name; later openings check it against the digest noted then, without the network.
"""

import re
import warnings
from pathlib import Path

from tensorlm.checks import require_counts, require_whole
from tensorlm.data.shards import open_shards, read_shard, sha256_of_file
from tensorlm.data.source import TokenData
from tensorlm.data.tokenizer import GPT2_ENTRIES
from tensorlm.files import cache_dir, write_atomically

REPOSITORY = "kjj0/fineweb10B-gpt2"
VALID_FILE, TRAIN_FILE, TRAIN_SHARDS = "fineweb_val_000000.bin", "fineweb_train_{:06d}.bin", 103
SPEEDRUN_VALID_TOKENS = 10_485_760          # what the speedrun validates on: figures on fewer are not comparable to its


def load_fineweb(shards: int = 1, valid_tokens: int = SPEEDRUN_VALID_TOKENS, cache: str | Path | None = None,
                 endpoint: str | None = None) -> TokenData:
    """The first `shards` training shards (of 103) and the first `valid_tokens` of the validation shard.

    `cache`: the folder, else `fineweb` in the package's cache folder. `endpoint`: another address of the hub. Raises
    ModuleNotFoundError with the install line, ConnectionError where a file cannot be fetched (run again: what arrived is
    kept), ValueError for a file that is not what the hub says it is.
    """
    require_whole("shards", shards, 1, TRAIN_SHARDS)
    require_counts(valid_tokens=valid_tokens)
    folder = Path(cache) if cache is not None else cache_dir() / "fineweb"
    paths = [*(folder / TRAIN_FILE.format(number) for number in range(1, shards + 1)), folder / VALID_FILE]
    digests = [fetch(path.name, folder, endpoint) for path in paths]
    return open_shards("fineweb", paths[:-1], paths[-1:], valid_tokens=valid_tokens, digests=digests)


def fetch(name: str, folder: Path, endpoint: str | None = None) -> str:
    """Make sure that `folder` holds the file, whole and checked; returns its SHA-256. One process fetches, others wait."""
    path = folder / name
    if digest := intact(path):
        return digest
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        return intact(path) or download(path, endpoint)


def intact(path: Path) -> str | None:
    """The noted digest of a cached file that still has it; None where the file is not there or damaged."""
    note = digest_note(path)
    if not (path.exists() and note.exists()):
        return None
    digest = sha256_of_file(path)
    if digest == note.read_text().strip():
        return digest
    warnings.warn(f"{path}: damaged since it was fetched (sha256 {digest[:12]}), it is fetched again", stacklevel=3)
    return None


def digest_note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def download(path: Path, endpoint: str | None) -> str:
    """Fetch one file, going on where an earlier attempt stopped; returns its SHA-256 once it is in place."""
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError("fineweb: is fetched with huggingface_hub, which is missing; pip install huggingface_hub") from None
    try:
        url = hub.hf_hub_url(REPOSITORY, path.name, repo_type="dataset", endpoint=endpoint)
        facts = hub.get_hf_file_metadata(url, endpoint=endpoint)
        mark = re.sub(r"\W", "", facts.etag or "")[:16] or "unmarked"        # of one version of the file
        partial = path.with_name(f"{path.name}.{mark}.partial")
        _append(partial, url, facts.size)
    except Exception as error:      # the hub's client has had three families of network errors so far
        raise ConnectionError(f"fineweb: {path.name} was not fetched ({type(error).__name__}: {error}); "
                              "what arrived is kept, run again to go on from there") from error
    digest = verify(partial, facts)
    write_atomically(digest_note(path), lambda draft: draft.write_text(digest))
    partial.replace(path)
    return digest


def _append(partial: Path, url: str, size: int | None) -> None:
    from huggingface_hub.file_download import http_get

    have = partial.stat().st_size if partial.exists() else 0
    if size is not None and have > size:
        partial.unlink()
        have = 0
    if have != size:
        with open(partial, "ab") as file:
            http_get(url, file, resume_size=have, expected_size=size, displayed_filename=partial.name)


def verify(partial: Path, facts) -> str:
    """SHA-256 of a complete download, which is deleted and refused where it is not what the hub says, or no shard."""
    digest = sha256_of_file(partial)
    try:
        if re.fullmatch(r"[0-9a-f]{64}", facts.etag or "") and digest != facts.etag:
            raise ValueError(f"{partial.name}: sha256 {digest[:12]}, the hub says {facts.etag[:12]}")
        read_shard(partial, GPT2_ENTRIES)
    except ValueError as error:
        partial.unlink()
        raise ValueError(f"fineweb: a corrupted download was refused and deleted, run again ({error})") from None
    return digest
