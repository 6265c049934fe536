"""A classifier opened, prepared and understood: where both exports start, and how they end."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import onnx_ir as ir

import deepinside.exporters.rules  # noqa: F401  (registers the gradient rules)
from deepinside.exporters import contract, ort_training
from deepinside.exporters.blocked import keep_blocked, rectify_last
from deepinside.exporters.boundary import explains_broken
from deepinside.exporters.builder import Builder, OptimizeFor
from deepinside.exporters.concats import cut_layers, join_last, nest_concats
from deepinside.exporters.errors import ExportError
from deepinside.exporters.finish import finish
from deepinside.exporters.folding import fold_factors
from deepinside.exporters.gradient import backpropagate, path_between, reached_from
from deepinside.exporters.half import GRADIENT_SCALE, to_half
from deepinside.exporters.image import ImageInput, Layout, find_image
from deepinside.exporters.layers import Layer, layer_scores, list_layers
from deepinside.exporters.pointwise import move_pointwise
from deepinside.exporters.prepare import prepare
from deepinside.exporters.registry import ReluMode, find_rule
from deepinside.exporters.rules.activations import is_rectifier
from deepinside.exporters.rules.quantisation import STRAIGHT_THROUGH
from deepinside.exporters.score import (
    ClassScores,
    ScoreKind,
    as_table,
    find_scores,
    score_table,
)
from deepinside.exporters.shapes import probe_shapes
from deepinside.exporters.source import Source, open_classifier
from deepinside.exporters.splits import join_slices
from deepinside.exporters.targets import Target, select_target

Autodiff = Literal["standard", "ort-training"]
Precision = Literal["float16"]

_LARGEST_SCALE = 2**15  # float16 ends below the next

__all__ = ["ExportReport", "GraphOptions", "Stage", "layers_of"]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the file written.
        task: `saliency` or `visualization`.
        source_sha256: hex digest of the classifier.
        names: part of the contract -> tensor name.
        bypassed: nodes between the unnormalised score and the classifier's output.
        straight_through: number of quantising nodes whose rounding the gradient ignores.
        opset: of the file.
        nodes_before, nodes_after: number of operators.
        size_before, size_after: bytes.
        seconds: wall time.
    """

    path: Path
    task: str
    source_sha256: str
    names: Mapping[str, str]
    bypassed: tuple[str, ...]
    straight_through: int
    opset: int
    nodes_before: int
    nodes_after: int
    size_before: int
    size_after: int
    seconds: float


