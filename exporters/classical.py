"""Rewrites the operators of ai.onnx.ml that lie between features and class scores.

Classical classifiers (scikit-learn through skl2onnx) are written in a domain of their own, for
which there are no gradient rules: each operator here becomes standard ones of the same values.
Probabilities are brought into the form of a final Softmax or Sigmoid, behind which the unnormalised
scores are found. What is piecewise constant (trees, thresholds) is refused.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from deepinside.exporters.errors import GradientError, innermost

__all__ = ["rewrite_classical", "without_dictionaries"]

_DOMAIN = "ai.onnx.ml"
_PIECEWISE_CONSTANT = {
    "Binarizer",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
}
# What a node raises whose attributes, inputs or outputs are not those of its operator.
_MISFITS = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


def rewrite_classical(model: ir.Model) -> None:
    """Rewrite the graph in place; operators that are not known here stay as they are.

    Raises:
        GradientError: an operator is piecewise constant, in a form that is not covered, or broken.
    """
    nodes = [node for node in model.graph if node.domain == _DOMAIN]
    if not nodes:
        return
    infer = passes.ShapeInferencePass()
    infer(model)  # types of what stands between them
    for node in nodes:
        if node.op_type in _PIECEWISE_CONSTANT:
            raise _error(
                node,
                "it is piecewise constant: its gradient is zero almost everywhere, so that no "
                "saliency map exists; train a classifier that is differentiable (linear, SVM, "
                "multi-layer perceptron).",
            )
        if node.op_type in _REWRITES:
            emitter = _Emitter(model.graph, node)
            try:
                emitter.replace(_REWRITES[node.op_type](node, emitter))
            except _MISFITS as error:
                raise _error(
                    node, f"its parts don't fit each other ({innermost(error)})."
                ) from error
    for node in list(model.graph):
        _as_activation(node, model.graph)
    infer(model)  # converters declare shapes that are not those of the values


def without_dictionaries(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with tables `(N, K)` in place of the dictionaries that ZipMap makes of them.

    Dictionaries are no tensors: the graph library can't even read them.
    """
    if not any(node.op_type == "ZipMap" for node in proto.graph.node):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    outputs = {output.name: output for output in copy.graph.output}
    for node in copy.graph.node:
        if node.op_type != "ZipMap" or node.domain != _DOMAIN:
            continue
        classes = sum(len(labels.ints) + len(labels.strings) for labels in node.attribute)
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        if node.output[0] in outputs:
            table = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", classes])
            outputs[node.output[0]].type.CopyFrom(table)
    kept = [info for info in copy.graph.value_info if info.type.HasField("tensor_type")]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return copy


class _Emitter:
    """Emits standard operators in front of a node, and puts their results in its place."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph = graph
        self._node = node
        self._count = 0

    def __call__(
        self, operator: str, *inputs: ir.Value | np.ndarray, **attributes: int
    ) -> ir.Value:
        values = [self._constant(i) if isinstance(i, np.ndarray) else i for i in inputs]
        node = ir.node(operator, values, attributes, name=self._name(operator))
        self._graph.insert_before(self._node, node)
        node.outputs[0].name = node.name
        return node.outputs[0]

    def floats(self, value: ir.Value) -> ir.Value:
        """The features as float32, in which these operators compute."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        return self("Cast", value, to=ir.DataType.FLOAT.value)

    def replace(self, values: Sequence[ir.Value]) -> None:
        """Let the node's outputs be these values, under their own names."""
        for old, value in zip(self._node.outputs, values, strict=True):
            name = old.name
            new = self("Identity", value)
            new.type = old.type
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            old.name, new.name = f"{name}/replaced", name
        self._graph.remove(self._node, safe=True)

    def _constant(self, array: np.ndarray) -> ir.Value:
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        tensor = (
            ir.StringTensor(array, name=self._name("constant"))
            if array.dtype.kind in "OSU"
            else ir.tensor(array, name=self._name("constant"))
        )
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self._node.name or self._node.outputs[0].name}/{what}_{self._count}"


