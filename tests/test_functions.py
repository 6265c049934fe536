"""Operators that are replaced by ONNX's definition of them: which, where, and with what gradient.

The gradients of all definitions are compared in test_node_suite.py.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from classifiers import session
from gradcheck import evaluator, runtime, with_gradient

from deepinside.exporters import MissingRuleError, export_saliency, pytorch
from deepinside.exporters.functions import expand_functions, has_definition
from deepinside.exporters.prepare import prepare
from deepinside.exporters.shapes import probe_shapes


def _model(text: str, opset: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')


def _operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


_ATTENTION = """g (float[N, 5, 8] x, float[8, 8] w) => (float[N, 5, 8] y) {
    k = MatMul(x, w)
    t = Attention <q_num_heads = 2, kv_num_heads = 2> (x, k, x)
    u = LayerNormalization <axis = -1> (t, s)
    y = Gelu (u)
}""".replace("float[8, 8] w)", "float[8, 8] w, float[8] s)")


def test_only_what_has_no_rule_is_replaced() -> None:
    before = ir.from_proto(_model(_ATTENTION, 23))
    after = expand_functions(before)
    assert {"LayerNormalization", "Gelu", "Softmax"} <= _operators(after)
    assert "Attention" not in _operators(after)
    assert not after.functions
    assert set(after.graph.opset_imports) == {""}
    assert has_definition("Attention", 23)
    assert not has_definition("LayerNormalization", 17)
    assert not has_definition("Bernoulli", 15)
    assert not has_definition("Floor", 13)


def test_results_stay_the_same_and_keep_their_names() -> None:
    model = _model(_ATTENTION, 23)
    random = np.random.default_rng(3)
    feeds = {
        "x": random.normal(size=(3, 5, 8)).astype(np.float32),
        "w": random.normal(size=(8, 8)).astype(np.float32),
        "s": random.normal(size=8).astype(np.float32),
    }
    (expected,) = evaluator(model)(feeds)
    prepared = ir.to_proto(prepare(ir.from_proto(model)))
    assert [output.name for output in prepared.graph.output] == ["y"]
    np.testing.assert_allclose(runtime(prepared)(feeds)[0], expected, rtol=1e-5, atol=1e-6)


def test_new_nodes_are_named_after_the_operator() -> None:
    prepared = prepare(ir.from_proto(_model(_ATTENTION, 23)))
    (softmax,) = (node for node in prepared.graph if node.op_type == "Softmax")
    assert str(softmax.name).startswith("Attention/Softmax")


def test_a_definition_in_a_definition_is_replaced_too() -> None:
    text = """g (float[N, 4] x, int64[N] label) => (float[N] y) {
        y = SoftmaxCrossEntropyLoss <reduction = "none"> (x, label)
    }"""
    after = expand_functions(ir.from_proto(_model(text, 17)))
    assert not {"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"} & _operators(after)
    assert "LogSoftmax" in _operators(after)


def test_the_body_fits_the_models_opset() -> None:
    """MeanVarianceNormalization 13 has a body of before and one of after the reductions changed."""
    text = "g (float[N, 2, 3, 4] x) => (float[N, 2, 3, 4] y) { y = MeanVarianceNormalization (x) }"
    x = np.random.default_rng(1).normal(size=(2, 2, 3, 4)).astype(np.float32)
    seed = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    gradients = []
    for opset in (17, 18, 22):
        proto = with_gradient(prepare(ir.from_proto(_model(text, opset))), "x")
        y, dx = runtime(proto)({"x": x, "seed": seed})
        flat = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
        expected = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
        np.testing.assert_allclose(y.transpose(1, 0, 2, 3).reshape(2, -1), expected, atol=1e-5)
        gradients.append(dx)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients[0], gradients[2], rtol=1e-5, atol=1e-6)


def test_the_deprecated_group_normalization_has_a_gradient() -> None:
    """Version 18 has one scale per group: ONNX's checker refuses it, its definition is accepted."""
    text = """g (float[N, 6, 3, 4] x, float[2] s, float[2] b) => (float[N, 6, 3, 4] y) {
        y = GroupNormalization <num_groups = 2> (x, s, b)
    }"""
    torch = pytest.importorskip("torch")
    proto = with_gradient(prepare(ir.from_proto(_model(text, 18))), "x")
    random = np.random.default_rng(5)
    x, seed = random.normal(size=(2, 2, 6, 3, 4)).astype(np.float32)
    s, b = random.normal(size=(2, 2)).astype(np.float32)
    y, dx = runtime(proto)({"x": x, "s": s, "b": b, "seed": seed})
    image = torch.tensor(x, requires_grad=True)
    weights = (torch.tensor(s).repeat_interleave(3), torch.tensor(b).repeat_interleave(3))
    expected = torch.nn.functional.group_norm(image, 2, *weights)
    expected.backward(torch.tensor(seed))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, image.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_shapes_are_known_behind_group_normalization() -> None:
    text = """g (float[N, 6, 8, 8] x, float[6] s, float[6] b, float[4, 6, 3, 3] w)
            => (float[N, 4, 6, 6] y) {
        t = GroupNormalization <num_groups = 2> (x, s, b)
        u = GroupNormalization <num_groups = 3> (t, s, b)
        y = Conv (u, w)
    }"""
    model = prepare(ir.from_proto(_model(text, 21)))
    shapes = probe_shapes(model)
    known = [shapes.known(output) for node in model.graph for output in node.outputs]
    assert [None if shape is None else shape[1][0] for shape in known] == [6, 6, 4]


def test_a_random_operator_is_refused() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { t = Bernoulli (x) y = Mul (t, x) }"
    model = prepare(ir.from_proto(_model(text, 17)))
    with pytest.raises(MissingRuleError, match="Bernoulli"):
        with_gradient(model, "x")


@pytest.mark.slow
def test_attention_of_a_transformer_has_the_gradient_of_autograd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch writes Attention nodes from opset 23 on."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=4).eval()
    monkeypatch.setattr(pytorch, "OPSET", 23)
    model = pytorch.to_onnx(module, None, (1, 3, 64, 64))
    assert [node.op_type for node in model.graph].count("Attention") == 4
    report = export_saliency(ir.to_proto(model), tmp_path / "vit.onnx")
    pictures, targets = torch.randn(3, 3, 64, 64), np.array([1, 7, 3])
    feeds = {"image": pictures.numpy(), "target": targets}
    scores, gradient = session(report.path).run(["scores", "gradient"], feeds)
    module, image = module.double(), pictures.double().requires_grad_()
    expected = module(image)
    expected[range(3), targets].sum().backward()
    np.testing.assert_allclose(scores, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    size = float(image.grad.abs().max())
    np.testing.assert_allclose(gradient, image.grad.numpy(), rtol=0.0, atol=1e-4 * size)
