"""Control flow: If, Loop and Scan.

The backward node runs the body again on what it saw (the states of every round are kept), and then
the body's vector-Jacobian product. Values that a body captures are operands like its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.bodies import operands
from deepinside.exporters.builder import Builder
from deepinside.exporters.gradient import reached_from
from deepinside.exporters.inner import InnerGraph, pull_back, zeros_like
from deepinside.exporters.registry import Cotangents, ForwardNode, vjp
from deepinside.exporters.shapes import probe_body

__all__: list[str] = []

_BEFORE_STATES = 2  # a Loop's trip count and condition
_NOWHERE = -1  # among the node's operands: made here

Gradients = Sequence[ir.Value | None]


@vjp("If", 16, 19, 21, 23, 24, 25, all_outputs=True)
def if_(g: Gradients, node: ForwardNode, op: Builder) -> Cotangents:
    """The cotangents of what the branches capture: an If of the branches' own gradients."""
    wanted = [value for _, value in node.wanted]
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = node.node.attributes[name].as_graph()
        probe_body(body, node.shapes, op.opset)
        branch = InnerGraph(op, name)
        seeds = [(y, seed) for y, seed in zip(body.outputs, g, strict=True) if seed is not None]
        branch.give(pull_back(body, {}, seeds, wanted, node.relu, branch.op))
        branches[name] = branch.graph
    return _in_order(node, node.wanted, op.emit("If", node.x, outputs=len(wanted), **branches), op)


@dataclass(frozen=True)
class _State:
    """A value that each round takes from the one before."""

    before: ir.Value  # in the body
    after: ir.Value
    initial: ir.Value  # outside
    position: int  # of `initial` among the node's operands
    index: int  # of the final value among the node's outputs


@dataclass(frozen=True)
class _Slices:
    """A tensor of which each round takes or makes one slice."""

    slice: ir.Value  # in the body
    whole: ir.Value  # outside
    axis: int
    reverse: int
    position: int  # among the node's operands, or its outputs


@vjp("Loop", 16, 19, 21, 23, 24, 25, all_outputs=True)
def loop(g: Gradients, node: ForwardNode, op: Builder) -> Cotangents:
    """A Scan from the last round to the first, whose states are the cotangents of the states.

    The shapes of the states must not change from round to round.
    """
    outer = node.node
    body = outer.attributes["body"].as_graph()
    states = _states(node, body, _BEFORE_STATES, len(outer.inputs) - _BEFORE_STATES, skip=1)
    outputs = [
        _Slices(body.outputs[1 + i], outer.outputs[i], 0, 0, i)
        for i in range(len(states), len(outer.outputs))
    ]
    for value, kind in zip(body.inputs, (ir.DataType.INT64, ir.DataType.BOOL), strict=False):
        value.dtype = kind
        node.shapes.record(value, ())
    _probe(node, body, states, op)
    saved = _save(node, body, states, op)
    if not saved and not outputs:
        raise node.error("it has neither states nor outputs.")
    counted = saved[0].whole if saved else outputs[0].whole
    rounds = op.Range(0, op.Gather(op.Shape(counted), 0, axis=0), 1)
    numbers = _Slices(body.inputs[0], rounds, 0, 0, _NOWHERE)
    running = {body.inputs[1]: op.constant(np.array(True))}
    return _backwards(g, node, body, states, [*saved, numbers], outputs, running, op)


@vjp("Scan", 16, 19, 21, 23, 24, 25, all_outputs=True)
def scan(g: Gradients, node: ForwardNode, op: Builder) -> Cotangents:
    """A Scan over the same slices in the other direction."""
    outer = node.node
    body = outer.attributes["body"].as_graph()
    count = len(outer.inputs) - int(node.attribute("num_scan_inputs"))
    states = _states(node, body, 0, count, skip=0)
    slices = _slices(node, "input", body.inputs, outer.inputs, count)
    outputs = _slices(node, "output", body.outputs, outer.outputs, count)
    for each in slices:
        shape = node.shape(each.whole)
        axis = each.axis % len(shape)
        _give_type(each.slice, each.whole)
        node.shapes.record(each.slice, (*shape[:axis], *shape[axis + 1 :]))
    _probe(node, body, states, op)
    saved = _save(node, body, states, op)
    every = [*outputs, *saved]
    for key, values in (
        ("scan_output_axes", [each.axis for each in every]),
        ("scan_output_directions", [each.reverse for each in every]),
    ):
        outer.attributes[key] = ir.AttrInt64s(key, values)
    return _backwards(g, node, body, states, [*saved, *slices], outputs, {}, op)


