"""The second back end; the first test runs in an environment with onnxruntime-training only."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from classifiers import classifier
from click.testing import CliRunner

from deepinside import models
from deepinside.cli.main import cli
from deepinside.engine import Engine, RuntimeMissingError
from deepinside.exporters import ExportError, MissingPackageError, export_saliency

_STATE = importlib.import_module("onnxruntime.capi._pybind_state")
_THERE = hasattr(_STATE, "GradientGraphBuilder")
_MARKED = [onnx.StringStringEntryProto(key="deepinside.autodiff", value="ort-training")]

with_builder = pytest.mark.skipif(not _THERE, reason="onnxruntime-training is not installed")
without_builder = pytest.mark.skipif(_THERE, reason="onnxruntime-training is installed")


@with_builder
def test_both_back_ends_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    gradients = []
    for autodiff in ("standard", "ort-training"):
        report = export_saliency(
            models.default_classifier(), tmp_path / f"{autodiff}.onnx", autodiff=autodiff
        )
        run = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
        feeds = {report.names["image"]: pixels, report.names["target"]: np.array([285, 1])}
        gradients.append(run.run([report.names["gradient"]], feeds)[0])
    error = np.abs(gradients[0] - gradients[1]).max() / np.abs(gradients[0]).max()
    assert error < 1e-5


@with_builder
def test_the_command_checks_the_gradient(tmp_path: Path) -> None:
    output = tmp_path / "s.onnx"
    command = ["export", str(models.default_classifier()), "-o", str(output)]
    result = CliRunner().invoke(cli, [*command, "--autodiff", "ort-training"])
    assert result.exit_code == 0, result.output
    assert Engine(output).contract.autodiff == "ort-training"
    assert list(tmp_path.iterdir()) == [output]


@with_builder
def test_automatic_padding_is_refused(tmp_path: Path) -> None:
    model = classifier()
    for node in model.graph.node:
        if node.op_type == "Conv":
            kept = [a for a in node.attribute if a.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("auto_pad", "SAME_UPPER")])
    with pytest.raises(ExportError, match="automatic padding"):
        export_saliency(model, tmp_path / "s.onnx", autodiff="ort-training")


@without_builder
def test_the_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"deepinside\[training\]"):
        export_saliency(classifier(), tmp_path / "s.onnx", autodiff="ort-training")


@without_builder
def test_a_file_of_the_other_runtime_is_refused_in_a_sentence(tmp_path: Path) -> None:
    report = export_saliency(classifier(), tmp_path / "s.onnx")
    model = onnx.load(report.path)
    model.metadata_props.extend(_MARKED)
    onnx.save(model, report.path)
    with pytest.raises(RuntimeMissingError, match="runs on onnxruntime-training"):
        Engine(report.path)


def test_other_rules_of_relu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="gradient of ReLU only"):
        export_saliency(classifier(), tmp_path / "s.onnx", autodiff="ort-training", relu="guided")
