"""The smallest member of every family of timm, through both of PyTorch's exporters."""

import copy
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch

from families import Loaded, Reference

__all__ = ["autograd", "load", "names", "settle_statistics"]

_OPSET = 18
# Of transformers at larger sizes, PyTorch's float64 attention would take tens of gigabytes.
_LARGE = 512


def names() -> list[str]:
    """One name per family: the member with the fewest parameters."""
    found = set()
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                try:
                    module = timm.create_model(name)
                except (RuntimeError, NotImplementedError, ValueError, TypeError):
                    continue  # can't be built without data; another member can
            sizes[name] = sum(weight.numel() for weight in module.parameters())
        if sizes:
            found.add(min(sizes, key=lambda name: (sizes[name], name)))
    return sorted(found)


def load(name: str) -> Loaded:
    """A network with random weights, two pictures, and four ways to export it."""
    torch.manual_seed(0)
    module = timm.create_model(name)
    size = timm.data.resolve_model_data_config(module)["input_size"]
    pixels = torch.randn(2, *size)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():  # a head of zeros has no gradient to compare
                weight.normal_(std=0.02)
    settle_statistics(module, pixels)
    compared = pixels if size[-1] <= _LARGE else pixels[:1]
    return Loaded(
        variants={
            f"{exporter}, {batch} batch": partial(
                _export,
                module,
                pixels if batch == "dynamic" else compared,  # of one, a batch would be fixed
                dynamo=exporter == "dynamo",
                dynamic=batch == "dynamic",
            )
            for exporter in ("dynamo", "TorchScript")
            for batch in ("dynamic", "static")
        },
        pictures=[compared.numpy()],
        reference=autograd(module),
    )


def settle_statistics(module: torch.nn.Module, pixels: torch.Tensor) -> None:
    """BatchNormalization statistics that keep the signals in range; then eval mode."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        module.train()(pixels)
    module.eval().requires_grad_(False)


def autograd(module: torch.nn.Module) -> Reference:
    """PyTorch's gradient of the targets' scores; of large pictures, a layer at a time."""
    types = {"float32": torch.float32, "float64": torch.float64}

    def reference(
        pixels: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        image = torch.from_numpy(pixels).to(types[dtype], copy=True).requires_grad_()
        twin = copy.deepcopy(module).to(types[dtype])
        if image.shape[-1] > _LARGE and hasattr(twin, "set_grad_checkpointing"):
            twin.set_grad_checkpointing()
        scores = twin(image)
        scores[range(len(targets)), targets].sum().backward()
        return scores.detach().double().numpy(), image.grad.double().numpy()

    return reference


def _export(
    module: torch.nn.Module, pixels: torch.Tensor, *, dynamo: bool, dynamic: bool
) -> onnx.ModelProto:
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"]}
    names["opset_version"] = _OPSET
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("N")},) if dynamic else None
            program = torch.onnx.export(
                module, (pixels,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
            )
            proto = program.model_proto
            onnx.checker.check_model(proto)  # it has left weights out
            return proto
        path = Path(folder) / "classifier.onnx"
        axes = {"image": {0: "N"}, "scores": {0: "N"}} if dynamic else None
        torch.onnx.export(module, (pixels,), str(path), dynamo=False, dynamic_axes=axes, **names)
        return onnx.load(path)
