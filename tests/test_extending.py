"""What CONTRIBUTING promises to whoever adds something: a new MLP kind is one line in one file, and everything else knows it."""

import os
import shutil
import subprocess
import sys

import pytest
from book_files import ROOT

pytestmark = pytest.mark.slow

KIND = '    "tanh": Kind(torch.tanh),\n'
USE = """
import torch
from tensorlm.data import TokenData
from tensorlm.model import ModelConfig, TensorTransformer, compositionality
from tensorlm.training import TrainConfig, train

config = ModelConfig(vocab_size=10, context=8, width=16, head_dim=8, mlp="tanh")
table = compositionality(config)
assert table["MLP"].kind == "neither" and sum(part.parameters for part in table.parts) == TensorTransformer(config).parameter_count()
assert "tanh" in TensorTransformer(config).polynomial_degree().reason
ids = torch.arange(400).numpy() % 10
data = TokenData("count", "numbers", 10, "0" * 64, train=ids, valid=ids)
result = train(config, TrainConfig(steps=3, batch_size=4, validate_windows=2), data, device="cpu")
assert result.model.generate(torch.tensor([[1]]), 3).shape == (1, 4)
"""


def test_a_new_mlp_kind_is_one_line_in_one_file(tmp_path):
    shutil.copytree(ROOT / "tensorlm", tmp_path / "tensorlm", ignore=shutil.ignore_patterns("__pycache__", "results"))
    changed = tmp_path / "tensorlm" / "layers" / "mlp.py"
    source = changed.read_text()
    where = source.index('    "glu": Kind(')
    changed.write_text(source[:where] + KIND + source[where:])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", f"import tensorlm; assert tensorlm.__file__.startswith({str(tmp_path)!r})\n" + USE]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    copied = {path.relative_to(tmp_path): path for path in (tmp_path / "tensorlm").rglob("*.py")}
    assert [name for name, path in copied.items() if path.read_text() != (ROOT / name).read_text()] == [changed.relative_to(tmp_path)]
    without = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True)
    assert without.returncode != 0  # the package itself has no such kind
