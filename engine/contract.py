"""The metadata of an exported file as a validated value; docs/file-contract.md is its meaning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from deepinside.engine.errors import ModelFileError, NotExportedError
from deepinside.engine.layout import Layout
from deepinside.engine.record import Preprocessing, parse_record

__all__ = ["CONTRACT_VERSION", "PREFIX", "Contract", "ScoreSource", "parse_contract"]

CONTRACT_VERSION = 4
PREFIX = "deepinside."

Task = Literal["saliency", "visualization"]
Activation = Literal["none", "softmax", "log_softmax", "sigmoid"]
ScoreKind = Literal["logit", "probability"]
StepRule = Literal["plain", "normalized", "natural"]
Relu = Literal["gradient", "deconvnet", "guided"]
Autodiff = Literal["standard", "ort-training"]

_NEEDED_NAMES: Mapping[str, tuple[str, ...]] = {
    "saliency": ("image", "class_scores"),
    "visualization": ("image", "target", "step_size", "l2", "next_image", "score"),
    "natural": (
        *("spectrum", "first_moment", "second_moment", "step", "target", "weights"),
        *("step_size", "l2", "total_variation", "schedule"),
        *("next_spectrum", "next_first_moment", "next_second_moment", "next_step"),
        *("image", "score"),
    ),
    "loop": ("target", "image", "score", "scores"),
}


@dataclass(frozen=True)
class ScoreSource:
    """What `score` means in this file.

    Attributes:
        kind: `logit` (the unnormalised score S_c) or `probability`.
        tensor: name of the tensor of all classes' scores in the graph.
        bypassed: a sentence per node between that tensor and the classifier's output.
    """

    kind: ScoreKind
    tensor: str
    bypassed: tuple[str, ...]


@dataclass(frozen=True)
class Contract:
    """All metadata of an exported file; the keys of docs/file-contract.md.

    Attributes:
        contract_version: version of the contract, at most `CONTRACT_VERSION`.
        tool_version: version of deepinside that wrote the file.
        task: `saliency` or `visualization`.
        source_sha256: hex digest of the classifier.
        names: part of the contract -> tensor name.
        layout: of the image.
        picture: (H, W, C) of a flat image; None in other layouts, whose input says it.
        num_classes: number of classes K.
        activation: what the classifier applies to the unnormalised scores.
        score: what `score` means.
        target_input: `optional`, `required`, `fixed:INDEX`; None in a visualization file.
        step_rule: `plain`, `normalized` or `natural`; None in a saliency file.
        relu: backward rule of ReLU.
        autodiff: what built the gradient: `standard`, or `ort-training`, whose operators only
            onnxruntime-training has.
        preprocessing: how a picture becomes the input; None where not known.
        labels: one name per class; None where not known.
        licence: of the weights; None where not known.
        layer: name of the layer whose channels stand in place of the classes; None for classes.
        neuron: place in that layer; None for the channels' means.
        loop: steps of an ascent that the file holds as a whole; None for a single step.
        method: saliency method that the file holds as a whole: `name` and settings; None for the
            plain gradient.
        straight_through: number of quantising nodes whose rounding the gradient ignores.
    """

    contract_version: int
    tool_version: str
    task: Task
    source_sha256: str
    names: Mapping[str, str]
    layout: Layout
    picture: tuple[int, int, int] | None
    num_classes: int
    activation: Activation
    score: ScoreSource
    target_input: str | None
    step_rule: StepRule | None
    relu: Relu
    autodiff: Autodiff
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    licence: str | None
    layer: str | None = None
    neuron: tuple[int, ...] | None = None
    loop: int | None = None
    straight_through: int = 0
    method: Mapping[str, Any] | None = None

    @property
    def fixed_target(self) -> int | None:
        """The class index that the file was made for, or None where it can be chosen."""
        word, _, index = (self.target_input or "").partition(":")
        return int(index) if word == "fixed" else None

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(H, W) of a flat image; None in other layouts."""
        return None if self.picture is None else self.picture[:2]

    def label(self, index: int) -> str | None:
        """Name of a class, or None where the file has no labels."""
        return None if self.labels is None else self.labels[index]


def parse_contract(metadata: Mapping[str, str], *, where: str) -> Contract:
    """Validate the metadata of a file.

    Args:
        metadata: the file's `metadata_props`.
        where: the file's path, for messages.

    Raises:
        NotExportedError: there is no deepinside metadata.
        ModelFileError: it is of a newer contract, incomplete or broken.
    """
    reader = _Reader(metadata, where)
    version = metadata.get(f"{PREFIX}contract_version")
    if version is None:
        raise NotExportedError(
            f"{where} is an ONNX model without deepinside's metadata: write one that has it with "
            f"deepinside export {where} -o FILE.onnx."
        )
    if reader.integer("contract_version") > CONTRACT_VERSION:
        raise ModelFileError(
            f"{where} keeps version {version} of the file contract and this deepinside knows "
            f"version {CONTRACT_VERSION}: run pip install --upgrade deepinside."
        )
    task: Task = reader.choice("task", get_args(Task))
    rule: StepRule | None = None
    if task == "visualization":
        rule = reader.choice("step_rule", get_args(StepRule))
    loop = reader.integer("loop") if f"{PREFIX}loop" in metadata else None
    classes = reader.integer("num_classes")
    layout: Layout = reader.choice("layout", get_args(Layout))
    return Contract(
        contract_version=int(version),
        tool_version=reader.text("tool_version"),
        task=task,
        source_sha256=reader.text("source_sha256"),
        names=reader.names("loop" if loop else "natural" if rule == "natural" else task),
        layout=layout,
        picture=reader.picture() if layout == "flat" else None,
        num_classes=classes,
        activation=reader.choice("activation", get_args(Activation)),
        score=reader.score(),
        target_input=reader.target_input(classes) if task == "saliency" else None,
        step_rule=rule,
        loop=loop,
        relu=reader.choice("relu", get_args(Relu)),
        autodiff=reader.autodiff(),
        preprocessing=reader.preprocessing(required=rule == "natural"),
        labels=reader.labels(classes),
        licence=metadata.get(f"{PREFIX}licence"),
        **reader.layer(),
        straight_through=(
            reader.integer("straight_through") if f"{PREFIX}straight_through" in metadata else 0
        ),
        method=reader.method() if task == "saliency" else None,
    )


