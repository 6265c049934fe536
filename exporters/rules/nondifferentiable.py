"""Edges that carry no derivative, as data: indices, shapes, and functions that are flat.

A float edge that is neither here nor covered by a rule raises an error, never a silent zero.
"""

__all__ = ["EDGES", "FLAT", "edge"]

# Operators whose derivative is zero almost everywhere, or that are not functions of values at all.
FLAT: frozenset[str] = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater"}
    | {"GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not", "OneHot"}
    | {"RandomNormalLike", "RandomUniformLike", "Range", "Round", "Shape", "Sign", "Size"}
)

# Inputs that select or shape, by operator and position.
EDGES: frozenset[tuple[str, int]] = frozenset(
    {
        ("Dropout", 1),  # ratio: unused at inference
        ("Dropout", 2),  # training_mode
        ("Expand", 1),
        ("Gather", 1),
        ("Pad", 1),
        ("Pad", 3),
        ("ReduceMean", 1),
        ("ReduceSum", 1),
        ("Reshape", 1),
        ("Slice", 1),
        ("Slice", 2),
        ("Slice", 3),
        ("Slice", 4),
        ("Split", 1),
        ("Squeeze", 1),
        ("Unsqueeze", 1),
    }
)


def edge(operator: str, index: int) -> bool:
    """Whether no derivative flows through this input of the operator."""
    return operator in FLAT or (operator, index) in EDGES
