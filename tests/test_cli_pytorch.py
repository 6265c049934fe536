"""`deepinside export` with PyTorch networks, for real, as a user types it."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

pytest.importorskip("torch")

_NETWORK = """
import torch


def create():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Softmax(dim=1),
    )
"""


def test_a_factory_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "my_network.py").write_text(_NETWORK, encoding="utf-8")
    command = [sys.executable, "-m", "deepinside.cli", "export", "torch:my_network:create"]
    command += ["-o", "out.onnx", "--input-shape", "1,3,16,16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out.onnx"
    assert "Bypassed: Softmax" in done.stderr
    outputs = {output.name for output in onnx.load(tmp_path / "out.onnx").graph.output}
    assert outputs == {"scores", "score", "target_index", "gradient", "saliency"}
