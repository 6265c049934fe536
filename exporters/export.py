"""The two exports: a classifier becomes a saliency file or a visualization file."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from deepinside.exporters import contract
from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ExportError
from deepinside.exporters.finish import finish
from deepinside.exporters.gradient import backpropagate
from deepinside.exporters.image import ImageInput, Layout, find_image
from deepinside.exporters.prepare import prepare
from deepinside.exporters.registry import ReluMode, find_rule
from deepinside.exporters.score import ClassScores, ScoreKind, find_scores, score_table
from deepinside.exporters.shapes import probe_shapes
from deepinside.exporters.source import Source, open_classifier
from deepinside.exporters.targets import Target, add_target_input, select_target

__all__ = ["SALIENCY_OUTPUTS", "ExportReport", "export_saliency", "export_visualization"]

SALIENCY_OUTPUTS = ("score", "target_index", "gradient", "saliency")

StepRule = Literal["plain", "normalized"]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the file written.
        task: `saliency` or `visualization`.
        source_sha256: hex digest of the classifier.
        names: part of the contract -> tensor name.
        bypassed: nodes between the unnormalised score and the classifier's output.
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
    opset: int
    nodes_before: int
    nodes_after: int
    size_before: int
    size_after: int
    seconds: float


def export_saliency(
    classifier: Any,
    output: str | Path,
    *,
    target_input: str = "optional",
    outputs: Sequence[str] = SALIENCY_OUTPUTS,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    licence: str | None = None,
    **options: Any,
) -> ExportReport:
    """Write the classifier with its input gradient appended: a drop-in replacement for it.

    Args:
        classifier: path of an .onnx file, an `onnx.ModelProto`, a `torch.nn.Module` (with
            `example_input` or `input_shape`), `timm:NAME` or `torch:package.module:factory`.
        output: path of the file to write; see docs/file-contract.md for what is in it.
        target_input: `optional` (default top-1), `required` or `fixed:INDEX`.
        outputs: which of `score`, `target_index`, `gradient`, `saliency` to write.
        preprocessing: how a picture becomes the input, a record as in docs/file-contract.md.
        labels: one name per class.
        licence: licence of the weights.
        options: those of `GraphOptions` and of `open_classifier`.

    Returns:
        What was done, with the names of the parts.

    Raises:
        ExportError: it can't be exported; the subclass and the text say why.

    The map is the one of Simonyan et al. 2014, section 3.
    """
    started = time.perf_counter()
    unknown = set(outputs) - set(SALIENCY_OUTPUTS)
    if unknown or not outputs:
        raise ExportError(
            f"outputs can be {', '.join(SALIENCY_OUTPUTS)}, not {sorted(unknown) or 'none'}."
        )
    fixed = _fixed_target(target_input)
    stage = _Stage.open(classifier, options)
    parts = [*([] if fixed is not None else ["target"]), *outputs]
    names = stage.free_names(parts)
    target = (
        add_target_input(stage.op, names["target"], optional=target_input == "optional")
        if fixed is None
        else fixed
    )
    selected, gradient = stage.differentiate(target)
    magnitude = stage.op.Abs(gradient)
    results = {
        "score": selected.score,
        "target_index": selected.index,
        "gradient": gradient,
        "saliency": stage.op.reduce(
            "ReduceMax", magnitude, [stage.image.channel_axis], keepdims=False
        ),
    }
    for part in outputs:
        stage.add_output(results[part], names[part], stage.output_shape(part))
    names |= {"image": str(stage.image.value.name), "class_scores": str(stage.scores.output.name)}
    stage.model.metadata_props.update(
        stage.metadata("saliency", names, preprocessing, labels, licence, target_input=target_input)
    )
    return stage.write(Path(output), "saliency", names, started)


def export_visualization(
    classifier: Any,
    output: str | Path,
    *,
    step_rule: StepRule = "plain",
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    licence: str | None = None,
    **options: Any,
) -> ExportReport:
    """Write one step of class model visualisation as a graph from picture to picture.

    `next_image = I + step_size * d`, `d = dS_c/dI - 2 * l2 * I`, the ascent on
    `S_c(I) - l2 * ||I||^2` of Simonyan et al. 2014, section 2.

    Args:
        classifier: as in `export_saliency`.
        output: path of the file to write.
        step_rule: `plain`, or `normalized`: d is divided by its root mean square per picture.
        preprocessing: as in `export_saliency`; its mean makes the result a picture again.
        labels: one name per class.
        licence: licence of the weights.
        options: those of `GraphOptions` and of `open_classifier`.

    Returns:
        What was done, with the names of the parts.

    Raises:
        ExportError: it can't be exported; the subclass and the text say why.
    """
    started = time.perf_counter()
    if step_rule not in ("plain", "normalized"):
        raise ExportError(f"step_rule can be plain or normalized, not {step_rule!r}.")
    stage = _Stage.open(classifier, options)
    op, image = stage.op, stage.image.value
    names = stage.free_names(["target", "step_size", "l2", "next_image", "score"])
    target = add_target_input(op, names["target"], optional=False)
    target.shape = ir.Shape(image.shape.dims[:1]) if image.shape is not None else target.shape
    scalars = {}
    for part in ("step_size", "l2"):
        assert image.dtype is not None
        scalars[part] = ir.Value(
            name=names[part], shape=ir.Shape([]), type=ir.TensorType(image.dtype)
        )
        op.graph.inputs.append(scalars[part])
        op.shapes.record(scalars[part], ())
    selected, gradient = stage.differentiate(target)
    direction = op.Sub(gradient, op.Mul(image, op.Mul(scalars["l2"], 2.0)))
    if step_rule == "normalized":
        square = op.reduce("ReduceMean", op.Mul(direction, direction), [1, 2, 3], keepdims=True)
        # The smallest normal number: a picture without any gradient stays as it is.
        tiny = float(np.finfo(np.float32).tiny)
        direction = op.Div(direction, op.Sqrt(op.Add(square, tiny)))
    moved = op.Add(image, op.Mul(direction, scalars["step_size"]))
    op.graph.outputs.clear()
    stage.add_output(moved, names["next_image"], stage.output_shape("gradient"))
    stage.add_output(selected.score, names["score"], stage.output_shape("score"))
    names |= {"image": str(image.name)}
    stage.model.metadata_props.update(
        stage.metadata("visualization", names, preprocessing, labels, licence, step_rule=step_rule)
    )
    return stage.write(Path(output), "visualization", names, started)


@dataclass(frozen=True)
class GraphOptions:
    """Options of both exports that concern the classifier's graph.

    Attributes:
        image_input: name of the image input, where it can't be told.
        layout: `NCHW` or `NHWC`, where it can't be told.
        score: `logit` (unnormalised) or `probability`.
        score_output: name of the output (or tensor) that holds the class scores.
        relu: backward rule of ReLU: `gradient`, `deconvnet` or `guided`.
    """

    image_input: str | None = None
    layout: Layout | None = None
    score: ScoreKind = "logit"
    score_output: str | None = None
    relu: ReluMode = "gradient"


@dataclass(frozen=True)
class _Stage:
    """A classifier opened, prepared and understood: everything both exports start from."""

    source: Source
    model: ir.Model
    op: Builder
    image: ImageInput
    scores: ClassScores
    options: GraphOptions
    nodes_before: int

    @classmethod
    def open(cls, classifier: Any, options: dict[str, Any]) -> "_Stage":
        graph_options = GraphOptions(
            **{key: options.pop(key) for key in GraphOptions.__annotations__ if key in options}
        )
        source = open_classifier(classifier, **options)
        nodes_before = source.model.graph.num_nodes()
        model = prepare(source.model)
        image = find_image(model.graph, graph_options.image_input, graph_options.layout)
        shapes = probe_shapes(model)
        opset = model.graph.opset_imports[""]
        for node in model.graph:
            if node.domain and any(shapes.known(output) is None for output in node.outputs):
                find_rule(node, opset)  # complains: what follows a foreign operator is unknown
        scores = find_scores(model.graph, shapes, graph_options.score_output)
        op = Builder(model.graph, opset, shapes)
        return cls(source, model, op, image, scores, graph_options, nodes_before)

    def free_names(self, parts: Sequence[str]) -> dict[str, str]:
        graph = self.model.graph
        taken = {value.name for value in graph.inputs} | set(graph.initializers)
        taken |= {output.name for node in graph for output in node.outputs}
        return contract.free_names(parts, taken)

    def differentiate(self, target: ir.Value | int) -> tuple[Target, ir.Value]:
        """The target's score, and its gradient with respect to the image."""
        op = self.op
        table = score_table(op, self.scores, self.options.score)
        selected = select_target(op, table, self.scores.classes, target)
        gradient = backpropagate(
            op, selected.seed, score=table, image=self.image.value, relu=self.options.relu
        )
        return selected, gradient

    def output_shape(self, part: str) -> ir.Shape:
        assert self.image.value.shape is not None
        sizes = list(self.image.value.shape.dims)
        if part == "saliency":
            del sizes[self.image.channel_axis]
        return ir.Shape(sizes if part in ("gradient", "saliency") else sizes[:1])

    def add_output(self, value: ir.Value, name: str, shape: ir.Shape) -> None:
        """Make a value an output of the graph under its contract name."""
        if value.is_graph_output() or value.is_graph_input() or value.producer() is None:
            value = self.op.Identity(value)
        value.name = name
        value.shape = shape
        self.model.graph.outputs.append(value)

    def metadata(
        self,
        task: str,
        names: Mapping[str, str],
        preprocessing: Mapping[str, Any] | None,
        labels: Sequence[str] | None,
        licence: str | None,
        **others: str,
    ) -> dict[str, str]:
        scores = self.scores
        return contract.metadata(
            task=task,
            sha256=self.source.sha256,
            names=names,
            layout=self.image.layout,
            classes=scores.classes,
            activation=scores.activation,
            score={
                "kind": self.options.score,
                "tensor": str(scores.tensor.name),
                "bypassed": list(self._bypassed()),
            },
            relu=self.options.relu,
            preprocessing=self.source.preprocessing if preprocessing is None else preprocessing,
            labels=labels,
            licence=licence,
            **others,
        )

    def _bypassed(self) -> tuple[str, ...]:
        return self.scores.bypassed if self.options.score == "logit" else ()

    def write(
        self, path: Path, task: str, names: Mapping[str, str], started: float
    ) -> ExportReport:
        size = finish(self.model, path)
        return ExportReport(
            path=path,
            task=task,
            source_sha256=self.source.sha256,
            names=dict(names),
            bypassed=self._bypassed(),
            opset=self.op.opset,
            nodes_before=self.nodes_before,
            nodes_after=self.model.graph.num_nodes(),
            size_before=self.source.size,
            size_after=size,
            seconds=time.perf_counter() - started,
        )


def _fixed_target(target_input: str) -> int | None:
    """The index of `fixed:INDEX`, or None for the two other choices."""
    if target_input in ("optional", "required"):
        return None
    word, _, index = target_input.partition(":")
    if word != "fixed" or not index.isdecimal():
        raise ExportError(
            f"target_input can be optional, required or fixed:INDEX, not {target_input!r}."
        )
    return int(index)
