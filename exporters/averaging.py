"""SmoothGrad and integrated gradients inside the file: a Loop over copies of the picture.

Each round computes the gradient of the whole batch at one copy and adds it up. The classifier's own
nodes stay outside and see the picture itself: its outputs are what they were, and they choose the
class. The body holds a copy of them and their gradient; weights are captured, not copied.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from deepinside.exporters.bodies import all_nodes
from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ExportError
from deepinside.exporters.gradient import backpropagate
from deepinside.exporters.inner import InnerGraph, zeros_like
from deepinside.exporters.lengths import vector
from deepinside.exporters.stage import Stage
from deepinside.exporters.targets import Target, pick, select_target

__all__ = ["GraphMethod", "average_gradients"]

_FLOAT = ir.DataType.FLOAT
_TABLE = 256  # rows and columns of the noise table


@dataclass(frozen=True)
class GraphMethod:
    """A method that a file can hold, with its settings.

    Attributes:
        name: `smoothgrad` or `integrated-gradients`.
        samples: noisy copies of smoothgrad.
        noise: their standard deviation, a share of the range of the input.
        seed: of the noise table.
        steps: gradients of integrated-gradients.
        quadrature: where they are taken: `gauss-legendre`, or `riemann`, the middles of equal
            steps.
        baseline: where the way begins: `black` or `mean` (zero in the network's input space).
    """

    name: Literal["smoothgrad", "integrated-gradients"]
    samples: int = 25
    noise: float = 0.15
    seed: int = 0
    steps: int = 50
    quadrature: Literal["gauss-legendre", "riemann"] = "gauss-legendre"
    baseline: Literal["black", "mean"] = "black"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ExportError: one is not possible.
        """
        for key in ("name", "quadrature", "baseline"):
            choices = get_args(GraphMethod.__annotations__[key])
            if getattr(self, key) not in choices:
                raise ExportError(
                    f"the {key} of a method in a file can be {' or '.join(choices)}, not "
                    f"{getattr(self, key)!r}."
                )
        for key, least, most in (("samples", 1, 10_000), ("steps", 1, 10_000), ("seed", 0, 2**63)):
            if not least <= getattr(self, key) <= most:
                raise ExportError(f"{key} can be {least} to {most}, not {getattr(self, key)}.")
        if not 0 <= self.noise <= 10:
            raise ExportError(f"noise can be a share from 0 to 10, not {self.noise}.")

    @property
    def smooth(self) -> bool:
        """Whether it is smoothgrad."""
        return self.name == "smoothgrad"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The parts of the contract that the file can give."""
        parts = ("score", "target_index", "attribution", "saliency")
        return parts if self.smooth else (*parts, "completeness_gap", "baseline_score")

    @property
    def settings(self) -> dict[str, Any]:
        """Its name and those settings that it has."""
        smooth = ("name", "samples", "noise", "seed")
        return {
            key: v
            for key, v in asdict(self).items()
            if key == "name" or (key in smooth) == self.smooth
        }

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where on the way gradients are taken, and their weights; the baseline comes last."""
        if self.quadrature == "riemann":
            places = (np.arange(self.steps) + 0.5) / self.steps
            weights = np.full(self.steps, 1 / self.steps)
        else:
            nodes, weights = np.polynomial.legendre.leggauss(self.steps)
            places, weights = (nodes + 1) / 2, weights / 2
        # Its gradient counts for nothing; its score is what the attributions start from.
        return np.append(places, 0.0), np.append(weights, 0.0)


def average_gradients(
    stage: Stage, target: ir.Value | int, method: GraphMethod, *, mark: bool = False
) -> tuple[Target, dict[str, ir.Value]]:
    """Append the Loop.

    Args:
        stage: an open classifier.
        target: the target input, or a fixed index.
        method: of the map.
        mark: as in `select_target`.

    Returns:
        The target, chosen at the picture itself, and the values of `method.outputs`.

    Raises:
        ExportError: there is no preprocessing record, which says how large the noise is and what
            is black; or a rule is missing, as for the plain gradient.
    """
    op, image = stage.op, stage.image.value
    if stage.preprocessing is None and (method.smooth or method.baseline == "black"):
        raise ExportError(
            "the method needs a preprocessing record, which says what black and white are: give "
            "one with --preprocessing FILE.json."
        )
    table = stage.score_table()
    selected = select_target(op, table, stage.scores.classes, target, mark=mark)
    difference = None if method.smooth else op.Sub(image, _baseline(stage, method))

    loop = InnerGraph(op, "loop")
    inner = loop.op
    inner.scope = "deepinside/loop"
    number, going = (_scalar(loop, kind) for kind in (ir.DataType.INT64, ir.DataType.BOOL))
    total = loop.input("", _single(op, zeros_like(image, op)))
    loop.input("", selected.score)  # the round before's; only the last one is read
    weight: ir.Value | float
    if difference is None:
        point = inner.Add(image, _noise(stage, inner, number, method))
        weight, rounds = 1 / method.samples, method.samples
    else:
        places, weights = (np.asarray(a, np.float32) for a in method.places)
        share = inner.Gather(inner.constant(1 - places, image.dtype), number, axis=0)
        inner.shapes.record(share, ())
        point = inner.Sub(image, inner.Mul(share, difference))
        weight = inner.Gather(inner.constant(weights), number, axis=0)
        inner.shapes.record(weight, ())
        rounds = len(places)
    inner.shapes.record(point, op.shapes.known(image))
    scores = _copy_between(stage, image, table, point, inner)
    score = pick(inner, scores, selected.column, selected.exists)
    gradient = backpropagate(
        inner, selected.seed, score=scores, image=point, relu=stage.options.relu
    )
    added = inner.Add(total, inner.Mul(_single(inner, gradient), weight))
    loop.give([going, added, score])
    starts = [_single(op, zeros_like(image, op)), selected.score]
    summed, last = op.emit(
        "Loop", op.constant(np.array(rounds)), None, *starts, outputs=2, body=loop.graph
    )
    summed.type = ir.TensorType(_FLOAT)
    last.type = selected.score.type
    op.shapes.record(summed, op.shapes.known(image))
    if difference is not None:
        summed = op.Mul(summed, _single(op, difference))
    return selected, _results(stage, summed, selected.score, last, method)


def _results(
    stage: Stage, attribution: ir.Value, score: ir.Value, last: ir.Value, method: GraphMethod
) -> dict[str, ir.Value]:
    op = stage.op
    given = stage.like_image(attribution)
    if method.smooth:
        return {"attribution": given, "saliency": stage.like_image(stage.saliency(attribution))}
    per_image = op.Flatten(attribution, axis=1)
    everything = op.reduce("ReduceSum", per_image, [1], keepdims=False)
    rise = op.Sub(_single(op, score), _single(op, last))
    picture = attribution
    if stage.image.picture is not None:
        picture = op.Reshape(attribution, [-1, *stage.image.picture])
    shares = op.reduce("ReduceSum", picture, [stage.image.channel_axis], keepdims=False)
    return {
        "attribution": given,
        "saliency": stage.like_image(op.Abs(shares)),
        "completeness_gap": stage.like_image(op.Sub(everything, rise)),
        "baseline_score": stage.like_image(last),
    }


def _scalar(loop: InnerGraph, kind: ir.DataType) -> ir.Value:
    name = loop.op.unique_name("deepinside/loop/" + kind.name.lower())
    value = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(kind))
    loop.op.shapes.record(value, ())
    loop.graph.inputs.append(value)
    return value


