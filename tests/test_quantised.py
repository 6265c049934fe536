"""Quantised classifiers: straight through the rounding, and said so."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from classifiers import classifier, session
from click.testing import CliRunner
from gradcheck import run_gradient
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from rule_case import Case, Node, several

from deepinside.cli.main import cli
from deepinside.engine import Engine, TaskError, read_contract
from deepinside.exporters import ClassifierError, GradientError, export_saliency
from deepinside.exporters.prepare import prepare

torch = pytest.importorskip("torch")

_RANDOM = np.random.default_rng(6)
_SCALES = np.array([0.25, 0.5, 0.125], np.float32)


def _pair(kind: str, scale: Any, zero: Any, **attributes: Any) -> Case:
    """Quantised and dequantised, from far below the range to far above, halves and edges too."""
    x = np.linspace(-80, 80, 3 * 641).reshape(1, 641, 3).transpose(0, 2, 1)
    points = {"x": np.round(x * 8) / 8, "s": np.asarray(scale, np.float32)}
    return several(
        "QuantizeLinear",
        kind,
        {**points, "z": np.asarray(zero, kind)},
        Node("QuantizeLinear", ["x", "s", "z"], ["q"], attributes),
        Node("DequantizeLinear", ["q", "s", "z"], ["y"], attributes),
    )


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "axis", "opset"),
    [
        (*form, opset)
        for opset in (17, 21, 25)
        for form in (
            ("int8", 0.25, 3, None),
            ("uint8", 0.25, 200, None),
            ("int8", _SCALES, [0, 0, 0], 1),
            ("uint8", _SCALES, [100, 128, 130], -2),
            ("int16", 1 / 512, 0, None),
            ("uint16", [1 / 512], [1000], None),
        )
        if opset > 17 or "16" not in form[0]
    ],
)
def test_the_rule_is_that_of_fake_quantize(
    kind: str, scale: Any, zero: Any, axis: int | None, opset: int
) -> None:
    case = _pair(kind, scale, zero, **({} if axis is None else {"axis": axis}))
    limits = np.iinfo(kind)
    x = torch.tensor(case.values["x"], dtype=torch.float32, requires_grad=True)
    if axis is None:
        number, offset = float(np.ravel(scale)[0]), int(np.ravel(zero)[0])
        y = torch.fake_quantize_per_tensor_affine(x, number, offset, limits.min, limits.max)
    else:
        scales, zeros = torch.tensor(scale), torch.tensor(zero, dtype=torch.int32)
        y = torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, limits.min, limits.max)
    seed = _RANDOM.uniform(0.5, 1.5, y.shape).astype(np.float32)
    y.backward(torch.tensor(seed))
    found, gradient = run_gradient(case, "x", seed, opset)
    np.testing.assert_array_equal(found, y.detach().numpy())
    np.testing.assert_array_equal(gradient, x.grad.numpy())
    assert 0 < (gradient == 0).mean() < 1


def _between(node: Node, **others: np.ndarray) -> onnx.ModelProto:
    """Quantise, an integer layer, dequantise."""
    helper = onnx.helper
    x = np.round(_RANDOM.uniform(-1, 1, (2, 4, 6, 6)), 3).astype(np.float32)
    values = {
        "s": np.float32(0.01),
        "z": np.uint8(120),
        "t": np.float32(0.02),
        "o": np.uint8(128),
        **others,
    }
    nodes = [
        helper.make_node("Flatten" if "rows" in others else "Identity", ["x"], ["a"], "shape"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"], "first"),
        helper.make_node(
            node.operator.rpartition(".")[2],
            node.inputs,
            node.outputs,
            "the_node",
            domain=node.operator.rpartition(".")[0],
            **node.attributes,
        ),
    ]
    if node.outputs[0] == "r":
        own = node.operator in ("MaxPool", "Reshape", "Transpose")
        again = ["r", "s", "z"] if own else ["r", "t", "o"]
        nodes.append(helper.make_node("DequantizeLinear", again, ["y"], "last"))
    elif node.outputs[0] == "i":
        nodes.append(helper.make_node("Cast", ["i"], ["y"], "last", to=1))
    used = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        nodes,
        "integers",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in values.items() if n in used],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _integers(kind: str, *shape: int) -> np.ndarray:
    limits = np.iinfo(kind)
    return _RANDOM.integers(limits.min, limits.max, shape, kind, endpoint=True)


_X, _Y = ("q", "s", "z"), ("t", "o")
_STEP, _WIDE = np.float32(0.02), np.float32(0.3)
_W8 = {"w": _integers("int8", 3, 4, 3, 3), "ws": np.float32(0.005), "wz": np.int8(0)}
_CHANNELS = {**_W8, "ws": np.array([0.004, 0.005, 0.006], np.float32), "wz": np.zeros(3, np.int8)}
_BIAS = {"b": _integers("int16", 3).astype(np.int32)}
_MATRIX = {"w": _integers("uint8", 144, 5), "ws": np.float32(0.005), "wz": np.uint8(128)}
_COLUMNS = {**_MATRIX, "ws": np.full(5, 0.005, np.float32), "wz": np.full(5, 128, np.uint8)}
_ROWS = {"rows": np.array(1)}
_C, _MS = ("w", "ws", "wz"), "com.microsoft."
_LAYERS: list[tuple[str, onnx.ModelProto, float]] = [
    (
        "conv",
        _between(Node("QLinearConv", [*_X, *_C, *_Y], ["r"], {"pads": [1] * 4}), **_W8),
        _STEP,
    ),
    (
        "conv channels",
        _between(Node("QLinearConv", [*_X, *_C, *_Y, "b"], ["r"]), **_CHANNELS, **_BIAS),
        _STEP,
    ),
    (
        "conv microsoft",
        _between(Node(_MS + "QLinearConv", [*_X, *_C, *_Y, "b"], ["r"]), **_W8, **_BIAS),
        _STEP,
    ),
    ("matmul", _between(Node("QLinearMatMul", [*_X, *_C, *_Y], ["r"]), **_MATRIX, **_ROWS), _STEP),
    (
        "gemm",
        _between(
            Node(_MS + "QGemm", [*_X, *_C, "b", *_Y], ["r"], {"alpha": 0.5}),
            **_MATRIX,
            **_ROWS,
            b=_integers("int16", 5).astype(np.int32),
        ),
        _STEP,
    ),
    ("gemm to float", _between(Node(_MS + "QGemm", [*_X, *_C], ["y"]), **_COLUMNS, **_ROWS), 1e-4),
    ("add", _between(Node(_MS + "QLinearAdd", [*_X, *_X, *_Y], ["r"])), _STEP),
    ("mul", _between(Node(_MS + "QLinearMul", [*_X, *_X, *_Y], ["r"])), _STEP),
    (
        "average",
        _between(Node(_MS + "QLinearAveragePool", [*_X, *_Y], ["r"], {"kernel_shape": [2, 2]})),
        _STEP,
    ),
    ("global average", _between(Node(_MS + "QLinearGlobalAveragePool", [*_X, *_Y], ["r"])), _STEP),
    ("sigmoid", _between(Node(_MS + "QLinearSigmoid", [*_X, *_Y], ["r"])), _STEP),
    ("leaky", _between(Node(_MS + "QLinearLeakyRelu", [*_X, *_Y], ["r"], {"alpha": 0.1})), _STEP),
    (
        "softmax",
        _between(Node(_MS + "QLinearSoftmax", [*_X, *_Y], ["r"], {"axis": 3, "opset": 13})),
        _STEP,
    ),
    ("concat", _between(Node(_MS + "QLinearConcat", [*_Y, *_X, *_X], ["r"], {"axis": 1})), _STEP),
    ("max pool", _between(Node("MaxPool", ["q"], ["r"], {"kernel_shape": [2, 2]})), 1e-6),
    ("reshape", _between(Node("Reshape", ["q", "shape"], ["r"]), shape=np.array([2, -1])), 1e-6),
    ("transpose", _between(Node("Transpose", ["q"], ["r"], {"perm": [0, 2, 3, 1]})), 1e-6),
    ("conv integer", _between(Node("ConvInteger", ["q", "w", "z"], ["i"]), **_W8), 1e-2),
    (
        "matmul integer",
        _between(Node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]), **_MATRIX, **_ROWS),
        1e-2,
    ),
    (
        "to float",
        _between(
            Node(_MS + "MatMulIntegerToFloat", ["q", "w", "s", "ws", "z", "wz"], ["y"]),
            **_COLUMNS,
            **_ROWS,
        ),
        1e-4,
    ),
    (
        "dynamic",
        _between(
            Node(_MS + "DynamicQuantizeMatMul", ["a", "w", "ws", "wz"], ["y"]), **_MATRIX, **_ROWS
        ),
        1e-3,
    ),
]


@pytest.mark.parametrize(
    ("model", "step"), [entry[1:] for entry in _LAYERS], ids=[entry[0] for entry in _LAYERS]
)
def test_integer_layers_compute_the_same_in_qdq_form(model: onnx.ModelProto, step: float) -> None:
    """Up to one step of the output's scale, and that seldom."""
    x = _RANDOM.uniform(-1.5, 1.5, (2, 4, 6, 6)).astype(np.float32)
    expected = session(model.SerializeToString()).run(None, {"x": x})[0]
    new = ir.to_proto(prepare(ir.from_proto(model)))
    kinds = {node.op_type for node in new.graph.node}
    assert not any("QLinear" in kind or "Integer" in kind for kind in kinds)
    assert {node.domain for node in new.graph.node} == {""}
    found = session(new.SerializeToString()).run(None, {"x": x})[0]
    assert found.shape == expected.shape
    off = np.abs(found - expected)
    assert off.max() <= 1.01 * step
    assert (off > 0.01 * step).mean() < 0.02 or step < 0.02


