"""What the fuzzer gives the front doors: valid files of each framework, a few parts changed.

Blind bytes don't get past a checksum or the first bracket: here the bytes that libFuzzer makes up
choose which values of a file's JSON become what, or which bytes of its weights.
"""

import copy
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

os.environ.setdefault("KERAS_BACKEND", "torch")

# Not 10**12 and the like: a network may ask for as many layers, and time, as it likes.
VALUES = (
    None,
    True,
    -1,
    0,
    1,
    3,
    0.5,
    "",
    "x",
    "../x",
    "a\0b",
    [],
    {},
    [1, 2],
    {"a": 1},
    "float16",
)


def edited(data: atheris.FuzzedDataProvider, content: Any) -> Any:
    """JSON content with up to four values replaced, by others or by one another, or taken out."""
    root = {"": copy.deepcopy(content)}
    for _ in range(data.ConsumeIntInRange(1, 4)):
        places = list(_places(root))
        holder, key = places[data.ConsumeIntInRange(0, len(places) - 1)]
        kind = data.ConsumeIntInRange(0, 3)
        if kind == 0:
            other, name = places[data.ConsumeIntInRange(0, len(places) - 1)]
            holder[key] = copy.deepcopy(other[name])
        elif kind == 1 and holder is not root:
            del holder[key]
        elif kind == 2:
            holder[key] = data.ConsumeUnicodeNoSurrogates(12)
        else:
            holder[key] = VALUES[data.ConsumeIntInRange(0, len(VALUES) - 1)]
    return root[""]


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def spoiled(data: atheris.FuzzedDataProvider, content: bytes) -> bytes:
    """Bytes with up to eight others in them, and perhaps a part of them only."""
    changed = bytearray(content)
    for _ in range(data.ConsumeIntInRange(1, 8)):
        changed[data.ConsumeIntInRange(0, len(changed) - 1)] = data.ConsumeIntInRange(0, 255)
    return bytes(
        changed[: data.ConsumeIntInRange(0, len(changed))] if data.ConsumeBool() else changed
    )


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def with_edits(
    data: atheris.FuzzedDataProvider, parts: dict[str, bytes], json_member: str
) -> dict[str, bytes]:
    """An archive whose JSON is edited, or else another of its members spoiled."""
    names = [name for name in parts if name != json_member]
    if data.ConsumeBool():
        name = names[data.ConsumeIntInRange(0, len(names) - 1)]
        return {**parts, name: spoiled(data, parts[name])}
    content = edited(data, json.loads(parts[json_member]))
    return {**parts, json_member: json.dumps(content).encode()}


Target = Callable[[atheris.FuzzedDataProvider], Any]


def keras_target(folder: Path) -> Target:
    import keras

    from deepinside.exporters import keras as door

    layers = keras.layers
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2")(image)
    x = layers.MaxPooling2D(padding="same")(layers.BatchNormalization()(x))
    x = layers.Rescaling(0.5)(layers.GlobalAveragePooling2D()(x))
    keras.Model(image, layers.Dense(3, "softmax")(x)).save(folder / "seed.keras")
    parts = members(folder / "seed.keras")

    def call(data: atheris.FuzzedDataProvider) -> None:
        path = packed(with_edits(data, parts, "config.json"), folder / "input.keras")
        door._input_shape(door._read(keras, path), None)

    return call


def skops_target(folder: Path) -> Target:
    import numpy as np
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from deepinside.exporters import sklearn as door

    x = np.random.default_rng(0).standard_normal((30, 12))
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, np.arange(30) % 3)
    skops.io.dump(estimator, folder / "seed.skops")
    parts = members(folder / "seed.skops")

    def call(data: atheris.FuzzedDataProvider) -> None:
        path = packed(with_edits(data, parts, "schema.json"), folder / "input.skops")
        door.load(f"sklearn:{path}")

    return call


def safetensors_target(folder: Path) -> Target:
    import safetensors.torch
    import torch

    from deepinside.exporters import pytorch as door

    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    seed = safetensors.torch.save(network.state_dict())
    (length,) = struct.unpack("<Q", seed[:8])
    header, rest = json.loads(seed[8 : 8 + length]), seed[8 + length :]

    def call(data: atheris.FuzzedDataProvider) -> None:
        content = spoiled(data, seed)
        if data.ConsumeBool():
            text = json.dumps(edited(data, header)).encode()
            content = struct.pack("<Q", len(text)) + text + rest
        (folder / "input.safetensors").write_bytes(content)
        door._load_weights(network, folder / "input.safetensors")

    return call


def state_dictionary_target(folder: Path) -> Target:
    import torch

    from deepinside.exporters import pytorch as door

    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    (folder / "seed.pt").write_bytes(stream.getvalue())
    parts = members(folder / "seed.pt")

    def call(data: atheris.FuzzedDataProvider) -> None:
        names = list(parts)
        name = names[data.ConsumeIntInRange(0, len(names) - 1)]
        path = packed({**parts, name: spoiled(data, parts[name] or b"x")}, folder / "input.pt")
        door._load_weights(network, path)

    return call


def transformers_target(folder: Path) -> Target:
    import conftest  # noqa: F401  (a CPU build of PyTorch beside another's torchvision)
    import transformers

    from deepinside.exporters import huggingface as door

    home = folder / "net"
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        id2label={0: "cat", 1: "dog", 2: "camera"},
    )
    transformers.ViTForImageClassification(config).save_pretrained(home)
    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}).to_dict()
    contents = {
        "config.json": json.loads((home / "config.json").read_text()),
        "preprocessor_config.json": processor,
    }

    def call(data: atheris.FuzzedDataProvider) -> None:
        changed = data.PickValueInList(list(contents))
        for name, content in contents.items():
            text = json.dumps(edited(data, content) if name == changed else content, default=str)
            (home / name).write_text(text)
        network = door._read(transformers, home, False)
        door._labels(network.config)
        door._input_shape(network.config, door._record(transformers, home))

    return call


TARGETS: dict[str, Callable[[Path], Target]] = {
    "keras": keras_target,
    "safetensors": safetensors_target,
    "skops": skops_target,
    "state-dictionary": state_dictionary_target,
    "transformers": transformers_target,
}


def target(name: str) -> Callable[[bytes], Any]:
    """The function to fuzz, which makes its file from the bytes."""
    call = TARGETS[name](Path(tempfile.mkdtemp(prefix="fuzz-")))
    return lambda data: call(atheris.FuzzedDataProvider(data))
