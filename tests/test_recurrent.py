"""Recurrent layers: their Scan computes what they compute, and its gradient is autograd's."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from gradcheck import evaluator
from onnx import TensorProto, helper, numpy_helper

from deepinside.exporters import GradientError, export_saliency

_STEPS, _PICTURES, _INPUTS, _HIDDEN, _CLASSES = 5, 3, 4, 3, 6
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _classifier(
    kind: str,
    opset: int = 17,
    *,
    lengths: list[int] | None = None,
    peepholes: bool = False,
    bias: bool = True,
    initial: bool = False,
    output: int = 0,
    **attributes: Any,
) -> onnx.ModelProto:
    """A picture (N, 1, steps, inputs), row by row through one layer, then a linear head."""
    random = np.random.default_rng(3)
    both = attributes.get("direction") == "bidirectional"
    count, gates, states = 1 + both, _GATES[kind], 2 if kind == "LSTM" else 1
    batch_first = attributes.get("layout", 0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    state = (_PICTURES, count, _HIDDEN) if batch_first else (count, _PICTURES, _HIDDEN)
    tensors = {
        "W": normal(count, gates * _HIDDEN, _INPUTS),
        "R": normal(count, gates * _HIDDEN, _HIDDEN),
        "B": normal(count, 2 * gates * _HIDDEN) if bias else None,
        "L": None if lengths is None else np.array(lengths, dtype=np.int32),
        "H": normal(*state) if initial else None,
        "C": normal(*state) if initial and states == 2 else None,
        "P": normal(count, 3 * _HIDDEN) if peepholes else None,
    }
    given = [name if tensor is not None else "" for name, tensor in tensors.items()]
    while not given[-1]:
        del given[-1]
    size = count * _HIDDEN * (_STEPS if output == 0 else 1)
    head = {"V": normal(size, _CLASSES), "one": np.array([1])}
    head["rows"] = np.array([_PICTURES, -1])
    order = (1, 0, 2) if not batch_first else (0, 1, 2)
    # Y [T, D, N, H] or Y_h [D, N, H] with the pictures in front.
    front = (2, 0, 1, 3) if output == 0 else (1, 0, 2)
    if batch_first:
        front = (0, 1, 2, 3) if output == 0 else (0, 1, 2)
    names = ["Y", "Y_h", "Y_c"][: states + 1]
    nodes = [
        helper.make_node("Squeeze", ["image", "one"], ["steps"]),
        helper.make_node("Transpose", ["steps"], ["X"], perm=order),
        helper.make_node(
            kind,
            ["X", *given],
            names,
            name="layer",
            hidden_size=_HIDDEN,
            **attributes,
        ),
        helper.make_node("Transpose", [names[output]], ["front"], perm=front),
        helper.make_node("Reshape", ["front", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "V"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, [_PICTURES, 1, _STEPS, _INPUTS])],
        [value("logits", TensorProto.FLOAT, [_PICTURES, _CLASSES])],
        [numpy_helper.from_array(t, n) for n, t in (tensors | head).items() if t is not None],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("LSTM", {}),
        ("LSTM", {"direction": "reverse"}),
        ("LSTM", {"direction": "bidirectional", "initial": True}),
        ("LSTM", {"peepholes": True}),
        ("LSTM", {"bias": False, "opset": 22}),
        ("LSTM", {"layout": 1, "direction": "bidirectional", "initial": True}),
        ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Tanh"]}),
        ("LSTM", {"lengths": [5, 2, 4]}),
        ("LSTM", {"lengths": [5, 2, 4], "direction": "bidirectional"}),
        ("GRU", {}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 1, "bias": False, "direction": "reverse"}),
        ("GRU", {"direction": "bidirectional", "initial": True, "opset": 22}),
        ("GRU", {"layout": 1}),
        ("GRU", {"lengths": [1, 5, 3], "direction": "reverse"}),
        ("RNN", {}),
        ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
        ("RNN", {"lengths": [4, 2, 5], "bias": False, "opset": 22}),
    ],
    ids=str,
)
def test_outputs_and_gradient_are_those_of_the_layer(
    kind: str, form: dict[str, Any], output: int, tmp_path: Path
) -> None:
    model = _classifier(kind, output=output, **form)
    # ONNX Runtime has no layout 1, ONNX's evaluator no lengths and no other activations.
    if form.get("layout"):
        forward = evaluator(model)
    else:
        options = onnxruntime.SessionOptions()
        plain = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        forward = lambda feeds: plain.run(None, feeds)  # noqa: E731
    report = export_saliency(model, tmp_path / "s.onnx")
    run = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(5)
    image = random.normal(size=(_PICTURES, 1, _STEPS, _INPUTS)).astype(np.float32)
    targets = np.array([0, 5, 2])
    logits, gradient = run.run(["logits", "gradient"], {"image": image, "target": targets})
    np.testing.assert_allclose(logits, forward({"image": image})[0], rtol=1e-4, atol=1e-5)

    direction = gradient / np.linalg.norm(gradient)

    def difference(step: float) -> float:
        ahead, behind = (
            forward({"image": (image + sign * step * direction).astype(np.float32)})[0]
            for sign in (1, -1)
        )
        return (ahead - behind)[range(_PICTURES), targets].sum(dtype=np.float64) / (2 * step)

    near, far = difference(0.05), difference(0.1)
    expected = (4 * near - far) / 3  # Richardson: the error falls with the fourth power
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=3e-3)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"clip": 1.0}, "clips"),
        ({"input_forget": 1}, "input and forget"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "Affine"),
    ],
)
def test_forms_that_are_not_covered_are_refused(
    form: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(GradientError, match=words) as caught:
        export_saliency(_classifier("LSTM", **form), tmp_path / "s.onnx")
    assert caught.value.node == "layer"


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gradient_is_that_of_autograd(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = getattr(torch.nn, kind)
            self.layer = layer(12, 7, num_layers=2, bidirectional=True, batch_first=True)
            self.head = torch.nn.Linear(14, 5)

        def forward(self, image: Any) -> Any:
            steps = image.permute(0, 2, 1, 3).flatten(2)
            return self.head(self.layer(steps)[0].mean(dim=1))

    torch.manual_seed(0)
    module = Rows().eval()
    report = export_saliency(module, tmp_path / "s.onnx", input_shape=(1, 3, 6, 4))
    pixels = torch.randn(3, 3, 6, 4)
    run = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    targets = np.array([0, 4, 2])
    (gradient,) = run.run(["gradient"], {"image": pixels.numpy(), "target": targets})
    image = pixels.double().requires_grad_()
    module.double()(image)[[0, 1, 2], targets].sum().backward()
    np.testing.assert_allclose(gradient, image.grad.numpy(), rtol=1e-4, atol=1e-6)
