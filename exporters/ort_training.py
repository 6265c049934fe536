"""A second gradient back end, for cross-checks: the gradient builder of onnxruntime-training.

Its graphs use operators of that runtime's own (ConvGrad, SoftmaxGrad_13 ...), so that no other
runtime loads them. The package is discontinued (1.19.2, Python 3.11) and overwrites onnxruntime's
files: it needs an environment of its own.
"""

import importlib

import onnx
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import GradientError, MissingPackageError
from deepinside.exporters.gradient import path_between, reached_from

__all__ = ["differentiate"]

_RUNTIME = "onnxruntime.capi._pybind_state"
_LOSS, _SEED = "deepinside/loss", "deepinside/seed"


def differentiate(
    op: Builder, model: ir.Model, seed: ir.Value, *, score: ir.Value, image: ir.Value
) -> ir.Value:
    """Append the gradient of `sum(seed * score)` with respect to `image`, built by the runtime.

    Args:
        op: builder of the classifier's graph.
        model: the classifier; operators that the back end lacks are written out in it.
        seed: cotangent of `score`, of its shape.
        score: tensor to differentiate.
        image: tensor to differentiate with respect to.

    Returns:
        The cotangent of `image`.

    Raises:
        MissingPackageError: onnxruntime-training is not installed.
        GradientError: the back end can't differentiate the classifier, or would do it wrongly.
    """
    try:
        builder_type = importlib.import_module(_RUNTIME).GradientGraphBuilder
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(
            "onnxruntime-training", "training", "the gradient back end ort-training"
        ) from error
    reached = reached_from(op.graph, [image])
    for node in path_between(op.graph, reached, [score]):
        _repair(node, op)
    side = _with_loss(model, seed, score)
    content = ir.to_proto(side).SerializeToString()
    try:
        builder = builder_type(content, {_LOSS}, {str(image.name)}, _LOSS, None)
        builder.build()
        built = ir.from_proto(onnx.ModelProto.FromString(builder.get_model()))
    except Exception as error:  # the runtime raises its own errors, and bare RuntimeErrors
        reason = " ".join(str(error).rpartition("was false. ")[2].split()).rstrip(".")
        raise _failure(
            op, score, f"the back end can't differentiate this classifier: {reason}."
        ) from error
    cotangents = _graft(built.graph, op.graph, seed)
    model.opset_imports.update({"com.microsoft": 1})
    gradient = cotangents.get(f"{image.name}_grad")
    if gradient is None:
        raise _failure(op, image, "the back end gave no gradient for it.")
    gradient.type = image.type
    op.shapes.record(gradient, op.shapes.known(image))
    return gradient


def _failure(op: Builder, value: ir.Value, message: str) -> GradientError:
    return GradientError("ort-training", op.opset, str(value.name), message)


def _graft(built: ir.Graph, graph: ir.Graph, seed: ir.Value) -> dict[str | None, ir.Value]:
    """Append the nodes that the back end added; all values by name."""
    values: dict[str | None, ir.Value] = {value.name: value for value in graph.inputs}
    values |= {value.name: value for value in graph.initializers.values()}
    values |= {output.name: output for node in graph for output in node.outputs}
    values[_SEED] = seed
    for name, value in built.initializers.items():
        if name not in values:
            added = ir.Value(name=name, type=value.type, const_value=value.const_value)
            graph.register_initializer(added)
            values[name] = added
    for node in built:
        own = [values[o.name] for o in node.outputs if o.name and o.name in values]
        if own and (forward := own[0].producer()) is not None:
            forward.resize_outputs(len(node.outputs))  # MaxPool's indices, say
            for old, new in zip(node.outputs, forward.outputs, strict=True):
                new.name, new.type = old.name, old.type
                values[new.name] = new
            continue
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else values[value.name] for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"deepinside/{node.name or node.op_type}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            values[new.name] = new
        graph.append(copy)
    return values


def _repair(node: ir.Node, op: Builder) -> None:
    """Bring a node into a form that the back end differentiates, or refuse it."""
    if node.op_type == "Conv" and _text(node, "auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        raise GradientError(
            "Conv",
            op.opset,
            str(node.name),
            "onnxruntime-training's gradient of automatic padding is wrong; use the default "
            "--autodiff standard.",
        )
    if node.op_type == "LayerNormalization" and len(node.outputs) < 3:
        known = len(node.outputs)
        node.resize_outputs(3)  # its gradient reads the mean and the inverse deviation
        for output in node.outputs[known:]:
            output.name = op.unique_name(f"{node.name}/statistics")


def _text(node: ir.Node, name: str) -> str | None:
    return node.attributes[name].as_string() if name in node.attributes else None


def _with_loss(model: ir.Model, seed: ir.Value, score: ir.Value) -> ir.Model:
    """A copy whose only output is `sum(seed * score)`, with the seed as an input."""
    side = model.clone()
    values = {v.name: v for node in side.graph for v in node.outputs}
    for node in list(side.graph):
        if node.op_type == "LayerNormalization":  # the back end can't have one weight in two
            for index in range(1, len(node.inputs)):
                own = ir.node("Identity", [node.inputs[index]], name=f"{node.name}/own_{index}")
                own.outputs[0].name = f"{node.name}/own_{index}"
                side.graph.insert_before(node, own)
                node.replace_input_with(index, own.outputs[0])
    given = ir.Value(name=_SEED, shape=seed.shape, type=seed.type)
    side.graph.inputs.append(given)
    product = ir.node("Mul", [values[score.name], given], name="deepinside/weigh")
    loss = ir.node("ReduceSum", product.outputs, {"keepdims": 0}, name="deepinside/add")
    for node, name in ((product, "deepinside/weighed"), (loss, _LOSS)):
        node.outputs[0].name, node.outputs[0].type = name, score.type
        side.graph.append(node)
    loss.outputs[0].shape = ir.Shape([])
    side.graph.outputs.clear()
    side.graph.outputs.append(loss.outputs[0])
    return side
