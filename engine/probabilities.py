"""Probabilities from a classifier's own output and what it has applied to it."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["probabilities"]


def probabilities(scores: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """All classes' probabilities.

    Args:
        scores: the classifier's output, `(..., K)`.
        activation: what is applied to it already, as `Contract.activation` says.
    """
    if activation == "log_softmax":
        return np.asarray(np.exp(scores))
    if activation != "none":
        return scores
    if scores.shape[-1] == 1:
        return np.asarray(1 / (1 + np.exp(-scores)))
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
