"""Emits nodes: `op.Mul(a, b)` appends a Mul to the graph and returns its output.

Checked at emission: the operator exists at the model's opset, with these attributes. Numbers and
lists among the inputs become constants (floats of the first tensor's type, integers of int64).
Shapes of element-wise results are tracked, since the sweep must know which axes are broadcast.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from deepinside.exporters.bodies import all_nodes, defined_by
from deepinside.exporters.errors import ExportError
from deepinside.exporters.lengths import Length, Size, vector
from deepinside.exporters.shapes import Shape, Shapes, broadcast, is_one, static

__all__ = ["Builder", "Operand", "OptimizeFor"]

Operand = ir.Value | float | int | Sequence[int] | np.ndarray | None
OptimizeFor = Literal["any", "cpu", "cuda"]

_BOOLEAN = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
_INTEGER = {"Shape", "Size", "ArgMax", "ArgMin"}
# A slope that turns HardSigmoid into a step: 1 from 2^-100 above the bound on, exact powers of two.
_STEEP = 2.0**100
_BLOCK = 16  # channels in a block of ONNX Runtime's blocked layout, at most
_STEP_BOUND = 2.0**20  # larger bounds times the slope would come near float32's largest number
_ELEMENTWISE = (
    {"Abs", "Add", "Cast", "Div", "Erf", "Exp", "Identity", "Log", "Max", "Min", "Mul", "Neg"}
    | {"HardSigmoid", "Pow", "Reciprocal", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh"}
    | {"Cos", "Cosh", "Sin", "Sinh", "Where"}
    | _BOOLEAN
)


class Builder:
    """Appends nodes to a graph, named after the forward node that they belong to."""

    def __init__(
        self, graph: ir.Graph, opset: int, shapes: Shapes, optimize_for: OptimizeFor = "any"
    ) -> None:
        self.graph = graph
        self.optimize_for = optimize_for
        self.opset = opset
        self.shapes = shapes
        self.scope = "deepinside"
        self._names = {value.name for value in graph.inputs} | set(graph.initializers)
        for outer in graph:
            for node in all_nodes(outer):
                self._names.add(node.name)
                self._names.update(value.name for value in defined_by(node))
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._lengths: dict[tuple[ir.Value, int], ir.Value] = {}
        self._root = graph  # holds the constants, which inner graphs see
        self._sizes = {  # the names of dynamic sizes, the batch's above all
            dim: size.value
            for value in graph.inputs
            for dim, size in zip(shapes.known(value) or (), value.shape or (), strict=False)
            if isinstance(size, ir.SymbolicDim) and size.value
        }

    def nested(self, graph: ir.Graph) -> "Builder":
        """A builder for a graph inside a node; it shares names, shapes and constants."""
        inner = copy.copy(self)
        inner.graph = graph
        inner._lengths = {}  # what is emitted in one graph is not seen in another
        return inner

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        """`op.Mul` is the function that emits a Mul."""
        if not operator[0].isupper():
            raise AttributeError(operator)

        def emit(*inputs: Operand, **attributes: Any) -> ir.Value:
            return self.emit(operator, *inputs, **attributes)[0]

        return emit

    def emit(
        self, operator: str, *inputs: Operand, outputs: int = 1, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Append a node and return its outputs; see the module's text for the inputs."""
        schema = onnx.defs.get_schema(operator, self.opset, "")
        unknown = set(attributes) - set(schema.attributes)
        assert not unknown, f"{operator}-{schema.since_version} has no attributes {unknown}"
        assert schema.min_input <= len(inputs) <= schema.max_input, (operator, len(inputs))
        dtype = next((i.dtype for i in inputs if isinstance(i, ir.Value)), None)
        values = [self._operand(operand, dtype) for operand in inputs]
        node = ir.node(
            operator,
            values,
            {name: value for name, value in attributes.items() if value is not None},
            num_outputs=outputs,
            name=self.unique_name(f"{self.scope}/{operator}"),
        )
        for index, output in enumerate(node.outputs):
            output.name = str(node.name) if outputs == 1 else f"{node.name}:{index}"
            if (found := self._dtype(operator, values, attributes)) is not None:
                output.dtype = found
        if operator in _ELEMENTWISE:
            known = [self.shapes.known(value) for value in values if value is not None]
            if all(shape is not None for shape in known):
                self.shapes.record(node.outputs[0], broadcast(*known))  # type: ignore[arg-type]
        self.graph.append(node)
        return tuple(node.outputs)

    def tell_shape(self, value: ir.Value, shape: Shape) -> None:
        """Note the shape of an emitted value, in the file too.

        A runtime that has lost a batch's name does not know that two batches are the same, and ONNX
        Runtime then leaves its blocked layout. Resize loses it.
        """
        self.shapes.record(value, shape)
        sizes = [static(dim) for dim in shape]
        names = [self._sizes.get(dim) for dim in shape]
        value.shape = ir.Shape([n if s is None else s for s, n in zip(sizes, names, strict=True)])

    def repeat(self, x: ir.Value, scales: Sequence[int]) -> ir.Value:
        """X `(N, C, *S)` with each value repeated along the axes of S, side by side."""
        factors = np.array([1.0, 1.0, *scales], dtype=np.float32)
        result = self.Resize(
            x,
            None,
            self.constant(factors, ir.DataType.FLOAT),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        if (shape := self.shapes.known(x)) is not None:
            sizes = zip(shape, (1, 1, *scales), strict=True)
            self.tell_shape(result, tuple(tuple(n * by for n in dim) for dim, by in sizes))
        return result

    def adopt(self, node: ir.Node) -> None:
        """Append a copy of a node of the classifier, with names of its own and known shapes."""
        for inner in all_nodes(node):
            inner.name = self.unique_name(f"{self.scope}/{inner.name}")
            for value in defined_by(inner):
                shape, constant = self.shapes.known(value), self.shapes.constant(value)
                value.name = self.unique_name(f"{self.scope}/{value.name}")
                self.shapes.record(value, shape, constant)
        self.graph.append(node)

    def further_outputs(self, node: ir.Node, count: int) -> Sequence[ir.Value]:
        """All outputs of a forward node, of which it had the first only or all already."""
        known = len(node.outputs)
        if known < count:
            node.resize_outputs(count)
        for index, output in enumerate(node.outputs[known:], known):
            output.name = self.unique_name(f"{node.name}:{index}")
            output.type = node.outputs[0].type
        return node.outputs

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Put an emitted value in the place of a forward node's only output, under its name."""
        old = node.outputs[0]
        name = old.name
        value.type, value.shape = old.type, old.shape
        self.shapes.record(value, self.shapes.known(old))
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        value.name = name

    def constant(self, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer with this value; equal ones are stored once."""
        kind = ir.DataType.from_numpy(array.dtype) if dtype is None else dtype
        with np.errstate(over="ignore"):
            cast = np.asarray(array, dtype=kind.numpy(), order="C")  # scalars stay scalars
        if array.dtype.kind == "f" and np.isinf(cast).any() and not np.isinf(array).any():
            raise ExportError(
                f"the backward pass needs the number {float(np.abs(array).max()):g}, too large for "
                f"{kind.name.lower()}; export a float32 version of the classifier."
            )
        key = (kind, cast.shape, cast.tobytes())
        if key not in self._constants:
            name = self.unique_name("deepinside/constant")
            tensor = ir.Tensor(cast, dtype=kind, name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape(cast.shape),
                type=ir.TensorType(kind),
                const_value=tensor,
            )
            self._root.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    # Compositions that several rules use.

    def mask(self, condition: ir.Value, like: ir.Value) -> ir.Value:
        """A boolean tensor as 0 and 1 of the type of `like`."""
        return self.Cast(condition, to=like.dtype)

    def positive(self, x: ir.Value) -> ir.Value:
        """1 where x > 0, else 0."""
        step = self.step(x, 0.0)
        return self.mask(self.Greater(x, 0.0), x) if step is None else step

    def keep(self, g: ir.Value, x: ir.Value) -> ir.Value:
        """G where x > 0, else 0."""
        if self.optimize_for == "cuda":
            return self.where(self.Greater(x, 0.0), g)
        return self.Mul(g, self.positive(x))

    def where(self, condition: ir.Value, g: ir.Value) -> ir.Value:
        """G where a condition holds, else 0.

        Two passes over memory with Where, three with Cast and Mul; on CPUs Where is 9 times slower.
        """
        if self.optimize_for != "cuda":
            return self.Mul(g, self.mask(condition, g))
        return self.Where(condition, g, self.constant(np.array(0.0), g.dtype))

    def step(self, x: ir.Value, bound: float, *, below: bool = False) -> ir.Value | None:
        """1 where x is above (or below) a bound, else 0, in one node; None where that does not pay.

        On CPUs HardSigmoid keeps ONNX Runtime's blocked layout, which comparisons leave. Numbers
        within 2^-100 of the bound count in part; float32 has such only around 0.
        """
        if self.optimize_for != "cpu" or x.dtype != ir.DataType.FLOAT or abs(bound) > _STEP_BOUND:
            return None
        slope = -_STEEP if below else _STEEP
        # Some runtimes read a beta of 0 as the default.
        return self.HardSigmoid(x, alpha=slope, beta=-slope * bound or -1e-30)

    def vanishes(self, x: ir.Value) -> ir.Value:
        """1 where X is 0, else 0, for X >= 0 in float32; keeps the blocked layout, as `step`."""
        return self.HardSigmoid(x, alpha=-_STEEP, beta=1.0)

    def complement(self, x: ir.Value) -> ir.Value:
        """1 - X, for X from 0 to 1."""
        if self.optimize_for == "cpu" and x.dtype == ir.DataType.FLOAT:
            return self.HardSigmoid(x, alpha=-1.0, beta=1.0)  # keeps the blocked layout, as `step`
        return self.Sub(1.0, x)

    def can_block(self, shape: Shape, x: ir.Value) -> bool:
        """Whether forms for ONNX Runtime's blocked layout pay: on CPUs, in whole blocks."""
        channels = static(shape[1]) if len(shape) == 4 else None
        wanted = self.optimize_for == "cpu" and x.dtype == ir.DataType.FLOAT
        return wanted and channels is not None and channels % _BLOCK == 0

    def blocked(self, x: ir.Value, shape: Shape) -> ir.Value:
        """X itself, on CPUs through a MaxPool of single values, which does nothing.

        It brings ONNX Runtime back into its blocked layout behind an operator that left it: pooling
        enters that layout, and Add and Mul stay where both of their inputs are in it.
        """
        if not self.can_block(shape, x):
            return x
        result = self.MaxPool(x, kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4)
        self.shapes.record(result, shape)
        return result

    def affine(self, x: ir.Value | None, factor: float, shift: float, shape: Shape) -> ir.Value:
        """`factor * X + shift` as a Conv, which keeps the blocked layout and takes in an Add."""
        channels = static(shape[1])
        assert channels is not None
        result = self.Conv(
            x,
            np.full((channels, 1, 1, 1), factor),
            np.full(channels, shift),
            group=channels,
            kernel_shape=[1, 1],
            strides=[1, 1],
            dilations=[1, 1],
            pads=[0] * 4,
        )
        self.shapes.record(result, shape)
        return result

    def without_zeros(self, x: ir.Value) -> ir.Value:
        """X with 1 in place of 0, to divide by."""
        return self.Add(x, self.mask(self.Equal(x, 0.0), x))

    def reduce(
        self, operator: str, x: ir.Value, axes: Sequence[int], *, keepdims: bool
    ) -> ir.Value:
        """ReduceSum, ReduceMean, ReduceMax or ReduceProd; axes are an attribute at old opsets."""
        since = onnx.defs.get_schema(operator, self.opset, "").since_version
        if since >= (13 if operator == "ReduceSum" else 18):
            result = self.emit(operator, x, list(axes), keepdims=int(keepdims))[0]
        else:
            result = self.emit(operator, x, axes=list(axes), keepdims=int(keepdims))[0]
        shape = self.shapes.known(x)
        if shape is not None:
            reduced = {axis % len(shape) for axis in axes}
            sizes = [
                self.shapes.dim(1) if axis in reduced else dim
                for axis, dim in enumerate(shape)
                if keepdims or axis not in reduced
            ]
            self.shapes.record(result, tuple(sizes))
        return result

    def reshape_like(self, x: ir.Value, like: ir.Value) -> ir.Value:
        """X with the shape of `like`: a constant target where at most one axis is dynamic."""
        shape = self.shapes.known(like)
        target = self.Shape(like) if shape is None else self._target(shape, like, x)
        empty = shape is not None and self.shapes.dim(0) in shape  # 0 would stand for x's own size
        result = self.Reshape(x, target, allowzero=1 if empty else None)
        self.shapes.record(result, shape)
        return result

    def expand_to(self, x: ir.Value, like: ir.Value) -> ir.Value:
        """X broadcast to the shape of `like`."""
        shape, target = self.shapes.known(x), self.shapes.known(like)
        if shape is not None and shape == target:
            return x
        sizes: list[int] | None = None
        if shape is not None and target is not None:
            padded = (self.shapes.dim(1),) * (len(target) - len(shape)) + shape
            wanted = [1 if a == b else static(b) for a, b in zip(padded, target, strict=True)]
            if None not in wanted:
                sizes = [size for size in wanted if size is not None]
        result = self.Expand(x, self.Shape(like) if sizes is None else sizes)
        self.shapes.record(result, target)
        return result

    def transpose(self, x: ir.Value, *axes: int) -> ir.Value:
        """X with the two last axes exchanged, or with the permutation given."""
        if not axes:
            shape = self.shapes.known(x)
            assert shape is not None
            axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        return self.Transpose(x, perm=list(axes))

    def length(self, x: ir.Value, axis: int) -> Size:
        """The size of an axis, counted from the front: a number where it is static."""
        shape = self.shapes.known(x)
        size = None if shape is None else static(shape[axis])
        return Length(self, (x, axis)) if size is None else size

    def read_length(self, x: ir.Value, axis: int) -> ir.Value:
        """The size of an axis as an int64 tensor of shape (1,), read once."""
        if (x, axis) not in self._lengths:
            self._lengths[x, axis] = self.Shape(x, start=axis, end=axis + 1)
        return self._lengths[x, axis]

    def reshape(self, x: ir.Value, sizes: Sequence[Size]) -> ir.Value:
        """X in another shape, 0 for an axis that stays as it is; one dynamic size is left open."""
        target = list(sizes)
        free = next((i for i, size in enumerate(target) if isinstance(size, Length)), None)
        if free is not None and -1 not in target:
            target[free] = -1
        return self.Reshape(x, vector(target))

    def pad(
        self, x: ir.Value, axis: int, before: Size, after: Size, rank: int, value: float = 0.0
    ) -> ir.Value:
        """X with constants added before and after one axis; x itself when none are."""
        if before == after == 0:
            return x
        pads: list[Size] = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = before, after
        fill = None if value == 0.0 else self.constant(np.array(value), x.dtype)
        amounts = vector(pads)
        return self.Pad(x, amounts) if fill is None else self.Pad(x, amounts, fill)

    def slice(self, x: ir.Value, axis: int, start: Size, end: Size, step: int = 1) -> ir.Value:
        """`x[start:end:step]` along one axis, all positive."""
        return self.Slice(x, vector([start]), vector([end]), [axis], [step])

    def size_along(self, x: ir.Value, axes: Sequence[int]) -> ir.Value | float:
        """Number of elements in the given axes, as a number or, when dynamic, as a float tensor."""
        shape = self.shapes.known(x)
        sizes = [None if shape is None else static(shape[axis]) for axis in axes]
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            return float(np.prod(known))
        picked = self.Gather(self.Shape(x), list(axes), axis=0)
        result = self.Cast(self.reduce("ReduceProd", picked, [0], keepdims=False), to=x.dtype)
        self.shapes.record(result, ())
        return result

    def divide_by_count(self, g: ir.Value, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """G divided by the number of elements of x in the given axes.

        One axis at a time: a picture has more pixels than float16 has numbers.
        """
        for axis in axes:
            g = self.Div(g, self.size_along(x, [axis]))
        return g

    def _target(self, shape: Shape, like: ir.Value, x: ir.Value) -> list[int] | ir.Value:
        sizes = [static(dim) for dim in shape]
        if 0 not in sizes:
            # 0 keeps an axis, and the name of its size: runtimes see that batches are the same.
            for axis, (dim, given) in enumerate(
                zip(shape, self.shapes.known(x) or (), strict=False)
            ):
                if sizes[axis] is None and given == dim:
                    sizes[axis] = 0
        if sizes.count(None) > 1:
            return self.Shape(like)
        return [-1 if size is None else size for size in sizes]

    def _operand(self, operand: Operand, dtype: ir.DataType | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, float):
            return self.constant(np.array(operand), dtype)
        if isinstance(operand, np.ndarray) and operand.dtype.kind == "f":
            return self.constant(operand, dtype)
        return self.constant(np.asarray(operand, dtype=np.int64))

    def _dtype(
        self, operator: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any]
    ) -> ir.DataType | None:
        if operator == "Cast":
            return ir.DataType(attributes["to"])
        if operator in _BOOLEAN:
            return ir.DataType.BOOL
        if operator in _INTEGER:
            return ir.DataType.INT64
        carrier = inputs[{"Where": 1, "OneHot": 2}.get(operator, 0)]
        return None if carrier is None else carrier.dtype

    def unique_name(self, name: str) -> str:
        """The name, or the first `name_1`, `name_2` ... that nothing has yet; now taken."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate


def is_compact(shape: Shape, full: Shape) -> bool:
    """Whether a cotangent of this shape stands for its broadcast to the full shape."""
    if len(shape) != len(full):
        return True
    return any(is_one(a) and not is_one(b) for a, b in zip(shape, full, strict=True))