def _linear_classifier(node: ir.Node, op: _Emitter) -> list[ir.Value]:
    """Scores `X W^T + b`, then the post-transform; label of the highest."""
    labels = _class_labels(node)
    weights = _floats(node, "coefficients")
    offsets = _floats(node, "intercepts")
    rows = len(offsets) or len(labels)
    if rows != len(labels) and not (rows == 1 and len(labels) == 2):
        raise _error(node, f"it has {len(labels)} labels for {rows} rows of coefficients.")
    weights = weights.reshape(rows, -1)
    offsets = offsets if offsets.size else np.zeros(rows, np.float32)
    scores = op("Gemm", op.floats(_input(node)), weights, offsets, transB=1)
    if rows < len(labels):
        if _text(node, "post_transform", "NONE") != "NONE":
            raise _error(node, "one row of coefficients with a post-transform is not covered.")
        best = op("Cast", op("Greater", scores, np.zeros(1, np.float32)), to=7)
        return [op("Gather", labels, op("Squeeze", best, np.array([1])), axis=0), scores]
    best = op("ArgMax", scores, axis=1, keepdims=0)
    return [op("Gather", labels, best, axis=0), _post_transform(node, op, scores)]


def _svm_classifier(node: ir.Node, op: _Emitter) -> list[ir.Value]:
    """One-versus-one decisions of a support vector machine, and the label with most votes.

    `d_ij = sum_s K(x, s) c_s + rho_ij` over the support vectors s of the classes i and j.
    """
    labels = _class_labels(node)
    count = len(labels)
    per_class = [int(n) for n in _ints(node, "vectors_per_class")]
    if _floats(node, "prob_a").size:
        raise _error(
            node,
            "its probabilities are found by iteration (SVC(probability=True)); train with "
            "probability=False, and its decision function is explained.",
        )
    if len(per_class) != count or min(per_class, default=0) < 0:
        raise _error(node, "only machines with support vectors per class are covered.")
    total = sum(per_class)
    vectors = _floats(node, "support_vectors").reshape(total, -1)
    given = _floats(node, "coefficients").reshape(-1, total)
    starts = np.cumsum([0, *per_class])
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    coefficients = np.zeros((total, len(pairs)), np.float32)
    first, second = np.zeros((2, len(pairs), count), np.float32)
    for column, (i, j) in enumerate(pairs):
        for own, other in ((i, j - 1), (j, i)):
            rows = slice(starts[own], starts[own + 1])
            coefficients[rows, column] = given[other, rows]
        first[column, i] = second[column, j] = 1
    kernel = _kernel(node, op, op.floats(_input(node)), vectors)
    decisions = op("Add", op("MatMul", kernel, coefficients), _floats(node, "rho"))
    won = op("Cast", op("Greater", decisions, np.zeros(1, np.float32)), to=1)
    lost = op("Sub", np.ones(1, np.float32), won)
    votes = op("Add", op("MatMul", won, first), op("MatMul", lost, second))
    label = op("Gather", labels, op("ArgMax", votes, axis=1, keepdims=0), axis=0)
    if count == 2:
        # As ONNX Runtime does: the decision for the first class is written as the second's.
        decisions = op("Concat", op("Neg", decisions), decisions, axis=1)
    return [label, _post_transform(node, op, decisions)]


def _kernel(node: ir.Node, op: _Emitter, x: ir.Value, vectors: np.ndarray) -> ir.Value:
    """K(x, s) of all support vectors: (N, F), (S, F) -> (N, S)."""
    kind = _text(node, "kernel_type", "LINEAR")
    parameters = _floats(node, "kernel_params")
    dots = op("MatMul", x, np.ascontiguousarray(vectors.T))
    if kind == "LINEAR":
        return dots
    gamma, offset, degree = parameters
    if kind == "RBF":
        square = op("ReduceSum", op("Mul", x, x), np.array([1]), keepdims=1)
        lengths = (vectors.astype(np.float64) ** 2).sum(1)
        distance = op("Sub", op("Add", square, lengths), op("Mul", dots, np.array([2.0])))
        return op("Exp", op("Mul", distance, np.array([-gamma])))
    inner = op("Add", op("Mul", dots, np.array([gamma])), np.array([offset]))
    if kind == "POLY":
        return op("Pow", inner, np.array([degree]))
    if kind == "SIGMOID":
        return op("Tanh", inner)
    raise _error(node, f"the kernel {kind} is not covered.")


def _normalizer(node: ir.Node, op: _Emitter) -> list[ir.Value]:
    """X divided by its norm per row; a row of zeros stays."""
    x = op.floats(_input(node))
    norm = _text(node, "norm", "MAX")
    source = x.producer()
    while source is not None and source.op_type == "Identity":
        inner = source.inputs[0]
        source = None if inner is None else inner.producer()
    if norm == "L1" and source is not None and source.op_type == "Softmax":
        return [x]  # its rows sum to 1
    axes = np.array([1])
    if norm == "L1":
        size = op("ReduceSum", op("Abs", x), axes, keepdims=1)
    elif norm == "L2":
        size = op("Sqrt", op("ReduceSum", op("Mul", x, x), axes, keepdims=1))
    else:
        raise _error(node, f"the norm {norm} is not covered; L1 and L2 are.")
    zero = op("Cast", op("Equal", size, np.zeros(1, np.float32)), to=1)
    return [op("Div", x, op("Add", size, zero))]


