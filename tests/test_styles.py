"""One small network per style of architecture: export, and the gradient against autograd's.

benchmarks/coverage.py does the same with the smallest member of every family of timm, which takes
hours; these shrunken networks guard it in a minute or two.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import settle, smooth_pictures

from deepinside.exporters import export_saliency

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

_SIZE = 64

# Style -> member of timm, or a class of its, and what makes it small.
_STYLES: dict[str, tuple[Any, dict[str, Any]]] = {
    "residual": ("test_resnet", {}),
    "regulated, squeeze and excite": ("test_byobnet", {}),
    "inverted residual, SiLU": ("test_efficientnet", {}),
    "group normalisation": ("test_efficientnet_gn", {}),
    "large kernels": ("test_convnext", {}),
    "normaliser-free, scaled weights": ("test_nfnet", {}),
    "gated convolution": ("test_mambaout", {}),
    "dense connections": ("densenet121", {"block_config": (2, 2, 2)}),
    "transformer": ("test_vit", {"img_size": _SIZE}),
    "shifted windows": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": _SIZE,
            "window_size": 4,
            "depths": (1, 2),
            "embed_dim": 24,
            "num_heads": (2, 4),
        },
    ),
    "cross-covariance attention": ("xcit_nano_12_p8_224", {"img_size": _SIZE, "depth": 1}),
    "multi-layer perceptrons": (
        timm.models.mlp_mixer.MlpMixer,
        {"img_size": _SIZE, "patch_size": 8, "num_blocks": 2, "embed_dim": 24},
    ),
    "recurrent": (
        timm.models.sequencer.Sequencer2d,
        {"img_size": _SIZE, "layers": (1, 1), "patch_sizes": (8, 2), "embed_dims": (24, 48)}
        | {"hidden_sizes": (6, 12), "mlp_ratios": (2.0, 2.0)},
    ),
    "pooling as mixing": (timm.models.metaformer.MetaFormer, {"depths": (1, 1), "dims": (8, 16)}),
    "attention with offsets in a table": ("levit_128s", {"img_size": 128, "depth": (1, 1, 1)}),
}


def _torchscript(module: Any, pixels: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {"image": {0: "N"}, "scores": {0: "N"}}
    torch.onnx.export(
        module,
        (pixels,),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes=axes,
    )
    return onnx.load_from_string(file.getvalue())


def _dynamo(module: Any, pixels: Any) -> Any:
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "exporter"),
    [
        *((style, _dynamo) for style in _STYLES),
        *((style, _torchscript) for style in ("transformer", "shifted windows", "recurrent")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch's about its own exporter and tracer
def test_gradient_of_the_style(
    style: str, exporter: Callable[[Any, Any], Any], tmp_path: Path
) -> None:
    name, options = _STYLES[style]
    torch.manual_seed(0)
    make = partial(timm.create_model, name) if isinstance(name, str) else name
    module = make(num_classes=10, **options)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():  # a head of zeros has no gradient to compare
                weight.normal_(std=0.1)
    size = options.get("img_size", _SIZE)
    pixels = torch.tensor(smooth_pictures(3, size))
    settle(module, pixels)
    report = export_saliency(
        exporter(module, pixels), tmp_path / "s.onnx", **_shape(exporter, size)
    )
    run = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    targets = np.array([0, 9, 4])
    scores, gradient = run.run(["scores", "gradient"], {"image": pixels.numpy(), "target": targets})
    image = pixels.double().requires_grad_()
    expected = module.double()(image)
    expected[[0, 1, 2], targets].sum().backward()
    scale = expected.abs().max().item()
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=1e-4 * scale)
    reference = image.grad.numpy()
    cosine = (gradient * reference).sum() / np.linalg.norm(gradient) / np.linalg.norm(reference)
    assert cosine > 0.9999


def _shape(exporter: Any, size: int) -> dict[str, Any]:
    return {"input_shape": (1, 3, size, size)} if exporter is _dynamo else {}
