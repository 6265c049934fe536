"""Classifiers as they lie on disks: old opsets, half precision, quantised, optimised.

Each is a network of tests/networks.py with random weights, made into such a file by PyTorch's and
ONNX Runtime's own tools. The reference is PyTorch's autograd in float64 on the network before that:
what a quantised file loses against it is lost by its rounded weights, too.
"""

import io
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from families import Loaded

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

__all__ = ["load", "names"]

# Variant -> (opset, networks).
_VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "opset7": (7, ("resnet18", "squeezenet1_1")),
    "opset9": (9, ("resnet18", "mobilenet_v2", "vgg11_bn")),
    "opset11": (11, ("shufflenet_v2_x0_5", "googlenet", "efficientnet_b0")),
    "opset12": (12, ("densenet121", "mobilenet_v3_small")),
    "opset14": (14, ("inception_v3", "vit_tiny_patch16_224")),
    "opset16": (16, ("convnext_atto", "swin_t")),
    "float16": (17, ("resnet18", "mobilenet_v2", "convnext_atto", "vit_tiny_patch16_224")),
    "float16-inside": (17, ("resnet18", "vit_tiny_patch16_224")),
    "fused": (17, ("resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224")),
    "transformers": (17, ("vit_tiny_patch16_224",)),
    "qdq": (17, ("resnet18", "convnext_atto")),
    "qdq-channels": (17, ("resnet18", "convnext_atto")),
    "qdq-16bit": (21, ("resnet18",)),
    "qoperator": (17, ("resnet18",)),
    "dynamic": (17, ("resnet18",)),
}
_SIZES = {"inception_v3": 139, "vit_tiny_patch16_224": 224, "swin_t": 224, "vgg11_bn": 224}
_SIZE = 96


def names() -> list[str]:
    """All variants, as `variant/network`."""
    return [f"{variant}/{network}" for variant, (_, nets) in _VARIANTS.items() for network in nets]


def load(name: str) -> Loaded:
    """The file's model, two pictures for it (one where its batch is fixed), and its reference.

    The reference is float64 whatever is asked for.
    """
    import torch
    from networks import build, smooth_pictures

    variant, _, network = name.partition("/")
    opset, size = _VARIANTS[variant][0], _SIZES.get(network, _SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = build(network)
        model = _make(variant, _exported(module, size, min(opset, 17), variant), opset)
    double = module.double()
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)

    def reference(
        pixels: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        image = torch.tensor(pixels.astype(np.float64), requires_grad=True)
        scores = double(image)
        scores[range(len(pixels)), targets].sum().backward()
        assert image.grad is not None
        return scores.detach().numpy(), image.grad.numpy()

    pictures = smooth_pictures(fixed or 2, size).astype(kind)
    return Loaded({variant: lambda: model}, [pictures], reference, singles=False)


def _exported(module: Any, size: int, opset: int, variant: str) -> onnx.ModelProto:
    """PyTorch's TorchScript exporter: opset 7 as of 2018, with initializers among the inputs."""
    import torch

    old = opset < 10
    options: dict[str, Any] = {}
    if old:
        options = {
            "training": torch.onnx.TrainingMode.PRESERVE,  # BatchNormalization stays
            "do_constant_folding": False,
            "keep_initializers_as_inputs": True,
        }
    else:
        options = {"dynamic_axes": {"image": {0: "N"}, "scores": {0: "N"}}}
    file = io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(1 if old else 2, 3, size, size),),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["image"],
        output_names=["scores"],
        **options,
    )
    return onnx.load_from_string(file.getvalue())


def _make(variant: str, model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """What the variant's tool makes of the export."""
    if variant.startswith("opset"):
        return model
    if variant.startswith("float16"):
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(model, keep_io_types=variant == "float16-inside")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(model, source)
        if variant == "fused":
            _optimise(source, target)
        elif variant == "transformers":
            from onnxruntime.transformers import optimizer

            found = optimizer.optimize_model(
                str(source), model_type="vit", num_heads=3, hidden_size=192, opt_level=0
            )
            found.save_model_to_file(str(target))
        else:
            _quantise(variant, source, target, opset)
        return onnx.load(target)


def _optimise(source: Path, target: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _quantise(variant: str, source: Path, target: Path, opset: int) -> None:
    """ONNX Runtime's quantiser, calibrated on eight smooth pictures."""
    from networks import smooth_pictures
    from onnxruntime import quantization

    if variant == "dynamic":
        kind = quantization.QuantType.QUInt8
        quantization.quantize_dynamic(source, target, weight_type=kind)
        return
    shape = onnx.load(source).graph.input[0].type.tensor_type.shape.dim
    pictures = smooth_pictures(8, shape[2].dim_value)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter([{"image": pictures}])

        def get_next(self) -> Any:
            return next(self.rest, None)

    forms = quantization.QuantFormat
    wide = variant == "qdq-16bit"
    quantization.quantize_static(
        source,
        target,
        Pictures(),
        quant_format=forms.QOperator if variant == "qoperator" else forms.QDQ,
        per_channel=variant != "qdq",
        activation_type=getattr(quantization.QuantType, "QUInt16" if wide else "QUInt8"),
        weight_type=quantization.QuantType.QInt8,
    )
    assert onnx.load(target, load_external_data=False).opset_import[0].version == opset
