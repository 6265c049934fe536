"""Classifiers that others wrote, source by source; see `benchmarks/coverage.py`.

Each module has `names()` and `load(name) -> Loaded`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Loaded", "Reference"]

# From pixels, one target per picture and a type: all scores, and the input gradient of the targets.
Reference = Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Loaded:
    """A classifier, ready to be exported and compared.

    Attributes:
        variants: what `export_saliency` takes, made when it is asked for, by name of the variant.
        pictures: float arrays `(N, ...)`, the classifier's input; one per size that is tried.
        reference: the framework's own gradient in `float32` or `float64`.
        options: of `export_saliency`.
        singles: whether the framework can run in float32 as well, to compare with itself.
    """

    variants: Mapping[str, Callable[[], Any]]
    pictures: Sequence[np.ndarray]
    reference: Reference
    options: Mapping[str, Any] = field(default_factory=dict)
    singles: bool = True
