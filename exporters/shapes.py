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
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer

from deepinside.exporters.errors import ClassifierError

__all__ = ["Dim", "Shape", "Shapes", "broadcast", "is_one", "probe_shapes", "static"]

_log = logging.getLogger(__name__)

Dim = tuple[int, ...]
Shape = tuple[Dim, ...]

# (batch size, what is added to free heights and widths, as a multiple of the axis). The last is far
# from the first, and not square: sizes that strides make equal by chance would look static.
_PROBES = ((3, 0), (5, 0), (3, 160))
_DEFAULT_SIZE = 224
# Larger constants are weights, smaller ones may be shapes.
_WEIGHT_ELEMENTS = 1024


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

    def record(self, value: ir.Value, shape: Shape | None) -> None:
        """Note the shape of an emitted value."""
        if shape is not None:
            assert value.name is not None
            self._shapes[value.name] = shape

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
    rounds = _PROBES if any(free) else _PROBES[:2] if free else _PROBES[:1]
    probes = [_infer(model, batch, 0, size) for batch, step in rounds if not step]
    for batch, step in rounds:
        if step:
            try:
                probes.append(_infer(model, batch, step, size))
            except ClassifierError as error:
                # Height and width are free by declaration only; other sizes fail as they are.
                _log.info("the classifier works at one picture size: %s", error)
    inferred = [_read(probe) for probe in probes]
    types = {value.name: value.dtype for value in _values(probes[0].graph)}
    for value in _values(model.graph):
        if value.dtype is None and (dtype := types.get(value.name)) is not None:
            value.dtype = dtype
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
    return Shapes(shapes, constants, len(inferred))


def _sizes(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return () if value.shape is None else tuple(value.shape.dims)


def _infer(model: ir.Model, batch: int, step: int, size: Sequence[int] | None) -> ir.Model:
    """A copy with shapes inferred, and shape arithmetic folded, at one concrete input size."""
    probe = model.clone()
    for node in ir.traversal.RecursiveGraphIterator(probe.graph):
        if node.op_type == "GroupNormalization" and not node.domain:
            # ONNX infers no shape for it: the input's, as Identity's.
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.attributes.clear()
    chosen: dict[str, int] = {}  # axes of one name are of one size
    for value in probe.graph.inputs:
        lengths = []
        for axis, length in enumerate(_sizes(value)):
            if isinstance(length, int):
                lengths.append(length)
                continue
            spatial = _spatial_index(_sizes(value), axis)
            base = size[spatial] if size and spatial is not None else _DEFAULT_SIZE
            found = batch if axis == 0 else base + step * axis
            lengths.append(chosen.setdefault(length.value, found) if length.value else found)
        if value.shape is not None:
            value.shape = ir.Shape(lengths)
    given = {value.name for value in probe.graph.inputs}
    for value in list(probe.graph.initializers.values()):
        # Weights matter by their shape only: as inputs they are neither copied nor folded.
        if value.const_value is not None and value.const_value.size > _WEIGHT_ELEMENTS:
            value.shape = ir.Shape(value.const_value.shape.numpy())
            value.dtype = value.const_value.dtype
            value.const_value = None
            del probe.graph.initializers[value.name or ""]
            probe.graph.inputs.append(value)
    try:
        probe = _infer_once(probe)
        while _fold_sizes(probe):  # a folded size can make the next one known
            probe = _infer_once(probe)
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
    return probe


def _fold_sizes(probe: ir.Model) -> bool:
    """Put in the integers that follow from shapes, and say whether there were any.

    They are worked out on a copy: the optimiser rewrites other nodes too, and names get lost.
    """
    if not any(node.op_type in ("Shape", "Size") for node in probe.graph):
        return False
    copy = probe.clone()
    optimizer.fold_constants_ir(copy, should_fold=_folds_to_integers)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    found = {
        value.name: value.const_value
        for value in copy.graph.initializers.values()
        if value.const_value is not None and value.dtype in _SHAPE_ARITHMETIC
    }
    folded = [
        node
        for node in probe.graph
        if all(o.name in found and not o.is_graph_output() for o in node.outputs)
    ]
    for node in folded:
        constants = []
        for output in node.outputs:
            name, output.name = output.name, None
            constants.append(ir.Value(name=name, const_value=found[name], type=output.type))
            probe.graph.register_initializer(constants[-1])
        ir.convenience.replace_nodes_and_values(
            probe.graph, node, [node], [], node.outputs, constants
        )
    return bool(folded)


def _spatial_index(lengths: Sequence[int | ir.SymbolicDim], axis: int) -> int | None:
    """0 for a picture's height, 1 for its width, in either layout; None for other inputs."""
    if len(lengths) != 4:
        return None
    channels_last = isinstance(lengths[3], int) and not isinstance(lengths[1], int)
    return {1: 0, 2: 1}.get(axis) if channels_last else {2: 0, 3: 1}.get(axis)


def _infer_once(probe: ir.Model) -> ir.Model:
    """ONNX's own strict inference, from the inputs' shapes alone."""
    for node in probe.graph:
        for output in node.outputs:
            output.shape = None  # what the file says may be symbolic, or of another batch size
    for value in probe.graph.initializers.values():
        if value.const_value is not None:  # a folded value keeps a stale symbolic shape
            value.shape = ir.Shape(value.const_value.shape.numpy())
    return ir.from_proto(
        onnx.shape_inference.infer_shapes(
            ir.to_proto(probe), check_type=True, strict_mode=True, data_prop=True
        )
    )


def _read(probe: ir.Model) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes and constant integers by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    constants: dict[str, np.ndarray] = {}
    for value in _values(probe.graph):
        sizes_found = _sizes(value)
        if value.shape is not None and all(isinstance(size, int) for size in sizes_found):
            shapes[str(value.name)] = tuple(int(size) for size in sizes_found)  # type: ignore[arg-type]
        if value.const_value is not None and value.dtype in _INTEGERS:
            constants[str(value.name)] = value.const_value.numpy()
    return shapes, constants


_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_SHAPE_ARITHMETIC = (*_INTEGERS, ir.DataType.BOOL)


def _folds_to_integers(node: ir.Node) -> bool | None:
    """Fold shape arithmetic only: nodes on the way from image to score must keep their names."""
    return all(output.dtype in _SHAPE_ARITHMETIC for output in node.outputs)


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = list(graph.inputs) + list(graph.initializers.values())
    for node in graph:
        values.extend(node.outputs)
    return values
