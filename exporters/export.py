"""The two exports: a classifier becomes a saliency file or a visualization file."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from deepinside.exporters.averaging import GraphMethod, average_gradients
from deepinside.exporters.boundary import explains_broken
from deepinside.exporters.errors import ExportError
from deepinside.exporters.loop import wrap_in_loop
from deepinside.exporters.natural import INPUTS, OUTPUTS, STATE, add_natural_step
from deepinside.exporters.stage import ExportReport, Stage
from deepinside.exporters.targets import add_target_input

__all__ = ["SALIENCY_OUTPUTS", "export_saliency", "export_visualization"]

SALIENCY_OUTPUTS = ("score", "target_index", "gradient", "saliency")

StepRule = Literal["plain", "normalized", "natural"]


@explains_broken
def export_saliency(
    classifier: Any,
    output: str | Path,
    *,
    target_input: str = "optional",
    mark_targets: bool = False,
    outputs: Sequence[str] | None = None,
    method: str | GraphMethod = "vanilla",
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    licence: str | None = None,
    **options: Any,
) -> ExportReport:
    """Write the classifier with its input gradient appended: a drop-in replacement for it.

    Args:
        classifier: path of an .onnx file, an `onnx.ModelProto`, a network of PyTorch, transformers,
            Keras or JAX (with `example_input` or `input_shape` where it does not know its input),
            a fitted scikit-learn classifier, or a text that names a front door, such as
            `timm:NAME`; `open_classifier` lists them.
        output: path of the file to write; see docs/file-contract.md for what is in it.
        target_input: `optional` (default top-1), `required` or `fixed:INDEX`.
        mark_targets: a target that is no class gives the score NaN and a map of zeros; otherwise
            runtimes that check indices fail, and the whole batch with them.
        outputs: which of `score`, `target_index`, `gradient`, `saliency` to write; None for all.
            With a method, `attribution` stands in place of `gradient`, and integrated gradients
            have `completeness_gap` and `baseline_score` too.
        method: `vanilla` (the gradient), `smoothgrad` or `integrated-gradients`, the whole of it
            as a Loop in the file; or a `GraphMethod` with its settings.
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
    averaged = GraphMethod(method) if isinstance(method, str) and method != "vanilla" else method  # type: ignore[arg-type]
    possible = averaged.outputs if isinstance(averaged, GraphMethod) else SALIENCY_OUTPUTS
    outputs = possible if outputs is None else outputs
    unknown = set(outputs) - set(possible)
    if unknown or not outputs:
        raise ExportError(f"outputs can be {', '.join(possible)}, not {sorted(unknown) or 'none'}.")
    fixed = _fixed_target(target_input)
    if isinstance(averaged, GraphMethod) and options.get("autodiff", "standard") != "standard":
        raise ExportError("methods in the file go with autodiff standard only.")
    stage = Stage.open(classifier, options, preprocessing)
    parts = [*([] if fixed is not None else ["target"]), *outputs]
    names = stage.free_names(parts)
    target = (
        add_target_input(stage.op, names["target"], optional=target_input == "optional")
        if fixed is None
        else fixed
    )
    extra: dict[str, str] = {"target_input": target_input}
    if isinstance(averaged, GraphMethod):
        selected, results = average_gradients(stage, target, averaged, mark=mark_targets)
        extra["method"] = json.dumps(averaged.settings)
    else:
        selected, gradient = stage.differentiate(target, mark=mark_targets)
        results = {"gradient": gradient, "saliency": stage.saliency(gradient)}
    results |= {"score": stage.like_image(selected.score), "target_index": selected.index}
    for part in outputs:
        stage.add_output(results[part], names[part], stage.output_shape(part))
    names |= {"image": str(stage.image.value.name), "class_scores": stage.class_scores_output()}
    stage.model.metadata_props.update(stage.metadata("saliency", names, labels, licence, **extra))
    return stage.write(Path(output), "saliency", names, started)


@explains_broken
def export_visualization(
    classifier: Any,
    output: str | Path,
    *,
    step_rule: StepRule = "plain",
    loop: int | None = None,
    defaults: Mapping[str, np.ndarray] | None = None,
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
        step_rule: `plain`; `normalized`: d is divided by its root mean square per picture; or
            `natural`: Adam on the spectrum of a picture that is seen from changing views.
        loop: write the whole ascent of so many steps as one ONNX Loop, instead of a single step.
        defaults: with `loop`: part of the contract -> value of `step_size` and `l2`; with the
            natural step also `total_variation`, `schedule` and the start `spectrum` `(C, H, W)`.
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
    if step_rule not in get_args(StepRule):
        choices = ", ".join(get_args(StepRule))
        raise ExportError(f"step_rule can be {choices}, not {step_rule!r}.")
    natural = step_rule == "natural"
    fixed = natural or loop is not None
    if fixed and options.get("autodiff", "standard") != "standard":
        raise ExportError("the step rule natural and loops go with autodiff standard only.")
    stage = Stage.open(classifier, options, preprocessing, fixed_size=fixed)
    if natural:
        names = stage.free_names([*INPUTS, *OUTPUTS], without_image=True)
        add_natural_step(stage, names)
    else:
        names = _add_plain_step(stage, normalised=step_rule == "normalized")
    extra: dict[str, str] = {"step_rule": step_rule}
    if loop is not None:
        zero = np.zeros((), np.float32)
        begun = {"image": zero, "first_moment": zero, "second_moment": zero, "step": zero}
        states = STATE if natural else ("image",)
        values = {**begun, **(defaults or {})}
        names = wrap_in_loop(stage, names, loop, states=states, defaults=values)
        extra["loop"] = str(loop)
    stage.model.metadata_props.update(
        stage.metadata("visualization", names, labels, licence, **extra)
    )
    return stage.write(Path(output), "visualization", names, started)


def _add_plain_step(stage: Stage, *, normalised: bool) -> dict[str, str]:
    """Turn the classifier's graph into one step of the paper's ascent; the names of its parts."""
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
    if normalised:
        # In float32 whatever the image's type: squares leave the range of float16.
        single = image.dtype == ir.DataType.FLOAT
        wide = direction if single else op.Cast(direction, to=ir.DataType.FLOAT)
        square = op.reduce("ReduceMean", op.Mul(wide, wide), stage.image.axes, keepdims=True)
        # The smallest normal number: a picture without any gradient stays as it is.
        tiny = float(np.finfo(np.float32).tiny)
        unit = op.Div(wide, op.Sqrt(op.Add(square, tiny)))
        direction = unit if single else op.Cast(unit, to=image.dtype)
    moved = op.Add(image, op.Mul(direction, scalars["step_size"]))
    op.graph.outputs.clear()
    stage.add_output(moved, names["next_image"], stage.output_shape("gradient"))
    stage.add_output(stage.like_image(selected.score), names["score"], stage.output_shape("score"))
    return names | {"image": str(image.name)}


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
