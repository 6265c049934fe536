"""The forms for CPUs compute what the others do."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepinside import models
from deepinside.exporters import ExportError, export_saliency


def _classifier(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    size: tuple[int, int] = (13, 10),
    **weights: np.ndarray,
) -> Path:
    """`image` (N, 3, H, W) through nodes to `features`, then the mean of each channel."""
    classes = 16 if "residual" in weights else 3
    nodes = [*nodes, helper.make_node("GlobalAveragePool", ["features"], ["pooled"])]
    nodes += [helper.make_node("Flatten", ["pooled"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def _gradient(classifier: Path, image: np.ndarray, form: str) -> tuple[np.ndarray, list[str]]:
    """The gradient of class 2, and the file's operators."""
    path = classifier.with_name(f"{form}.onnx")
    export_saliency(classifier, path, target_input="fixed:2", optimize_for=form)
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (gradient,) = run.run(["gradient"], {run.get_inputs()[0].name: image})
    return gradient, [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [[2, 2], [3, 2], [1, 2]], ids=str)
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1]], ids=str)
def test_strided_depthwise_convolution(
    tmp_path: Path, kernel: int, stride: list[int], pads: list[int]
) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((3, 1, kernel, kernel), dtype=np.float32)
    convolution = helper.make_node(
        "Conv", ["image", "w"], ["y"], group=3, strides=stride, pads=pads, kernel_shape=[kernel] * 2
    )
    square = helper.make_node("Mul", ["y", "y"], ["features"])
    path = _classifier(tmp_path / "net.onnx", [convolution, square], w=weights)
    image = random.standard_normal((2, 3, 13, 10), dtype=np.float32)
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert "ConvTranspose" in before
    spare = [13 + pads[0] + pads[2] - kernel, 10 + pads[1] + pads[3] - kernel]
    ends = [
        size + pads[i] - (spare[i] // stride[i] + 1) * stride[i] for i, size in ((0, 13), (1, 10))
    ]
    assert ("ConvTranspose" in after) == (min(ends) < 0)


@pytest.mark.parametrize("size", [(12, 10), (13, 10), (12, 11)], ids=str)
@pytest.mark.parametrize("stride", [[2, 2], [1, 2]], ids=str)
def test_strided_points(tmp_path: Path, size: tuple[int, int], stride: list[int]) -> None:
    """1x1 windows, as in the shortcuts of residual networks."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((16, 3, 1, 1), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["y"], strides=stride, kernel_shape=[1, 1]),
        helper.make_node("Mul", ["y", "y"], ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes, size=size, w=weights, residual=weights)
    image = random.standard_normal((2, 3, *size), dtype=np.float32)
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert "ConvTranspose" in before
    divides = all(length % by == 0 for length, by in zip(size, stride, strict=True))
    assert ("ConvTranspose" in after) == (not divides)


@pytest.mark.parametrize("inputs", [["x", "s"], ["s", "x"]], ids=str)
@pytest.mark.parametrize("form", ["any", "cpu"])
def test_silu(tmp_path: Path, inputs: list[str], form: str) -> None:
    """Its two parts are added up in four nodes."""
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["x"]),
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", inputs, ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes)
    image = np.random.default_rng(0).standard_normal((2, 3, 13, 10), dtype=np.float32)
    found, after = _gradient(path, image, form)
    x = np.asarray(image, np.float64) ** 2
    s = 1 / (1 + np.exp(-x))
    expected = np.zeros_like(x)
    expected[:, 2] = (2 * image * s * (1 + x * (1 - s)))[:, 2] / 130
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert after.count("Sigmoid") == 1
    assert after.count("Sub") == (form == "any")
    assert after.count("HardSigmoid") == (form == "cpu")


def test_a_gate_that_has_another_use(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["image"], ["s"]),
        helper.make_node("Mul", ["image", "s"], ["y"]),
        helper.make_node("Add", ["y", "s"], ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes)
    image = np.random.default_rng(0).standard_normal((2, 3, 13, 10), dtype=np.float32)
    s = 1 / (1 + np.exp(-np.asarray(image, np.float64)))
    expected = np.zeros_like(s)
    expected[:, 2] = (s + image * s * (1 - s) + s * (1 - s))[:, 2] / 130
    for form in ("any", "cpu"):
        np.testing.assert_allclose(_gradient(path, image, form)[0], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 0.0), (-3.0, -2.0), (0.0, 3e6)],
    ids=str,
)
def test_clip_at_its_kinks(tmp_path: Path, low: float | None, high: float | None) -> None:
    bounds = {"low": low, "high": high}
    constants = {
        name: np.array(value, np.float32) for name, value in bounds.items() if value is not None
    }
    inputs = ["image", *(name if name in constants else "" for name in bounds)]
    node = helper.make_node("Clip", inputs, ["features"])
    path = _classifier(tmp_path / "net.onnx", [node], **constants)
    edges = [value for value in (low, high, 0.0) if value is not None]
    values = np.array([f(v) for v in edges for f in (_same, _next_up, _next_down)], np.float32)
    values = values[np.abs(values) >= 1e-30] if 0.0 not in (low, high) else values
    values = np.where(np.abs(values) < 1e-30, 0.0, values)
    image = np.resize(np.concatenate([values, [1.5, -2.5, 7.0]]).astype(np.float32), (1, 3, 13, 10))
    expected, _ = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) == 2
    assert ("HardSigmoid" in after) == (high != 3e6)


def _same(value: float) -> np.float32:
    return np.float32(value)


def _next_up(value: float) -> np.float32:
    return np.nextafter(np.float32(value), np.float32(np.inf))


def _next_down(value: float) -> np.float32:
    return np.nextafter(np.float32(value), np.float32(-np.inf))


def test_relu_at_zero(tmp_path: Path) -> None:
    path = _classifier(tmp_path / "net.onnx", [helper.make_node("Relu", ["image"], ["features"])])
    image = np.resize(np.array([0.0, -0.0, 1e-20, -1e-20, 1.0], np.float32), (1, 3, 13, 10))
    expected, _ = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    np.testing.assert_array_equal(found, expected)
    assert "HardSigmoid" in after
    assert "Greater" not in after


def test_the_embedded_classifier(tmp_path: Path) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    results = {}
    for form in ("any", "cpu"):
        path = tmp_path / f"{form}.onnx"
        export_saliency(models.default_classifier(), path, optimize_for=form)
        run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {run.get_inputs()[0].name: image}
        results[form] = run.run(["score", "gradient"], feed)
    for expected, found in zip(results["any"], results["cpu"], strict=True):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="optimize_for can be any, cpu, cuda, not 'gpu'"):
        export_saliency(models.default_classifier(), tmp_path / "f.onnx", optimize_for="gpu")


@pytest.mark.parametrize("form", ["any", "cpu"])
def test_the_batch_keeps_its_name(tmp_path: Path, form: str) -> None:
    """Or ONNX Runtime takes the gradient's batches for others, and leaves its blocked layout."""
    path = tmp_path / "f.onnx"
    export_saliency(models.default_classifier(), path, optimize_for=form)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    heavy = {"Conv", "ConvTranspose", "HardSigmoid", "Mul", "Resize", "Slice"}
    found = [
        (node.name, shapes[node.output[0]][0].dim_param)
        for node in inferred.graph.node
        if "/grad/" in node.name
        and node.op_type in heavy
        and len(shapes[node.output[0]]) == 4
        and not (shapes[node.output[0]][0].HasField("dim_value"))  # weights, turned round
    ]
    assert len(found) > 60
    assert [name for name, batch in found if batch != "N"] == []


def test_a_residual_block_behind_a_stride(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "stem": random.standard_normal((16, 3, 3, 3), dtype=np.float32),
        "down": random.standard_normal((16, 16, 3, 3), dtype=np.float32) / 12,
        "residual": random.standard_normal((16, 16, 3, 3), dtype=np.float32) / 12,
    }
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "down"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "residual"], ["e"], pads=[1] * 4),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes, **weights)
    image = random.standard_normal((2, 3, 13, 10), dtype=np.float32)
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (before.count("MaxPool"), after.count("MaxPool")) == (0, 2)


