"""Hostile files of Keras and scikit-learn: a sentence, no code run, nothing read elsewhere."""

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import session
from hostile_files import Command, repacked
from onnx import helper

from deepinside.exporters import ClassifierError, ExportError, GradientError, export_saliency

os.environ.setdefault("KERAS_BACKEND", "torch")

# The frameworks' own, about files that they don't take.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


# --- files of Keras ---


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
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
