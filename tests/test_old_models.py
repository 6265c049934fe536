"""Old classifiers compute the same after they are lifted, and their gradient is autograd's."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from classifiers import classifier, session
from networks import build, smooth_pictures
from old_nodes import OLD_NODES, OldNode, old_model

from deepinside.exporters import ClassifierError, export_saliency
from deepinside.exporters.prepare import prepare


def _versions(case: OldNode) -> list[int]:
    """The opsets of the case at which the operator changed."""
    changes = {
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.name, schema.domain) == (case.operator, "")
    }
    return sorted({case.first} | {v for v in changes if case.first <= v <= case.last})


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    found = ir.to_proto(prepare(ir.from_proto(model)))
    onnx.checker.check_model(found, full_check=True)
    assert found.opset_import[0].version == 17
    return found


@pytest.mark.parametrize(
    ("case", "opset"), [(c, v) for c in OLD_NODES for v in _versions(c)], ids=str
)
def test_a_lifted_node_computes_the_same(case: OldNode, opset: int) -> None:
    model, pixels = old_model(case, opset), case.pixels()
    expected = session(model.SerializeToString()).run(None, {"x": pixels})[0]
    found = session(_lifted(model).SerializeToString()).run(None, {"x": pixels})[0]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


_B = np.random.default_rng(2).uniform(0.5, 1.5, (3, 4, 6))
_ALONG = {"broadcast": 1, "axis": 1}


def _normal(x: np.ndarray, s: Any, b: Any, m: Any, v: Any) -> np.ndarray:
    s, b, m, v = (each[:, None, None] for each in (s, b, m, v))
    return (x - m) / np.sqrt(v + 1e-5) * s + b


# Opsets that ONNX Runtime does not run: what they mean is written in NumPy.
_ANCIENT: list[tuple[OldNode, Callable[..., np.ndarray]]] = [
    (
        OldNode("Add", 1, 6, "channels", constants=(_B[:, 0, 0],), attributes=_ALONG),
        lambda x, b: x + b[:, None, None],
    ),
    (OldNode("Sub", 1, 6, "planes", constants=(_B,), attributes=_ALONG), lambda x, b: x - b),
    (
        OldNode("Mul", 1, 6, "rows", constants=(_B[0],), attributes={"broadcast": 1, "axis": 2}),
        lambda x, b: x * b,
    ),
    (
        OldNode("Div", 1, 6, "inner", constants=(_B[:, :, 0],), attributes=_ALONG),
        lambda x, b: x / b[:, :, None],
    ),
    (
        OldNode("Pow", 1, 6, "number", constants=(np.array([2.0]),), attributes={"broadcast": 1}),
        lambda x, b: x**2,
    ),
    (
        OldNode("Add", 1, 6, "last axes", constants=(_B[0],), attributes={"broadcast": 1}),
        lambda x, b: x + b,
    ),
    (
        OldNode(
            "Add", 1, 6, "last axis", constants=(_B[0, 0],), attributes={"broadcast": 1, "axis": -1}
        ),
        lambda x, b: x + b,
    ),
    (
        OldNode(
            "Add",
            1,
            6,
            "batch",
            constants=(np.array([1.0, 2.0]),),
            attributes={"broadcast": 1, "axis": 0},
        ),
        lambda x, b: x + b[:, None, None, None],
    ),
    (
        OldNode("Add", 1, 6, "square", (3, 3, 3, 3), (_B[:, 0, 0],), _ALONG),
        lambda x, b: x + b[:, None, None],
    ),
    (
        OldNode("PRelu", 1, 6, "channels", (2, 6, 4, 6), (np.arange(6.0),)),
        lambda x, s: np.where(x > 0, x, s[:, None, None] * x),
    ),
    (
        OldNode("PRelu", 1, 6, "one", constants=(np.array([0.2]),)),
        lambda x, s: np.where(x > 0, x, 0.2 * x),
    ),
    (
        OldNode("Gemm", 1, 6, "", (2, 3), (_B[:, :, 0], np.arange(4.0)), {"broadcast": 1}),
        lambda x, b, c: x @ b + c,
    ),
    (OldNode("Relu", 1, 5, attributes={"consumed_inputs": [0]}), lambda x: np.maximum(x, 0)),
    (
        OldNode(
            "BatchNormalization",
            1,
            5,
            constants=(_B[:, 0, :4].T[0], _B[:, 0, 1], _B[:, 0, 2], _B[:, 0, 3]),
            attributes={"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]},
            outputs=5,
        ),
        _normal,
    ),
    (OldNode("Dropout", 1, 6, attributes={"is_test": 1}, outputs=2), lambda x: x),
    (OldNode("Reshape", 1, 4, attributes={"shape": [0, -1]}), lambda x: x.reshape(2, -1)),
    (
        OldNode("Concat", 1, 3, constants=(_B[None].repeat(2, 0),)),
        lambda x, b: np.concatenate([x, b], 1),
    ),
    (OldNode("Cast", 1, 5, attributes={"to": "FLOAT"}), lambda x: x),
    (
        OldNode("Pad", 1, 1, attributes={"paddings": [0, 0, 1, 0, 0, 0, 0, 2], "value": 3.0}),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 2)], constant_values=3.0),
    ),
    (
        OldNode("Upsample", 1, 6, attributes={"height_scale": 2.0, "width_scale": 3.0}),
        lambda x: x.repeat(2, 2).repeat(3, 3),
    ),
    (OldNode("Selu", 1, 5), lambda x: 1.0507 * np.where(x > 0, x, 1.6732 * (np.exp(x) - 1))),
    (
        OldNode("GlobalLpPool", 1, 1, attributes={"p": 2.0}),
        lambda x: np.sqrt((x**2).sum((2, 3), keepdims=True)),
    ),
]


@pytest.mark.parametrize(("case", "function"), _ANCIENT, ids=[str(case) for case, _ in _ANCIENT])
def test_opsets_below_7(case: OldNode, function: Callable[..., np.ndarray]) -> None:
    pixels = case.pixels()
    expected = function(pixels, *case.constants)
    for opset in _versions(case):
        lifted = _lifted(old_model(case, opset)).SerializeToString()
        found = session(lifted).run(None, {"x": pixels})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (OldNode("Dropout", 6, 6), "node 'the_node' is in training mode"),
        (OldNode("BatchNormalization", 6, 6, constants=tuple(_B[:, 0, :4].T)), "training mode"),
        (
            OldNode("Tile", 1, 1, constants=(np.array(2.0), np.array(1.0))),
            "Tile at node 'the_node'",
        ),
        (
            OldNode("Resize", 10, 10, constants=(np.array([1, 1, 2, 0.5], np.float32),)),
            "enlarges one axis and reduces another",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_lifted_is_said(case: OldNode, words: str) -> None:
    with pytest.raises(ClassifierError, match=words):
        prepare(ir.from_proto(old_model(case, case.first)))


def test_statistics_that_are_used_are_refused() -> None:
    channels = tuple(np.ones((4, 3)))
    model = old_model(OldNode("BatchNormalization", 9, 9, constants=channels, outputs=5), 9)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y1", onnx.TensorProto.FLOAT, [3]))
    with pytest.raises(ClassifierError, match="gives out its running statistics"):
        prepare(ir.from_proto(model))


@pytest.mark.parametrize(("opset", "newest", "written"), [(9, 3, 8), (17, 13, 8), (21, 13, 10)])
def test_the_format_is_no_newer_than_the_opset_needs(
    opset: int, newest: int, written: int, tmp_path: Path
) -> None:
    model = classifier(opset=opset)
    model.ir_version = newest
    assert onnx.load(export_saliency(model, tmp_path / "s.onnx").path).ir_version == written


def test_the_default_domain_under_its_long_name(tmp_path: Path) -> None:
    model = classifier()
    model.opset_import[0].domain = "ai.onnx"
    export_saliency(model, tmp_path / "s.onnx")


def test_an_old_softmax_over_all_that_follows_is_bypassed(tmp_path: Path) -> None:
    """Before opset 13, Softmax flattened its input: the converter writes that out."""
    tail = "u = Unsqueeze <axes = [2,3]> (s)\n logits = Softmax (u)"
    old = classifier(tail=tail, outputs="float[N,5,1,1] logits", opset=9)
    report = export_saliency(old, tmp_path / "s.onnx")
    assert any("Softmax" in sentence for sentence in report.bypassed)
    plain = session(export_saliency(classifier(), tmp_path / "p.onnx").path)
    pixels = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype("f")
    for part in ("score", "target_index", "gradient"):
        np.testing.assert_allclose(
            session(report.path).run([part], {"image": pixels})[0],
            plain.run([part], {"image": pixels})[0],
            atol=1e-6,
        )


def _exported(module: Any, size: int, opset: int, **options: Any) -> onnx.ModelProto:
    """PyTorch's TorchScript exporter, as most files of those years were made."""
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, size, size),),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["scores"],
            **options,
        )
    return onnx.load_from_string(file.getvalue())


