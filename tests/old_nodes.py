"""Operators as old opsets wrote them: what a lifted model must still compute."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

__all__ = ["OLD_NODES", "OldNode", "old_model"]


@dataclass(frozen=True)
class OldNode:
    """One node with its signature of some opsets.

    Attributes:
        operator: its type.
        first, last: opsets at which this signature holds.
        name: of the case.
        shape: of the image, its only input computed at run time.
        constants: the other inputs.
        attributes: as written then.
        outputs: number of outputs; only the first is used.
        dtype: of the image, and of constants of float64.
        low: the image's least value.
    """

    operator: str
    first: int
    last: int
    name: str = ""
    shape: tuple[int, ...] = (2, 3, 4, 6)
    constants: Sequence[np.ndarray] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    dtype: str = "float32"
    low: float = -2.0

    def __str__(self) -> str:
        return f"{self.operator}-{self.first}..{self.last}-{self.name}"

    def pixels(self, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        return random.uniform(self.low, 2.0, self.shape).astype(self.dtype)


def old_model(case: OldNode, opset: int, ir_version: int = 3) -> onnx.ModelProto:
    """The node alone; at IR version 3 its initializers are inputs, too."""
    helper = onnx.helper
    names = [f"c{i}" for i in range(len(case.constants))]
    arrays = [
        array.astype(case.dtype) if array.dtype == np.float64 else array for array in case.constants
    ]
    node = helper.make_node(
        case.operator,
        ["x", *names],
        ["y", *(f"y{i}" for i in range(1, case.outputs))],
        "the_node",
        **case.attributes,
    )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    inputs = [helper.make_tensor_value_info("x", kind, case.shape)]
    weights = [onnx.numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    integer = case.operator in ("ArgMax", "ArgMin")
    found = onnx.TensorProto.INT64 if integer else kind
    result = helper.make_tensor_value_info("y", found, None)
    graph = helper.make_graph([node], "old", inputs, [result], weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


_CHANNELS = tuple(np.random.default_rng(1).uniform(0.5, 1.5, (4, 3)))
_ELEMENTS = tuple(np.random.default_rng(1).uniform(0.5, 1.5, (4, 3, 4, 6)))
_ROW = tuple(np.random.default_rng(1).uniform(0.5, 1.5, (4, 3)))
_DOUBLE = np.array([1, 1, 2, 2], np.float32)


def _reductions() -> list[OldNode]:
    names = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    cases = []
    for name in names:
        last = 12 if name == "Sum" else 16
        axes = {"axes": [2, 3], "keepdims": 0}
        cases.append(OldNode(f"Reduce{name}", 7, last, "axes", attributes=axes, low=0.5))
        cases.append(OldNode(f"Reduce{name}", 7, last, "all", low=0.5))
    return cases


OLD_NODES: tuple[OldNode, ...] = (
    OldNode("AveragePool", 7, 16, attributes={"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
    OldNode(
        "AveragePool",
        7,
        16,
        "same",
        attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    OldNode("ArgMax", 7, 16, attributes={"axis": 1, "keepdims": 0}),
    OldNode(
        "BatchNormalization",
        7,
        8,
        "spatial",
        constants=_CHANNELS,
        attributes={"spatial": 1, "momentum": 0.9},
    ),
    OldNode("BatchNormalization", 7, 8, "elements", constants=_ELEMENTS, attributes={"spatial": 0}),
    OldNode("BatchNormalization", 7, 8, "elements of a row", (2, 3), _ROW, {"spatial": 0}),
    OldNode("BatchNormalization", 7, 13, constants=_CHANNELS, attributes={"epsilon": 0.1}),
    OldNode("BatchNormalization", 7, 16, "row", (2, 3), constants=_CHANNELS),
    OldNode("Cast", 7, 16, attributes={"to": 1}),
    OldNode("Clip", 7, 10, attributes={"min": 0.0, "max": 1.0}),
    OldNode("Clip", 7, 10, "below", attributes={"min": 0.0}),
    OldNode("Clip", 7, 10, "above", attributes={"max": 1.0}),
    OldNode("Clip", 7, 10, "nothing"),
    OldNode("Clip", 7, 10, "half", attributes={"min": 0.0, "max": 1.0}, dtype="float16"),
    OldNode("Clip", 7, 10, "half above", attributes={"max": 1.0}, dtype="float16"),
    OldNode("Clip", 11, 12, constants=(np.array(0.0), np.array(1.0))),
    OldNode(
        "Conv",
        7,
        16,
        constants=(np.ones((4, 3, 3, 3)), np.ones(4)),
        attributes={"kernel_shape": [3, 3]},
    ),
    OldNode(
        "Conv",
        7,
        16,
        "same",
        constants=(np.ones((3, 1, 3, 3)),),
        attributes={"group": 3, "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ),
    OldNode(
        "ConvTranspose", 7, 16, constants=(np.ones((3, 4, 2, 2)),), attributes={"strides": [2, 2]}
    ),
    OldNode("DepthToSpace", 7, 16, shape=(2, 8, 4, 6), attributes={"blocksize": 2}),
    OldNode("Dropout", 7, 11, attributes={"ratio": 0.3}),
    OldNode("Dropout", 7, 11, "mask", attributes={"ratio": 0.3}, outputs=2),
    OldNode("Dropout", 7, 11, "half", dtype="float16"),
    OldNode("Dropout", 12, 16, "mask", constants=(np.array(0.3),), outputs=2),
    OldNode("Flatten", 7, 16),
    OldNode("Flatten", 9, 16, "axis", attributes={"axis": 2}),
    OldNode("Gather", 7, 16, constants=(np.array([0, 2, 2]),), attributes={"axis": 1}),
    OldNode(
        "Gemm", 7, 16, "", (2, 3), (np.ones((4, 3)), np.arange(4.0)), {"transB": 1, "alpha": 0.5}
    ),
    OldNode("GlobalAveragePool", 7, 16),
    OldNode("InstanceNormalization", 7, 16, constants=_CHANNELS[:2]),
    OldNode("LRN", 7, 16, attributes={"size": 3, "alpha": 0.1}),
    OldNode("LogSoftmax", 7, 12),
    OldNode("LogSoftmax", 7, 12, "last", attributes={"axis": 3}),
    OldNode("LogSoftmax", 7, 12, "row", (2, 3)),
    OldNode("LpPool", 7, 16, attributes={"kernel_shape": [2, 2], "p": 2}),
    OldNode("MatMul", 7, 16, constants=(np.ones((6, 2)),)),
    OldNode("Max", 8, 16, constants=(np.ones((3, 1, 1)),)),
    OldNode("MaxPool", 7, 16, attributes={"kernel_shape": [3, 3], "strides": [2, 2]}),
    OldNode("MaxPool", 8, 16, "indices", attributes={"kernel_shape": [2, 2]}, outputs=2),
    OldNode("Mean", 8, 16, constants=(np.ones((3, 1, 1)),)),
    OldNode("Min", 8, 16, constants=(np.ones((3, 1, 1)),)),
    OldNode("PRelu", 7, 16, constants=(np.full((3, 1, 1), 0.1),)),
    OldNode("Pad", 7, 10, attributes={"pads": [0, 0, 1, 1, 0, 0, 2, 0], "value": 1.5}),
    OldNode("Pad", 7, 10, "half", attributes={"pads": [0, 0, 1, 1, 0, 0, 2, 0]}, dtype="float16"),
    OldNode(
        "Pad",
        7,
        10,
        "half value",
        attributes={"pads": [0, 0, 1, 1, 0, 0, 2, 0], "value": 1.5},
        dtype="float16",
    ),
    OldNode(
        "Pad", 7, 10, "reflect", attributes={"pads": [0, 0, 1, 1, 0, 0, 2, 0], "mode": "reflect"}
    ),
    OldNode(
        "Pad",
        7,
        10,
        "edge",
        attributes={"pads": [0, 0, 1, 1, 0, 0, 2, 0], "mode": "edge", "value": 1.5},
    ),
    OldNode("Pow", 7, 16, constants=(np.array(2.0),)),
    *_reductions(),
    OldNode("ReduceSum", 13, 16, "axes", constants=(np.array([2, 3]),)),
    OldNode("Reshape", 7, 16, constants=(np.array([0, -1]),)),
    OldNode("Resize", 10, 10, "nearest", constants=(_DOUBLE,)),
    OldNode("Resize", 10, 10, "nearest 1.5", constants=(np.array([1, 1, 1.5, 1.5], np.float32),)),
    OldNode(
        "Resize", 10, 10, "nearest 0.6", (2, 3, 10, 15), (np.array([1, 1, 0.6, 0.6], np.float32),)
    ),
    OldNode("Resize", 10, 10, "linear", constants=(_DOUBLE,), attributes={"mode": "linear"}),
    OldNode(
        "Resize", 10, 10, "linear 0.5", constants=(1 / _DOUBLE,), attributes={"mode": "linear"}
    ),
    OldNode(
        "Resize",
        11,
        12,
        "linear",
        constants=(np.zeros(0, np.float32), _DOUBLE),
        attributes={"mode": "linear"},
    ),
    OldNode("Slice", 7, 9, attributes={"starts": [1, 0], "ends": [3, -1], "axes": [1, 3]}),
    OldNode("Slice", 7, 9, "no axes", attributes={"starts": [0, 1], "ends": [9, 3]}),
    OldNode("Slice", 10, 16, constants=tuple(map(np.array, ([1], [3], [1])))),
    OldNode("Softmax", 7, 12),
    OldNode("Softmax", 7, 12, "inner", attributes={"axis": 2}),
    OldNode("Softmax", 7, 12, "last", attributes={"axis": 3}),
    OldNode("Softmax", 11, 12, "negative", attributes={"axis": -2}),
    OldNode("Softmax", 7, 12, "row", (2, 3)),
    OldNode("Split", 7, 12, attributes={"axis": 3, "split": [2, 4]}, outputs=2),
    OldNode("Split", 7, 12, "equal", attributes={"axis": 3}, outputs=2),
    OldNode("Split", 13, 16, attributes={"axis": 3}, outputs=2, constants=(np.array([2, 4]),)),
    OldNode("Squeeze", 7, 12, "", (2, 3, 1, 1), attributes={"axes": [2, 3]}),
    OldNode("Squeeze", 7, 12, "all", (2, 3, 1, 1)),
    OldNode("Sum", 8, 16, constants=(np.ones((3, 1, 1)),)),
    OldNode("TopK", 7, 9, attributes={"axis": 3, "k": 2}, outputs=2),
    OldNode("TopK", 10, 16, constants=(np.array([2]),), attributes={"axis": 3}, outputs=2),
    OldNode("Transpose", 7, 16, attributes={"perm": [0, 2, 3, 1]}),
    OldNode("Unsqueeze", 7, 12, attributes={"axes": [0, 3]}),
    OldNode("Upsample", 7, 8, "nearest", attributes={"scales": [1.0, 1.0, 2.0, 2.0]}),
    OldNode("Upsample", 7, 8, "nearest 1.5", attributes={"scales": [1.0, 1.0, 1.5, 1.5]}),
    OldNode(
        "Upsample", 7, 8, "linear", attributes={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}
    ),
    OldNode("Upsample", 9, 9, "nearest", constants=(_DOUBLE,)),
    OldNode("Upsample", 9, 9, "linear", constants=(_DOUBLE,), attributes={"mode": "linear"}),
)
