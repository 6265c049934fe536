"""The PyTorch front door: a module becomes plain ONNX with PyTorch's own exporters."""

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from deepinside.exporters.bodies import undefined
from deepinside.exporters.errors import ClassifierError, innermost
from deepinside.exporters.frontdoor import FAILURES, OPSET, explained, factory, less_talk, require

if TYPE_CHECKING:
    import torch

__all__ = ["load", "to_onnx"]

_log = logging.getLogger(__name__)


def load(
    classifier: Any, *, weights: str | Path | None = None, random_weights: bool = False
) -> tuple["torch.nn.Module", tuple[int, ...] | None, dict[str, Any] | None]:
    """Turn `timm:NAME`, `torch:package.module:factory` or a module into a module in eval mode.

    Returns:
        The module; the shape `(1, C, H, W)` of its input and its preprocessing, where known.

    Raises:
        MissingPackageError: torch or timm is not installed.
        ClassifierError: the name, the factory or the weights do not fit.
    """
    torch = _require("torch", "torch")
    if isinstance(classifier, torch.nn.Module):
        return classifier, None, None
    if not isinstance(classifier, str):
        raise ClassifierError(f"a {type(classifier).__name__} is not a torch.nn.Module.")
    front_door, _, name = classifier.partition(":")
    if front_door == "timm":
        return _from_timm(name, weights, random_weights)
    return _from_factory(name, weights)


def to_onnx(
    module: "torch.nn.Module",
    example_input: Any,
    input_shape: Sequence[int] | None,
    *,
    dynamic_size: bool = False,
) -> ir.Model:
    """Export a module with a dynamic batch, input `image` and output `scores`.

    PyTorch's current exporter is tried first, then the TorchScript one.

    Args:
        module: in eval mode or not; it is left as it was.
        example_input: tensor `(N, C, H, W)`, or None.
        input_shape: shape of the example input where there is none.
        dynamic_size: leave height and width open too.

    Raises:
        ClassifierError: neither can export the module, or not with an open height and width.
    """
    torch = _require("torch", "torch")
    _require("onnxscript", "torch")
    if example_input is None:
        if input_shape is None:
            raise ClassifierError(
                "a PyTorch module needs an example input or its shape: give --input-shape "
                "1,3,224,224 (in Python example_input=tensor or input_shape=...)."
            )
        with explained(f"there is no picture of the shape {tuple(input_shape)}"):
            example_input = torch.zeros(tuple(input_shape))
    if example_input.shape[0] == 1:
        # With a batch of one, exporters take 1 for a constant of the network.
        example_input = torch.cat([example_input, example_input])
    training = module.training
    module.eval()
    try:
        if dynamic_size:
            _try_another_size(torch, module, example_input)
        return _export(torch, module, example_input, dynamic_size=dynamic_size)
    finally:
        module.train(training)


def _try_another_size(torch: Any, module: "torch.nn.Module", example_input: Any) -> None:
    """Run the module on a larger picture; tracing would hide that it takes one size only.

    Raises:
        ClassifierError: it does.
    """
    count, channels, height, width = example_input.shape
    larger = example_input.new_zeros((count, channels, height + 64, width + 128))
    try:
        with torch.no_grad():
            module(larger)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _fixed_size(error) from error


def _export(
    torch: Any, module: "torch.nn.Module", example_input: Any, *, dynamic_size: bool
) -> ir.Model:
    """PyTorch's exporter, else its TorchScript one."""
    names = {"input_names": ["image"], "output_names": ["scores"], "opset_version": OPSET}
    free = {2: "H", 3: "W"} if dynamic_size else {}
    with warnings.catch_warnings(record=True) as told, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")  # the exporters' own deprecations are not the user's
        # Unlike a named Dim, DYNAMIC lets a size have bounds and factors, but no single value.
        shapes = ({0: torch.export.Dim("N"), **dict.fromkeys(free, torch.export.Dim.DYNAMIC)},)
        try:
            with less_talk("torch.fx.experimental.symbolic_shapes"):
                program = torch.onnx.export(
                    module,
                    (example_input,),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    verbose=False,
                    **names,
                )
            model: ir.Model = program.model
            for node, value in undefined(model.graph):
                raise ValueError(f"it leaves {value.name!r} of node {node.name!r} undefined")
            return _named(model, free)
        except FAILURES as error:
            first = error
        _log.info("PyTorch's exporter failed (%s); trying its TorchScript exporter", first)
        path = Path(folder) / "classifier.onnx"
        axes = {"image": {0: "N", **free}, "scores": {0: "N"}}
        try:
            torch.onnx.export(
                module, (example_input,), str(path), dynamo=False, dynamic_axes=axes, **names
            )
        except FAILURES as error:
            if dynamic_size:
                raise _fixed_size(first) from error
            raise ClassifierError(
                "neither of PyTorch's ONNX exporters can export the module: "
                f"{innermost(first)}; {innermost(error)}"
            ) from error
        if dynamic_size and any(issubclass(w.category, torch.jit.TracerWarning) for w in told):
            raise _fixed_size(first)  # it traced numbers of the example's size
        model = ir.load(path)
        ir.external_data.load_to_model(model)  # the folder is about to go
        return model


