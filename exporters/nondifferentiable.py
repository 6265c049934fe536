"""Edges that carry no derivative, as data: indices, shapes, and functions that are flat.

A float edge that is neither here nor covered by a rule raises an error, never a silent zero.
"""

__all__ = ["EDGES", "FLAT", "QUANTISERS", "edge"]

# Operators whose derivative is zero almost everywhere, or that are not functions of values at all.
FLAT: frozenset[str] = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater"}
    | {"GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not"}
    | {"RandomNormalLike", "RandomUniformLike", "Round", "Shape", "Sign", "Size"}
)

# From here on the values are integers that stand for numbers: no flat functions.
QUANTISERS: frozenset[str] = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})

# Inputs that select or shape, by operator and position.
EDGES: frozenset[tuple[str, int]] = frozenset(
    {
        ("AffineGrid", 1),
        ("Col2Im", 1),
        ("Col2Im", 2),
        ("Compress", 1),
        ("CumSum", 1),
        ("DequantizeLinear", 1),  # scale and zero point: rules/quantisation.py says why
        ("DequantizeLinear", 2),
        ("DFT", 1),
        ("DFT", 2),
        ("Expand", 1),
        ("Gather", 1),
        ("GatherElements", 1),
        ("GatherND", 1),
        ("GRU", 4),  # lengths of the sequences
        ("If", 0),
        ("Loop", 0),
        ("Loop", 1),
        ("LSTM", 4),
        ("MaxUnpool", 1),
        ("MaxUnpool", 2),
        ("OneHot", 0),
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
        ("Resize", 3),  # sizes; roi and scales are floats, and no such edges
        ("ReverseSequence", 1),
        ("RNN", 4),
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