def _scaler(node: ir.Node, op: _Emitter) -> list[ir.Value]:
    """`(X - offset) * scale`."""
    centred = op("Sub", op.floats(_input(node)), _floats(node, "offset"))
    return [op("Mul", centred, _floats(node, "scale"))]


def _array_feature_extractor(node: ir.Node, op: _Emitter) -> list[ir.Value]:
    """Columns of X at the indices Y; a vector X is one row."""
    indices = node.inputs[1]
    assert indices is not None
    picked = op("Gather", _input(node), op("Reshape", indices, np.array([-1])), axis=-1)
    x = _input(node)
    one_row = x.shape is not None and len(x.shape) == 1
    return [op("Unsqueeze", picked, np.array([0])) if one_row else picked]


_REWRITES: dict[str, Callable[[ir.Node, _Emitter], list[ir.Value]]] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "LinearClassifier": _linear_classifier,
    "Normalizer": _normalizer,
    "SVMClassifier": _svm_classifier,
    "Scaler": _scaler,
}


def _post_transform(node: ir.Node, op: _Emitter, scores: ir.Value) -> ir.Value:
    kind = _text(node, "post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "SOFTMAX":
        return op("Softmax", scores, axis=1)
    if kind == "LOGISTIC":
        return op("Sigmoid", scores)
    raise _error(node, f"the post-transform {kind} is not covered.")


def _as_activation(node: ir.Node, graph: ir.Graph) -> None:
    """Probabilities computed by hand become a Sigmoid or Softmax over the scores.

    `Concat(1 - p, p)`, `p = Sigmoid(s)`, is `Sigmoid(Concat(-s, s))`, and
    `Exp(x - ReduceLogSumExp(x))` is `Softmax(x)`.
    """
    if node.op_type == "Concat" and len(node.inputs) == 2:
        other, sigmoid = (_made_by(node, 0, "Sub"), _made_by(node, 1, "Sigmoid"))
        if other is None or sigmoid is None or other.inputs[1] is not node.inputs[1]:
            return
        one = other.inputs[0]
        if one is None or one.const_value is None or (one.const_value.numpy() != 1).any():
            return
        op = _Emitter(graph, node)
        scores = _input(sigmoid)
        both = op("Concat", op("Neg", scores), scores, axis=1)
        op.replace([op("Sigmoid", both)])
    elif node.op_type == "Exp" and (difference := _made_by(node, 0, "Sub")) is not None:
        shaped = _made_by(difference, 1, "Reshape")
        total = None if shaped is None else _made_by(shaped, 0, "ReduceLogSumExp")
        if total is None or total.inputs[0] is not difference.inputs[0] or not _per_row(total):
            return
        op = _Emitter(graph, node)
        op.replace([op("Softmax", _input(difference), axis=1)])


def _per_row(reduction: ir.Node) -> bool:
    """Whether a reduction is over axis 1 alone."""
    if "axes" in reduction.attributes:
        return list(reduction.attributes["axes"].as_ints()) == [1]
    axes = reduction.inputs[1] if len(reduction.inputs) > 1 else None
    return axes is not None and axes.const_value is not None and axes.const_value.numpy() == [1]


def _made_by(node: ir.Node, index: int, operator: str) -> ir.Node | None:
    """The node that makes an input, if it is of this operator."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == operator else None


def _class_labels(node: ir.Node) -> np.ndarray:
    if "classlabels_ints" in node.attributes:
        return np.array(node.attributes["classlabels_ints"].as_ints(), np.int64)
    if "classlabels_strings" in node.attributes:
        names = node.attributes["classlabels_strings"].as_strings()
        return np.array([name.encode() for name in names], object)  # as tensors have them
    raise _error(node, "it names no classes.")


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _floats(node: ir.Node, name: str) -> np.ndarray:
    """A list of floats, empty where it is not given."""
    if name not in node.attributes:
        return np.zeros(0, np.float32)
    return np.array(node.attributes[name].as_floats(), np.float32)


def _ints(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes[name].as_ints() if name in node.attributes else ()


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default


def _error(node: ir.Node, message: str) -> GradientError:
    return GradientError(f"{_DOMAIN}.{node.op_type}", node.version or 1, str(node.name), message)