def _named(model: ir.Model, free: Mapping[int, str]) -> ir.Model:
    """Give the image's open axes plain names in place of the exporter's."""
    image = model.graph.inputs[0]
    assert image.shape is not None
    image.shape = ir.Shape([free.get(axis, size) for axis, size in enumerate(image.shape.dims)])
    return model


def _fixed_size(error: Exception) -> ClassifierError:
    """What to do about a network that PyTorch exports at one size only."""
    reason = str(error).strip().partition("\n")[0]
    return ClassifierError(
        f"PyTorch can't export the module with a dynamic height and width ({reason}): it computes "
        "with numbers of one size, as position embeddings and flattened maps do. Export it without "
        "--dynamic-size (dynamic_size=True), at the size that is needed."
    )


def _from_timm(
    name: str, weights: str | Path | None, random_weights: bool
) -> tuple["torch.nn.Module", tuple[int, ...], dict[str, Any]]:
    timm = _require("timm", "timm")
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name}*")[:8]) or "see timm.list_models()"
        raise ClassifierError(f"timm has no model {name!r}; similar: {close}.")
    pretrained = weights is None and not random_weights
    failure = f"timm can't load the pretrained weights of {name!r}"
    advice = "give them with --weights FILE, or ask for an untrained network: --random-weights."
    with explained(failure, advice=advice):
        module = timm.create_model(name, pretrained=pretrained)
    _load_weights(module, weights)
    config = timm.data.resolve_model_data_config(module)
    record = _timm_record(config)
    return module.eval(), (1, *config["input_size"]), record


def _timm_record(config: dict[str, Any]) -> dict[str, Any]:
    """Timm's data configuration as a preprocessing record of the file contract."""
    _, height, width = config["input_size"]
    squash = config.get("crop_mode") == "squash"
    return {
        "input_size": [height, width],
        "resize": "stretch" if squash else "shorter-side",
        "resize_size": None if squash else int(height / config["crop_pct"]),
        "interpolation": config["interpolation"],
        "channel_order": "RGB",
        "value_range": [0, 1],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def _from_factory(name: str, weights: str | Path | None) -> tuple["torch.nn.Module", None, None]:
    torch = _require("torch", "torch")
    module = factory("torch", name)()
    if not isinstance(module, torch.nn.Module):
        raise ClassifierError(
            f"torch:{name} returned {type(module).__name__}, not a torch.nn.Module."
        )
    _load_weights(module, weights)
    return module.eval(), None, None


def _load_weights(module: "torch.nn.Module", weights: str | Path | None) -> None:
    """Load a state dictionary without running code from the file."""
    if weights is None:
        return
    path = Path(weights)
    if not path.is_file():
        raise ClassifierError(f"there is no weights file {path}.")
    with explained(
        f"{path} is not a state dictionary of this network that can be loaded without running code"
    ):
        module.load_state_dict(_state(path))


def _state(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return _require("torch", "torch").load(path, map_location="cpu", weights_only=True)
    safetensors = _require("safetensors", "timm")
    with explained(f"{path} is not a whole .safetensors file", safetensors.SafetensorError):
        return _require("safetensors.torch", "timm").load_file(path)


def _require(name: str, extra: str) -> Any:
    advice = "install versions of torch and torchvision that belong together"
    return require(name, extra, "a PyTorch classifier", advice)
