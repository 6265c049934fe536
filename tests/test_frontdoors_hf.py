"""Image classifiers of transformers, from local files: no network, no code from a file."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import session

from deepinside import models
from deepinside.engine import load_picture
from deepinside.engine.preprocess import preprocess
from deepinside.engine.record import parse_record
from deepinside.exporters import ClassifierError, export_saliency
from deepinside.exporters.huggingface_record import preprocessing_record

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_NAMES = {0: "cat", 1: "dog", 2: "camera"}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": _SIZES | {"intermediate_size": 48, "image_size": 32, "patch_size": 8},
    "swin": {"image_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16}
    | {"depths": [1, 2], "num_heads": [1, 2]},
    "convnext": {"image_size": 32, "hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2},
}


def network(kind: str, **others: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS.get(kind, {}), **others)
    config.id2label = _NAMES
    config.label2id = {name: index for index, name in _NAMES.items()}
    made = transformers.AutoModelForImageClassification.from_config(
        config, attn_implementation="eager"
    )
    for parameter in made.parameters():
        if parameter.ndim > 1:  # as they begin, the classes hardly differ
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return made.eval()


def agrees(path: Path, made: Any, size: int) -> None:
    """Scores and gradient are the network's own in float64."""
    pixels = np.random.default_rng(0).standard_normal((2, 3, size, size), dtype=np.float32)
    targets = np.array([2, 1])
    scores, gradient = session(path).run(
        ["scores", "gradient"], {"image": pixels, "target": targets}
    )
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    expected = made.double()(pixel_values=image).logits
    expected[[0, 1], targets].sum().backward()
    made.float()
    np.testing.assert_allclose(scores, expected.detach(), atol=1e-5)
    largest = float(image.grad.abs().max())
    assert largest > 1e-4
    np.testing.assert_allclose(gradient, image.grad, atol=2e-5 * largest)


def metadata(path: Path) -> dict[str, Any]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_with_weights_labels_and_preprocessing(tmp_path: Path, kind: str) -> None:
    made = network(kind)
    made.save_pretrained(tmp_path / "net")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 3,
    }
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
    report = export_saliency(f"hf:{tmp_path / 'net'}", tmp_path / "s.onnx")
    agrees(report.path, made, 32)
    found = metadata(report.path)
    assert json.loads(found["deepinside.labels"]) == ["cat", "dog", "camera"]
    record = json.loads(found["deepinside.preprocessing"])
    assert record["input_size"] == [32, 32]
    assert record["resize"] == "stretch"
    assert record["interpolation"] == "bicubic"
    assert record["mean"] == [0.5, 0.5, 0.5]  # the class's own, which the file leaves out


@pytest.mark.parametrize("training", [False, True])
def test_a_model_in_memory_stays_as_it_was(tmp_path: Path, training: bool) -> None:
    made = network("vit").train(training)
    report = export_saliency(made, tmp_path / "s.onnx")
    assert made.training == training
    agrees(report.path, made.eval(), 32)
    assert "deepinside.preprocessing" not in metadata(report.path)


def test_a_configuration_alone_is_an_untrained_network(tmp_path: Path) -> None:
    network("vit").config.save_pretrained(tmp_path)
    name = f"hf:{tmp_path / 'config.json'}"
    report = export_saliency(name, tmp_path / "s.onnx", random_weights=True)
    assert report.names["image"] == "image"
    with pytest.raises(ClassifierError, match=r"configuration without weights.*--random-weights"):
        export_saliency(name, tmp_path / "t.onnx")


# Image processors, with settings that published models use.
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("vit.ViT", {"resample": 2}),
    ("vit.ViT", {"do_rescale": False, "do_normalize": False}),
    ("beit.Beit", {}),
    ("bit.Bit", {"size": {"shortest_edge": 256}}),
    ("clip.CLIP", {}),
    ("convnext.ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    ("convnext.ConvNext", {"size": {"shortest_edge": 384}}),
    ("deit.DeiT", {"size": {"height": 224, "width": 224}}),
    ("efficientnet.EfficientNet", {"resample": 0}),
    (
        "efficientnet.EfficientNet",
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False},
    ),
    ("levit.Levit", {}),
    ("mobilenet_v1.MobileNetV1", {}),
    ("mobilenet_v2.MobileNetV2", {}),
    ("mobilevit.MobileViT", {"size": {"shortest_edge": 288}}),
    ("poolformer.PoolFormer", {}),
    ("pvt.Pvt", {}),
    ("siglip.Siglip", {}),
]


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS)
@pytest.mark.parametrize("picture", ["chelsea", "coffee"])
def test_the_record_says_what_the_image_processor_does(
    kind: str, settings: dict[str, Any], picture: str
) -> None:
    from PIL import Image

    module, _, name = kind.partition(".")
    module = f"transformers.models.{module}.image_processing_pil_{module}"
    package = pytest.importorskip(module)
    processor = getattr(package, f"{name}ImageProcessorPil")(**settings)
    path = models.example(picture)
    with Image.open(path) as opened:
        expected = processor(opened.convert("RGB"), return_tensors="np")["pixel_values"][0]
    record, problem = preprocessing_record(processor)
    assert not problem
    assert record is not None
    found, _ = preprocess(
        load_picture(path), parse_record(record, where=kind), "NCHW", dtype=np.dtype(np.float32)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("processor", "sentence"),
    [
        ({"image_processor_type": "DeiTImageProcessor"}, "the file contract can't say"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 5}, "filter 5"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "does not resize"),
        ({"image_processor_type": "SegformerImageProcessor"}, "is not known"),
    ],
)
def test_a_processor_that_no_record_describes_is_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    processor: dict[str, Any],
    sentence: str,
) -> None:
    network("vit").save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
    with caplog.at_level(logging.WARNING, "deepinside"):
        report = export_saliency(f"hf:{tmp_path / 'net'}", tmp_path / "s.onnx")
    assert sentence in caplog.text
    assert "--preprocessing" in caplog.text
    assert "deepinside.preprocessing" not in metadata(report.path)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder, marker = tmp_path / "net", tmp_path / "code-was-run"
    network("vit").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Touch(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(ClassifierError, match="without running code"):
        export_saliency(f"hf:{folder}", tmp_path / "s.onnx")
    assert not marker.exists()


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    folder, marker = tmp_path / "net", tmp_path / "code-was-run"
    network("vit").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "my_own", "auto_map": {"AutoConfig": "code.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass MyConfig: pass\n")
    with pytest.raises(ClassifierError, match="without running code"):
        export_saliency(f"hf:{folder}", tmp_path / "s.onnx")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "nothing is fetched from the network"),
        ({"config.json": "{}"}, "not a configuration of transformers"),
        ({"config.json": "[1]"}, "not a configuration of transformers"),
        ({"config.json": "{"}, "can't make an image classifier"),
        ({"config.json": '{"model_type": "bert"}'}, "can't make an image classifier"),
        ({"config.json": '{"model_type": "vit"}'}, "can't make an image classifier"),
    ],
)
def test_a_folder_that_is_none(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(f"hf:{tmp_path}", tmp_path / "s.onnx")
