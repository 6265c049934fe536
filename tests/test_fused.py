"""ONNX Runtime's fused operators are written out in standard ones that compute the same."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from classifiers import classifier, numeric_gradient, session

from deepinside.exporters import ClassifierError, MissingRuleError, export_saliency
from deepinside.exporters.prepare import prepare

_RANDOM = np.random.default_rng(4)


def _draw(*shape: int) -> np.ndarray:
    return _RANDOM.uniform(-1, 1, shape).astype(np.float32)


def _model(
    operator: str,
    shape: tuple[int, ...],
    others: tuple[np.ndarray | None, ...],
    *,
    outputs: int = 1,
    used: int = 0,
    domain: str = "com.microsoft",
    opset: int = 17,
    dtype: str = "float32",
    **attributes: Any,
) -> onnx.ModelProto:
    """One node between two Identity nodes, so that types are inferred through it."""
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = [f"c{i}" if other is not None else "" for i, other in enumerate(others)]
    made = [f"y{i}" for i in range(outputs)]
    nodes = [
        helper.make_node("Identity", ["x"], ["a"], "first"),
        helper.make_node(operator, ["a", *names], made, "the_node", domain=domain, **attributes),
        helper.make_node("Identity", [f"y{used}"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "fused",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [
            onnx.numpy_helper.from_array(other.astype(dtype), name)
            for other, name in zip(others, names, strict=True)
            if other is not None
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _written_out(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    found = ir.to_proto(prepare(ir.from_proto(model)))
    assert {node.domain for node in found.graph.node} == {""}
    run = session(found.SerializeToString())
    return lambda x: run.run(None, {"x": x})[0]


_W, _B = _draw(4, 3, 3, 3), _draw(4)
_CONV: tuple[np.ndarray | None, ...] = (_W, _B)
_ATTENTION = (_draw(8, 24), _draw(24))
_RUN: list[tuple[str, onnx.ModelProto]] = [
    (
        f"FusedConv {name}",
        _model(
            "FusedConv", (2, 3, 6, 6), _CONV, activation=name, pads=[1] * 4, kernel_shape=[3, 3]
        ),
    )
    for name in ("Relu", "Tanh", "Sigmoid")
] + [
    (
        "FusedConv leaky",
        _model(
            "FusedConv", (2, 3, 6, 6), (_W, None), activation="LeakyRelu", activation_params=[0.3]
        ),
    ),
    (
        "FusedConv clip",
        _model("FusedConv", (2, 3, 6, 6), _CONV, activation="Clip", activation_params=[-0.2, 0.4]),
    ),
    (
        "FusedConv hard",
        _model(
            "FusedConv", (2, 3, 6, 6), _CONV, activation="HardSigmoid", activation_params=[0.3, 0.4]
        ),
    ),
    (
        "FusedConv sum",
        _model("FusedConv", (2, 3, 6, 6), (*_CONV, _draw(2, 4, 4, 4)), activation="Relu"),
    ),
    (
        "FusedConv strided",
        _model(
            "FusedConv",
            (2, 4, 6, 6),
            (_draw(4, 1, 3, 3), _B),
            activation="Relu",
            strides=[2, 2],
            group=4,
        ),
    ),
    (
        "FusedGemm leaky",
        _model(
            "FusedGemm",
            (2, 3),
            (_draw(4, 3), _B),
            transB=1,
            alpha=0.5,
            activation="LeakyRelu",
            activation_alpha=0.2,
        ),
    ),
    ("FusedGemm relu", _model("FusedGemm", (2, 3), (_draw(3, 4), _B), activation="Relu")),
    (
        "FusedGemm elu",
        _model("FusedGemm", (2, 3), (_draw(3, 4), _B), activation="Elu", activation_alpha=0.7),
    ),
    ("FusedMatMul", _model("FusedMatMul", (2, 5, 3), (_draw(2, 4, 3),), transB=1, alpha=0.3)),
    ("FusedMatMul A", _model("FusedMatMul", (2, 3, 5), (_draw(3, 4),), transA=1)),
    ("FusedMatMul batch", _model("FusedMatMul", (5, 2, 3), (_draw(2, 3, 4),), transBatchA=1)),
    (
        "FusedMatMul all",
        _model(
            "FusedMatMul",
            (3, 2, 5),
            (_draw(4, 2, 3),),
            transBatchA=1,
            transBatchB=1,
            transA=1,
            transB=1,
        ),
    ),
    ("TransposeMatMul", _model("TransposeMatMul", (2, 5, 3), (_draw(2, 4, 3),), transB=1)),
    ("Gelu", _model("Gelu", (2, 3), ())),
    ("Gelu at 20", _model("Gelu", (2, 3), (), opset=20)),
    ("BiasGelu", _model("BiasGelu", (2, 3), (_draw(3),))),
    ("FastGelu", _model("FastGelu", (2, 3), ())),
    ("FastGelu bias", _model("FastGelu", (2, 3), (_draw(3),))),
    ("QuickGelu", _model("QuickGelu", (2, 3), ())),
    ("QuickGelu 1", _model("QuickGelu", (2, 3), (), alpha=1.0)),
    (
        "SkipLayerNorm",
        _model(
            "SkipLayerNormalization",
            (2, 5, 8),
            (_draw(2, 5, 8), _draw(8), _draw(8), _draw(8)),
            epsilon=1e-3,
        ),
    ),
    (
        "SkipLayerNorm sum",
        _model("SkipLayerNormalization", (2, 5, 8), (_draw(2, 5, 8), _draw(8)), outputs=4, used=3),
    ),
    (
        "SkipRMSNorm",
        _model(
            "SkipSimplifiedLayerNormalization", (2, 5, 8), (_draw(2, 5, 8), _draw(8)), epsilon=1e-3
        ),
    ),
    (
        "RMSNorm",
        _model("SimplifiedLayerNormalization", (2, 5, 8), (_draw(8),), domain="", epsilon=1e-3),
    ),
    (
        "RMSNorm at 18",
        _model("SimplifiedLayerNormalization", (2, 5, 8), (_draw(8),), domain="", opset=18),
    ),
    (
        "RMSNorm half",
        _model("SimplifiedLayerNormalization", (2, 5, 8), (_draw(8),), domain="", dtype="float16"),
    ),
    (
        "LayerNorm at 14",
        _model("LayerNormalization", (2, 5, 8), (_draw(8), _draw(8)), domain="", opset=14, axis=-1),
    ),
    ("Attention", _model("Attention", (2, 5, 8), _ATTENTION, num_heads=2)),
    (
        "Attention at 18",
        _model("Attention", (2, 5, 8), _ATTENTION, num_heads=2, scale=0.3, opset=18),
    ),
    (
        "Attention bias",
        _model("Attention", (2, 5, 8), (*_ATTENTION, None, None, _draw(2, 2, 5, 5)), num_heads=2),
    ),
    (
        "MHA",
        _model(
            "MultiHeadAttention",
            (2, 5, 8),
            (_draw(2, 6, 8), _draw(2, 6, 8), _draw(24)),
            num_heads=4,
        ),
    ),
    (
        "MHA plain",
        _model(
            "MultiHeadAttention",
            (2, 5, 8),
            (_draw(2, 6, 8), _draw(2, 6, 8)),
            num_heads=4,
            scale=0.2,
        ),
    ),
    ("QuickGelu half", _model("QuickGelu", (2, 3), (), dtype="float16")),
]


@pytest.mark.parametrize("model", [m for _, m in _RUN], ids=[name for name, _ in _RUN])
def test_written_out_it_computes_the_same(model: onnx.ModelProto) -> None:
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    half = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    x = _draw(*sizes).astype(np.float16 if half else np.float32)
    expected = session(model.SerializeToString()).run(None, {"x": x})[0]
    found = _written_out(model)(x)
    tolerance = 2e-3 if half else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _group_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Two groups of channels, which are last."""
    n, h, w, c = x.shape
    groups = x.reshape(n, h * w, 2, c // 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    root = np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    return (centred / root).reshape(x.shape) * gamma + beta


_SKIP, _PAIR, _ROW = _draw(2, 5, 8), (_draw(4), _draw(4)), _draw(8)
# ONNX Runtime has no CPU kernel for these.
_DEFINED: list[tuple[str, onnx.ModelProto, Callable[[np.ndarray], np.ndarray]]] = [
    (
        "BiasAdd",
        _model("BiasAdd", (2, 5, 8), (_ROW, _SKIP)),
        lambda x: x + _ROW + _SKIP,
    ),
    (
        "BiasSoftmax",
        _model("BiasSoftmax", (2, 5, 8), (_SKIP[:1],), axis=2, is_inner_broadcast=0),
        lambda x: _softmax(x + _SKIP[:1]),
    ),
    (
        "GroupNorm",
        _model("GroupNorm", (2, 3, 5, 4), _PAIR, groups=2),
        lambda x: _group_norm(x, *_PAIR),
    ),
    (
        "GroupNorm SiLU",
        _model("GroupNorm", (2, 3, 5, 4), _PAIR, groups=2, activation=1),
        lambda x: (y := _group_norm(x, *_PAIR)) / (1 + np.exp(-y)),
    ),
    (
        "FusedMatMulActivation",
        _model(
            "FusedMatMulActivation", (2, 3), (_draw(3, 3) * 0 + 1,), activation="Relu", alpha=2.0
        ),
        lambda x: np.maximum(2 * x.sum(1, keepdims=True).repeat(3, 1), 0),
    ),
    (
        "NhwcConv",
        _model("NhwcConv", (2, 4, 4, 3), (np.ones((1, 1, 1, 3)),), kernel_shape=[1, 1]),
        lambda x: x.sum(3, keepdims=True),
    ),
]


@pytest.mark.parametrize(
    ("model", "function"), [entry[1:] for entry in _DEFINED], ids=[entry[0] for entry in _DEFINED]
)
def test_written_out_it_is_what_its_definition_says(
    model: onnx.ModelProto, function: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = _draw(*[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    np.testing.assert_allclose(_written_out(model)(x), function(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_model("Attention", (2, 5, 8), _ATTENTION, num_heads=2, unidirectional=1), "causal"),
        (_model("Attention", (2, 5, 8), (*_ATTENTION, _draw(2, 5)), num_heads=2), "its input 3"),
        (_model("BiasSoftmax", (2, 5, 8), (_SKIP,), axis=1), "over several axes"),
        (
            _model("FusedConv", (2, 3, 6, 6), _CONV, activation="Sine"),
            "'the_node'.*activation 'Sine'",
        ),
        (_model("SkipLayerNormalization", (2, 5, 8), (_SKIP, _ROW), outputs=2, used=1), "output 1"),
        (_model("Conv", (2, 3, 6, 6), _CONV, domain="com.microsoft.nchwc"), "level extended"),
        (_model("Conv", (2, 3, 6, 6), _CONV, domain="com.ms.internal.nhwc"), "level extended"),
    ],
)
def test_what_has_no_standard_form_is_refused(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(ClassifierError, match=words):
        prepare(ir.from_proto(model))


def _optimised(model: onnx.ModelProto, folder: Path, level: Any) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    content = model.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


@pytest.mark.parametrize("opset", [12, 17])
def test_a_file_that_onnx_runtime_optimised(opset: int, tmp_path: Path) -> None:
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    model = _optimised(classifier(opset=opset), tmp_path, level)
    assert "FusedConv" in {node.op_type for node in model.graph.node}
    report = export_saliency(model, tmp_path / "s.onnx")
    written = onnx.load(report.path)
    assert {node.domain for node in written.graph.node} == {""}
    assert {entry.domain for entry in written.opset_import} == {""}
    run = session(report.path)
    pixels, targets = _draw(2, 3, 8, 8), np.array([1, 3])
    gradient = run.run(["gradient"], {"image": pixels, "target": targets})[0]
    direction = gradient / np.linalg.norm(gradient)
    expected = numeric_gradient(run, "logits", pixels, targets, direction)
    assert math.isclose((gradient * direction).sum(), expected, rel_tol=2e-3)


def test_a_file_for_one_processor_is_refused(tmp_path: Path) -> None:
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = _optimised(classifier(), tmp_path, level)
    if "com.microsoft.nchwc" not in {node.domain for node in model.graph.node}:
        model = _model("Conv", (2, 3, 6, 6), _CONV, domain="com.microsoft.nchwc")
    with pytest.raises(ClassifierError, match="level extended"):
        export_saliency(model, tmp_path / "s.onnx")


def test_other_operators_of_onnx_runtime_are_refused_by_name(tmp_path: Path) -> None:
    model = classifier()
    node = next(n for n in model.graph.node if n.op_type == "Relu")
    node.op_type, node.domain = "QOrderedGelu", "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(MissingRuleError, match=r"com\.microsoft\.QOrderedGelu"):
        export_saliency(model, tmp_path / "s.onnx")
