"""Hostile weights for PyTorch, and folders of Hugging Face: no code run, nothing read elsewhere."""

import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hostile_files import Command

from deepinside.exporters import ClassifierError, ExportError, export_saliency

torch = pytest.importorskip("torch")

# The frameworks' own, about files that they don't take.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


# --- weights for a PyTorch network ---


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Exports a linear network of 12 numbers with the weights of a file."""
    source = "import torch\n\ndef make():\n    return torch.nn.Linear(12, 3)\n"
    (tmp_path / "linear_network.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "linear_network", raising=False)

    def load(path: Path) -> None:
        shape = (1, 12)
        export_saliency(
            "torch:linear_network:make", tmp_path / "s.onnx", weights=path, input_shape=shape
        )

    return load


def safetensors(text: bytes = b"", length: int | None = None, **changes: Any) -> bytes:
    """A file of the linear network's tensors, whose header says something else of the bias."""
    tensors = {
        "weight": {"dtype": "F32", "shape": [3, 12], "data_offsets": [0, 144]},
        "bias": {"dtype": "F32", "shape": [3], "data_offsets": [144, 156]} | changes,
    }
    text = text or json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(156)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(range(256)), id="random"),
        pytest.param(safetensors()[:60], id="cut in the header"),
        pytest.param(safetensors()[:-1], id="cut in the data"),
        pytest.param(safetensors(length=1 << 62), id="enormous header"),
        pytest.param(safetensors(b"{" * 99), id="no JSON"),
        pytest.param(safetensors(b'{"a":' + b"[" * 99_999), id="deep JSON"),
        pytest.param(safetensors(data_offsets=[132, 144]), id="overlap"),
        pytest.param(safetensors(data_offsets=[144, 1 << 40]), id="beyond the end"),
        pytest.param(safetensors(data_offsets=[-12, 0]), id="negative"),
        pytest.param(safetensors(shape=[1 << 62, 4]), id="overflow"),
        pytest.param(safetensors(dtype="X9"), id="unknown type"),
    ],
)
def test_broken_safetensors(tmp_path: Path, linear: Callable[[Path], None], content: bytes) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ClassifierError, match=r"w\.safetensors is not a whole \.safetensors file"):
        linear(tmp_path / "w.safetensors")


@pytest.mark.parametrize("pack", ["pickle", "torch", "empty", "cut", "numbers for names"])
def test_states_that_are_none(tmp_path: Path, linear: Callable[[Path], None], pack: str) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": Command(tmp_path)} if pack == "torch" else {1: torch.zeros(2)}, path)
    if pack in ("pickle", "empty"):
        path.write_bytes(pickle.dumps(Command(tmp_path)) if pack == "pickle" else b"")
    elif pack == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ClassifierError, match="is not a state dictionary"):
        linear(path)
    assert not (tmp_path / "was-run").exists()


# --- folders of Hugging Face ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers with a small network."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        id2label={0: "cat", 1: "dog", 2: "camera"},
    )
    folder = tmp_path_factory.mktemp("hf") / "net"
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "net"))


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        export_saliency(f"hf:{folder}", folder.parent / "s.onnx")
    assert not (folder.parent / "was-run").exists()


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize("place", ["../secret.safetensors", "{root}/secret.safetensors", "link"])
@pytest.mark.parametrize("named_by", ["index", "configuration", "index in a folder"])
def test_weights_outside_the_folder(folder: Path, place: str, named_by: str) -> None:
    secret = folder.parent / "secret.safetensors"
    shutil.move(folder / "model.safetensors", secret)
    if place == "link":
        place = "link.safetensors"
        (folder / place).symlink_to(secret)
    place = place.format(root=folder.parent)
    if named_by == "configuration":
        change(folder / "config.json", transformers_weights=place)
    else:
        from safetensors import safe_open

        with safe_open(secret, "np") as opened:
            places = dict.fromkeys(opened.keys(), place)
        name = "model.safetensors.index.json"
        if named_by == "index in a folder":
            (folder / "more").mkdir()
            name = f"more/{name}"
            change(folder / "config.json", transformers_weights=name)
        (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    refused(folder, r"secret\.safetensors\), which is refused")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_files_that_are_links_to_elsewhere(folder: Path, name: str) -> None:
    outside = folder.parent / "secret"
    if (folder / name).exists():
        shutil.move(folder / name, outside)
    else:
        outside.write_text("{}")
    (folder / name).symlink_to(outside)
    refused(folder, "outside of itself")


def test_the_hubs_cache_of_links_is_read(folder: Path) -> None:
    snapshot, blobs = folder.parent / "snapshots" / "ab12", folder.parent / "blobs"
    snapshot.mkdir(parents=True)
    folder.rename(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert export_saliency(f"hf:{snapshot}", folder.parent / "s.onnx").path.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": "x"}, "can't make an image classifier"),
        ({"hidden_size": 0}, "can't make an image classifier"),
        ({"hidden_size": 10**12}, "can't make an image classifier"),
        ({"patch_size": 0}, "can't make an image classifier"),
        ({"image_size": [8]}, "can't make an image classifier"),
        ({"id2label": {"0": "a", "1": "b", "9": "c"}}, "has no names of all its 3 classes"),
        ({"id2label": {"0": "a"}}, "can't make an image classifier"),
        ({"id2label": "abc"}, "can't make an image classifier"),
        ({"dtype": "os"}, "can't make an image classifier"),
        ({"model_type": ["vit"]}, "can't make an image classifier"),
        ({"return_dict": False}, "neither of PyTorch's ONNX exporters"),
        ({"quantization_config": 3}, "can't make an image classifier"),
    ],
)
def test_odd_configurations(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    change(folder / "config.json", **changes)
    refused(folder, sentence)


def test_weights_of_half_precision_become_float32(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", dtype="bfloat16")
    report = export_saliency(f"hf:{folder}", folder.parent / "s.onnx")
    types = {entry.data_type for entry in onnx.load(report.path).graph.initializer}
    assert onnx.TensorProto.FLOAT in types
    assert onnx.TensorProto.BFLOAT16 not in types


def test_weights_that_are_missing_are_not_made_up(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["\x1b[31mred"] = state.pop("classifier.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"lacks weights of a classifier, which would be random: classifier\.weight")
    printed = capfd.readouterr()
    assert "\x1b[31mred" not in printed.out + printed.err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(range(256)), None])
def test_broken_weights_of_transformers(folder: Path, content: bytes | None) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    refused(folder, "can't make an image classifier")


def test_pickles_under_other_names(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Command(folder.parent)))
    refused(folder, "can't make an image classifier")
    (folder / "model.safetensors").unlink()
    torch.save({"a": Command(folder.parent)}, folder / "evil.bin")
    index = {"metadata": {}, "weight_map": {"a": "evil.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "can't make an image classifier")


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": "x"},
        {"resample": None},
        {"image_mean": None},
        {"image_mean": "x"},
        {"rescale_factor": 0},
        {"size": {"height": 10**12, "width": 5}},
        {"size": {"height": -3, "width": 5}},
        {"size": "x"},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 8}}
        | {"crop_pct": 0},
        {"image_processor_type": 3},
        {"image_processor_type": "E", "auto_map": {"AutoImageProcessor": "evil.E"}},
    ],
)
def test_odd_image_processors(folder: Path, changes: dict[str, Any]) -> None:
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'was-run')!r}, 'w')")
    usual = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    change(folder / "preprocessor_config.json", **usual)
    change(folder / "preprocessor_config.json", **changes)
    refused(folder, "is no preprocessing of transformers|there is no picture of the shape")
