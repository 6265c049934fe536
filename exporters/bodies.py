"""The inner graphs of If, Loop and Scan, and what they use from outside."""

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["all_nodes", "bodies", "captured_by", "captures", "defined_by", "operands", "undefined"]


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside a node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captured_by(body: ir.Graph) -> tuple[ir.Value, ...]:
    """Values from outside that an inner graph uses, each once, in order of first use."""
    own = {*body.inputs, *body.initializers.values()}
    used: list[ir.Value | None] = []
    for node in body:
        used.extend(operands(node))
        own.update(node.outputs)
    used.extend(body.outputs)
    return tuple(dict.fromkeys(v for v in used if v is not None and v not in own))


def captures(node: ir.Node) -> tuple[ir.Value, ...]:
    """Values from outside that the graphs inside a node use, each once, in order of first use."""
    return tuple(dict.fromkeys(v for body in bodies(node) for v in captured_by(body)))


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The node's inputs, then what its inner graphs capture."""
    return (*node.inputs, *(captures(node) if node.attributes else ()))


def all_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The node itself and the nodes inside it, at any depth."""
    yield node
    for body in bodies(node):
        for inner in body:
            yield from all_nodes(inner)


def defined_by(node: ir.Node) -> list[ir.Value]:
    """The node's outputs and the inputs of the graphs inside it."""
    return [*node.outputs, *(value for body in bodies(node) for value in body.inputs)]


def undefined(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Inputs of nodes, at any depth, that nothing defines: the file is broken."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is None or value.producer() is not None:
                continue
            if not value.is_graph_input() and not value.is_initializer():
                yield node, value
