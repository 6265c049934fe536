"""Factors folded into weights, and slices joined: fewer passes, the same gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from deepinside.exporters import export_saliency


class _Normalised(nn.Module):
    """Linear layers with what stands between them in transformers."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.first, self.second = nn.Linear(48, 16), nn.Linear(16, 16)
        self.inner, self.norm, self.head = nn.LayerNorm(16), nn.LayerNorm(16), nn.Linear(16, 5)
        for norm in (self.inner, self.norm):
            nn.init.normal_(norm.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.inner(self.first(image.flatten(2).transpose(1, 2).reshape(-1, 4, 48)))
        y = F.gelu(self.second(x))
        return self.head(self.norm(x + y if self.residual else y)).mean(1)


class _PreActivated(nn.Module):
    """Normalisation and Relu before a convolution, whose gradient the scale is folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm, self.conv = nn.BatchNorm2d(16), nn.Conv2d(16, 5, 3, padding=1)
        nn.init.normal_(self.norm.weight)
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.stem(image), 2)  # keeps the scale out of the stem's weights
        return self.conv(F.relu(self.norm(x))).mean((2, 3))


class _LayerScaled(nn.Module):
    """ConvNeXt's block: a layer scale on a transposed map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 2, stride=2), nn.LayerNorm(16)
        self.expand, self.project = nn.Linear(16, 24), nn.Linear(24, 16)
        self.scale, self.head = nn.Parameter(torch.randn(16, 1, 1)), nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        y = self.project(F.gelu(self.expand(self.norm(x.permute(0, 2, 3, 1)))))
        x = x + self.scale * y.permute(0, 3, 1, 2)
        return self.head(x.square().mean((2, 3)))


def _export(module: nn.Module, folder: Path, form: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """Gradient of the file, that of PyTorch in float64, and the file's graph."""
    torch.manual_seed(0)
    image = torch.randn(3, 3, 8, 8)
    path = folder / "saliency.onnx"
    export_saliency(module, path, example_input=image, target_input="fixed:2", optimize_for=form)
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = run.run(["gradient"], {run.get_inputs()[0].name: image.numpy()})
    leaf = image.double().requires_grad_()
    module.double()(leaf)[:, 2].sum().backward()
    assert leaf.grad is not None
    return found, leaf.grad.numpy(), onnx.load(path).graph


def _passes(graph: Any) -> list[str]:
    """Operators of the backward pass that have to run, since they see more than weights.

    A product by weights that are not one number is called `scale`.
    """
    sizes = {t.name: int(np.prod(t.dims)) for t in graph.initializer}
    constant = sizes.keys() - {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if all(name in constant for name in node.input):
            constant |= set(node.output)
        elif "/grad/" in node.name:
            weights = [name for name in node.input if name in constant]
            scales = node.op_type == "Mul" and any(sizes.get(name, 2) > 1 for name in weights)
            found.append("scale" if scales else node.op_type)
    return found


@pytest.mark.parametrize("form", ["any", "cpu"])
@pytest.mark.parametrize("residual", [False, True])
def test_normalisation_between_linear_layers(tmp_path: Path, residual: bool, form: str) -> None:
    torch.manual_seed(1)
    module = _Normalised(residual=residual).eval()
    found, expected, graph = _export(module, tmp_path, form)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    passes = _passes(graph)
    # Where there is a residual connection, the first norm's gradient has another part.
    assert passes.count("scale") == residual
    means = 2 if form == "cpu" else 6  # one of c * n each, and those of the statistics
    assert passes.count("ReduceMean") == means + residual


def test_scale_before_relu(tmp_path: Path) -> None:
    torch.manual_seed(1)
    found, expected, graph = _export(_PreActivated().eval(), tmp_path, "any")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert "scale" not in _passes(graph)


def test_layer_scale_goes_into_the_next_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    found, expected, graph = _export(_LayerScaled().eval(), tmp_path, "any")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert "scale" not in _passes(graph)


def test_half_of_gelu_goes_into_the_layer_behind(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gelu", ["image"], ["x"]),
            helper.make_node("MatMul", ["x", "weights"], ["y"]),
            helper.make_node("GlobalAveragePool", ["y"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["scores"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path, out = tmp_path / "net.onnx", tmp_path / "saliency.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    export_saliency(path, out, target_input="fixed:2")
    image = torch.randn(2, 3, 6, 5)
    run = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (gradient,) = run.run(["gradient"], {"image": image.numpy()})
    leaf = image.double().requires_grad_()
    (F.gelu(leaf) @ torch.from_numpy(weights).double())[:, 2].mean((1, 2)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-7)
    assert _passes(onnx.load(out).graph).count("Mul") == 6  # of seven


def _sliced(nodes: list[onnx.NodeProto], path: Path, constants: dict[str, list[int]]) -> Path:
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["scores"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor(name, TensorProto.INT64, [len(v)] if name != "scalar" else [], v)
            for name, v in constants.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def _slices(bounds: list[tuple[int, int]], axis: int) -> tuple[list[Any], dict[str, list[int]]]:
    """Slices of the squared image, each squared as often as its number, joined in reverse."""
    nodes = [helper.make_node("Mul", ["image", "image"], ["x"])]
    constants: dict[str, list[int]] = {"axis": [axis]}
    for i, (start, end) in enumerate(bounds):
        constants |= {f"start{i}": [start], f"end{i}": [end]}
        nodes.append(helper.make_node("Slice", ["x", f"start{i}", f"end{i}", "axis"], [f"s{i}"]))
    parts = [f"s{i}" for i in reversed(range(len(bounds)))]
    nodes.append(helper.make_node("Concat", parts, ["rolled"], axis=axis))
    nodes.append(helper.make_node("Mul", ["rolled", "rolled"], ["features"]))
    return nodes, constants


@pytest.mark.parametrize(
    ("bounds", "axis", "joined"),
    [
        ([(2, 2**63 - 1), (0, 2)], 2, True),
        ([(-6, -3), (3, 6)], 2, True),
        ([(0, 1), (1, 3), (3, 99)], -1, True),
        ([(0, 3), (2, 6)], 2, False),  # they overlap
        ([(0, 2), (3, 6)], 2, False),  # a gap
        ([(0, 2), (2, 5)], 2, False),  # the end is missing
    ],
    ids=str,
)
def test_slices(tmp_path: Path, bounds: list[tuple[int, int]], axis: int, joined: bool) -> None:
    nodes, constants = _slices(bounds, axis)
    path = _sliced(nodes, tmp_path / "net.onnx", constants)
    out = tmp_path / "saliency.onnx"
    export_saliency(path, out, target_input="fixed:2")
    image = np.random.default_rng(0).standard_normal((2, 3, 6, 5), dtype=np.float32)
    run = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    scores, gradient = run.run(["scores", "gradient"], {"image": image})
    reference = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(scores, reference.run(None, {"image": image})[0])
    times = np.zeros(image.shape[axis])
    for start, end in bounds:
        times[slice(start, end)] += 1
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    area = 6 * 5 * times.sum() / times.size
    expected = np.zeros(image.shape)
    expected[:, 2] = (4.0 * image.astype(float) ** 3 * times.reshape(shape) / area)[:, 2]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert ("Slice" not in kinds) == joined
    assert ("Pad" not in kinds) == joined


def test_gathers_of_single_positions(tmp_path: Path) -> None:
    """Queries, keys and values, as PyTorch's older exporter cuts them out."""
    nodes = [helper.make_node("Mul", ["image", "image"], ["x"])]
    nodes += [helper.make_node("Gather", ["x", f"i{i}"], [f"g{i}"], axis=1) for i in range(3)]
    nodes += [
        helper.make_node("Mul", ["g0", "g1"], ["a"]),
        helper.make_node("Add", ["a", "g2"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "one"], ["c"]),
        helper.make_node("Expand", ["c", "three"], ["features"]),
    ]
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["scores"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor(f"i{i}", TensorProto.INT64, [], [i - 3]) for i in range(3)]
        + [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("three", TensorProto.INT64, [4], [1, 3, 1, 1]),
        ],
    )
    path, out = tmp_path / "net.onnx", tmp_path / "saliency.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    export_saliency(path, out, target_input="fixed:1")
    image = np.random.default_rng(0).standard_normal((2, 3, 6, 5), dtype=np.float32)
    run = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (gradient,) = run.run(["gradient"], {"image": image})
    x = image.astype(float)
    square = x**2
    factor = np.stack([square[:, 1], square[:, 0], np.ones_like(square[:, 0])], axis=1)
    np.testing.assert_allclose(gradient, 2 * x * factor / 30, rtol=1e-5, atol=1e-7)
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert "Split" in kinds
    assert not {"Pad", "ScatterND"} & set(kinds)
