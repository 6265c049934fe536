"""Reverse-mode differentiation: the nodes between two tensors, swept backwards.

The sweep looks up a rule for every node on the way, calls it, undoes broadcasting, and adds up the
cotangents of tensors that are used more than once. Rules know nothing of all that.
"""

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from deepinside.exporters import nondifferentiable
from deepinside.exporters.bodies import operands
from deepinside.exporters.builder import Builder, is_compact
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.registry import Elsewhere, ForwardNode, ReluMode, Rule, find_rule
from deepinside.exporters.shapes import Shape, is_one

__all__ = ["backpropagate", "path_between", "reached_from", "sweep"]

_FLOATS = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
}


def path_between(
    graph: ir.Graph, reached: Collection[ir.Value], targets: Collection[ir.Value]
) -> list[ir.Node]:
    """The nodes through which `targets` depend on values `reached_from` somewhere, in order."""
    needed = set(targets)
    path: list[ir.Node] = []
    for node in reversed(graph):
        if any(output in needed and output in reached for output in node.outputs):
            path.append(node)
            needed.update(value for _, value in _carrying(node, reached))
    return path[::-1]


def reached_from(graph: ir.Graph, sources: Collection[ir.Value]) -> set[ir.Value]:
    """The sources, and the values of a graph that depend differentiably on one of them.

    Edges that carry no derivative (integers, indices, shapes, step functions) don't count. What a
    node's inner graphs capture counts as its input, and quantised values count although they are
    integers: such nodes are on the path, so that the search for their rule complains.
    """
    reached = set(sources)
    for node in graph:
        carrying = _carrying(node, reached)
        if carrying:
            integers = any(value.dtype not in _FLOATS for _, value in carrying)
            everything = integers or node.op_type in nondifferentiable.QUANTISERS
            # An unknown type counts too: better a complaint than a part that is missing.
            floats = {*_FLOATS, None}
            reached.update(o for o in node.outputs if everything or o.dtype in floats)
    return reached


def backpropagate(
    op: Builder,
    seed: ir.Value,
    *,
    score: ir.Value,
    image: ir.Value,
    relu: ReluMode = "gradient",
) -> ir.Value:
    """Append the graph of the vector-Jacobian product of `score` with respect to `image`.

    Args:
        op: builder of the classifier's graph, with its shapes.
        seed: cotangent of `score`, of its shape.
        score: tensor to differentiate.
        image: tensor to differentiate with respect to.
        relu: backward rule of Relu: `gradient`, `deconvnet` (Zeiler & Fergus 2014) or `guided`
            (Springenberg et al. 2014).

    Returns:
        The cotangent of `image`, of its shape.

    Raises:
        ClassifierError: the score does not depend on the image.
        MissingRuleError: an operator on the way has no rule.
        GradientError: an operator on the way stands in a form that its rule does not cover.
    """
    (cotangent,) = sweep(op, [(score, seed)], [image], relu)
    op.scope = "deepinside"
    if cotangent is None:
        raise ClassifierError(
            f"no differentiable path leads from the image input {image.name!r} to the class scores "
            f"{score.name!r}: the classifier rounds, compares or indexes on every way, or the "
            "wrong input or score was chosen (--image-input, --score-output)."
        )
    return cotangent


def sweep(
    op: Builder,
    seeds: Sequence[tuple[ir.Value, ir.Value]],
    sources: Sequence[ir.Value],
    relu: ReluMode,
) -> list[ir.Value | None]:
    """Append the vector-Jacobian product of several values with respect to several others.

    Args:
        op: builder of the graph that holds them, with its shapes.
        seeds: pairs of a value and its cotangent, of the value's shape.
        sources: values to differentiate with respect to.
        relu: as in `backpropagate`.

    Returns:
        For each source its cotangent, of its shape, or None where no value depends on it.

    Raises:
        MissingRuleError, GradientError: as `backpropagate`.
    """
    reached = reached_from(op.graph, sources)
    path = path_between(op.graph, reached, [value for value, _ in seeds])
    rules = {node: find_rule(node, op.opset) for node in path}  # every complaint before any work
    cotangents: dict[ir.Value, ir.Value] = {}
    for value, seed in seeds:
        cotangents[value] = op.Add(cotangents[value], seed) if value in cotangents else seed
    scope = op.scope
    for node in reversed(path):
        version = onnx.defs.get_schema(node.op_type, op.opset, "").since_version
        op.scope = f"{node.name}/grad"
        forward = ForwardNode(node, version, op.shapes, relu, tuple(_carrying(node, reached)))
        _sweep_node(op, forward, rules[node], cotangents)
    op.scope = scope
    return [
        op.expand_to(cotangents[source], source) if source in cotangents else None
        for source in sources
    ]


