"""Classifiers in half precision: float16 inside or outside too, and bfloat16."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from classifiers import classifier, session
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from deepinside import models
from deepinside.engine import Engine, ModelFileError
from deepinside.engine.state import AscentState
from deepinside.exporters import ExportError, export_saliency, export_visualization

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


_PRECISION = {"precision": "float16"}


def _pair(model: onnx.ModelProto, folder: Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """The gradient in float16 by ONNX's own evaluator, which does not hide rounding, and exact."""
    written = export_saliency(model, folder / "half.onnx", **_PRECISION, **options).path
    feeds = {"image": _pixels(), "target": _TARGETS}
    found = ReferenceEvaluator(onnx.load(written)).run(["gradient"], feeds)[0]
    return np.asarray(found), _single(model, folder)


# ONNX's evaluator squares float16 numbers in a LayerNormalization; runtimes do it in float32.
@pytest.mark.parametrize("tail", sorted(_TAILS.keys() - {"large norm"}))
def test_exported_in_float16(tail: str, tmp_path: Path) -> None:
    """Inputs and outputs stay float32: a drop-in still; weights are halved."""
    model = _with_tail(tail)
    found, expected = _pair(model, tmp_path)
    assert min(_cosines(found, expected)) > 0.99
    written = onnx.load(tmp_path / "half.onnx")
    kinds = {v.name: v.type.tensor_type.elem_type for v in written.graph.output}
    assert kinds["logits"] == kinds["gradient"] == kinds["score"] == onnx.TensorProto.FLOAT
    assert written.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    large = [t for t in written.graph.initializer if np.prod(t.dims) > 30]
    assert large
    assert {t.data_type for t in large} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert properties["deepinside.precision"] == "float16"
    assert properties["deepinside.gradient_scale"] == "1024"
    Engine(tmp_path / "half.onnx", "cpu")


def test_small_gradients_do_not_underflow(tmp_path: Path) -> None:
    model = _with_tail("plain")
    for node in model.graph.node:
        if node.output[0] == "logits":
            node.op_type = "Mul"
            node.input.append("small")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2e-7), "small"))
    lost, expected = _pair(model, tmp_path, gradient_scale=1)
    found, _ = _pair(model, tmp_path, gradient_scale=2**14)
    assert min(_cosines(found, expected)) > 0.99
    assert max(_cosines(lost + 1e-30, expected)) < 0.99
    assert np.abs(found).max() < 1e-5  # unscaled, in float32


def test_numbers_beyond_float16(tmp_path: Path) -> None:
    model = _with_tail("large norm")
    for tensor in model.graph.initializer:
        if tensor.name == "large":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1e5), "large"))
    with pytest.raises(ExportError, match=r"no numbers above 65504.*'large' holds 100000"):
        export_saliency(model, tmp_path / "half.onnx", **_PRECISION)


@pytest.mark.filterwarnings("ignore")
def test_nothing_to_change(tmp_path: Path) -> None:
    half = convert_float_to_float16(_with_tail("plain"), keep_io_types=True)
    with pytest.raises(ExportError, match="no float32 tensors to change"):
        export_saliency(half, tmp_path / "half.onnx", **_PRECISION)


@pytest.mark.parametrize("scale", [0, 3, -2, 65536])
def test_impossible_scales(scale: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="power of two from 1 to 32768"):
        export_saliency(_with_tail("plain"), tmp_path / "f.onnx", gradient_scale=scale)


def test_a_scale_goes_with_float16_only(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="gradient_scale is for precision float16"):
        export_saliency(_with_tail("plain"), tmp_path / "f.onnx", gradient_scale=64)


def test_operators_without_float16_keep_float32(tmp_path: Path) -> None:
    """Resize's scales are float32 by ONNX's definition, whatever its picture is."""
    model = classifier(tail="logits = Identity (s)")
    first = model.graph.node[0]
    resize = onnx.helper.make_node("Resize", [first.input[0], "", "scales"], ["large"])
    first.input[0] = "large"
    model.graph.node.insert(0, resize)
    scales = np.array([1, 1, 2, 2], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(scales, "scales"))
    written = export_saliency(model, tmp_path / "half.onnx", **_PRECISION).path
    feeds = {"image": _pixels(), "target": _TARGETS}
    gradient = np.asarray(session(written).run(["gradient"], feeds)[0])
    assert min(_cosines(gradient, _single(model, tmp_path))) > 0.999


def test_the_natural_step_in_float16(tmp_path: Path) -> None:
    record = models.card()["preprocessing"]
    gradients = []
    for precision in (None, "float16"):
        path = tmp_path / f"{precision}.onnx"
        export_visualization(
            models.default_classifier(),
            path,
            step_rule="natural",
            preprocessing=record,
            precision=precision,
        )
        states: list[AscentState] = []
        Engine(path, "cpu").visualize([130], steps=2, state_every=1, on_state=states.append)
        gradients.append(states[0].parts["first_moment"].astype(np.float64))
    single, half = gradients
    assert _cosines(half[None], single[None])[0] > 0.9
    # Adam hides a factor that was forgotten; its moments don't.
    assert np.linalg.norm(half) == pytest.approx(np.linalg.norm(single), rel=0.05)
