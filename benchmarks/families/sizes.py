"""Classifiers with an open height and width: one exported file each, checked at several sizes.

Modules are exported with `dynamic_size=True`; models are open already. Weights are random. Sizes
are odd, prime and multiples of 32 where the classifier takes them, since strides round each of them
in another way.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from families import Loaded, Reference

__all__ = ["load", "names"]

Array = np.ndarray

_SIZES = ((128, 160), (97, 131), (225, 193))
_EVEN_SIZES = ((128, 160), (96, 224), (224, 192))
# Classifiers that add up maps which only fit for multiples of 32.
_EVEN = ("dla34",)
_TORCHVISION = (
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)
_TIMM = (
    "convnext_atto",
    "dla34",
    "edgenext_xx_small",
    "ghostnet_100",
    "hardcorenas_a",
    "mixnet_s",
    "mobilenetv3_small_100",
    "poolformer_s12",
    "repvgg_a0",
    "resnet26d",
    "tf_efficientnet_lite0",
    "xcit_nano_12_p8_224",
)
_MADE = ("keras_style_same_nhwc", "torchscript_resnet18", "vgg11_global_pool")


def names() -> list[str]:
    """All classifiers."""
    return sorted((*_TORCHVISION, *_TIMM, *_MADE))


def load(name: str) -> Loaded:
    """A PyTorch module or an ONNX model, and pictures `(2, 3, H, W)` of three sizes.

    `(2, H, W, 3)` for a channels-last model. The reference is float64 whatever is asked for.
    """
    import torch

    torch.manual_seed(0)
    if name == "keras_style_same_nhwc":
        model, forward = _same_network()
        pictures = [_pictures(*size).transpose(0, 2, 3, 1).copy() for size in _SIZES]
        return Loaded({"": lambda: model}, pictures, _oracle(forward), singles=False)
    pictures = [_pictures(*size) for size in (_EVEN_SIZES if name in _EVEN else _SIZES)]
    module = _module("resnet18" if name == "torchscript_resnet18" else name)
    oracle = _oracle(_copy(module).double())
    if name == "torchscript_resnet18":
        return Loaded({"": lambda: _torchscript(module)}, pictures, oracle, singles=False)
    options = {"input_shape": (1, 3, 224, 224), "dynamic_size": True}
    return Loaded({"": lambda: module}, pictures, oracle, options, singles=False)


def _oracle(forward: Callable[[Any], Any]) -> Reference:
    import torch

    def differentiate(pixels: Array, targets: Array, dtype: str) -> tuple[Array, Array]:
        image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
        scores = forward(image)
        scores[range(len(pixels)), targets].sum().backward()
        assert image.grad is not None
        return scores.detach().numpy(), image.grad.numpy()

    return differentiate


def _pictures(height: int, width: int) -> Array:
    """Large soft shapes, normalised."""
    import torch

    coarse = torch.randn(2, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return np.asarray(smooth.numpy())


def _module(name: str) -> Any:
    """In eval mode, with BatchNormalization statistics that keep the signals in range."""
    import timm
    import torch
    import torchvision.models

    if name == "vgg11_global_pool":
        module: Any = torchvision.models.vgg11_bn(weights=None)
        module.avgpool, module.classifier = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(512, 100)
    elif name in _TORCHVISION:
        inception = name in ("googlenet", "inception_v3")
        auxiliary = {"init_weights": True, "aux_logits": False} if inception else {}
        module = getattr(torchvision.models, name)(weights=None, **auxiliary)
    else:
        module = timm.create_model(name)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # a plain average
    with torch.no_grad():
        module.train()(torch.randn(4, 3, 160, 160))
    return module.eval().requires_grad_(False)


def _copy(module: Any) -> Any:
    import copy

    return copy.deepcopy(module)


def _torchscript(module: Any) -> Any:
    """As many published files were made: PyTorch's older exporter, with named dynamic axes."""
    import io

    import onnx
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, 224, 224),),
            file,
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "N", 2: "H", 3: "W"}, "scores": {0: "N"}},
            opset_version=17,
        )
    return onnx.load_from_string(file.getvalue())


def _same_network() -> tuple[Any, Callable[[Any], Any]]:
    """A channels-last model with SAME padding and strides of two, and the same in PyTorch."""
    import onnx
    import torch

    functional = torch.nn.functional
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N,H,W,3] image) => (float[N,10] scores) {
      x = Transpose <perm = [0,3,1,2]> (image)
      c1 = Conv <kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"> (x, w1)
      r1 = Relu (c1)
      m = MaxPool <kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"> (r1)
      c2 = Conv <kernel_shape = [5,5], strides = [2,2], auto_pad = "SAME_UPPER", group = 16> (m, w2)
      r2 = Relu (c2)
      a = AveragePool <kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"> (r2)
      p = ReduceMean <axes = [2,3], keepdims = 0> (a)
      scores = Gemm (p, v)
    }
    """
    random = np.random.default_rng(0)
    weights = {
        name: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (16, 1, 5, 5)), ("v", (16, 10)))
    }
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in weights.items()
    )
    w1, w2, v = (torch.tensor(weights[name], dtype=torch.float64) for name in ("w1", "w2", "v"))

    def same(x: Any, kernel: int, fill: float = 0.0) -> Any:
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads, value=fill)

    def forward(image: Any) -> Any:
        x = functional.relu(functional.conv2d(same(image.permute(0, 3, 1, 2), 3), w1, stride=2))
        x = functional.max_pool2d(same(x, 3, -float("inf")), 3, 2)
        x = functional.relu(functional.conv2d(same(x, 5), w2, stride=2, groups=16))
        ones = functional.avg_pool2d(same(torch.ones_like(x), 3), 3, 2)
        return (functional.avg_pool2d(same(x, 3), 3, 2) / ones).mean((2, 3)) @ v

    return model, forward
