"""Hostile files at the front doors: a sentence each, no code run, nothing read elsewhere."""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from deepinside.exporters import ClassifierError, ExportError, GradientError, export_saliency

torch = pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")

# The frameworks' own, about files that they don't take.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Command:
    """A pickle that makes a file `was-run` when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch '{folder / 'was-run'}'"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def repacked(path: Path, changes: Mapping[str, bytes | str]) -> Path:
    """A copy of a zip file with other contents of some members, and with new ones."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    other = path.with_stem("changed")
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, **changes}.items():
            archive.writestr(name, content)
    return other


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
@pytest.mark.parametrize("named_by", ["index", "configuration"])
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
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
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


# --- files of Keras ---


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.Flatten()(x)
    path = tmp_path_factory.mktemp("keras") / "net.keras"
    keras.Model(image, keras.layers.Dense(3)(x)).save(path)
    return path


def keras_refused(path: Path, sentence: str) -> None:
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(f"keras:{path}", path.parent / "s.onnx")
    assert not (path.parent / "was-run").exists()


def layer_of(path: Path, number: int, **changes: Any) -> str:
    """The configuration with another layer."""
    with zipfile.ZipFile(path) as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    layer = config["config"]["layers"][number]
    layer.update(changes | {"config": {**layer["config"], **changes.get("config", {})}})
    return json.dumps(config)


@pytest.mark.parametrize("length", [0, 30, 2000, -5])
def test_keras_files_that_are_cut_off(keras_file: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.keras").write_bytes(keras_file.read_bytes()[:length])
    keras_refused(tmp_path / "cut.keras", "is not a .keras file, or is cut off")


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{}", "[" * 99_999, "{", "\xff"])
def test_keras_configurations_that_are_none(keras_file: Path, content: str) -> None:
    keras_refused(repacked(keras_file, {"config.json": content}), "Keras can't read")


def function(module: str, name: str) -> dict[str, Any]:
    entry = {"class_name": "function", "registered_name": name}
    return entry | {"module": module, "config": name}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"module": "os", "class_name": "system", "registered_name": "system"}, "can't read"),
        ({"config": {"activation": function("os", "system")}}, "can't read"),
        ({"config": {"activation": function("builtins", "exec")}}, "can't read"),
        # Keras' own functions, which its safe mode lets a file call with a tensor.
        (
            {"config": {"activation": function("keras.datasets.mnist", "load_data")}},
            r"names keras\.datasets\.mnist\.load_data, which is no part of a network",
        ),
        (
            {"config": {"activation": function("keras.applications", "ResNet50V2")}},
            r"names keras\.applications\.ResNet50V2",
        ),
        ({"config": {"activation": function("keras.config", "set_floatx")}}, "names keras.config"),
        ({"module": "keras.utils", "class_name": "get_file"}, r"names keras\.utils\.get_file"),
        ({"config": {"activation": function("keras.saving", "load_model")}}, "names keras.saving"),
        ({"class_name": "TFSMLayer", "config": {"filepath": "/tmp"}}, "can't read"),
        ({"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}, "can't read"),
        ({"class_name": "TextVectorization", "config": {"vocabulary": "/etc/passwd"}}, "can't"),
        ({"config": {"strides": [0, 0]}}, "can't read"),
        ({"config": {"filters": 10**13}}, "can't read"),
        ({"config": {"filters": "4"}}, "can't read"),
    ],
)
def test_keras_layers_that_are_none(
    keras_file: Path, changes: dict[str, Any], sentence: str
) -> None:
    keras_refused(
        repacked(keras_file, {"config.json": layer_of(keras_file, 1, **changes)}), sentence
    )


def test_a_torch_module_in_a_keras_file_is_not_unpickled(keras_file: Path) -> None:
    import base64

    pickled = base64.b64encode(pickle.dumps(Command(keras_file.parent))).decode()
    changes = {"class_name": "TorchModuleWrapper", "config": {"module": pickled}}
    keras_refused(
        repacked(keras_file, {"config.json": layer_of(keras_file, 1, **changes)}), "can't read"
    )


def test_an_enormous_input_of_a_keras_file(keras_file: Path) -> None:
    changes = {"config": {"batch_shape": [None, 10**7, 10**7, 3]}}
    config = json.loads(layer_of(keras_file, 0, **changes))
    del config["config"]["layers"][2:]
    config["config"]["output_layers"] = ["conv2d", 0, 0]
    keras_refused(
        repacked(keras_file, {"config.json": json.dumps(config)}),
        "no picture of the shape|can't read",
    )


def weights_of(path: Path, spoil: Callable[[Any, str], None]) -> bytes:
    """The weights' file with another kernel of the convolution."""
    h5py = pytest.importorskip("h5py")
    with zipfile.ZipFile(path) as archive:
        stream = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stream, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        (kernel,) = (name for name in names if getattr(file[name], "shape", 0) == (3, 3, 3, 4))
        del file[kernel]
        spoil(file, kernel)
    return stream.getvalue()


def outside(file: Any, name: str) -> None:
    file.create_dataset(name, (3, 3, 3, 4), "f4", external=[("/etc/passwd", 0, 432)])


def linked(file: Any, name: str) -> None:
    import h5py

    file[name] = h5py.ExternalLink("/etc/passwd", "/d")


def virtual(file: Any, name: str) -> None:
    import h5py

    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "d", (3, 3, 3, 4))
    file.create_virtual_dataset(name, layout)


