"""scikit-learn classifiers, trained on its handwritten digits; flat pictures of 8 x 8."""

from collections.abc import Callable
from typing import Any

import numpy as np

from families import Loaded

__all__ = ["load", "names"]


def _makers() -> dict[str, Callable[[], Any]]:
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import (
        LogisticRegression,
        Perceptron,
        RidgeClassifier,
        SGDClassifier,
    )
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.naive_bayes import ComplementNB, GaussianNB, MultinomialNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
    from sklearn.svm import SVC, LinearSVC, NuSVC

    return {
        "ComplementNB": ComplementNB,
        "GaussianNB": lambda: GaussianNB(var_smoothing=1e-2),
        "LinearDiscriminantAnalysis": LinearDiscriminantAnalysis,
        "LinearSVC": lambda: LinearSVC(random_state=0),
        "LogisticRegression": lambda: LogisticRegression(max_iter=1000),
        "MLPClassifier": lambda: MLPClassifier((32,), random_state=0),
        "MLPClassifier-tanh": lambda: MLPClassifier((32, 16), activation="tanh", random_state=0),
        "MultinomialNB": MultinomialNB,
        "NuSVC": lambda: NuSVC(nu=0.05),
        "OneVsRestClassifier": lambda: OneVsRestClassifier(LogisticRegression(max_iter=1000)),
        "PCA-LogisticRegression": lambda: make_pipeline(
            StandardScaler(), PCA(20), LogisticRegression(max_iter=1000)
        ),
        "Perceptron": Perceptron,
        "RidgeClassifier": RidgeClassifier,
        "SGDClassifier": lambda: SGDClassifier(random_state=0),
        "SVC": SVC,
        "SVC-poly": lambda: SVC(kernel="poly", coef0=1.0),
        "StandardScaler-SVC": lambda: make_pipeline(StandardScaler(), SVC()),
        "Normalizer-MLPClassifier": lambda: make_pipeline(
            MinMaxScaler(), Normalizer(), MLPClassifier((16,), random_state=0)
        ),
    }


def names() -> list[str]:
    """Classifiers and pipelines."""
    return sorted(_makers())


def load(name: str) -> Loaded:
    """A classifier, pictures `(2, 64)`, and its own scores and their gradient.

    scikit-learn has no autograd: central differences of its scores, in float64 whatever is asked
    for. The unnormalised scores are its decision function, joint log likelihood, or a perceptron's
    last layer before the soft-max.
    """
    from sklearn.datasets import load_digits

    digits, numbers = load_digits(return_X_y=True)
    classifier = _makers()[name]().fit(digits, numbers)
    shift = np.random.default_rng(0).uniform(0, 1, (2, 64))
    pixels = (digits[[0, 100]] + shift).astype(np.float32)

    def scores(x: np.ndarray) -> np.ndarray:
        if hasattr(classifier, "decision_function"):
            return np.asarray(classifier.decision_function(x))
        if hasattr(classifier, "predict_joint_log_proba"):
            return np.asarray(classifier.predict_joint_log_proba(x))
        final = classifier[-1] if hasattr(classifier, "steps") else classifier
        hidden = classifier[:-1].transform(x) if hasattr(classifier, "steps") else x
        return _perceptron(final, hidden)

    def reference(
        pictures: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        x, step, rows = pictures.astype(np.float64), 1e-4, np.arange(len(pictures))
        gradient = np.zeros_like(x)
        for pixel in range(x.shape[1]):
            moved = np.zeros(x.shape[1])
            moved[pixel] = step
            change = scores(x + moved) - scores(x - moved)
            gradient[:, pixel] = change[rows, targets] / (2 * step)
        return scores(x), gradient

    return Loaded(
        {"": lambda: classifier}, [pixels], reference, {"image_size": (8, 8)}, singles=False
    )


def _perceptron(network: Any, x: np.ndarray) -> np.ndarray:
    """The unnormalised scores of a multi-layer perceptron, which it does not give itself."""
    activation = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[network.activation]
    for weights, offsets in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        x = activation(x @ weights + offsets)
    return x @ network.coefs_[-1] + network.intercepts_[-1]
