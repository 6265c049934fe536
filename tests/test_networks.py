"""Whole networks: the exported gradient against PyTorch's autograd."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import NETWORKS, build, picture_size, smooth_pictures

from deepinside.exporters import export_saliency

torch = pytest.importorskip("torch")


def _autograd(
    module: Any, pixels: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and the input gradient of the targets' scores, in the module's own type."""
    image = torch.tensor(pixels, dtype=next(module.parameters()).dtype, requires_grad=True)
    scores = module(image)
    scores[range(len(pixels)), targets].sum().backward()
    return scores.detach().numpy(), image.grad.numpy()


def _agreement(mine: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Cosine, and the error that 99 % of the elements stay below (as a share of the maximum)."""
    cosine = (mine * reference).sum() / np.linalg.norm(mine) / np.linalg.norm(reference)
    errors = np.abs(mine - reference) / np.abs(reference).max()
    return float(cosine), float(np.quantile(errors, 0.99))


def _unportable(path: Path) -> list[str]:
    """Nodes in a form that a main runtime lacks or sends to another device (docs/design.md)."""
    found = []
    for node in onnx.load(path, load_external_data=False).graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        pads = attributes.get("pads", [])
        lopsided = pads[: len(pads) // 2] != pads[len(pads) // 2 :]
        if (
            node.domain != ""
            or (node.op_type == "ConvTranspose" and (lopsided or "output_shape" in attributes))
            or (node.op_type == "MaxPool" and len(node.output) > 1)
            or node.op_type in ("MaxUnpool", "Col2Im", "OneHot", "EyeLike", "ScatterElements")
        ):
            found.append(f"{node.op_type} {node.name}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_is_that_of_autograd(name: str, tmp_path: Path) -> None:
    """Batches of 1, 1 and 3 with different targets.

    A wrong gradient is wrong for every picture; a mask that rounding has flipped is an accident of
    one. So most pictures must agree strictly, and every one closely.
    """
    module, size = build(name), picture_size(name)
    report = export_saliency(module, tmp_path / "net.onnx", input_shape=(1, 3, size, size))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(report.path, options, providers=["CPUExecutionProvider"])
    module = module.double()  # float64 decides
    pictures = smooth_pictures(5, size)
    agreements = []
    for rows, classes in ((slice(0, 1), [3]), (slice(1, 2), [3]), (slice(2, 5), [0, 7, 999])):
        pixels, targets = pictures[rows], np.array(classes)
        scores, gradient, saliency, score, index = session.run(
            ["scores", "gradient", "saliency", "score", "target_index"],
            {"image": pixels, "target": targets},
        )
        expected_scores, expected = _autograd(module, pixels, targets)
        scale = np.abs(expected_scores).max()
        np.testing.assert_allclose(scores, expected_scores, atol=1e-4 * scale)
        np.testing.assert_array_equal(score, scores[range(len(pixels)), targets])
        np.testing.assert_array_equal(index, targets)
        np.testing.assert_array_equal(saliency, np.abs(gradient).max(axis=1))
        agreements += [_agreement(a, b) for a, b in zip(gradient, expected, strict=True)]
    strict = [cosine >= 0.9999 and error <= 1e-3 for cosine, error in agreements]
    assert sum(strict) >= 3, agreements
    assert min(cosine for cosine, _ in agreements) >= 0.999, agreements
    assert report.size_after <= 1.05 * report.size_before
    assert _unportable(report.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenetv3_small_100", "resnet18"])
def test_one_file_for_all_sizes(name: str, tmp_path: Path) -> None:
    """Odd and prime sizes too, which strides round otherwise than multiples of 32."""
    module = build(name)
    report = export_saliency(
        module, tmp_path / "net.onnx", input_shape=(1, 3, 224, 224), dynamic_size=True
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(report.path, options, providers=["CPUExecutionProvider"])
    module = module.double()
    targets = np.array([3, 7])
    agreements = []
    for height, width in ((128, 160), (97, 131), (225, 193), (64, 331)):
        pixels = smooth_pictures(2, 336)[:, :, :height, :width].copy()
        scores, gradient = session.run(["scores", "gradient"], {"image": pixels, "target": targets})
        expected_scores, expected = _autograd(module, pixels, targets)
        np.testing.assert_allclose(
            scores, expected_scores, atol=1e-4 * np.abs(expected_scores).max()
        )
        assert gradient.shape == pixels.shape
        agreements += [_agreement(a, b) for a, b in zip(gradient, expected, strict=True)]
    strict = [cosine >= 0.9999 and error <= 1e-3 for cosine, error in agreements]
    assert sum(strict) >= 6, agreements
    assert min(cosine for cosine, _ in agreements) >= 0.999, agreements
    assert _unportable(report.path) == []
