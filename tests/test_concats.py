"""Concat's gradient by pieces: the same gradient, and no map is cut up that need not be."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from deepinside.exporters import concats, export_saliency

_Function = Callable[..., torch.Tensor]


class _Net(nn.Module):
    """A stem of 16 channels, some layers, whatever joins them, and a mean of 5 channels."""

    def __init__(self, join: _Function, layers: dict[str, nn.Module], channels: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(channels, 5, 1)
        self.layers, self.join = nn.ModuleDict(layers), join
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.join(F.relu(self.stem(image)), **self.layers)
        return self.head(x).square().mean((2, 3))


def _conv(before: int, after: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)


def _check(module: nn.Module, folder: Path, form: str = "cpu") -> tuple[onnx.GraphProto, int]:
    """Compare the file's gradient with that of PyTorch in float64.

    Returns:
        The file's graph, and how many Splits of its backward pass cut up what depends on the image.
    """
    torch.manual_seed(0)
    image = torch.randn(2, 3, 9, 8)
    path = folder / f"{form}.onnx"
    export_saliency(module, path, example_input=image, target_input="fixed:2", optimize_for=form)
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = run.run(["gradient"], {run.get_inputs()[0].name: image.numpy()})
    leaf = image.double().requires_grad_()
    module.double()(leaf)[:, 2].sum().backward()
    module.float()
    assert leaf.grad is not None
    expected = leaf.grad.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    graph = onnx.load(path).graph
    constant = {tensor.name for tensor in graph.initializer} | {""}
    cuts = 0
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
        else:
            cuts += node.op_type == "Split" and "/grad/" in node.name
    return graph, cuts


def _inception(x: torch.Tensor, *, pad: bool = True, **layers: nn.Module) -> torch.Tensor:
    """Two blocks: unequal branches, of which one pools."""
    for block in "12":
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=pad)
        wide = layers["b" + block](F.relu(layers["a" + block](x)))
        branches = (layers["c" + block](x), wide, layers["d" + block](pooled))
        x = torch.cat([F.relu(branch) for branch in branches], 1)
    return x


def _inception_layers() -> dict[str, nn.Module]:
    first = {"a1": _conv(16, 32), "b1": _conv(32, 48, 3), "c1": _conv(16, 16), "d1": _conv(16, 32)}
    second = {"a2": _conv(96, 16), "b2": _conv(16, 32, 3), "c2": _conv(96, 16), "d2": _conv(96, 64)}
    return first | second


@pytest.mark.parametrize("pad", [True, False])
def test_branches(tmp_path: Path, pad: bool) -> None:
    torch.manual_seed(1)
    net = _Net(lambda x, **m: _inception(x, pad=pad, **m), _inception_layers(), 112).eval()
    graph, cuts = _check(net, tmp_path)
    assert cuts == 0
    assert _check(net, tmp_path, "any")[1] == 2
    pools = [node for node in graph.node if node.op_type == "AveragePool" and "/grad/" in node.name]
    made_by = {node.output[0]: node.op_type for node in graph.node}
    before = sorted(made_by[node.input[0]] for node in pools)
    # Behind the ReLU, before the convolution, where that is narrower; or behind windows' sizes.
    assert before == (["Conv", "Mul"] if pad else ["Mul", "Mul"])


def _dense(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
    """DenseNet's block and its transition."""
    features = [x]
    for i in range(1, len(layers) // 2):
        joined = F.relu(layers[f"norm{i}"](torch.cat(features, 1)))
        features.append(layers[f"conv{i}"](joined))
    joined = F.relu(layers["norm"](torch.cat(features, 1)))
    return F.avg_pool2d(layers["conv"](joined), (3, 2))


def _dense_by_two(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
    """The same, as Keras writes it: each Concat holds the one before."""
    for i in range(1, len(layers) // 2):
        new = layers[f"conv{i}"](F.relu(layers[f"norm{i}"](x)))
        x = torch.cat([x, new], 1)
    return F.avg_pool2d(layers["conv"](F.relu(layers["norm"](x))), (3, 2))


def _dense_layers(count: int) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for i in range(1, count + 1):
        width = 16 + 32 * (i - 1)
        layers |= {f"norm{i}": nn.BatchNorm2d(width), f"conv{i}": _conv(width, 32, 3)}
    return layers | {"norm": nn.BatchNorm2d(16 + 32 * count), "conv": _conv(16 + 32 * count, 16)}


@pytest.mark.parametrize(("nest", "cuts"), [(12, 0), (3, 1), (2, 2)])
def test_all_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nest: int, cuts: int) -> None:
    monkeypatch.setattr(concats, "_NEST", nest)
    torch.manual_seed(1)
    net = _Net(_dense, _dense_layers(5), 16).eval()
    graph, found = _check(net, tmp_path)
    assert found == cuts
    sizes = [len(node.input) for node in graph.node if node.op_type == "Concat"]
    assert max(sizes) == {12: 6, 3: 4, 2: 3}[nest]
    # Convolved before it is repeated.
    made_by = {node.output[0]: node.op_type for node in graph.node}
    repeated = {made_by[node.input[0]] for node in graph.node if node.op_type == "Resize"}
    assert repeated == {"Conv"}


def test_each_concat_holds_the_one_before(tmp_path: Path) -> None:
    torch.manual_seed(1)
    graph, cuts = _check(_Net(_dense, _dense_layers(5), 16).eval(), tmp_path, "any")
    assert [len(node.input) for node in graph.node if node.op_type == "Concat"] == [2] * 5
    assert cuts == 5


def _two(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
    return torch.cat([layers["a"](x), layers["b"](x)], 1)


def _joined(after: _Function) -> _Function:
    def join(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
        return after(_two(x, **layers), **layers)

    return join


def _doubled(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
    a, b = layers["a"](x), layers["b"](x)
    return layers["c"](torch.cat([a, b, a], 1)) + layers["d"](a)


def _added(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
    return layers["c"](_two(x, **layers) + layers["d"](x))


def _of_rows(axis: int) -> _Function:
    def join(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
        return layers["c"](torch.cat([layers["a"](x), layers["b"](x)], axis))

    return join


@pytest.mark.parametrize(
    ("join", "widths", "cuts"),
    [
        (_joined(lambda x, **m: m["c"](x)), (16, 32, 48, 16), 0),
        (_joined(lambda x, **m: m["c"](x)), (16, 24, 40, 16), 1),  # no whole blocks
        (_joined(lambda x, **m: m["c"](torch.sigmoid(x))), (16, 32, 48, 16), 1),
        (_joined(lambda x, **m: m["c"](x) + m["d"](F.relu(x))), (16, 32, 48, 16), 1),
        (_joined(lambda x, **m: m["c"](x) + m["d"](F.max_pool2d(x, 3, 1, 1))), (16, 32, 48, 16), 1),
        (_joined(lambda x, **m: m["c"](x) * m["d"](x)), (16, 32, 48, 16), 0),
        (_joined(lambda x, **m: m["c"](F.relu(x))), (16, 32, 48, 16), 0),
        (_doubled, (16, 32, 64, 16), 0),
        (_added, (16, 32, 48, 48), 1),  # another layer needs the whole
        (_of_rows(2), (16, 16, 16, 16), 1),
        (_of_rows(-3), (16, 32, 48, 16), 0),
    ],
    ids=[
        "convolution",
        "odd channels",
        "sigmoid",
        "convolution and ReLU",
        "convolution and pool",
        "two convolutions",
        "ReLU",
        "joined twice",
        "added to another",
        "rows",
        "negative axis",
    ],
)
def test_what_is_cut(
    tmp_path: Path, join: _Function, widths: tuple[int, int, int, int], cuts: int
) -> None:
    torch.manual_seed(1)
    a, b, joined, other = widths
    layers = {"a": _conv(16, a, 3), "b": _conv(16, b), "c": _conv(joined, 16, 3)}
    layers["d"] = _conv({_doubled: a, _added: 16}.get(join, joined), other)
    net = _Net(join, layers, 16).eval()
    assert _check(net, tmp_path)[1] == cuts
    assert _check(net, tmp_path, "any")[1] == 1


def test_a_strided_convolution_and_another(tmp_path: Path) -> None:
    """What a ConvTranspose gives is cut up as a map, and the other's weights are cut."""

    def join(x: torch.Tensor, **layers: nn.Module) -> torch.Tensor:
        joined = _two(x, **layers)
        return layers["c"](joined) + F.interpolate(layers["d"](joined), size=(9, 8))

    torch.manual_seed(1)
    layers = {"a": _conv(16, 16, 3), "b": _conv(16, 32), "c": _conv(48, 16, 3)}
    layers["d"] = _conv(48, 16, 3, 2)
    graph, cuts = _check(_Net(join, layers, 16).eval(), tmp_path)
    assert cuts == 1
    assert "ConvTranspose" in {node.op_type for node in graph.node}


def _plain(path: Path) -> onnxruntime.InferenceSession:
    """A session that computes what the file says, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _write(net: nn.Module, image: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        torch.onnx.export(net, (image,), path, dynamo=True, verbose=False, external_data=False)


@pytest.mark.parametrize("form", ["any", "cpu"])
def test_scores_stay_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(concats, "_NEST", 3)
    torch.manual_seed(1)
    net = _Net(_dense, _dense_layers(5), 16).eval()
    image = torch.randn(2, 3, 9, 8)
    classifier, path = tmp_path / "net.onnx", tmp_path / "saliency.onnx"
    _write(net, image, classifier)
    export_saliency(classifier, path, optimize_for=form)
    before, after = _plain(classifier), _plain(path)
    feed = {before.get_inputs()[0].name: image.numpy()}
    (expected,) = before.run(None, feed)
    (found,) = after.run([before.get_outputs()[0].name], feed)
    np.testing.assert_array_equal(found, expected)


def test_only_whole_beginnings_are_taken(tmp_path: Path) -> None:
    """Along another axis, in another order or a part of an earlier Concat is none."""
    joins = {"a": ("xy", 1), "b": ("yxz", 1), "c": ("xyz", 2), "d": ("xxy", -3), "e": ("xyzx", -3)}
    kinds = {"x": "Neg", "y": "Exp", "z": "Sin"}
    nodes = [helper.make_node(kind, ["image"], [name]) for name, kind in kinds.items()]
    for name, (inputs, axis) in joins.items():
        nodes += [
            helper.make_node("Concat", [*inputs], [name], name=name, axis=axis),
            helper.make_node("GlobalAveragePool", [name], [f"{name} mean"]),
            helper.make_node("Flatten", [f"{name} mean"], [f"{name} flat"]),
        ]
    flat = [f"{name} flat" for name in joins]
    nodes.append(helper.make_node("Concat", flat, ["scores"], name="scores", axis=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 39])],
    )
    path, out = tmp_path / "net.onnx", tmp_path / "saliency.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    image = np.random.default_rng(0).standard_normal((2, 3, 6, 5), dtype=np.float32)
    # Channel 1 of y and channel 2 of z, as the last Concat has them.
    for index, channel, slope in ((31, 1, np.exp(image)), (35, 2, np.cos(image))):
        export_saliency(path, out, target_input=f"fixed:{index}")
        run = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        (found,) = run.run(["gradient"], {"image": image})
        expected = np.zeros_like(image)
        expected[:, channel] = slope[:, channel] / 30
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    sizes = {node.name: len(node.input) for node in onnx.load(out).graph.node if node.name in joins}
    assert sizes == {"a": 2, "b": 3, "c": 3, "d": 3, "e": 3}


def test_a_scale_for_each_channel_stays_behind_the_convolution(tmp_path: Path) -> None:
    """In one dimension: its axes are fewer than a map's."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.conv = nn.Parameter(torch.randn(1, 12, 1)), nn.Conv1d(12, 5, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            lines = torch.cat([image, image.square()] * 2, 1).flatten(2)
            return self.conv(lines * self.scale).square().mean(2)

    torch.manual_seed(1)
    for form in ("any", "cpu"):
        _check(Scaled().eval(), tmp_path, form)


def test_a_layer_within(tmp_path: Path) -> None:
    """A normalisation behind a Concat is a layer that can be asked for, in forms for CPUs too."""
    torch.manual_seed(1)
    net = _Net(_dense, _dense_layers(2), 16).eval()
    image = torch.randn(2, 3, 9, 8)
    classifier = tmp_path / "net.onnx"
    _write(net, image, classifier)
    operators = {node.op_type: node for node in onnx.load(classifier).graph.node}
    found = {}
    for form in ("any", "cpu"):
        for operator in ("BatchNormalization", "Concat"):
            path = tmp_path / f"{form}.onnx"
            name = operators[operator].output[0]
            export_saliency(
                classifier, path, target_input="fixed:20", layer=name, optimize_for=form
            )
            run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (gradient,) = run.run(["gradient"], {run.get_inputs()[0].name: image.numpy()})
            found[operator, form] = gradient
    for operator in ("BatchNormalization", "Concat"):
        expected = found[operator, "any"]
        difference = np.abs(found[operator, "cpu"] - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max()