def _carrying(node: ir.Node, values: Collection[ir.Value]) -> list[tuple[int, ir.Value]]:
    """The node's operands among `values` that carry a derivative, with their positions."""
    return [
        (index, value)
        for index, value in enumerate(operands(node))
        if value is not None and value in values and not nondifferentiable.edge(node.op_type, index)
    ]


def _sweep_node(
    op: Builder, forward: ForwardNode, rule: Rule, cotangents: dict[ir.Value, ir.Value]
) -> None:
    """Turn the cotangents of one node's outputs into additions to those of its operands."""
    node, targets = forward.node, forward.wanted
    incoming = [cotangents.get(output) for output in node.outputs]
    if all(g is None for g in incoming):
        return
    full = [
        g if g is None or _takes_compact(op, rule, forward, targets, g) else op.expand_to(g, output)
        for g, output in zip(incoming, node.outputs, strict=True)
    ]
    if rule.all_outputs:
        result = rule.function(tuple(full), forward, op)
    elif full[0] is None:
        raise forward.error("the score depends on an output other than its first.")
    else:
        result = rule.function(full[0], forward, op)
    entries = (result,) if isinstance(result, ir.Value) else tuple(result)
    for index, value in targets:
        entry = entries[index] if index < len(entries) else None
        if isinstance(entry, Elsewhere):
            continue
        cotangent = entry() if callable(entry) else entry
        if cotangent is None:
            raise forward.error(
                f"its input {index} ({value.name!r}) depends on the image, and the gradient with "
                "respect to that input has no rule."
            )
        cotangent = _undo_broadcast(op, forward, rule, cotangent, value)
        if value in cotangents:
            cotangent = op.Add(cotangents[value], cotangent)
        cotangents[value] = cotangent


def _takes_compact(
    op: Builder,
    rule: Rule,
    forward: ForwardNode,
    targets: Sequence[tuple[int, ir.Value]],
    g: ir.Value,
) -> bool:
    """Whether the rule can work on g as it is: not when a sum over its broadcast axes follows."""
    output = forward.y
    shape = op.shapes.known(g)
    full = op.shapes.known(output)
    if shape is None or full is None:
        return shape == full
    if not is_compact(shape, full):
        return True
    return rule.elementwise and all(forward.shape(value) == full for _, value in targets)


def _undo_broadcast(
    op: Builder, forward: ForwardNode, rule: Rule, cotangent: ir.Value, value: ir.Value
) -> ir.Value:
    """Sum the cotangent over the axes along which the forward node repeated `value`."""
    shape = op.shapes.known(cotangent)
    if shape is None:
        if rule.elementwise:
            forward.shape(forward.y)  # complains, or the rule emits what the builder doesn't track
        # Only element-wise results are tracked; other rules return the input's own shape.
        op.shapes.record(cotangent, op.shapes.known(value))
        return cotangent
    target: Shape = forward.shape(value)
    extra = len(shape) - len(target)
    if extra > 0:
        cotangent = op.reduce("ReduceSum", cotangent, list(range(extra)), keepdims=False)
        shape = shape[extra:]
    axes = [
        axis
        for axis, (have, want) in enumerate(zip(shape[-len(target) :], target, strict=False))
        if is_one(want) and not is_one(have)
    ]
    return op.reduce("ReduceSum", cotangent, axes, keepdims=True) if axes else cotangent