def bomb(file: Any, name: str) -> None:
    file.create_dataset(name, (1 << 20, 1 << 20, 3, 4), "f4", chunks=True, compression="gzip")


@pytest.mark.parametrize("spoil", [outside, linked, virtual, bomb])
def test_keras_weights_that_lie_elsewhere(keras_file: Path, spoil: Any) -> None:
    changes = {"model.weights.h5": weights_of(keras_file, spoil)}
    keras_refused(repacked(keras_file, changes), "Not allowed")


@pytest.mark.parametrize("length", [0, 8, 100, 5000])
def test_keras_weights_that_are_cut_off(keras_file: Path, length: int) -> None:
    with zipfile.ZipFile(keras_file) as archive:
        content = archive.read("model.weights.h5")[:length]
    keras_refused(repacked(keras_file, {"model.weights.h5": content}), "Keras can't read")


def test_bombs_in_keras_files(keras_file: Path) -> None:
    with zipfile.ZipFile(keras_file) as archive:
        config = archive.read("config.json")
    keras_refused(
        repacked(keras_file, {"config.json": b" " * (1 << 26) + config}), "which none has"
    )
    changes = {"../../was-run": b"x", "assets/a": bytes(300 << 20)}
    keras_refused(repacked(keras_file, changes), "decompression bomb")


# --- files of scikit-learn, and what is in them ---


@pytest.fixture(scope="module")
def skops_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skops = pytest.importorskip("skops.io")
    pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).standard_normal((30, 12))
    path = tmp_path_factory.mktemp("skops") / "net.skops"
    skops.dump(LogisticRegression().fit(x, np.arange(30) % 3), path)
    return path


def skops_refused(path: Path, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        export_saliency(f"sklearn:{path}", path.parent / "s.onnx", image_size=(2, 2))
    assert not (path.parent / "was-run").exists()


def array_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


# Of an array of 40 TB, and one that does not end.
_HEADER = array_bytes(np.zeros(5))
_HUGE = _HEADER.replace(b"(5,), }" + b" " * 12, b"(5000000000000,), }")
_OPEN = _HEADER.replace(b"(5,), }", b"(5,),  ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "can't be read"),
        (b"\x93NUMPY", "can't be read"),
        (_HUGE, "can't be read"),
        (_OPEN, "can't be read"),
        (array_bytes(np.zeros(5)), "don't fit each other|can't convert|labels for"),
        (array_bytes(np.zeros((3, 5))), "shape inference|can't convert|don't fit|labels for"),
        (array_bytes(np.array(["a", "b"])), "can't convert|can't be read|labels for"),
        (None, "can't be read"),
    ],
)
def test_arrays_of_skops_files(skops_file: Path, content: bytes | None, sentence: str) -> None:
    if content is None:
        pickled = np.array([Command(skops_file.parent)], dtype=object)
        content = array_bytes(pickled)
    with zipfile.ZipFile(skops_file) as archive:
        schema = json.loads(archive.read("schema.json"))
    attributes = schema["content"]["content"]
    name = attributes["coef_"]["file"]
    skops_refused(repacked(skops_file, {name: content}), sentence)


@pytest.mark.parametrize(
    "loader", ["ObjectNode", "FunctionNode", "TypeNode", "LossNode", "SetNode"]
)
def test_no_module_that_a_skops_file_names_is_imported(
    skops_file: Path, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = skops_file.parent / "was-run"
    (skops_file.parent / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(skops_file.parent)
    with zipfile.ZipFile(skops_file) as archive:
        schema = json.loads(archive.read("schema.json"))
    empty = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode"}
    named = {"__loader__": loader, "__module__": "evil_module", "__class__": "E"}
    reduced = {"__reduce__": {"args": {**empty, "content": []}}}
    changed = json.dumps({**schema, **named, **reduced})
    skops_refused(repacked(skops_file, {"schema.json": changed}), "could run code|can't be read")


def test_names_of_classes_that_are_texts(tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).standard_normal((30, 12))
    names = np.array(["cat", "dög", "<b>\x1b[31m"])
    estimator = LogisticRegression().fit(x, names[np.arange(30) % 3])
    report = export_saliency(estimator, tmp_path / "s.onnx", image_size=(2, 2))
    from classifiers import session

    feeds = {"image": x.astype(np.float32), "target": np.zeros(30, np.int64)}
    (label,) = session(report.path).run(["label"], feeds)
    assert label.tolist() == estimator.predict(x.astype(np.float32)).tolist()


# --- operators of ai.onnx.ml in ONNX files ---


@pytest.mark.parametrize(
    "changes",
    [
        {"coefficients": [1.0] * 7},
        {"support_vectors": [1.0] * 7},
        {"vectors_per_class": [0, 0]},
        {"vectors_per_class": [-1, 4]},
        {"kernel_params": [1.0], "kernel_type": "RBF"},
    ],
)
def test_machines_whose_parts_do_not_fit(tmp_path: Path, changes: dict[str, Any]) -> None:
    attributes = {
        "classlabels_ints": [0, 1],
        "coefficients": [1.0, -1.0, 0.5],
        "support_vectors": [0.5] * 36,
        "vectors_per_class": [1, 2],
        "kernel_params": [0.5, 0.0, 3.0],
        "kernel_type": "RBF",
        "rho": [0.1],
    }
    node = helper.make_node(
        "SVMClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        **{**attributes, **changes},
    )
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 12])]
    outputs = [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 2])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(GradientError, match=r"don't fit each other|per class"):
        export_saliency(model, tmp_path / "s.onnx", image_size=(2, 2))
