"""PyTorch classifiers through the front doors: modules, factories, timm, weights."""

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import session

from deepinside.exporters import (
    ClassifierError,
    ExportError,
    MissingPackageError,
    export_saliency,
    pytorch,
)

torch = pytest.importorskip("torch")


def tiny() -> Any:
    """A factory, as `torch:test_frontdoors:tiny` names it."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )


def not_a_module() -> int:
    return 3


def _agrees(path: Path, module: Any, height: int, width: int | None = None) -> None:
    shape = (2, 3, height, width or height)
    pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    targets = np.array([1, 2])
    found = session(path).run(["gradient"], {"image": pixels, "target": targets})[0]
    image = torch.tensor(pixels, requires_grad=True)
    module.eval()(image)[[0, 1], targets].sum().backward()
    np.testing.assert_allclose(found, image.grad.numpy(), atol=1e-5 * np.abs(found).max())


def test_a_module_with_an_example_input(tmp_path: Path) -> None:
    report = export_saliency(tiny(), tmp_path / "s.onnx", example_input=torch.zeros(1, 3, 16, 16))
    _agrees(report.path, tiny(), 16)


def test_a_module_without_any_shape_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="--input-shape"):
        export_saliency(tiny(), tmp_path / "s.onnx")


def test_the_torchscript_exporter_steps_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.onnx.export

    def refuses_dynamo(*arguments: Any, dynamo: bool, **options: Any) -> Any:
        if dynamo:
            raise torch.onnx.OnnxExporterError("not today")
        return original(*arguments, dynamo=False, **options)

    monkeypatch.setattr(torch.onnx, "export", refuses_dynamo)
    report = export_saliency(tiny(), tmp_path / "s.onnx", input_shape=(1, 3, 16, 16))
    _agrees(report.path, tiny(), 16)


def test_the_torchscript_exporter_steps_in_for_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.onnx.export

    def forgets_a_weight(*arguments: Any, **options: Any) -> Any:
        program = original(*arguments, **options)
        if options["dynamo"]:
            weights = program.model.graph.initializers
            weights.pop(next(iter(weights)))
        return program

    monkeypatch.setattr(torch.onnx, "export", forgets_a_weight)
    report = export_saliency(tiny(), tmp_path / "s.onnx", input_shape=(1, 3, 16, 16))
    _agrees(report.path, tiny(), 16)


class _SameConv(torch.nn.Conv2d):
    """Padding worked out from the picture's size, as TensorFlow's networks have it in PyTorch."""

    def forward(self, x: Any) -> Any:
        pads = []
        for size in x.shape[:1:-1]:
            total = ((size + 1) // 2 - 1) * 2 + 3 - size
            pads += [total // 2, total - total // 2]
        return super().forward(torch.nn.functional.pad(x, pads))


class _Fixed(torch.nn.Module):
    """A map of positions for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.randn(1, 3, 16, 16))
        self.rest = tiny()

    def forward(self, x: Any) -> Any:
        return self.rest(x + self.place)


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_module_of_any_size(
    dynamo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.onnx.export

    def chosen(*arguments: Any, **options: Any) -> Any:
        if options["dynamo"] and not dynamo:
            raise torch.onnx.OnnxExporterError("not today")
        return original(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", chosen)
    torch.manual_seed(0)
    same = [_SameConv(3, 8, 3, stride=2), torch.nn.Tanh(), _SameConv(8, 8, 3, stride=2)]
    pool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    module = torch.nn.Sequential(*same, pool, *list(tiny())[2:4], torch.nn.Linear(8, 4))
    report = export_saliency(
        module, tmp_path / "s.onnx", input_shape=(1, 3, 32, 32), dynamic_size=True
    )
    image = session(report.path).get_inputs()[0]
    assert image.shape == ["N", 3, "H", "W"]
    for height, width in ((32, 32), (37, 53), (30, 61), (65, 19)):
        _agrees(report.path, module, height, width)


@pytest.mark.parametrize("front_door", [_Fixed, "timm"])
def test_a_module_of_one_size_only(front_door: Any, tmp_path: Path) -> None:
    if front_door == "timm":
        pytest.importorskip("timm")
    classifier = "timm:vit_tiny_patch16_224" if front_door == "timm" else front_door()
    options = {"random_weights": True} if front_door == "timm" else {"input_shape": (1, 3, 16, 16)}
    with pytest.raises(ClassifierError, match="without --dynamic-size"):
        export_saliency(classifier, tmp_path / "s.onnx", dynamic_size=True, **options)


def test_a_module_that_no_exporter_takes(tmp_path: Path) -> None:
    class Unruly(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError("this network only pretends")

    with pytest.raises(ClassifierError, match="neither of PyTorch's ONNX exporters"):
        export_saliency(Unruly(), tmp_path / "s.onnx", input_shape=(1, 3, 8, 8))


def test_a_factory_by_name_with_weights(tmp_path: Path) -> None:
    trained = tiny()
    with torch.no_grad():
        trained[4].weight.mul_(2.0)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    report = export_saliency(
        "torch:test_frontdoors:tiny",
        tmp_path / "s.onnx",
        input_shape=(1, 3, 16, 16),
        weights=tmp_path / "weights.pt",
    )
    _agrees(report.path, trained, 16)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("torch:test_frontdoors", "does not name a factory"),
        ("torch:test_frontdoors:absent", "can't be imported"),
        ("torch:no.such.package:net", "can't be imported"),
        ("torch:test_frontdoors:not_a_module", "returned int"),
        ("timm:resnet5000", "timm has no model"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(name, tmp_path / "s.onnx", input_shape=(1, 3, 16, 16))


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_no_code_from_a_weights_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "code-was-run"
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(_Bomb(marker), protocol=2))
    with pytest.raises(ClassifierError, match="without running"):
        export_saliency(
            "torch:test_frontdoors:tiny",
            tmp_path / "s.onnx",
            input_shape=(1, 3, 16, 16),
            weights=tmp_path / "weights.pt",
        )
    assert not marker.exists()


def test_timm_brings_its_preprocessing(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    report = export_saliency("timm:mobilenetv3_small_050", tmp_path / "s.onnx", random_weights=True)
    metadata = {entry.key: entry.value for entry in onnx.load(report.path).metadata_props}
    record = json.loads(metadata["deepinside.preprocessing"])
    assert record["input_size"] == [224, 224]
    assert record["resize"] == "shorter-side"
    assert record["resize_size"] == 256
    assert record["interpolation"] == "bicubic"
    assert record["mean"] == [0.485, 0.456, 0.406]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'deepinside\[torch\]'"):
        pytorch.load("timm:resnet18")


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ClassifierError, match=r"'torch' is installed but can't be imported.*nms"):
        pytorch.load("timm:resnet18")


def test_something_else_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not dict"):
        export_saliency({}, tmp_path / "s.onnx")


def test_the_command_line_knows_every_front_door(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from deepinside.cli.main import cli
    from deepinside.cli.model import FRONT_DOORS
    from deepinside.exporters.source import DOORS

    assert FRONT_DOORS == DOORS
    explained = CliRunner().invoke(cli, ["export", "-h"]).output
    for door in DOORS:
        assert f" {door}:" in explained
        used = CliRunner().invoke(cli, ["check", "-m", f"{door}:anything"])
        assert used.exit_code == 2
        assert f"deepinside export {door}:anything" in " ".join(used.output.split())


@pytest.mark.parametrize(
    ("classifier", "module", "extra"),
    [
        ("hf:folder", "transformers", "hf"),
        ("keras:net.keras", "keras", "keras"),
        ("sklearn:digits.skops", "sklearn", "sklearn"),
        ("jax:package.module:factory", "jax", "jax"),
    ],
)
def test_a_front_door_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classifier: str, module: str, extra: str
) -> None:
    original = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(name=module)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingPackageError, match=rf"'deepinside\[{extra}\]'") as caught:
        export_saliency(classifier, tmp_path / "s.onnx")
    assert caught.value.package == module


@pytest.mark.parametrize(
    "door", ["hf:folder", "keras:file.keras", "jax:module:factory", "sklearn:file.skops", "a.onnx"]
)
def test_an_open_size_is_refused_where_it_means_nothing(door: str, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="--dynamic-size can't be used"):
        export_saliency(door, tmp_path / "s.onnx", dynamic_size=True)
