"""The scikit-learn front door: a fitted classifier becomes ONNX with skl2onnx.

Files are read with skops, which builds only types that it knows to be harmless; pickles, which run
code when they are loaded, are refused.
"""

import warnings
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deepinside.exporters.classical import rewrite_classical, without_dictionaries
from deepinside.exporters.errors import ClassifierError
from deepinside.exporters.frontdoor import OPSET, Opened, existing_file, explained, require

__all__ = ["load"]

# The last version of ai.onnx.ml before the tree operators changed; nothing of it stays in a file.
_ML_OPSET = 3
_PURPOSE = "a scikit-learn classifier"
_ACTIVATIONS = {"Sigmoid", "Softmax"}
# What a trained perceptron keeps of its training: numbers, and no code that loading would run.
_HARMLESS = {
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
}


def load(classifier: Any) -> Opened:
    """Turn `sklearn:FILE.skops` or a fitted estimator into ONNX, input `image` of shape `(N, F)`.

    The class scores are the probabilities where the unnormalised scores can be found behind them,
    and the decision function elsewhere.

    Raises:
        MissingPackageError: scikit-learn, skops or skl2onnx is not installed.
        ClassifierError: it can't be read, is no fitted classifier, or can't be converted.
        GradientError: it is piecewise constant.
    """
    require("sklearn", "sklearn", _PURPOSE)
    require("skl2onnx", "sklearn", _PURPOSE)
    estimator = classifier
    if isinstance(classifier, str):
        estimator = _read(Path(classifier.partition(":")[2]))
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search over settings
    with explained(f"the {type(estimator).__name__} is not whole"):
        _require_classifier(estimator)
        final, names = _final(estimator), [str(name) for name in estimator.classes_]
    return Opened(_convert(estimator, final), labels=names)


def _read(path: Path) -> Any:
    """The estimator in a .skops file."""
    if path.suffix != ".skops":
        raise ClassifierError(
            f"{path} is not a .skops file; a pickle runs code when it is loaded: where you trust "
            "it, load it yourself and save it with skops.io.dump(estimator, 'FILE.skops')."
        )
    io = require("skops.io", "sklearn", _PURPOSE)
    existing_file(path)
    with explained(f"{path} can't be read as a .skops file"):
        unknown = set(io.get_untrusted_types(file=path)) - _HARMLESS
        if unknown:
            raise ClassifierError(
                f"{path} holds types that could run code when they are built: "
                f"{', '.join(sorted(unknown))}; "
                "where you trust it, load it yourself and give the estimator to export_saliency."
            )
        return io.load(path, trusted=sorted(_HARMLESS))


def _require_classifier(estimator: Any) -> None:
    base = require("sklearn.base", "sklearn", _PURPOSE)
    validation = require("sklearn.utils.validation", "sklearn", _PURPOSE)
    exceptions = require("sklearn.exceptions", "sklearn", _PURPOSE)
    kind = type(estimator).__name__
    if not base.is_classifier(estimator):
        raise ClassifierError(f"a {kind} is not a classifier of scikit-learn.")
    try:
        validation.check_is_fitted(estimator)
    except exceptions.NotFittedError as error:
        raise ClassifierError(f"the {kind} is not fitted: train it before the export.") from error
    if isinstance(estimator.classes_, list):
        raise ClassifierError(f"the {kind} has several outputs; one table of scores is needed.")
    int(estimator.n_features_in_)  # which a file may lack, too


def _final(estimator: Any) -> Any:
    """The last step of a pipeline, and of a pipeline in it."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _convert(estimator: Any, final: Any) -> ir.Model:
    if getattr(final, "decision_function_shape", None) == "ovo" and len(estimator.classes_) > 2:
        raise ClassifierError(
            f"the {type(final).__name__} has a score per pair of classes: set its "
            "decision_function_shape to 'ovr' for a score per class."
        )
    # Unnormalised scores that no activation hides: for what has no probabilities, and for what
    # computes them in a form of its own.
    raw = {id(final): {"raw_scores": True}}
    if hasattr(estimator, "predict_proba"):
        model = _to_onnx(estimator, {})
        if _ends_in_activation(model):
            return model
        try:
            return _to_onnx(estimator, raw)
        except NameError:
            raise ClassifierError(
                f"the probabilities of {type(final).__name__} are not a soft-max or sigmoid of "
                "unnormalised scores, which are what is explained; use a linear classifier, a "
                "support vector machine or a multi-layer perceptron."
            ) from None
    try:
        return _to_onnx(estimator, raw)
    except NameError:
        return _to_onnx(estimator, {})


def _to_onnx(estimator: Any, options: dict[int, dict[str, bool]]) -> ir.Model:
    """The converted estimator in standard operators.

    Raises:
        NameError: it has no such options.
    """
    skl2onnx = require("skl2onnx", "sklearn", _PURPOSE)
    types = require("skl2onnx.common.data_types", "sklearn", _PURPOSE)
    features = types.FloatTensorType([None, int(estimator.n_features_in_)])
    failure = f"skl2onnx can't convert the {type(estimator).__name__}"
    with explained(failure), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own deprecations are not the user's
        proto = skl2onnx.convert_sklearn(
            estimator,
            initial_types=[("image", features)],
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": _ML_OPSET},
        )
    model = ir.from_proto(without_dictionaries(proto))
    rewrite_classical(model)
    _name_outputs(model.graph)
    return model


def _name_outputs(graph: ir.Graph) -> None:
    """`label` and `scores`; the converter's names depend on the estimator."""
    for node in graph:
        for value in node.outputs:
            if value.name in ("label", "scores"):
                value.name = f"{value.name}/inner"
    for output in graph.outputs:
        output.name = "scores" if output.dtype == ir.DataType.FLOAT else "label"


def _ends_in_activation(model: ir.Model) -> bool:
    (scores,) = (output for output in model.graph.outputs if output.name == "scores")
    node = scores.producer()
    while node is not None and node.op_type in ("Identity", "Cast", "Reshape"):
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node is not None and node.op_type in _ACTIVATIONS