def _single(op: Builder, value: ir.Value) -> ir.Value:
    """In float32, in which sums are kept whatever the image's type."""
    return value if value.dtype == _FLOAT else op.Cast(value, to=_FLOAT)


def _copy_between(
    stage: Stage, image: ir.Value, table: ir.Value, point: ir.Value, inner: Builder
) -> ir.Value:
    """Copy the nodes from the image to the scores into the body, where they see the point.

    What does not depend on the image is captured.
    """
    graph = stage.model.graph
    below = {image}
    for node in graph:
        if any(value in below for inside in all_nodes(node) for value in inside.inputs):
            below.update(node.outputs)
    needed, path = {table}, []
    for node in reversed(graph):
        if any(output in needed and output in below for output in node.outputs):
            path.append(node)
            for inside in all_nodes(node):
                needed.update(value for value in inside.inputs if value is not None)
    path.reverse()
    for node in path:
        graph.remove(node)
    # A graph of their own, only while they are copied.
    whole = ir.Graph([], [], nodes=path, name="forward")
    copy = whole.clone(allow_outer_scope_values=True)
    (scores,) = (
        new
        for node, copied in zip(path, copy, strict=True)
        for old, new in zip(node.outputs, copied.outputs, strict=True)
        if old is table
    )
    for node in path:
        whole.remove(node)
        graph.append(node)
    graph.sort()
    for node in list(copy):
        copy.remove(node)
        for inside in all_nodes(node):
            for index, value in enumerate(inside.inputs):
                if value is image:
                    inside.replace_input_with(index, point)
        inner.adopt(node)
    return scores


