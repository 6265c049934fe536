"""The whole ascent as one ONNX Loop around its step: one run of the file draws the class.

The body is the step's graph, with its weights captured from outside. It is run once more than there
are steps: the last round's picture and score are those after all steps.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from deepinside.exporters.errors import ExportError
from deepinside.exporters.stage import Stage

__all__ = ["LOOP_OUTPUTS", "wrap_in_loop"]

LOOP_OUTPUTS = ("final_image", "final_score", "scores", "picture")
_INT64 = ir.DataType.INT64


def wrap_in_loop(
    stage: Stage,
    names: Mapping[str, str],
    steps: int,
    *,
    states: Sequence[str],
    defaults: Mapping[str, np.ndarray],
) -> dict[str, str]:
    """Move the step's graph into the body of a Loop.

    Args:
        stage: whose graph is the step, with the inputs and outputs of the contract.
        names: part of the contract -> tensor name, of the step.
        steps: of the ascent.
        states: parts P whose next value is the output `next_P`.
        defaults: part -> value: of each state before the first step, without batch axis where it
            has one; and of the inputs that become optional.

    Returns:
        Names of the file's parts.

    Raises:
        ExportError: there are no steps, or a default is missing.
    """
    if steps < 1:
        raise ExportError(f"loop is {steps}; it must be at least 1 step.")
    step = stage.model.graph
    inputs = {part: value for value in step.inputs for part, n in names.items() if n == value.name}
    outputs = {
        part: value for value in step.outputs for part, n in names.items() if n == value.name
    }
    missing = [p for p in inputs if p not in defaults and p not in ("target", "weights")]
    if missing:
        raise ExportError(f"the loop needs defaults for {', '.join(missing)}.")
    body = _body(stage, inputs, outputs, states)
    op = stage.op
    batch = _keep_inputs(stage, inputs, states, defaults)

    shown, score = outputs.get("image", inputs.get("image")), outputs["score"]
    assert shown is not None
    starts = [_start(stage, inputs[part], defaults[part], batch) for part in states]
    starts += [_start(stage, value, np.zeros((), np.float32), batch) for value in (shown, score)]
    results = op.emit(
        "Loop",
        op.constant(np.array(steps + 1)),
        None,
        *starts,
        outputs=len(starts) + 1,
        body=body,
    )
    for result, like in zip(results, (*starts, score), strict=True):
        assert like.dtype is not None
        result.dtype = like.dtype
    image, final = results[len(states)], results[len(states) + 1]
    op.shapes.record(image, op.shapes.known(stage.image.value))
    parts = {"final_image": image, "final_score": final, "scores": results[-1]}
    shapes = {
        "final_image": stage.output_shape("gradient"),
        "final_score": stage.output_shape("score"),
        "scores": ir.Shape([steps + 1, *stage.output_shape("score").dims]),
    }
    if stage.preprocessing is not None:
        parts["picture"] = _pixels(stage, image)
        shapes["picture"] = ir.Shape([*stage.output_shape("saliency").dims, 3])
    free = stage.free_names(LOOP_OUTPUTS)
    for part, value in parts.items():
        stage.add_output(value, free[part], shapes[part])
    kept = {part: names[part] for part in inputs if part not in (*states, "weights")}
    return {**kept, **{part.removeprefix("final_"): free[part] for part in parts}}


def _body(
    stage: Stage,
    inputs: Mapping[str, ir.Value],
    outputs: Mapping[str, ir.Value],
    states: Sequence[str],
) -> ir.Graph:
    """The step's nodes as a graph of their own; they are taken out of the model's graph."""
    step, op = stage.model.graph, stage.op
    nodes = list(step)
    step.outputs.clear()
    for node in nodes:
        step.remove(node)
    going = ir.Value(
        name=op.unique_name("deepinside/loop/going"),
        shape=ir.Shape([]),
        type=ir.TensorType(ir.DataType.BOOL),
    )
    number = ir.Value(
        name=op.unique_name("deepinside/loop/number"),
        shape=ir.Shape([]),
        type=ir.TensorType(_INT64),
    )
    carried = [inputs[part] for part in states]
    for value in carried:
        step.inputs.remove(value)
    shown = outputs.get("image", inputs.get("image"))
    assert shown is not None
    score = outputs["score"]
    unused = []  # what the round before showed
    for value in (shown, score):
        name = op.unique_name(f"deepinside/loop/{value.name}")
        assert value.dtype is not None
        unused.append(ir.Value(name=name, shape=value.shape, type=ir.TensorType(value.dtype)))
    body = ir.Graph(
        [number, going, *carried, *unused], [], nodes=nodes, name="deepinside/loop/body"
    )
    inner = op.nested(body)
    inner.scope = "deepinside/loop"
    results = [going, *(outputs[f"next_{part}"] for part in states), shown, score, score]
    for value in results:
        given = inner.Identity(value)
        given.shape = value.shape
        body.outputs.append(given)
    return body


def _keep_inputs(
    stage: Stage,
    inputs: Mapping[str, ir.Value],
    states: Sequence[str],
    defaults: Mapping[str, np.ndarray],
) -> ir.Value:
    """Give the inputs that stay their defaults; returns the batch size, int64 `(1,)`.

    The target of the file is int64 `(N,)` whatever the step's is.
    """
    graph, op = stage.model.graph, stage.op
    for part, value in inputs.items():
        if part in states or part in ("target", "weights"):
            continue
        assert value.dtype is not None
        number = np.asarray(defaults[part]).astype(value.dtype.numpy())
        value.shape = ir.Shape(number.shape)
        value.const_value = ir.tensor(number, name=value.name)
        assert value.name is not None
        graph.initializers[value.name] = value
    target = inputs["target"]
    batch = op.Slice(op.Shape(target), [0], [1], [0])
    if "weights" in inputs:
        assert target.shape is not None
        plain = ir.Value(
            name=target.name, shape=ir.Shape(target.shape.dims[:1]), type=ir.TensorType(_INT64)
        )
        target.name = op.unique_name("deepinside/loop/target")
        ir.convenience.replace_all_uses_with(target, op.Unsqueeze(plain, [1]))
        one = op.constant(np.ones((), np.float32))
        weights = op.Expand(one, op.Concat(batch, [1], axis=0))
        ir.convenience.replace_all_uses_with(inputs["weights"], weights)
        graph.inputs.remove(inputs["weights"])
        graph.inputs[graph.inputs.index(target)] = plain
        graph.sort()
    return batch


def _start(stage: Stage, value: ir.Value, start: np.ndarray, batch: ir.Value) -> ir.Value:
    """A state before the first round: the same for every picture of the batch."""
    op = stage.op
    assert value.shape is not None
    if value.dtype == _INT64:
        return op.constant(np.asarray(start, dtype=np.int64))
    sizes = [size if isinstance(size, int) else None for size in value.shape.dims[1:]]
    if None in sizes:
        raise ExportError(
            "a loop draws pictures of one size, and the classifier leaves height and width open: "
            "give a preprocessing record, whose input_size is taken."
        )
    shape = op.Concat(batch, sizes, axis=0) if sizes else batch
    result = op.Expand(op.constant(np.asarray(start, dtype=np.float32), value.dtype), shape)
    assert value.dtype is not None
    result.dtype = value.dtype
    return result


def _pixels(stage: Stage, image: ir.Value) -> ir.Value:
    """The image as uint8 `(N, H, W, 3)`, RGB, the mean added back."""
    op, record = stage.op, stage.preprocessing
    assert record is not None
    layout = stage.image.layout
    if layout == "NCHW":
        image = op.Transpose(image, perm=[0, 2, 3, 1])
    elif layout == "flat":
        assert stage.image.picture is not None
        image = op.Reshape(image, [-1, *stage.image.picture])
    image = op.Cast(image, to=ir.DataType.FLOAT)
    mean, std = (np.array(record[key], dtype=np.float32) for key in ("mean", "std"))
    factor = np.float32(255.0 / record["value_range"][1])
    scaled = op.Mul(op.Add(op.Mul(image, std), mean), float(factor))
    pixels = op.Cast(op.Clip(op.Round(scaled), 0.0, 255.0), to=ir.DataType.UINT8)
    order = {"RGB": None, "BGR": [2, 1, 0], "L": [0, 0, 0]}[record["channel_order"]]
    return pixels if order is None else op.Gather(pixels, order, axis=3)