@dataclass(frozen=True)
class _Reader:
    """Takes validated values out of the metadata."""

    metadata: Mapping[str, str]
    where: str

    def broken(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(
            f"the metadata {PREFIX}{key} of {self.where} {problem}: export the file again."
        )

    def text(self, key: str) -> str:
        try:
            return self.metadata[PREFIX + key]
        except KeyError:
            raise self.broken(key, "is missing") from None

    def integer(self, key: str) -> int:
        text = self.text(key)
        if not _is_count(text) or int(text) < 1:
            raise self.broken(key, f"is {text[:40]!r}, not a positive number")
        return int(text)

    def choice(self, key: str, choices: tuple[str, ...]) -> Any:
        text = self.text(key)
        if text not in choices:
            raise self.broken(key, f"is {text!r}, not one of {', '.join(choices)}")
        return text

    def autodiff(self) -> Any:
        """Added to the contract later: absent from files with standard operators."""
        given = f"{PREFIX}autodiff" in self.metadata
        return self.choice("autodiff", get_args(Autodiff)) if given else "standard"

    def decoded(self, key: str, kind: type) -> Any:
        try:
            value = json.loads(self.text(key))
        except (ValueError, RecursionError) as error:  # of numbers and nests without end too
            raise self.broken(key, f"is not JSON ({error})") from error
        if not isinstance(value, kind):
            raise self.broken(key, f"holds a {type(value).__name__}, not a {kind.__name__}")
        return value

    def names(self, kind: str) -> Mapping[str, str]:
        names = self.decoded("names", dict)
        if not all(isinstance(name, str) for name in names.values()):
            raise self.broken("names", "holds what is no name")
        missing = [part for part in _NEEDED_NAMES[kind] if not isinstance(names.get(part), str)]
        if missing:
            raise self.broken("names", f"lacks {', '.join(missing)}")
        return MappingProxyType(dict(names))

    def picture(self) -> tuple[int, int, int]:
        sizes = self.decoded("picture", list)
        if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
            raise self.broken("picture", "is not [height, width, channels]")
        return sizes[0], sizes[1], sizes[2]

    def score(self) -> ScoreSource:
        value = self.decoded("score", dict)
        bypassed = value.get("bypassed")
        if (
            value.get("kind") not in get_args(ScoreKind)
            or not isinstance(value.get("tensor"), str)
            or not _is_texts(bypassed)
        ):
            raise self.broken("score", "lacks kind, tensor or bypassed")
        return ScoreSource(value["kind"], value["tensor"], tuple(bypassed))

    def layer(self) -> dict[str, Any]:
        """Added to the contract later: absent from files of classes."""
        if f"{PREFIX}layer" not in self.metadata:
            return {}
        value = self.decoded("layer", dict)
        name, neuron = value.get("name"), value.get("neuron")
        if not isinstance(name, str) or not (neuron is None or _is_place(neuron)):
            raise self.broken("layer", "lacks name or neuron")
        return {"layer": name, "neuron": None if neuron is None else tuple(neuron)}

    def method(self) -> Mapping[str, Any] | None:
        """Added to the contract later: absent from files with the plain gradient."""
        if f"{PREFIX}method" not in self.metadata:
            return None
        value = self.decoded("method", dict)
        if not isinstance(value.get("name"), str):
            raise self.broken("method", "lacks name")
        return MappingProxyType(value)

    def target_input(self, classes: int) -> str:
        text = self.text("target_input")
        word, _, index = text.partition(":")
        fixed = word == "fixed" and _is_count(index) and int(index) < classes
        if text not in ("optional", "required") and not fixed:
            raise self.broken("target_input", f"is {text!r}, not optional, required or fixed:INDEX")
        return text

    def preprocessing(self, *, required: bool) -> Preprocessing | None:
        if not required and f"{PREFIX}preprocessing" not in self.metadata:
            return None
        return parse_record(self.decoded("preprocessing", dict), where=self.where)

    def labels(self, classes: int) -> tuple[str, ...] | None:
        if f"{PREFIX}labels" not in self.metadata:
            return None
        labels = self.decoded("labels", list)
        if not _is_texts(labels):
            raise self.broken("labels", "holds what is no text")
        if len(labels) != classes:
            raise self.broken("labels", f"holds {len(labels)} names for {classes} classes")
        return tuple(labels)


def _is_count(text: str) -> bool:
    """Whether it is a plain whole number; Python reads other scripts' digits, and any number."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_place(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)
