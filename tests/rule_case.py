"""What a case of a gradient rule is: a small model, a point, and the inputs to differentiate."""

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

__all__ = ["Array", "Case", "Node", "Sample", "Spec", "graph", "model", "one", "several"]

Array = np.ndarray
Oracle = Literal["reference", "runtime", "runtime64"]

_IR_VERSION = 10
_NEWEST = 1_000


@dataclass(frozen=True)
class Sample:
    """Random numbers for an input.

    Attributes:
        shape: of the tensor.
        low, high: range of the uniform distribution.
        kinks: values to keep a distance of 0.05 from.
        distinct: whole numbers in random order instead, so that a maximum is the same after steps
            of less than one half.
    """

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    kinks: tuple[float, ...] = ()
    distinct: bool = False

    def draw(self, seed: str) -> Array:
        random = np.random.default_rng(zlib.crc32(seed.encode()))
        count = math.prod(self.shape)
        if self.distinct:
            return (random.permutation(count) - count // 2).reshape(self.shape).astype(np.float64)
        values = random.uniform(self.low, self.high, self.shape)
        for kink in self.kinks:
            offset = values - kink
            far = np.where(offset < 0, np.minimum(offset, -0.05), np.maximum(offset, 0.05))
            values = kink + far
        return np.asarray(values, dtype=np.float32).astype(np.float64)


# An input of a one-node case: a shape to fill with random numbers, a Sample, the very numbers
# (float64 means "of the model's type"), or None where it is omitted.
Spec = tuple[int, ...] | Sample | Array | None


@dataclass(frozen=True)
class Node:
    """A node of a case's model."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """A model, and the inputs with respect to which it is differentiated.

    Attributes:
        operator: the operator whose rules the case is for.
        name: unique among the operator's cases.
        nodes: in graph order; the last one's output `y` is differentiated.
        values: a point for every input; what is not in `wrt` or `runtime` is an initializer.
        wrt: names of the inputs to differentiate with respect to, one after the other.
        runtime: names of further graph inputs.
        dynamic: axes without a fixed size, by input; left fixed in the static variant.
        since, until: the operator's first and last schema version with this signature.
        oracle: `runtime` takes differences of ONNX Runtime's float32 forward pass with a large
            step, which is exact where the function is linear between the two points. It is for
            operators where the reference evaluator's forward result is wrong or rounded;
            `runtime64` runs the model in float64 on ONNX Runtime, where that has kernels.
        dtype: the model's type.
        tolerance: see `check`.
        flat: whether the gradient is zero.
        runs: False where ONNX Runtime's CPU provider refuses the forward model although it is
            valid; the reference evaluator runs it and its gradient instead.
        precise: opset of the model in float64, where the version has no such type.
    """

    operator: str
    name: str
    nodes: Sequence[Node]
    values: Mapping[str, Array]
    wrt: tuple[str, ...]
    runtime: tuple[str, ...] = ()
    dynamic: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    since: int = 1
    until: int = _NEWEST
    oracle: Oracle = "reference"
    dtype: str = "float32"
    tolerance: float = 1e-5
    flat: bool = False
    runs: bool = True
    precise: int | None = None

    def __str__(self) -> str:
        return f"{self.operator}-{self.name}"


def one(
    operator: str,
    name: str,
    *inputs: Spec,
    wrt: Sequence[int] = (0,),
    runtime: Sequence[int] = (),
    outputs: int = 1,
    dynamic: Mapping[int, tuple[int, ...]] | None = None,
    since: int = 1,
    until: int = _NEWEST,
    oracle: Oracle = "reference",
    dtype: str = "float32",
    tolerance: float = 1e-5,
    flat: bool = False,
    runs: bool = True,
    precise: int | None = None,
    **attributes: Any,
) -> Case:
    """A case of one node. The first axis of the inputs in `wrt` is dynamic, unless given."""
    values = {f"x{i}": _draw(s, f"{operator}/{i}") for i, s in enumerate(inputs) if s is not None}
    if dynamic is None:
        dynamic = {i: (0,) for i in wrt if values[f"x{i}"].ndim > 0}
    node = Node(
        operator,
        ["" if spec is None else f"x{i}" for i, spec in enumerate(inputs)],
        ["y", *(f"y{i}" for i in range(1, outputs))],
        attributes,
    )
    return Case(
        operator,
        name,
        [node],
        values,
        tuple(f"x{i}" for i in wrt),
        tuple(f"x{i}" for i in runtime),
        {f"x{i}": axes for i, axes in dynamic.items()},
        since,
        until,
        oracle,
        dtype,
        tolerance,
        flat,
        runs,
        precise,
    )


def several(
    operator: str, name: str, inputs: Mapping[str, Spec], *nodes: Node, **options: Any
) -> Case:
    """A case of several nodes; `x` is differentiated and its first axis dynamic, unless given."""
    values = {key: _draw(spec, f"{name}/{key}") for key, spec in inputs.items() if spec is not None}
    settings = {"wrt": ("x",), "dynamic": {"x": (0,)}} | options
    return Case(operator, name, nodes, values, **settings)


def _draw(spec: Spec, seed: str) -> Array:
    if isinstance(spec, tuple):
        spec = Sample(spec)
    assert spec is not None
    return spec.draw(seed) if isinstance(spec, Sample) else spec


def model(case: Case, opset: int, dtype: str, *, dynamic: bool) -> onnx.ModelProto:
    """The case's forward model."""
    inputs, initializers = [], []
    for name, value in case.values.items():
        array = value.astype(dtype) if value.dtype == np.float64 else value
        if name not in case.wrt and name not in case.runtime:
            initializers.append(onnx.numpy_helper.from_array(array, name))
            continue
        free = case.dynamic.get(name, ()) if dynamic else ()
        sizes = ["NCHWD"[a] if a in free else size for a, size in enumerate(array.shape)]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    nodes = [
        onnx.helper.make_node(
            n.operator, n.inputs, n.outputs, f"{n.operator}_{i}", **_typed(n.attributes, dtype)
        )
        for i, n in enumerate(case.nodes)
    ]
    graph = onnx.helper.make_graph(
        nodes, "case", inputs, [onnx.ValueInfoProto(name="y")], initializers
    )
    proto = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
    )
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    del proto.graph.value_info[:]  # `y` is there too; it has its type as an output now
    return proto


def _typed(attributes: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Attributes, with the graphs that `graph` wrote given their element type."""
    return {k: v(dtype) if callable(v) else v for k, v in attributes.items()}


def graph(text: str) -> Callable[[str], onnx.GraphProto]:
    """A graph attribute in ONNX's text form, in which T is the model's element type."""
    names = {"float32": "float", "float64": "double", "float16": "float16"}
    return lambda dtype: onnx.parser.parse_graph(re.sub(r"\bT\b", names[dtype], text))