@dataclass(frozen=True)
class GraphOptions:
    """Options of both exports that concern the classifier's graph.

    Attributes:
        image_input: name of the image input, where it can't be told.
        layout: `NCHW`, `NHWC` or `flat`, where it can't be told.
        image_size: (H, W) of the picture in a flat input, where there is no preprocessing record.
        score: `logit` (unnormalised) or `probability`.
        score_output: name of the output (or tensor) that holds the class scores.
        layer: name of a layer whose channels stand in place of the classes.
        neuron: place in the layer, `(y, x)`; None for the channels' means over the picture.
        relu: backward rule of ReLU: `gradient`, `deconvnet` or `guided`.
        autodiff: what builds the gradient: `standard` (this package, ONNX's own operators), or
            `ort-training` (onnxruntime-training's builder; the file runs on that runtime only).
        optimize_for: `any` (forms that suit all runtimes), `cpu` (those that ONNX Runtime runs
            fastest on CPUs) or `cuda` (the fewest passes over memory, for its CUDA provider); all
            are standard operators.
        precision: `float16`: the network computes in float16, inputs and outputs stay as they are;
            None: as the classifier does.
        gradient_scale: with float16, power of two that keeps the gradient from underflow.
    """

    image_input: str | None = None
    layout: Layout | None = None
    image_size: tuple[int, int] | None = None
    score: ScoreKind = "logit"
    score_output: str | None = None
    layer: str | None = None
    neuron: tuple[int, ...] | None = None
    relu: ReluMode = "gradient"
    autodiff: Autodiff = "standard"
    optimize_for: OptimizeFor = "any"
    precision: Precision | None = None
    gradient_scale: int = GRADIENT_SCALE

    def __post_init__(self) -> None:
        """Refuse values outside the choices, which a caller without types can pass."""
        for name, choices in (
            ("layout", (None, *get_args(Layout))),
            ("score", get_args(ScoreKind)),
            ("relu", get_args(ReluMode)),
            ("autodiff", get_args(Autodiff)),
            ("optimize_for", get_args(OptimizeFor)),
            ("precision", (None, *get_args(Precision))),
        ):
            if getattr(self, name) not in choices:
                possible = ", ".join(str(choice) for choice in choices if choice)
                raise ExportError(f"{name} can be {possible}, not {getattr(self, name)!r}.")
        if self.autodiff == "ort-training" and self.relu != "gradient":
            raise ExportError("autodiff ort-training knows the gradient of ReLU only.")
        if self.autodiff == "ort-training" and self.precision is not None:
            raise ExportError("precision float16 goes with autodiff standard only.")
        scale = self.gradient_scale
        if not 1 <= scale <= _LARGEST_SCALE or scale & (scale - 1):
            raise ExportError(
                f"gradient_scale can be a power of two from 1 to {_LARGEST_SCALE}, not {scale}."
            )
        if self.precision is None and scale != GRADIENT_SCALE:
            raise ExportError("gradient_scale is for precision float16.")
        if self.layer is not None and (self.score_output or self.score != "logit"):
            raise ExportError("layer does not go with score_output or score probability.")
        if self.neuron is not None and self.layer is None:
            raise ExportError("neuron is a place in a layer: name it with layer.")
        size = self.image_size
        if size is not None and (len(size) != 2 or not all(length > 0 for length in size)):
            raise ExportError(f"image_size can be (height, width) in pixels, not {size!r}.")


@explains_broken
def layers_of(classifier: Any, **options: Any) -> list[Layer]:
    """The layers of a classifier, whose channels `layer` can put in place of the classes.

    Args:
        classifier: as in `export_saliency`.
        options: those of `open_classifier`.

    Raises:
        ExportError: it can't be opened.
    """
    stage = Stage.open(classifier, dict(options), None)
    return list_layers(stage.model.graph, stage.op.shapes, stage.image.value)


def _is_known(node: ir.Node) -> bool:
    """Whether ONNX defines the operator."""
    return not node.domain and onnx.defs.has(node.op_type)


