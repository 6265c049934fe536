"""Opens a classifier, whatever it is given as, and says which bytes it came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from deepinside.exporters.boundary import (
    require_bounded,
    require_embedded,
    require_whole,
    settle_external,
)
from deepinside.exporters.classical import without_dictionaries
from deepinside.exporters.errors import ClassifierError, innermost
from deepinside.exporters.frontdoor import Opened, refuse

__all__ = ["DOORS", "Source", "open_classifier"]

_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
# Files of a front door that were given without it.
_DOOR_FILES = {".keras": "keras", ".skops": "sklearn"}
DOORS = ("hf", "jax", "keras", "sklearn", "timm", "torch")
"""The words before the colon that name a front door."""

# Root package of a class -> the door of its objects. A network of transformers or Keras can be a
# torch.nn.Module too: of a class and its bases, the first that is here decides.
_PACKAGES = {
    "equinox": "jax",
    "flax": "jax",
    "jax": "jax",
    "jaxlib": "jax",
    "keras": "keras",
    "sklearn": "sklearn",
    "torch": "torch",
    "transformers": "hf",
}


@dataclass(frozen=True)
class Source:
    """A classifier as an ONNX graph.

    Attributes:
        model: the graph; its large tensors may still lie in external files.
        sha256: hex digest of the ONNX file (with external data: of the digests of all its files),
            or of the graph as exported.
        size: bytes of the same.
        preprocessing: what the front door knows of the preprocessing, as a contract record.
        labels: one name per class, where the front door knows them.
    """

    model: ir.Model
    sha256: str
    size: int
    preprocessing: dict[str, Any] | None = None
    labels: list[str] | None = None


def open_classifier(
    classifier: Any,
    *,
    example_input: Any = None,
    input_shape: Sequence[int] | None = None,
    weights: str | Path | None = None,
    random_weights: bool = False,
    dynamic_size: bool = False,
) -> Source:
    """Open a classifier.

    Args:
        classifier: path of an .onnx file, an `onnx.ModelProto`, a network of PyTorch,
            transformers, Keras or JAX, a fitted scikit-learn classifier, or a text that names a
            front door: `timm:NAME`, `torch:package.module:factory`, `hf:FOLDER`, `keras:FILE`,
            `sklearn:FILE`, `jax:package.module:factory`.
        example_input: for a network that does not know its input: an array or tensor.
        input_shape: for such a network without an example input: its shape, batch included.
        weights: for `timm:` and `torch:`: a .safetensors file, or a state dictionary.
        random_weights: for `timm:`, `hf:` and `keras:applications.NAME`: an untrained network.
        dynamic_size: for a network of PyTorch: leave height and width open.

    Raises:
        ClassifierError: it can't be opened.
        MissingPackageError: the front door's framework is not installed.
    """
    door = None if isinstance(classifier, onnx.ModelProto) else _door(classifier)
    if door is None:
        refuse("a finished ONNX model", dynamic_size=dynamic_size)
        if isinstance(classifier, onnx.ModelProto):
            return _from_proto(classifier)
        return _from_file(Path(classifier))
    opened = _through(
        door,
        classifier,
        example_input=example_input,
        input_shape=input_shape,
        weights=weights,
        random_weights=random_weights,
        dynamic_size=dynamic_size,
    )
    content = ir.to_proto(opened.model).SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    return Source(opened.model, digest, len(content), opened.preprocessing, opened.labels)


def _door(classifier: Any) -> str | None:
    """The front door for a classifier; None for a file."""
    if isinstance(classifier, (str, Path)):
        word = str(classifier).partition(":")[0]
        return word if word in DOORS else None
    for base in type(classifier).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _PACKAGES:
            return _PACKAGES[package]
    if isinstance(classifier, FunctionType):
        return "jax"
    raise ClassifierError(
        "a classifier is the path of an .onnx file, an onnx.ModelProto, a network of PyTorch, "
        "transformers, Keras or JAX, a scikit-learn estimator, or a text that begins with "
        f"{', '.join(f'{door}:' for door in DOORS)}, not {type(classifier).__name__}."
    )


def _through(
    door: str,
    classifier: Any,
    *,
    example_input: Any,
    input_shape: Sequence[int] | None,
    weights: str | Path | None,
    random_weights: bool,
    dynamic_size: bool,
) -> Opened:
    # Imported here: a framework is needed by its own front door only.
    if door in ("timm", "torch"):
        from deepinside.exporters import pytorch

        module, known_shape, preprocessing = pytorch.load(
            classifier, weights=weights, random_weights=random_weights
        )
        model = pytorch.to_onnx(
            module, example_input, input_shape or known_shape, dynamic_size=dynamic_size
        )
        return Opened(model, preprocessing)
    if door == "hf":
        from deepinside.exporters import huggingface

        refuse("a classifier of transformers", weights=weights, dynamic_size=dynamic_size)
        return huggingface.load(
            classifier,
            example_input=example_input,
            input_shape=input_shape,
            random_weights=random_weights,
        )
    if door == "keras":
        from deepinside.exporters import keras

        refuse("a Keras classifier", weights=weights, dynamic_size=dynamic_size)
        return keras.load(
            classifier,
            example_input=example_input,
            input_shape=input_shape,
            random_weights=random_weights,
        )
    if door == "jax":
        from deepinside.exporters import jax

        refuse(
            "a JAX classifier",
            weights=weights,
            random_weights=random_weights,
            dynamic_size=dynamic_size,
        )
        return jax.load(classifier, example_input=example_input, input_shape=input_shape)
    if door == "sklearn":
        from deepinside.exporters import sklearn

        refuse(
            "a scikit-learn classifier",
            example_input=example_input,
            input_shape=input_shape,
            weights=weights,
            random_weights=random_weights,
            dynamic_size=dynamic_size,
        )
        return sklearn.load(classifier)
    raise AssertionError(door)


def _from_proto(proto: onnx.ModelProto) -> Source:
    try:
        content = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ClassifierError(
            f"the model can't be serialised ({error}); save it with external data and give its "
            "path."
        ) from error
    require_embedded(proto)
    digest = hashlib.sha256(content).hexdigest()
    return Source(_deserialise(proto, "the model"), digest, len(content))


def _from_file(path: Path) -> Source:
    if path.suffix.lower() in _PICKLES:
        raise ClassifierError(
            f"{path} is a pickle, which runs code when it is loaded: give the network as "
            "torch:package.module:factory and this file's state dictionary with --weights; save a "
            "scikit-learn classifier with skops.io.dump and give it as sklearn:FILE.skops."
        )
    if path.suffix in _DOOR_FILES:
        raise ClassifierError(
            f"{path} is not an ONNX file; give it as {_DOOR_FILES[path.suffix]}:{path}."
        )
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ClassifierError(f"{path} is not a file.")
        content = path.read_bytes()
    except OSError as error:
        raise ClassifierError(f"can't read the classifier {path}: {error.strerror}.") from error
    try:
        proto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ClassifierError(
            f"{path} is not an ONNX file, or is cut off ({len(content)} bytes)."
        ) from error
    if not proto.graph.node:
        raise ClassifierError(f"{path} is not an ONNX file, or holds an empty graph.")
    digests, size = [hashlib.sha256(content)], len(content)
    for data in settle_external(proto, path):
        with data.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
        size += data.stat().st_size
    whole = digests[0]
    if len(digests) > 1:
        whole = hashlib.sha256(b"".join(digest.digest() for digest in digests))
    return Source(_deserialise(proto, str(path)), whole.hexdigest(), size)


def _deserialise(proto: onnx.ModelProto, name: str) -> ir.Model:
    require_whole(proto, name)
    require_bounded(proto, name)
    try:
        return ir.from_proto(without_dictionaries(proto))
    except (ir.serde.SerdeError, ValueError, KeyError, TypeError) as error:
        raise ClassifierError(f"{name} is not a valid ONNX model: {innermost(error)}") from error
