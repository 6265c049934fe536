"""MaxPool in files for CPUs: PyTorch's gradient at ties and borders, in the blocked layout."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from classifiers import session
from torch.nn import functional as F  # noqa: N812  (its usual name)

from deepinside.exporters import export_saliency

# The image's channels, each some times and of both signs, through layers to the sum of squares.
_NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[N,3,{height},{width}] image) => (float[N,16] scores) <float[16,3,1,1] w> {{
  x = Conv <kernel_shape = [1,1]> (image, w)
  {layers}
  q = Mul (y, y)
  s = ReduceSum <keepdims = 0> (q, axes)
  scores = Identity (s)
}}
"""
_LAYERS = {
    "pool": "[pool] y = MaxPool <{pool}> (x)",
    "relu, pool": "[relu] r = Relu (x)\n[pool] y = MaxPool <{pool}> (r)",
    "pool, relu": "[pool] p = MaxPool <{pool}> (x)\n[relu] y = Relu (p)",
    "relu, pool, and the relu": "[relu] r = Relu (x)\n[pool] p = MaxPool <{pool}> (r)\n"
    "m = GlobalAveragePool (r)\n y = Mul (p, m)",
}
_POOLS: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 3, "padding": 1},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 5, "stride": 2, "padding": 2, "ceil_mode": True},
    {"kernel_size": 4, "stride": 3},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (1, 3), "stride": (1, 2)},
    {"kernel_size": 3, "stride": 2, "dilation": 2},
]


def _weights() -> np.ndarray:
    copies = np.tile(np.eye(3, dtype=np.float32), (6, 1))[:16]
    copies[9:] *= -1.0
    return copies[:, :, None, None]


def _classifier(
    path: Path, order: str, pool: dict[str, Any], size: tuple[int, int] = (9, 8), opset: int = 17
) -> Path:
    lists = {key: [v, v] if isinstance(v, int) else list(v) for key, v in pool.items()}
    attributes = {
        "kernel_shape": lists["kernel_size"],
        "strides": lists["stride"],
        "dilations": lists.get("dilation", [1, 1]),
        "pads": lists.get("padding", [0, 0]) * 2,
        "ceil_mode": int(pool.get("ceil_mode", False)),
    }
    written = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    layers = _LAYERS[order].format(pool=written)
    text = _NET.format(layers=layers, height=size[0], width=size[1], opset=opset)
    model = onnx.parser.parse_model(text)
    del model.graph.value_info[:]
    for name, value in {"w": _weights(), "axes": np.array([2, 3])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return path


def _image(size: tuple[int, int] = (9, 8)) -> np.ndarray:
    """Few numbers, so that there are many ties."""
    return np.random.default_rng(0).integers(-2, 3, (2, 3, *size)).astype(np.float32)


def _expected(image: np.ndarray, order: str, pool: dict[str, Any]) -> np.ndarray:
    leaf = torch.tensor(image, requires_grad=True)
    x = F.conv2d(leaf, torch.tensor(_weights()))
    r = F.relu(x) if order.startswith("relu") else x
    y = F.max_pool2d(r, **pool)
    y = F.relu(y) if order.endswith("pool, relu") else y
    y = y * r.mean((2, 3), keepdim=True) if order.endswith("the relu") else y
    y.square().sum((2, 3))[:, 2].sum().backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


def _gradient(
    classifier: Path, image: np.ndarray, form: str = "cpu", **options: Any
) -> tuple[np.ndarray, list[onnx.NodeProto]]:
    path = classifier.with_name(f"{form}.onnx")
    export_saliency(classifier, path, target_input="fixed:2", optimize_for=form, **options)
    (gradient,) = session(path).run(["gradient"], {"image": image})
    return gradient, list(onnx.load(path).graph.node)


def _in_blocks(nodes: list[onnx.NodeProto]) -> bool:
    """The plain form subtracts what a window has given away; the blocked one has no Sub."""
    return not any(node.op_type == "Sub" for node in nodes)


@pytest.mark.parametrize("size", [(9, 8), (8, 11)], ids=str)
@pytest.mark.parametrize("order", _LAYERS)
@pytest.mark.parametrize("pool", _POOLS, ids=str)
def test_ties_and_borders(
    tmp_path: Path, pool: dict[str, Any], order: str, size: tuple[int, int]
) -> None:
    image = _image(size)
    path = _classifier(tmp_path / "net.onnx", order, pool, size)
    found, nodes = _gradient(path, image)
    expected = _expected(image, order, pool)
    assert expected.any()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    if pool["kernel_size"] == 1:
        return  # nothing to compare
    if pool.get("dilation") or 1 in np.ravel(pool["kernel_size"]):
        assert not _in_blocks(nodes)
    elif "padding" not in pool:
        assert _in_blocks(nodes)
    elif order in ("pool", "relu, pool, and the relu"):
        assert not _in_blocks(nodes)  # a zero of the padding may be the maximum
    elif order == "pool, relu" or pool["stride"] != 1:
        assert _in_blocks(nodes)


@pytest.mark.parametrize("opset", [17, 22])
def test_the_batch_keeps_its_name(tmp_path: Path, opset: int) -> None:
    """Or ONNX Runtime takes the gradient's batches for others, and leaves its blocked layout."""
    path = _classifier(tmp_path / "net.onnx", "relu, pool", _POOLS[1], opset=opset)
    _, nodes = _gradient(path, _image())
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "cpu.onnx"), data_prop=True)
    dims = {v.name: v.type.tensor_type.shape.dim for v in inferred.graph.value_info}
    maps = [
        dims[node.output[0]][0].dim_param
        for node in nodes
        if "pool/" in node.name and len(dims.get(node.output[0], ())) == 4
    ]
    assert len(maps) > 30
    assert set(maps) == {"N"}