@dataclass(frozen=True)
class Stage:
    """A classifier opened, prepared and understood: everything both exports start from."""

    source: Source
    model: ir.Model
    op: Builder
    image: ImageInput
    scores: ClassScores
    options: GraphOptions
    preprocessing: Mapping[str, Any] | None
    nodes_before: int
    straight_through: int

    @classmethod
    def open(
        cls,
        classifier: Any,
        options: dict[str, Any],
        preprocessing: Mapping[str, Any] | None,
        *,
        fixed_size: bool = False,
    ) -> "Stage":
        """Open a classifier with the options of `GraphOptions` and of `open_classifier`.

        An open height and width become the preprocessing record's where `fixed_size` asks for it.
        """
        graph_options = GraphOptions(
            **{key: options.pop(key) for key in GraphOptions.__annotations__ if key in options}
        )
        source = open_classifier(classifier, **options)
        nodes_before = source.model.graph.num_nodes()
        model = prepare(source.model)
        record = source.preprocessing if preprocessing is None else preprocessing
        record = None if record is None else contract.check_record(record)
        size = None if record is None else record["input_size"]
        image = find_image(
            model.graph,
            graph_options.image_input,
            graph_options.layout,
            graph_options.image_size or size,
        )
        if record is not None:
            image.require_record(record)
            if fixed_size:
                image.fix_size(record["input_size"])
        shapes = probe_shapes(model, size)
        image.keep_to(shapes.known(image.value))
        opset = model.graph.opset_imports[""]
        if graph_options.precision is not None:
            to_half(model, shapes)
        for node in model.graph:
            if not _is_known(node) and any(shapes.known(o) is None for o in node.outputs):
                find_rule(node, opset)  # complains: what follows a foreign operator is unknown
        op = Builder(model.graph, opset, shapes, graph_options.optimize_for)
        join_slices(op)
        nest_concats(op)
        if graph_options.optimize_for == "cpu":
            keep_blocked(op)
            keep = graph_options.layer, graph_options.score_output
            join_last(op, keep)
            if graph_options.relu == "gradient":
                rectify_last(op, keep)
        if graph_options.layer is None:
            scores = find_scores(model.graph, shapes, graph_options.score_output)
        else:
            scores = layer_scores(op, image.value, graph_options.layer, graph_options.neuron)
        reached = reached_from(model.graph, [image.value])
        path = path_between(model.graph, reached, [scores.tensor])
        if graph_options.relu != "gradient" and not any(map(is_rectifier, path)):
            raise ExportError(
                f"relu {graph_options.relu} changes nothing here, since no ReLU lies between image "
                "and scores: leave it out, its maps would be the plain gradient's."
            )
        rounding = sum(node.op_type in STRAIGHT_THROUGH for node in path)
        return cls(source, model, op, image, scores, graph_options, record, nodes_before, rounding)

    def free_names(self, parts: Sequence[str], *, without_image: bool = False) -> dict[str, str]:
        """Tensor names for the parts that the classifier does not use.

        Its image input's name is free where that input will not be kept.
        """
        graph = self.model.graph
        taken = {value.name for value in graph.inputs} | set(graph.initializers)
        taken |= {output.name for node in graph for output in node.outputs}
        if without_image:
            taken.discard(self.image.value.name)
        return contract.free_names(parts, taken)

    def score_table(self) -> ir.Value:
        """What is to be explained, `(N, K)`: unnormalised scores or probabilities."""
        return score_table(self.op, self.scores, self.options.score)

    def differentiate(
        self, target: ir.Value | int, *, mark: bool = False
    ) -> tuple[Target, ir.Value]:
        """The target's score, and its gradient with respect to the image.

        Args:
            target: as in `select_target`.
            mark: as there.
        """
        op = self.op
        table = self.score_table()
        selected = select_target(op, table, self.scores.classes, target, mark=mark)
        image = self.image.value
        seed = self.scaled(selected.seed)
        forward = list(op.graph)
        if self.options.autodiff == "ort-training":
            gradient = ort_training.differentiate(op, self.model, seed, score=table, image=image)
        else:
            gradient = backpropagate(op, seed, score=table, image=image, relu=self.options.relu)
            move_pointwise(op, forward, gradient)
            fold_factors(op, forward, gradient)
            if self.options.optimize_for == "cpu":
                cut_layers(op, forward)
                fold_factors(op, forward, gradient)  # what stood behind a Split is behind a layer
        return selected, self.unscaled(gradient)

    def scaled(self, seed: ir.Value) -> ir.Value:
        """A cotangent to begin with, large enough for float16 all the way."""
        if self.options.precision is None:
            return seed
        result = self.op.Mul(seed, float(self.options.gradient_scale))
        self.op.shapes.record(result, self.op.shapes.known(seed))
        return result

    def unscaled(self, gradient: ir.Value) -> ir.Value:
        """A gradient of `scaled` cotangents as it is."""
        if self.options.precision is None:
            return gradient
        return self.op.Mul(gradient, 1.0 / self.options.gradient_scale)

    def output_shape(self, part: str) -> ir.Shape:
        """Declared shape of an output, dynamic where the image's is."""
        assert self.image.value.shape is not None
        sizes = list(self.image.value.shape.dims)
        if self.image.picture is not None and part == "saliency":
            return ir.Shape([sizes[0], *self.image.picture[:2]])
        if part == "saliency":
            del sizes[self.image.channel_axis]
        whole = part in ("gradient", "attribution", "saliency")
        return ir.Shape(sizes if whole else sizes[:1])

    def saliency(self, gradient: ir.Value) -> ir.Value:
        """The largest absolute gradient over the channels, `(N, H, W)`."""
        magnitude = self.op.Abs(gradient)
        if self.image.picture is not None:
            magnitude = self.op.Reshape(magnitude, [-1, *self.image.picture])
        return self.op.reduce("ReduceMax", magnitude, [self.image.channel_axis], keepdims=False)

    def add_output(self, value: ir.Value, name: str, shape: ir.Shape) -> None:
        """Make a value an output of the graph under its contract name."""
        if value.is_graph_output() or value.is_graph_input() or value.producer() is None:
            value = self.op.Identity(value)
        value.name = name
        value.shape = shape
        self.model.graph.outputs.append(value)

    def like_image(self, value: ir.Value) -> ir.Value:
        """The value in the image's element type, which a mixed-precision score may not have."""
        dtype = self.image.value.dtype
        return value if value.dtype == dtype else self.op.Cast(value, to=dtype)

    def class_scores_output(self) -> str:
        """Name of the output with all classes' scores; an inner tensor becomes an output."""
        output = self.scores.output
        if not output.is_graph_output():
            name = self.free_names(["class_scores"])["class_scores"]
            sizes = [self.output_shape("score")[0], self.scores.classes]
            self.add_output(as_table(self.op, output), name, ir.Shape(sizes))
            return name
        return str(output.name)

    def metadata(
        self,
        task: str,
        names: Mapping[str, str],
        labels: Sequence[str] | None,
        licence: str | None,
        **others: str,
    ) -> dict[str, str]:
        """The contract's metadata of this classifier; see `contract.metadata`."""
        scores = self.scores
        if self.options.layer is not None:
            neuron = self.options.neuron
            place = None if neuron is None else list(neuron)
            others["layer"] = json.dumps({"name": self.options.layer, "neuron": place})
        if self.options.precision is not None:
            others["precision"] = self.options.precision
            others["gradient_scale"] = str(self.options.gradient_scale)
        if self.straight_through:
            others["straight_through"] = str(self.straight_through)
        return contract.metadata(
            task=task,
            sha256=self.source.sha256,
            names=names,
            layout=self.image.layout,
            picture=self.image.picture,
            classes=scores.classes,
            activation=scores.activation,
            score={
                "kind": self.options.score,
                "tensor": str(scores.tensor.name),
                "bypassed": list(self._bypassed()),
            },
            relu=self.options.relu,
            autodiff=self.options.autodiff,
            preprocessing=self.preprocessing,
            labels=self._labels(labels),
            licence=licence,
            **others,
        )

    def _labels(self, given: Sequence[str] | None) -> Sequence[str] | None:
        """One per class; channels have none."""
        if self.options.layer is not None:
            return None
        return self.source.labels if given is None else given

    def _bypassed(self) -> tuple[str, ...]:
        return self.scores.bypassed if self.options.score == "logit" else ()

    def write(
        self, path: Path, task: str, names: Mapping[str, str], started: float
    ) -> ExportReport:
        """Write the file and say what was done since `started` (of `time.perf_counter`)."""
        size = finish(self.model, path, portable=self.options.autodiff == "standard")
        return ExportReport(
            path=path,
            task=task,
            source_sha256=self.source.sha256,
            names=dict(names),
            bypassed=self._bypassed(),
            straight_through=self.straight_through,
            opset=self.op.opset,
            nodes_before=self.nodes_before,
            nodes_after=self.model.graph.num_nodes(),
            size_before=self.source.size,
            size_after=size,
            seconds=time.perf_counter() - started,
        )
