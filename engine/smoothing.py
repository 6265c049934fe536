"""SmoothGrad and its kin: gradients at noisy copies of the picture, and their statistics."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.estimates import Estimate, Finding, Picture, generator, input_range
from deepinside.engine.inputs import InputSpec
from deepinside.engine.methods import Method

__all__ = ["NoisyGradients"]


class NoisyGradients(Estimate):
    """Mean (smoothgrad), mean square (smoothgrad-squared) or variance (vargrad) of the gradient.

    Smilkov et al. 2017 (arXiv 1706.03825); Adebayo et al. 2018 (1810.03307) for the variance, which
    is the samples' own, divided by their number; Hooker et al. 2019 (1806.10758) for the square.
    """

    def __init__(self, method: Method, spec: InputSpec, picture: Picture) -> None:
        low, high = input_range(spec, picture)
        assert method.noise is not None
        self._method = method
        self._picture = picture
        self._deviation = method.noise * (high - low)
        self._count = 0
        self._mean = np.zeros(picture.shape)
        self._spread = np.zeros(picture.shape)

    def points(self) -> Iterator[Picture]:
        """Inputs at which the gradient is wanted."""
        random = generator(self._method, self._picture)
        assert self._method.samples is not None
        for _ in range(self._method.samples):
            noise = random.standard_normal(self._picture.shape, dtype=np.float32)
            yield self._picture + noise * self._deviation

    def add(self, gradient: NDArray[np.floating], score: float | None) -> None:
        """Welford's recurrence: the variance does not drown in the mean."""
        self._count += 1
        if self._method.name == "smoothgrad-squared":
            gradient = np.square(gradient, dtype=np.float64)
        before = gradient - self._mean
        self._mean += before / self._count
        if self._method.name == "vargrad":
            self._spread += before * (gradient - self._mean)

    def finding(self) -> Finding:
        """What it comes to."""
        if self._method.name == "vargrad":
            return Finding(attribution=self._spread / self._count)
        return Finding(attribution=self._mean)
