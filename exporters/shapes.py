"""Shapes of all tensors, by probing: inference is run at several concrete input sizes.

A dynamic dimension (the batch, mostly) makes symbolic inference lose track at the first computed
Reshape. At concrete sizes nothing is lost: a dimension that comes out equal at every probe is
static, and two dimensions are equal when they agree at every probe. `Dim` is therefore the tuple of
a dimension's values, one per probe. Values computed from shapes (Reshape targets, slice ends) are
folded in the same way and are constants when every probe agrees.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from deepinside.exporters.bodies import captured_by
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.inference import INTEGERS, body_model, settle
from deepinside.exporters.weights import set_aside

__all__ = ["Dim", "Shape", "Shapes", "broadcast", "is_one", "probe_body", "probe_shapes", "static"]

_log = logging.getLogger(__name__)

Dim = tuple[int, ...]
Shape = tuple[Dim, ...]

# Batch sizes of the probes; the first is at the size that is asked for.
_BATCHES = (3, 5, 3)
# Two further probes for free heights and widths: (multiples of 64 above the size asked for, sign of
# the grain added). One height and one width are just above a multiple of 64, the others just below,
# so that they and all that strides of 2 make of them are odd at one probe and even at another,
# whether rounded up or down: what depends on that is not taken for static.
_STEPS = (((1, 1), (2, -1)), ((5, -1), (7, 1)))
# Some classifiers take multiples of a size only: the first grain that works is probed.
_GRAINS = (1, 2, 4, 8, 16, 32)
_DEFAULT_SIZE = 224


def static(dim: Dim) -> int | None:
    """The dimension's one value, or None when it is dynamic."""
    return dim[0] if len(set(dim)) == 1 else None


def is_one(dim: Dim) -> bool:
    """Whether the dimension is 1 at every probe."""
    return set(dim) == {1}


def broadcast(*shapes: Shape) -> Shape:
    """Numpy's broadcasting of shapes, on probed dimensions."""
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dims = [shape[axis] for shape in shapes if len(shape) >= -axis]
        result.append(next((dim for dim in dims if not is_one(dim)), dims[0]))
    return tuple(result)


