"""The step of preset `natural`: from one state of the ascent to the next, as one graph.

State: the picture's spectrum, Adam's two moments, and the number of steps done. The picture and the
view of it stand in front of the classifier (picture.py); the sweep goes through all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ExportError
from deepinside.exporters.gradient import sweep
from deepinside.exporters.image import ImageInput
from deepinside.exporters.picture import arrange, draw, frequencies, normalise, roughness, view
from deepinside.exporters.stage import Stage
from deepinside.exporters.targets import select_mix

__all__ = ["INPUTS", "OUTPUTS", "STATE", "add_natural_step"]

STATE = ("spectrum", "first_moment", "second_moment", "step")
_SCALARS = ("step_size", "l2", "total_variation")
INPUTS = (*STATE, "target", "weights", *_SCALARS, "schedule")
OUTPUTS = (*(f"next_{part}" for part in STATE), "image", "score")

# Adam (Kingma & Ba 2015) with its authors' numbers.
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class _Now:
    """The row of the schedule for this step.

    Attributes:
        matrix: (6,), of the view.
        detail: (1,), frequencies up to this part of the highest are changed.
        rate: (1,), factor of the step size.
    """

    matrix: ir.Value
    detail: ir.Value
    rate: ir.Value


def add_natural_step(stage: Stage, names: Mapping[str, str]) -> None:
    """Turn the classifier's graph into one step, with the inputs and outputs of the contract.

    Args:
        stage: an open classifier; its image is of a fixed size.
        names: part of the contract -> tensor name.

    Raises:
        ExportError: there is no preprocessing record, which says what pixels are.
    """
    op, image, record = stage.op, stage.image, stage.preprocessing
    if record is None:
        raise ExportError(
            "the natural step needs a preprocessing record, which says which numbers are pixels: "
            "give one with --preprocessing FILE.json."
        )
    shape = _picture_shape(image, record, op)
    inputs = _add_inputs(op, names, image, [dim[0] for dim in shape[1:]])
    op.shapes.record(inputs["spectrum"], shape)
    now = _now(op, inputs["schedule"], inputs["step"])
    pixels = draw(op, inputs["spectrum"], record)
    picture = normalise(op, pixels, record)
    shown = arrange(op, picture, image)
    seen = arrange(op, view(op, picture, now.matrix), image)
    _put_before(op, image.value, seen)

    table = stage.score_table()
    selected = select_mix(op, table, stage.scores.classes, inputs["target"], inputs["weights"])
    square = op.reduce("ReduceSum", op.Mul(picture, picture), [1, 2, 3], keepdims=False)
    penalties = [(roughness(op, pixels), "total_variation"), (square, "l2")]
    seeds = [(value, _like_batch(op, value, inputs[part])) for value, part in penalties]
    seeds.insert(0, (table, selected.seed))
    scaled = [(value, stage.scaled(seed)) for value, seed in seeds]
    (gradient,) = sweep(op, scaled, [inputs["spectrum"]], stage.options.relu)
    op.scope = "deepinside"
    assert gradient is not None
    results = {
        **_adam(op, stage.unscaled(gradient), inputs, now, shape),
        "image": shown,
        "score": stage.like_image(selected.score),
    }
    op.graph.outputs.clear()
    for part in OUTPUTS:
        like = part.removeprefix("next_")
        declared = (
            stage.output_shape("gradient" if part == "image" else "score")
            if part in ("image", "score")
            else inputs[like].shape
        )
        assert declared is not None
        stage.add_output(results[part], names[part], declared)
    op.graph.sort()


def _picture_shape(image: ImageInput, record: Mapping[str, Any], op: Builder) -> Any:
    """The picture's shape (N, C, H, W), as probed."""
    known = op.shapes.known(image.value)
    assert known is not None
    sizes = (len(record["channel_order"]), *record["input_size"])
    return (known[0], *map(op.shapes.dim, sizes))