def _backwards(
    g: Gradients,
    node: ForwardNode,
    body: ir.Graph,
    states: Sequence[_State],
    slices: Sequence[_Slices],
    outputs: Sequence[_Slices],
    arguments: dict[ir.Value, ir.Value],
    op: Builder,
) -> Cotangents:
    """Emit the Scan that runs the rounds in reverse and sums the captured values' cotangents."""
    inputs = len(node.node.inputs)
    captured = [value for i, value in node.wanted if i >= inputs]
    positions = {i for i, _ in node.wanted}
    sliced = [each for each in slices if each.position in positions]
    active = _active(body, states, [*captured, *(each.slice for each in sliced)], positions)
    seeded = [each for each in outputs if g[each.position] is not None]

    turn = InnerGraph(op, "body")
    state_g = [turn.input("d_", state.before) for state in active]
    totals = [turn.input("sum_", value) for value in captured]
    arguments = arguments | {each.slice: turn.input("", each.slice) for each in slices}
    output_g = [turn.input("d_", each.slice) for each in seeded]
    pairs = [
        *zip((state.after for state in active), state_g, strict=True),
        *zip((each.slice for each in seeded), output_g, strict=True),
    ]
    sources = [*(s.before for s in active), *captured, *(each.slice for each in sliced)]
    results = pull_back(body, arguments, pairs, sources, node.relu, turn.op)
    for index, total in enumerate(totals, len(active)):
        results[index] = turn.op.Add(total, results[index])
    turn.give(results)

    cotangents = op.emit(
        "Scan",
        *(_or_zeros(g[state.index], state.initial, op) for state in active),
        *(zeros_like(value, op) for value in captured),
        *(each.whole for each in slices),
        *(g[each.position] for each in seeded),
        outputs=len(sources),
        body=turn.graph,
        num_scan_inputs=len(slices) + len(seeded),
        scan_input_axes=[each.axis for each in (*slices, *seeded)],
        scan_input_directions=[1 - each.reverse for each in (*slices, *seeded)],
        scan_output_axes=[each.axis for each in sliced],
        scan_output_directions=[1 - each.reverse for each in sliced],
    )
    wanted = [
        *((state.position, state.initial) for state in active),
        *((i, value) for i, value in node.wanted if i >= inputs),
        *((each.position, each.whole) for each in sliced),
    ]
    return _in_order(node, wanted, cotangents, op)


def _states(node: ForwardNode, body: ir.Graph, first: int, count: int, skip: int) -> list[_State]:
    """The states, which stand from `first` on among the inputs and `skip` among the outputs."""
    found = []
    for i in range(count):
        initial = node.inputs[first + i]
        before, after = body.inputs[first + i], body.outputs[skip + i]
        _give_type(before, initial)
        node.shapes.record(before, node.shape(initial))
        found.append(_State(before, after, initial, first + i, i))
    return found


def _slices(
    node: ForwardNode,
    kind: str,
    inner: Sequence[ir.Value],
    outer: Sequence[ir.Value | None],
    first: int,
) -> list[_Slices]:
    """A Scan's inputs or outputs that are taken apart or put together slice by slice."""
    count = len(outer) - first
    axes = node.attribute(f"scan_{kind}_axes") or [0] * count
    directions = node.attribute(f"scan_{kind}_directions") or [0] * count
    return [
        _Slices(inner[first + i], whole, int(axes[i]), int(directions[i]), first + i)
        for i, whole in enumerate(outer[first:])
        if whole is not None
    ]


def _probe(node: ForwardNode, body: ir.Graph, states: Sequence[_State], op: Builder) -> None:
    """Infer the body's shapes, and refuse states that change theirs."""
    probe_body(body, node.shapes, op.opset)
    for state in states:
        before, after = node.shapes.known(state.before), node.shapes.known(state.after)
        if before != after:
            raise node.error(
                f"the shape of its state {state.before.name!r} changes from round to round, or "
                "can't be inferred; export the classifier with this loop unrolled."
            )


def _active(
    body: ir.Graph, states: Sequence[_State], sources: Sequence[ir.Value], wanted: set[int]
) -> list[_State]:
    """The states that depend differentiably on what is wanted, in whatever round."""
    active = [state for state in states if state.position in wanted]
    while True:
        reached = reached_from(body, [*sources, *(state.before for state in active)])
        more = [s for s in states if s.after in reached or s in active]
        if len(more) == len(active):
            return active
        active = more


def _save(
    node: ForwardNode, body: ir.Graph, states: Sequence[_State], op: Builder
) -> list[_Slices]:
    """Make every round's states outputs of the forward node: what the way back starts from."""
    outer, inner = node.node, op.nested(body)
    known = len(outer.outputs)
    outer.resize_outputs(known + len(states))
    saved = []
    for state, whole in zip(states, outer.outputs[known:], strict=True):
        body.outputs.append(inner.Identity(state.before))
        whole.name = op.unique_name(f"{op.scope}/{state.before.name}")
        _give_type(whole, state.before)
        saved.append(_Slices(state.before, whole, 0, 0, _NOWHERE))
    return saved


def _give_type(value: ir.Value, like: ir.Value) -> None:
    assert like.dtype is not None
    value.dtype = like.dtype


def _or_zeros(g: ir.Value | None, like: ir.Value, op: Builder) -> ir.Value:
    return zeros_like(like, op) if g is None else g


def _in_order(
    node: ForwardNode,
    wanted: Sequence[tuple[int, ir.Value]],
    cotangents: Sequence[ir.Value],
    op: Builder,
) -> Cotangents:
    """The cotangents of the wanted operands, in the order of all operands."""
    entries: list[ir.Value | None] = [None] * len(operands(node.node))
    for (position, value), cotangent in zip(wanted, cotangents, strict=True):
        _give_type(cotangent, value)
        op.shapes.record(cotangent, op.shapes.known(value))
        entries[position] = cotangent
    return entries
