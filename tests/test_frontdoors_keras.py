"""Keras 3 networks, on its PyTorch backend."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import session

torch = pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from deepinside import models  # noqa: E402
from deepinside.engine import load_picture  # noqa: E402
from deepinside.engine.preprocess import preprocess  # noqa: E402
from deepinside.engine.record import parse_record  # noqa: E402
from deepinside.exporters import ClassifierError, ExportError, export_saliency  # noqa: E402
from deepinside.exporters.keras import _record  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="Keras runs on another backend here"
    ),
    # Keras' own, when it reads a tensor of PyTorch.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def network(size: int = 17, dtype: str = "float32") -> Any:
    """Strides and windows with SAME padding, which are uneven at odd sizes."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((size, size, 3), dtype=dtype)
    policy = {"dtype": dtype}
    x = layers.Conv2D(8, 3, strides=2, padding="same", **policy)(image)
    x = layers.BatchNormalization(moving_variance_initializer="random_uniform", **policy)(x)
    x = layers.Activation("gelu", **policy)(x)
    x = layers.MaxPooling2D(3, 2, padding="same", **policy)(x)
    x = layers.SeparableConv2D(16, 3, padding="same", activation="tanh", **policy)(x)
    x = layers.AveragePooling2D(2, padding="same", **policy)(x)
    x = layers.GlobalAveragePooling2D(**policy)(x)
    x = layers.Dropout(0.5, **policy)(x)
    return keras.Model(image, layers.Dense(5, **policy)(x))


def agrees(path: Path, made: Any, size: int = 17) -> None:
    """Scores and gradient are the network's own in float64."""
    pixels = np.random.default_rng(0).standard_normal((2, size, size, 3), dtype=np.float32)
    targets = np.array([2, 4])
    scores, gradient, saliency = session(path).run(
        ["scores", "gradient", "saliency"], {"image": pixels, "target": targets}
    )
    precise = network(size, "float64")
    precise.set_weights(made.get_weights())
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    expected = precise(image, training=False)
    assert expected.dtype == torch.float64
    expected[[0, 1], targets].sum().backward()
    np.testing.assert_allclose(scores, expected.detach(), atol=1e-5)
    largest = float(image.grad.abs().max())
    np.testing.assert_allclose(gradient, image.grad, atol=1e-5 * largest)
    np.testing.assert_array_equal(saliency, np.abs(gradient).max(axis=3))


def test_a_file_keeps_its_pictures_last_axis_for_channels(tmp_path: Path) -> None:
    made = network()
    made.save(tmp_path / "net.keras")
    report = export_saliency(f"keras:{tmp_path / 'net.keras'}", tmp_path / "s.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(report.path).metadata_props}
    assert metadata["deepinside.layout"] == "NHWC"
    assert "deepinside.preprocessing" not in metadata
    agrees(report.path, made)


def test_a_model_in_memory(tmp_path: Path) -> None:
    made = network()
    agrees(export_saliency(made, tmp_path / "s.onnx").path, made)


def test_a_sequential_model_with_an_open_size(tmp_path: Path) -> None:
    made = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    with pytest.raises(ClassifierError, match=r"leaves its input's shape open.*--input-shape"):
        export_saliency(made, tmp_path / "s.onnx")
    report = export_saliency(made, tmp_path / "s.onnx", input_shape=(1, 12, 10, 3))
    assert "Softmax" in report.bypassed[0]
    (saliency,) = session(report.path).run(
        ["saliency"], {"image": np.ones((2, 12, 10, 3), np.float32)}
    )
    assert saliency.shape == (2, 12, 10)


def test_an_application_with_its_preprocessing(tmp_path: Path) -> None:
    report = export_saliency(
        "keras:applications.MobileNetV3Small",
        tmp_path / "s.onnx",
        random_weights=True,
        input_shape=(1, 32, 32, 3),
    )
    metadata = {entry.key: entry.value for entry in onnx.load(report.path).metadata_props}
    record = json.loads(metadata["deepinside.preprocessing"])
    assert record["input_size"] == [32, 32]
    assert record["mean"] == [0, 0, 0]  # it normalises within
    assert record["std"] == [1, 1, 1]


@pytest.mark.parametrize("module", ["mobilenet_v2", "resnet", "densenet", "efficientnet", "nasnet"])
@pytest.mark.parametrize("picture", ["chelsea", "coffee"])
def test_the_record_says_what_preprocess_input_does(module: str, picture: str) -> None:
    """Keras' modes tf, caffe and torch, and none at all."""

    class Model:
        input_shape = (None, 96, 64, 3)

    package = getattr(keras.applications, module)
    path = models.example(picture)
    loaded = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(96, 64)))
    expected = package.preprocess_input(loaded)
    record = parse_record(_record(Model, package.preprocess_input), where=module)
    found, _ = preprocess(load_picture(path), record, "NHWC", dtype=np.dtype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_lambda_layer_is_refused(tmp_path: Path) -> None:
    made = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Flatten()]
    )
    made.save(tmp_path / "net.keras")
    with pytest.raises(ClassifierError, match="without running code"):
        export_saliency(f"keras:{tmp_path / 'net.keras'}", tmp_path / "s.onnx")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("keras:gone.keras", {}, "there is no file"),
        ("keras:net.h5", {}, r"not a \.keras file"),
        ("keras:broken.keras", {}, "not a .keras file, or is cut off"),
        ("keras:applications.ResNet5000", {"random_weights": True}, "has no 'ResNet5000'"),
        ("keras:broken.keras", {"random_weights": True}, "--random-weights can't be used"),
        ("keras:broken.keras", {"weights": "x.safetensors"}, "--weights can't be used"),
        ("broken.keras", {}, r"give it as keras:broken\.keras"),
    ],
)
def test_bad_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.keras").write_bytes(b"PK but no more")
    with pytest.raises(ExportError, match=sentence):
        export_saliency(name, tmp_path / "s.onnx", **options)


def test_through_the_command_line_without_any_setting(tmp_path: Path) -> None:
    """PyTorch is chosen where nothing else is."""
    network().save(tmp_path / "net.keras")
    command = [sys.executable, "-m", "deepinside.cli", "export", "keras:net.keras", "-o", "s.onnx"]
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.onnx").exists()
