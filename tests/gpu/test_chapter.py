"""Chapter 03 from top to bottom, which trains a larger model where there is a GPU; nothing is stored."""

import os
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_chapter_03_runs(device):
    if device.type == "cpu":
        pytest.skip("on a CPU the tests of the book run it")
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    (path,) = (ROOT / "book").glob("03_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(ROOT / "book"), env={**os.environ, "PYTHONPATH": paths})
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    trained_here = re.escape(torch.cuda.get_device_name()) + r", \d+ s\n"  # the stored run has tenths of a second
    assert any(re.match(trained_here, text) for text in texts)