def test_forms_without_a_counterpart_are_refused() -> None:
    last = _between(
        Node(
            _MS + "QLinearAveragePool",
            [*_X, *_Y],
            ["r"],
            {"kernel_shape": [2, 2], "channels_last": 1},
        )
    )
    with pytest.raises(ClassifierError, match=r"'the_node'.*channels are last"):
        prepare(ir.from_proto(last))


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pixels: np.ndarray) -> None:
        self._rest = iter([{"image": pixels}])

    def get_next(self) -> Any:
        return next(self._rest, None)


_STATIC = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
_FORMS: dict[str, dict[str, Any] | None] = {
    "qdq": {**_STATIC, "quant_format": QuantFormat.QDQ},
    "qdq channels": {**_STATIC, "quant_format": QuantFormat.QDQ, "per_channel": True},
    "qdq 16": {**_STATIC, "quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt16},
    "integers": {**_STATIC, "quant_format": QuantFormat.QOperator},
    "dynamic": None,
}


def _quantised(folder: Path, form: str) -> tuple[Path, np.ndarray]:
    """The small classifier as ONNX Runtime quantises it, and pictures."""
    pixels = _RANDOM.standard_normal((16, 3, 8, 8)).astype(np.float32)
    model = classifier(opset=21 if "16" in form else 17)
    onnx.save(model, folder / "float.onnx")
    target, options = folder / "quantised.onnx", _FORMS[form]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if options is None:
                quantize_dynamic(folder / "float.onnx", target, weight_type=QuantType.QUInt8)
            else:
                quantize_static(folder / "float.onnx", target, _Pictures(pixels), **options)
    finally:
        logging.disable(logging.NOTSET)
    return target, pixels


@pytest.mark.parametrize("form", _FORMS)
def test_a_quantised_classifier(form: str, tmp_path: Path) -> None:
    source, pixels = _quantised(tmp_path, form)
    report = export_saliency(source, tmp_path / "s.onnx")
    assert report.straight_through > 0
    assert read_contract(report.path).straight_through == report.straight_through
    targets = np.arange(16) % 5
    feeds = {"image": pixels, "target": targets}
    scores, gradient = session(report.path).run(["logits", "gradient"], feeds)
    own = session(source).run(["logits"], {"image": pixels})[0]
    assert np.abs(scores - own).max() <= 0.02 * np.abs(own).max()
    plain = export_saliency(tmp_path / "float.onnx", tmp_path / "f.onnx")
    expected = session(plain.path).run(["gradient"], feeds)[0]
    assert plain.straight_through == 0
    cosine = (gradient * expected).sum() / np.linalg.norm(gradient) / np.linalg.norm(expected)
    assert cosine > 0.98


def test_the_best_score_is_not_cut_off(tmp_path: Path) -> None:
    """A range that ends at the best score of the calibration would leave it without a gradient."""
    source, pixels = _quantised(tmp_path, "qdq")
    model = onnx.load(source)
    last = [n for n in model.graph.node if n.op_type == "DequantizeLinear"][-1]
    scale = next(t for t in model.graph.initializer if t.name == last.input[1])
    small = onnx.numpy_helper.to_array(scale) / 3
    scale.CopyFrom(onnx.numpy_helper.from_array(small, scale.name))
    report = export_saliency(model, tmp_path / "s.onnx")
    assert report.bypassed[-1].startswith("QuantizeLinear")
    saliency = session(report.path).run(["saliency"], {"image": pixels})[0]
    assert (saliency.max(axis=(1, 2)) > 0).all()


def test_it_is_said(tmp_path: Path) -> None:
    source, _ = _quantised(tmp_path, "qdq")
    runner, path = CliRunner(), tmp_path / "s.onnx"
    result = runner.invoke(cli, ["export", str(source), "-o", str(path)])
    assert "straight through" in result.stderr, result.output
    shown = runner.invoke(cli, ["inspect", str(path)])
    assert "straight through" in shown.stdout
    facts = json.loads(runner.invoke(cli, ["inspect", str(path), "--json"]).stdout)
    assert facts["contract"]["straight_through"] > 0


def test_a_staircase_is_not_checked(tmp_path: Path) -> None:
    source, _ = _quantised(tmp_path, "qdq")
    engine = Engine(export_saliency(source, tmp_path / "s.onnx").path, "cpu")
    with pytest.raises(TaskError, match="staircase"):
        engine.check()


def _one_step(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = classifier(
        tail="q = QuantizeLinear (s, step, point)\n logits = DequantizeLinear (q, step, point)"
    )
    for name, value in (("step", np.float32(0.1)), ("point", np.int8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    change(model)
    return model


def test_integers_that_are_computed_with_are_refused(tmp_path: Path) -> None:
    def add_integers(model: onnx.ModelProto) -> None:
        at = next(i for i, n in enumerate(model.graph.node) if n.op_type == "DequantizeLinear")
        model.graph.node[at].input[0] = "p2"
        model.graph.node.insert(at, onnx.helper.make_node("Max", ["q", "point"], ["p2"], "clipped"))

    with pytest.raises(GradientError, match="Max"):
        export_saliency(_one_step(add_integers), tmp_path / "s.onnx", score_output="logits")
