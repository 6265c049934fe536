"""The target class in the graph: its index, its score, and the seed of the backward pass."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ExportError

__all__ = ["Target", "add_target_input", "pick", "select_mix", "select_target"]


@dataclass(frozen=True)
class Target:
    """What the graph knows of the explained class.

    Attributes:
        index: int64 `(N,)`.
        column: int64 `(N, 1)`, where the score table is read.
        score: `(N,)`, the entry of the score table.
        seed: `(N, K)`, 1 at the target: the cotangent of the score table.
        exists: bool `(N, 1)`, whether the index is a class; None where that is not looked at.
    """

    index: ir.Value
    column: ir.Value
    score: ir.Value
    seed: ir.Value
    exists: ir.Value | None = None


def add_target_input(op: Builder, name: str, *, optional: bool) -> ir.Value:
    """Append the int64 input `(T,)`; an optional one has the default `[-1]`."""
    value = ir.Value(name=name, shape=ir.Shape(["T"]), type=ir.TensorType(ir.DataType.INT64))
    if optional:
        value.const_value = ir.tensor(np.array([-1], dtype=np.int64), name=name)
        op.graph.initializers[name] = value
    op.graph.inputs.append(value)
    return value


def select_target(
    op: Builder, table: ir.Value, classes: int, target: ir.Value | int, *, mark: bool = False
) -> Target:
    """Resolve the target against the score table.

    Args:
        op: builder of the graph.
        table: scores `(N, K)`.
        classes: K.
        target: the target input (negative: top-1), or a fixed index.
        mark: an index that is no class gives the score NaN and an empty seed, so a gradient of
            zeros; otherwise runtimes that check indices fail.

    Raises:
        ExportError: a fixed index is not a class.
    """
    if isinstance(target, int):
        if not 0 <= target < classes:
            raise ExportError(
                f"the fixed target {target} is not a class; there are 0 to {classes - 1}."
            )
        index = op.Expand([target], op.Gather(op.Shape(table), [0], axis=0))
    else:
        # Negative means top-1, also for a classifier's client that passes no target at all.
        top = op.ArgMax(table, axis=1, keepdims=0)
        index = op.Where(op.Less(target, 0), top, target)
    asked = column = op.Unsqueeze(index, [1])
    exists = None
    if mark and not isinstance(target, int):
        exists = op.Less(asked, classes)
        column = op.Where(exists, asked, 0)
    score = pick(op, table, column, exists)
    # Not OneHot: it leaves the device on several runtimes.
    seed = op.mask(op.Equal(asked, np.arange(classes)[None, :]), table)
    op.shapes.record(seed, op.shapes.known(table))
    return Target(index, column, score, seed, exists)


def pick(op: Builder, table: ir.Value, column: ir.Value, exists: ir.Value | None) -> ir.Value:
    """One entry of each row of a table `(N, K)`, as `(N,)`; NaN where its class does not exist."""
    entry = op.GatherElements(table, column, axis=1)
    if exists is not None:
        entry = op.Where(exists, entry, op.constant(np.array(np.nan), table.dtype))
    return op.Squeeze(entry, [1])


def select_mix(
    op: Builder, table: ir.Value, classes: int, target: ir.Value, weights: ir.Value
) -> Target:
    """Weigh several entries of the score table per picture.

    Args:
        op: builder of the graph.
        table: scores `(N, K)`.
        classes: K.
        target: int64 `(N, M)`, class indices.
        weights: float `(N, M)`.

    Returns:
        The target, whose score is the sum of weight times score.
    """
    weights = weights if weights.dtype == table.dtype else op.Cast(weights, to=table.dtype)
    picked = op.GatherElements(table, target, axis=1)
    score = op.reduce("ReduceSum", op.Mul(picked, weights), [1], keepdims=False)
    chosen = op.mask(op.Equal(op.Unsqueeze(target, [2]), np.arange(classes)[None, None, :]), table)
    seed = op.reduce("ReduceSum", op.Mul(chosen, op.Unsqueeze(weights, [2])), [1], keepdims=False)
    op.shapes.record(seed, op.shapes.known(table))
    return Target(target, target, score, seed)
