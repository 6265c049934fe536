"""Classifiers in half precision: float16 inside or outside too, and bfloat16."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from deepinside.engine import Engine, ModelFileError
from deepinside.exporters import export_saliency

# A soft-max, bounds far out, and an epsilon that float16 does not have.
_TAILS = {
    "plain": "logits = Identity (s)",
    "soft-max": "logits = Softmax (s)",
    "bounds": "k = Clip (s, low, high)\n l = HardSigmoid (k)\n m = Mul (k, l)\n"
    " logits = Add (m, s)",
    "norm": "logits = LayerNormalization <epsilon = 1e-12> (s, ones, ones)",
    "root": "k = Mul (s, s)\n l = Add (k, tiny)\n m = Sqrt (l)\n logits = Div (s, m)",
    "large norm": "k = Mul (s, large)\n logits = LayerNormalization (k, ones, ones)",
}
_CONSTANTS = {
    "low": np.float32(-3.4e38),
    "high": np.float32(3.0),
    "ones": np.ones(5, np.float32),
    "tiny": np.float32(1.0),
    "large": np.float32(2e3),
}


def _with_tail(tail: str, opset: int = 17) -> onnx.ModelProto:
    model = classifier(tail=_TAILS[tail], opset=opset)
    for name, value in _CONSTANTS.items():
        if name in _TAILS[tail]:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def _cosines(one: np.ndarray, other: np.ndarray) -> list[float]:
    pairs = zip(one.astype(np.float64), other.astype(np.float64), strict=True)
    return [float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs]


_TARGETS = np.array([1, 3])


def _pixels() -> np.ndarray:
    return np.random.default_rng(8).standard_normal((2, 3, 8, 8)).astype(np.float32)


def _single(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    path = export_saliency(model, folder / "single.onnx").path
    gradient = session(path).run(["gradient"], {"image": _pixels(), "target": _TARGETS})[0]
    return np.asarray(gradient)


@pytest.mark.filterwarnings("ignore")  # the converter tells of every number that it changes
@pytest.mark.parametrize("outside", ["float32", "float16"])
@pytest.mark.parametrize("tail", _TAILS)
def test_converted_to_float16(tail: str, outside: str, tmp_path: Path) -> None:
    expected = _single(_with_tail(tail), tmp_path)
    half = convert_float_to_float16(_with_tail(tail), keep_io_types=outside == "float32")
    path = export_saliency(half, tmp_path / "half.onnx").path
    feeds = {"image": _pixels().astype(outside), "target": _TARGETS}
    gradient, score = session(path).run(["gradient", "score"], feeds)
    assert gradient.dtype == score.dtype == outside
    assert min(_cosines(gradient, expected)) > 0.999


@pytest.mark.filterwarnings("ignore")
def test_squares_leave_the_range_of_float16(tmp_path: Path) -> None:
    """ONNX's own evaluator computes in float16; ONNX Runtime's CPU hides what GPUs don't."""
    expected = _single(_with_tail("large norm"), tmp_path)
    half = convert_float_to_float16(_with_tail("large norm"))
    written = onnx.load(export_saliency(half, tmp_path / "half.onnx").path)
    feeds = {"image": _pixels().astype(np.float16), "target": _TARGETS}
    gradient = ReferenceEvaluator(written).run(["gradient"], feeds)[0]
    assert min(_cosines(gradient, expected)) > 0.99


@pytest.mark.parametrize("tail", ["plain", "soft-max", "bounds"])
def test_bfloat16(tail: str, tmp_path: Path) -> None:
    """ONNX Runtime's CPU has no kernels for it: ONNX's own evaluator runs the file."""
    expected = _single(_with_tail(tail, opset=22), tmp_path)
    model = _to_bfloat16(_with_tail(tail, opset=22))
    written = onnx.load(export_saliency(model, tmp_path / "brain.onnx").path)
    feeds = {"image": _pixels().astype(ml_dtypes.bfloat16), "target": _TARGETS}
    gradient = ReferenceEvaluator(written).run(["gradient"], feeds)[0]
    assert gradient.dtype == ml_dtypes.bfloat16
    assert min(_cosines(gradient, expected)) > 0.99


def test_a_runtime_without_kernels_says_so(tmp_path: Path) -> None:
    model = _to_bfloat16(classifier(opset=22))
    path = export_saliency(model, tmp_path / "brain.onnx").path
    with pytest.raises(ModelFileError, match=r"no kernel on the device cpu.*float32 version"):
        Engine(path, "cpu")


def _to_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    single, brain = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = brain
    for tensor in model.graph.initializer:
        if tensor.data_type == single:
            array = onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model