def _baseline(stage: Stage, method: GraphMethod) -> ir.Value:
    op, image = stage.op, stage.image.value
    if method.baseline == "mean":
        return op.constant(np.zeros(()), image.dtype)
    assert stage.preprocessing is not None
    mean, std = (np.array(stage.preprocessing[key], np.float64) for key in ("mean", "std"))
    return op.constant(_per_channel(stage, -mean / std), image.dtype)


def _per_channel(stage: Stage, numbers: np.ndarray) -> np.ndarray:
    """Numbers `(C,)` in a shape that spreads over the image."""
    if stage.image.layout == "NCHW":
        return numbers[:, None, None]
    if stage.image.picture is not None:
        height, width, _ = stage.image.picture
        return np.tile(numbers, height * width)
    return numbers


def _noise(stage: Stage, inner: Builder, number: ir.Value, method: GraphMethod) -> ir.Value:
    """The noise of one round, of an image's shape without batch axis.

    One table of normal numbers is in the file, and each round and channel begins at another place
    of it: the same numbers on every runtime, where RandomNormalLike promises no sequence, at the
    price of 262 kB, where a table of all rounds would have many MB.
    """
    op, layout = stage.op, stage.image.layout
    record = stage.preprocessing
    assert record is not None
    std = np.array(record["std"], np.float64)
    random = np.random.default_rng(method.seed)
    table = random.standard_normal(_TABLE * _TABLE)
    offsets = random.integers(0, _TABLE, (2, method.samples, len(std)))
    first = 2 if layout == "NCHW" else 1
    if stage.image.picture is None:
        lengths = [op.length(stage.image.value, axis) for axis in (first, first + 1)]
    else:
        lengths = list(stage.image.picture[:2])
    parts = []
    for axis, (length, starts) in enumerate(zip(lengths, offsets, strict=True)):
        shape = [1, 1, 1]
        shape[axis + (layout == "NCHW")] = -1
        size = op.Squeeze(vector([length]), [0]) if not isinstance(length, int) else length
        places = (
            op.constant(np.arange(length).reshape(shape))
            if isinstance(length, int)
            else op.Reshape(
                op.Range(op.constant(np.array(0)), size, op.constant(np.array(1))), shape
            )
        )
        spread = [-1, 1, 1] if layout == "NCHW" else [1, 1, -1]
        start = inner.Reshape(inner.Gather(inner.constant(starts), number, axis=0), spread)
        parts.append(inner.Mod(inner.Add(places, start), _TABLE))
    index = inner.Add(inner.Mul(parts[0], _TABLE), parts[1])
    deviation = method.noise * record["value_range"][1] / std
    drawn = inner.Gather(inner.constant(table, stage.image.value.dtype), index, axis=0)
    scaled = inner.Mul(drawn, deviation[:, None, None] if layout == "NCHW" else deviation)
    return inner.Reshape(scaled, [1, -1]) if layout == "flat" else inner.Unsqueeze(scaled, [0])