@pytest.mark.parametrize("relu", ["deconvnet", "guided"])
@pytest.mark.parametrize("order", ["relu, pool", "pool, relu"])
def test_other_rules_of_relu(tmp_path: Path, order: str, relu: str) -> None:
    """They take what several windows give at once, or pass what lies below 0."""
    path = _classifier(tmp_path / "net.onnx", order, {"kernel_size": 3, "stride": 2, "padding": 1})
    expected, _ = _gradient(path, _image(), "any", relu=relu)
    found, nodes = _gradient(path, _image(), relu=relu)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert _in_blocks(nodes) == (order == "pool, relu" and relu == "guided")


def test_a_relu_moves_behind_its_pool(tmp_path: Path) -> None:
    path = _classifier(tmp_path / "net.onnx", "relu, pool", _POOLS[1])
    _, nodes = _gradient(path, _image())
    operators = [node.op_type for node in nodes]
    assert operators.index("MaxPool") < operators.index("Relu")
    before = session(path).run(None, {"image": _image()})
    after = session(tmp_path / "cpu.onnx").run(["scores"], {"image": _image()})
    np.testing.assert_array_equal(after[0], before[0])


@pytest.mark.parametrize(
    ("order", "pool", "options"),
    [
        ("relu, pool, and the relu", {"kernel_size": 2, "stride": 2}, {}),
        ("relu, pool", {"kernel_size": 3, "stride": 1}, {}),
        ("relu, pool", {"kernel_size": 2, "stride": 2}, {"layer": "relu"}),
        ("relu, pool", {"kernel_size": 2, "stride": 2}, {"layer": "pool"}),
    ],
    ids=str,
)
def test_a_relu_stays(
    tmp_path: Path, order: str, pool: dict[str, Any], options: dict[str, Any]
) -> None:
    """Where it is used elsewhere too, has as much to do behind the pool, or is asked for."""
    path = _classifier(tmp_path / "net.onnx", order, pool)
    expected, _ = _gradient(path, _image(), "any", **options)
    found, nodes = _gradient(path, _image(), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    operators = [node.op_type for node in nodes]
    assert "MaxPool" not in operators[: operators.index("Relu")]