def test_hard_swish_in_whole_blocks(tmp_path: Path) -> None:
    weights = np.zeros((16, 3, 1, 1), np.float32)
    weights[np.arange(16), np.arange(16) % 3] = 1.0  # copies, so that the kinks are met exactly
    nodes = [
        helper.make_node("Conv", ["image", "residual"], ["x"], kernel_shape=[1, 1]),
        helper.make_node("HardSwish", ["x"], ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes, residual=weights)
    values = np.array([-4.0, -3.0, -2.999, -1.0, 0.0, 1.5, 2.999, 3.0, 3.5], np.float32)
    image = np.resize(values, (2, 3, 13, 10))
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert "And" in before
    assert "And" not in after


def test_squeeze_and_excitation(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "residual": random.standard_normal((16, 3, 3, 3), dtype=np.float32),
        "gate": random.standard_normal((16, 16, 1, 1), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "residual"], ["x"], pads=[1] * 4),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Conv", ["mean", "gate"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["share"]),
        helper.make_node("Mul", ["share", "x"], ["y"]),
        helper.make_node("Mul", ["y", "y"], ["features"]),
    ]
    path = _classifier(tmp_path / "net.onnx", nodes, **weights)
    image = random.standard_normal((2, 3, 13, 10), dtype=np.float32)
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cpu")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert {"ReduceMean", "ReduceSum"} <= set(before)
    assert not {"ReduceMean", "ReduceSum"} & set(after)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1])
def test_pooling_by_places(tmp_path: Path, kernel: int, stride: int, pad: int) -> None:
    """The form for CUDA; ties are given to the same place as in the others."""
    nodes = [
        helper.make_node("Relu", ["image"], ["r"]),
        helper.make_node(
            "MaxPool", ["r"], ["p"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4
        ),
        helper.make_node("Clip", ["p", "low", "high"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["features"]),
    ]
    bounds = {"low": np.float32(0.0), "high": np.float32(3.0)}
    path = _classifier(tmp_path / "net.onnx", nodes, **bounds)
    image = np.random.default_rng(0).integers(-2, 4, (2, 3, 13, 10)).astype(np.float32)
    expected, before = _gradient(path, image, "any")
    found, after = _gradient(path, image, "cuda")
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    assert "ScatterElements" not in before
    assert "Where" not in before
    assert {"ScatterElements", "Where"} <= set(after)
    assert len(after) < len(before)
