"""Edges that carry no derivative, as data: indices, shapes, and functions that are flat.

A float edge that is neither here nor covered by a rule raises an error, never a silent zero.
"""

__all__ = ["EDGES", "FLAT", "QUANTISERS", "edge"]

# Operators whose derivative is zero almost everywhere, or that are not functions of values at all.
FLAT: frozenset[str] = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater"}
    | {"GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not"}
    | {"OneHot", "RandomNormalLike", "RandomUniformLike", "Range", "Round", "Shape", "Sign", "Size"}
)

# From here on the values are integers that stand for numbers: no flat functions.
QUANTISERS: frozenset[str] = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})

# Inputs that select or shape, by operator and position.
EDGES: frozenset[tuple[str, int]] = frozenset(
    {
        ("CumSum", 1),
        ("DequantizeLinear", 1),  # scale and zero point: rules/quantisation.py says why
        ("DequantizeLinear", 2),
        ("Dropout", 1),  # ratio: unused at inference
        ("Dropout", 2),  # training_mode
        ("Expand", 1),
        ("Gather", 1),
        ("GatherElements", 1),
        ("GatherND", 1),
        ("Pad", 1),
        ("Pad", 3),
        ("QuantizeLinear", 1),
        ("QuantizeLinear", 2),
        ("ReduceL1", 1),
        ("ReduceL2", 1),
        ("ReduceLogSum", 1),
        ("ReduceLogSumExp", 1),
        ("ReduceMax", 1),
        ("ReduceMean", 1),
        ("ReduceMin", 1),
        ("ReduceProd", 1),
        ("ReduceSum", 1),
        ("ReduceSumSquare", 1),
        ("Reshape", 1),
        ("Resize", 1),  # roi
        ("Resize", 2),
        ("Resize", 3),
        ("ScatterElements", 1),
        ("ScatterND", 1),
        ("Slice", 1),
        ("Slice", 2),
        ("Slice", 3),
        ("Slice", 4),
        ("Split", 1),
        ("Squeeze", 1),
        ("Tile", 1),
        ("TopK", 1),
        ("Trilu", 1),
        ("Unsqueeze", 1),
        ("Where", 0),
    }
)


def edge(operator: str, index: int) -> bool:
    """Whether no derivative flows through this input of the operator."""
    return operator in FLAT or (operator, index) in EDGES
