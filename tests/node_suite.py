"""ONNX's own node tests as cases of the gradient: models and points written by others.

Every case of `onnx.backend.test.case.node` with a float input and a float output; how their
gradients are checked is in node_check.py.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from deepinside.exporters.registry import OPSET_FLOOR

__all__ = ["FLOATS", "Array", "NodeCase", "change_types", "dtype_of", "is_float", "node_cases"]

Array = np.ndarray

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_IR_VERSION = 10


@dataclass(frozen=True, eq=False)
class NodeCase:
    """One of ONNX's node tests.

    Attributes:
        name: without the leading `test_`.
        model: the case's model, at opset 17 or later; bfloat16 is replaced by float32, since ONNX
            Runtime has few kernels for it.
        point: the inputs, by name.
        results: the published outputs.
    """

    name: str
    model: onnx.ModelProto
    point: Mapping[str, Array]
    results: Sequence[Array]

    def __str__(self) -> str:
        return self.name

    @property
    def float_inputs(self) -> list[str]:
        """Names of the inputs that could be an image."""
        return [value.name for value in self.model.graph.input if is_float(value)]

    @property
    def float_outputs(self) -> list[int]:
        """Positions of the outputs that could be scores."""
        return [i for i, value in enumerate(self.model.graph.output) if is_float(value)]


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """All cases of the default domain with a float input and a float output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute out of range on purpose
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    cases = []
    for each in collected:
        model = onnx.ModelProto.FromString(each.model.SerializeToString())
        if any(node.domain for node in model.graph.node):
            continue
        change_types(model.graph, (TensorProto.BFLOAT16,), TensorProto.FLOAT)
        inputs, results = ([_array(value) for value in values] for values in each.data_sets[0])
        name = each.name.removeprefix("test_")
        inputs = [_single(value) for value in inputs]
        point = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
        case = NodeCase(name, _lifted(model), point, results)
        if case.float_inputs and case.float_outputs:
            cases.append(case)
    return tuple(cases)


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The numpy type of a graph's input or output."""
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def is_float(value: onnx.ValueInfoProto) -> bool:
    """Whether an input or output of a graph is a float tensor."""
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in FLOATS


def _array(value: Any) -> Any:
    """A published value as an array; sequences and omitted optionals stay what they are."""
    if isinstance(value, TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | float | int) else value


def _single(value: Any) -> Any:
    is_brain = isinstance(value, np.ndarray) and value.dtype == ml_dtypes.bfloat16
    return value.astype(np.float32) if is_brain else value


def change_types(graph: onnx.GraphProto, old: Sequence[int], new: int) -> None:
    """Replace float types by another, in casts, constants and inner graphs too."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in old:
            value.type.tensor_type.elem_type = new
    tensors = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                change_types(attribute.g, old, new)
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.name in ("to", "dtype", "softmax_precision") and attribute.i in old:
                attribute.i = new
            if attribute.name in ("value_float", "value_floats") and TensorProto.FLOAT in old:
                numbers = onnx.helper.get_attribute_value(attribute)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.array(numbers, np.float32)))
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.data_type in old:
            array = onnx.numpy_helper.to_array(tensor)
            kind = onnx.helper.tensor_dtype_to_np_dtype(new)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind), tensor.name))


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 17 or later: by number alone where its operators are the same there."""
    model.ir_version = _IR_VERSION
    (opset,) = (each for each in model.opset_import if each.domain == "")
    if opset.version >= OPSET_FLOOR:
        return model
    same = all(
        onnx.defs.get_schema(node.op_type, opset.version, "").since_version
        == onnx.defs.get_schema(node.op_type, OPSET_FLOOR, "").since_version
        for node in model.graph.node
    )
    if same:
        opset.version = OPSET_FLOOR
        return model
    return onnx.version_converter.convert_version(model, OPSET_FLOOR)