_UNFUSED = {"training": 1, "do_constant_folding": False}  # TrainingMode.PRESERVE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "opset", "options"),
    [
        ("resnet18", 64, 7, {**_UNFUSED, "keep_initializers_as_inputs": True}),
        ("squeezenet1_1", 64, 9, {}),
        ("mobilenet_v2", 64, 10, _UNFUSED),
        ("shufflenet_v2_x0_5", 64, 12, {"dynamic_axes": {"image": {0: "N"}, "scores": {0: "N"}}}),
        ("vit_tiny_patch16_224", 224, 14, {}),
    ],
)
def test_networks_as_they_were_exported(
    name: str, size: int, opset: int, options: dict[str, Any], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    module = build(name)
    options = dict(options)
    if "training" in options:
        options["training"] = torch.onnx.TrainingMode(options["training"])
    report = export_saliency(_exported(module, size, opset, **options), tmp_path / "s.onnx")
    nodes = [node.op_type for node in onnx.load(report.path).graph.node]
    if options.get("do_constant_folding") is False:
        assert "BatchNormalization" not in nodes  # folded although it was converted
    pixels = smooth_pictures(1, size)
    scores, gradient = session(report.path).run(
        ["scores", "gradient"], {"image": pixels, "target": np.array([3])}
    )
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    expected = module.double()(image)
    expected[0, 3].backward()
    scale = float(expected.detach().abs().max())
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=1e-4 * scale)
    wanted = image.grad.numpy()
    norms = np.linalg.norm(gradient) * np.linalg.norm(wanted)
    assert (gradient * wanted).sum() / norms > 0.999