class Shapes:
    """Shapes and constants of the values of one graph; emitted values are added as they come."""

    def __init__(
        self, shapes: Mapping[str, Shape], constants: Mapping[str, np.ndarray], probes: int
    ) -> None:
        self._shapes = dict(shapes)
        self._constants = dict(constants)
        self.probes = probes

    def dim(self, size: int) -> Dim:
        """A static dimension."""
        return (size,) * self.probes

    def known(self, value: ir.Value) -> Shape | None:
        """The value's shape, or None when inference could not find it."""
        if value.name in self._shapes:
            return self._shapes[value.name]
        if value.const_value is not None:
            return tuple(self.dim(size) for size in value.const_value.shape.numpy())
        return None

    def record(
        self, value: ir.Value, shape: Shape | None, constant: np.ndarray | None = None
    ) -> None:
        """Note the shape of an emitted value, and the value itself where it is constant."""
        assert value.name is not None
        if shape is not None:
            self._shapes[value.name] = shape
        if constant is not None:
            self._constants[value.name] = constant

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The value as an array when it is the same whatever the input, else None."""
        if value is None:
            return None
        if value.const_value is not None and not value.is_graph_input():
            return value.const_value.numpy()
        return self._constants.get(value.name or "")


def probe_shapes(model: ir.Model, size: Sequence[int] | None = None) -> Shapes:
    """Infer the shapes of every value of the main graph at several concrete input sizes.

    Args:
        model: classifier with inlined functions; missing element types are filled in.
        size: height and width at which it works, where they are free; 224 if not known.

    Raises:
        ClassifierError: ONNX's strict shape inference rejects the model.
    """
    free = [
        axis
        for value in model.graph.inputs
        for axis, length in enumerate(_sizes(value))
        if not isinstance(length, int)
    ]
    probes = [_infer(model, _BATCHES[0], _spatial(size))]
    if free:
        probes.extend(_others(model, _spatial(size)) if any(free) else ())
        if len(probes) == 1:
            probes.append(_infer(model, _BATCHES[1], _spatial(size)))
    _fill_types(model.graph, probes[0].graph)
    return Shapes(*_merge(probes), len(probes))


def probe_body(body: ir.Graph, shapes: Shapes, opset: int) -> None:
    """Infer and record the shapes of the values of a graph inside a node, and fill in their types.

    The shapes of the graph's inputs have to be known already; those of what it captures are.

    Raises:
        ClassifierError: ONNX's shape inference rejects the body at these shapes.
    """
    given = (*body.inputs, *captured_by(body))
    probes = []
    for number in range(shapes.probes):
        known = {v.name: shapes.known(v) for v in given}
        sizes = {n: tuple(dim[number] for dim in shape) for n, shape in known.items() if shape}
        sizes |= {n: () for n, shape in known.items() if shape == ()}
        values = {v.name: shapes.constant(v) for v in given}
        try:
            probes.append(settle(body_model(body, given, sizes, values, opset)))
        except onnx.shape_inference.InferenceError as error:
            raise ClassifierError(
                f"ONNX's shape inference rejects the graph {body.name!r} inside a node: "
                + " ".join(str(error).split())
            ) from error
    _fill_types(body, probes[0].graph)
    found, constants = _merge(probes)
    for value in _values(body):
        shapes.record(value, found.get(str(value.name)), constants.get(str(value.name)))


def _fill_types(graph: ir.Graph, probe: ir.Graph) -> None:
    types = {value.name: value.dtype for value in _values(probe)}
    for value in _values(graph):
        if value.dtype is None and (dtype := types.get(value.name)) is not None:
            value.dtype = dtype


def _merge(probes: Sequence[ir.Model]) -> tuple[dict[str, Shape], dict[str, np.ndarray]]:
    """Shapes known at every probe, and constants that are the same at every probe, by name."""
    inferred = [_read(probe) for probe in probes]
    shapes: dict[str, Shape] = {}
    constants: dict[str, np.ndarray] = {}
    for name in set.intersection(*(set(found) for found, _ in inferred)):
        sizes = [found[name] for found, _ in inferred]
        if len({len(size) for size in sizes}) == 1:
            shapes[name] = tuple(zip(*sizes, strict=True))
    for name in set.intersection(*(set(folded) for _, folded in inferred)):
        arrays = [folded[name] for _, folded in inferred]
        if all(np.array_equal(arrays[0], other) for other in arrays[1:]):
            constants[name] = arrays[0]
    return shapes, constants


def _spatial(size: Sequence[int] | None) -> tuple[int, int]:
    return (size[0], size[1]) if size else (_DEFAULT_SIZE, _DEFAULT_SIZE)


def _others(model: ir.Model, size: tuple[int, int]) -> list[ir.Model]:
    """The probes at other heights and widths; none where the classifier works at one size only."""
    for grain in _GRAINS:
        height, width = (64 * (length // 64) for length in size)
        sizes = [
            (height + 64 * up + up_sign * grain, width + 64 * across + across_sign * grain)
            for (up, up_sign), (across, across_sign) in _STEPS
        ]
        try:
            found = [_infer(model, *probe) for probe in zip(_BATCHES[1:], sizes, strict=True)]
        except ClassifierError as error:
            _log.info("the classifier does not work at all sizes of %s: %s", sizes, error)
            continue
        # Many classifiers have a least size; in those that have none, a crop may do nothing there.
        small = (height // 128 * 64 + grain, width // 128 * 64 - grain)
        try:
            found.append(_infer(model, _BATCHES[0], small))
        except ClassifierError as error:
            _log.info("the classifier does not work at the size %s: %s", small, error)
        return found
    return []


def _sizes(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return () if value.shape is None else tuple(value.shape.dims)


def _infer(model: ir.Model, batch: int, size: tuple[int, int]) -> ir.Model:
    """A copy with shapes inferred, and shape arithmetic folded, at one concrete input size."""
    probe = model.clone()
    chosen: dict[str, int] = {}  # axes of one name are of one size
    for value in probe.graph.inputs:
        lengths = []
        for axis, length in enumerate(_sizes(value)):
            if isinstance(length, int):
                lengths.append(length)
                continue
            found = batch if axis == 0 else size[_spatial_index(_sizes(value), axis)]
            lengths.append(chosen.setdefault(length.value, found) if length.value else found)
        if value.shape is not None:
            value.shape = ir.Shape(lengths)
    given = {value.name for value in probe.graph.inputs}
    set_aside(probe.graph)
    try:
        return settle(probe)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        described = ", ".join(
            f"{value.name} {list(_sizes(value))}"
            for value in probe.graph.inputs
            if value.name in given
        )
        raise ClassifierError(
            f"ONNX's shape inference rejects the classifier at the input {described}: {reason}"
        ) from error


def _spatial_index(lengths: Sequence[int | ir.SymbolicDim], axis: int) -> int:
    """0 for an axis that is probed as a picture's height, 1 for one that is as its width."""
    if len(lengths) == 4 and isinstance(lengths[3], int) and not isinstance(lengths[1], int):
        return (axis + 1) % 2  # channels last
    return axis % 2


def _read(probe: ir.Model) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes and constant integers by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    constants: dict[str, np.ndarray] = {}
    for value in _values(probe.graph):
        sizes_found = _sizes(value)
        if value.shape is not None and all(isinstance(size, int) for size in sizes_found):
            shapes[str(value.name)] = tuple(int(size) for size in sizes_found)  # type: ignore[arg-type]
        if value.const_value is not None and value.dtype in INTEGERS:
            constants[str(value.name)] = value.const_value.numpy()
    return shapes, constants


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = list(graph.inputs) + list(graph.initializers.values())
    for node in graph:
        values.extend(node.outputs)
    return values