def _add_inputs(
    op: Builder, names: Mapping[str, str], image: ImageInput, picture: list[int]
) -> dict[str, ir.Value]:
    assert image.value.shape is not None
    batch = image.value.shape.dims[0]
    floats, integers = _FLOAT, ir.DataType.INT64
    shapes: dict[str, tuple[ir.DataType, list[Any]]] = {
        **{part: (floats, [batch, *picture]) for part in STATE[:3]},
        "step": (integers, []),
        "target": (integers, [batch, "M"]),
        "weights": (floats, [batch, "M"]),
        **{part: (floats, []) for part in _SCALARS},
        "schedule": (floats, ["T", 8]),
    }
    op.graph.inputs.remove(image.value)
    values = {}
    for part in INPUTS:
        dtype, shape = shapes[part]
        value = ir.Value(name=names[part], shape=ir.Shape(shape), type=ir.TensorType(dtype))
        op.graph.inputs.append(value)
        values[part] = value
        if part in (*_SCALARS, "step"):
            op.shapes.record(value, ())
    return values


def _now(op: Builder, schedule: ir.Value, step: ir.Value) -> _Now:
    """The step's row; steps beyond the last row take the last one."""
    # Counted, not read off by Shape: GPUs leave sizes, and all that depends on them, to the host.
    column = op.Slice(schedule, [0], [1], [1])
    ones = op.Cast(op.Equal(column, column), to=ir.DataType.INT64)
    last = op.Sub(op.reduce("ReduceSum", ones, [0, 1], keepdims=False), 1)
    row = op.Gather(schedule, op.Min(step, last), axis=0)
    op.shapes.record(row, (op.shapes.dim(8),))
    parts = [op.Slice(row, [start], [end], [0]) for start, end in ((0, 6), (6, 7), (7, 8))]
    for value, size in zip(parts, (6, 1, 1), strict=True):
        op.shapes.record(value, (op.shapes.dim(size),))
    return _Now(*parts)


def _put_before(op: Builder, image: ir.Value, seen: ir.Value) -> None:
    """Let the classifier look at `seen` instead of its image input, whose name becomes free."""
    ir.convenience.replace_all_uses_with(image, seen)
    op.shapes.record(seen, op.shapes.known(image))
    op.graph.sort()  # the sweep reads the nodes in order


def _like_batch(op: Builder, value: ir.Value, weight: ir.Value) -> ir.Value:
    """The cotangent of a penalty `(N,)`: minus its weight for every picture."""
    return op.expand_to(op.Reshape(op.Neg(weight), [1]), value)


def _adam(
    op: Builder,
    gradient: ir.Value,
    inputs: Mapping[str, ir.Value],
    now: _Now,
    shape: Any,
) -> dict[str, ir.Value]:
    """One step of Adam upwards; the moments follow all frequencies, the spectrum up to `detail`."""
    done = op.Add(inputs["step"], 1)
    count = op.Cast(done, to=_FLOAT)
    moments = {}
    unbiased = []
    for part, beta, value in zip(
        ("first_moment", "second_moment"),
        _BETAS,
        (gradient, op.Mul(gradient, gradient)),
        strict=True,
    ):
        moments[part] = op.Add(op.Mul(inputs[part], beta), op.Mul(value, 1.0 - beta))
        correction = op.Sub(1.0, op.Pow(op.constant(np.array(beta), _FLOAT), count))
        unbiased.append(op.Div(moments[part], correction))
    direction = op.Div(unbiased[0], op.Add(op.Sqrt(unbiased[1]), _EPSILON))
    height, width = shape[2][0], shape[3][0]
    waves = frequencies(height, width).astype(np.float32)
    highest = op.Mul(now.detail, float(waves.max()))
    changing = op.Cast(op.LessOrEqual(op.constant(waves), highest), to=_FLOAT)
    length = op.Mul(op.Mul(inputs["step_size"], now.rate), changing)
    moved = op.Add(inputs["spectrum"], op.Mul(direction, length))
    return {
        "next_spectrum": moved,
        **{f"next_{part}": value for part, value in moments.items()},
        "next_step": done,
    }
