"""The accessibility checker axe-core, fetched by npm at one version and checked against its hash; kept where git does not look.

    python tests/html/axe_core.py               # fetch it, or say why that cannot be
"""

import base64
import functools
import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
CACHE = Path(__file__).resolve().parent.parent.parent / "_build" / "axe-core"


class AbsentError(RuntimeError):
    """Why there is no axe-core here."""


def sha512(archive: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def fetch(archive: Path) -> None:
    """Have npm put the package into the folder of `archive`. Raises `AbsentError` where it cannot."""
    npm = shutil.which("npm")
    if not npm:
        raise AbsentError("npm is not installed, so axe-core cannot be fetched")
    archive.parent.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(archive.parent)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=archive.parent)
    except subprocess.TimeoutExpired:
        raise AbsentError("npm did not answer within 120 s") from None
    if done.returncode or not archive.exists():
        raise AbsentError(f"npm could not fetch axe-core {VERSION}: {done.stderr.strip()[:200]}")


@functools.cache
def source(cache: Path = CACHE) -> str:
    """The script. Raises `AbsentError` where it cannot be fetched, and `ValueError` where it is not the one that was pinned."""
    archive = cache / f"axe-core-{VERSION}.tgz"
    if not archive.exists():
        fetch(archive)
    if (found := sha512(archive)) != INTEGRITY:
        raise ValueError(f"{archive}: got integrity {found}, allowed: {INTEGRITY}")
    with tarfile.open(archive) as package:
        script = package.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode("utf-8")


if __name__ == "__main__":
    try:
        source()
    except AbsentError as reason:
        sys.exit(str(reason))
