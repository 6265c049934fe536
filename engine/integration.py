"""Gradients integrated along a way from a baseline to the picture.

What a number of the picture contributes is the integral of its derivative over its own way, so that
all contributions add up to S_c(picture) - S_c(baseline), up to the error of the quadrature.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.blur import blur
from deepinside.engine.estimates import Estimate, Finding, Picture, generator, input_range
from deepinside.engine.inputs import InputSpec
from deepinside.engine.methods import Method

__all__ = ["BlurPath", "GuidedPath", "StraightPath"]

# What counts as arrived, as a part of the whole way.
_ARRIVED = 1e-9

# By how much the gradient at a point counts; None for not at all.
Step = NDArray[np.floating] | float | None


class _Path(Estimate):
    """Sums gradient times step along a way whose first point is the baseline."""

    def __init__(self, method: Method, spec: InputSpec, picture: Picture) -> None:
        self._method, self._spec, self._picture = method, spec, picture
        self._sum: NDArray[np.float64] = np.zeros(picture.shape)
        self._pending: deque[Step] = deque()
        self._gradient: NDArray[np.floating] = self._sum
        self._baseline_score: float | None = None
        self._begun = False

    @abstractmethod
    def _way(self) -> Iterator[tuple[Picture, Step]]:
        """Points, and the steps there."""

    def points(self) -> Iterator[Picture]:
        """Inputs at which the gradient is wanted."""
        for point, step in self._way():
            self._pending.append(step)
            yield point

    def add(self, gradient: NDArray[np.floating], score: float | None) -> None:
        """Take the gradient at the next point."""
        step = self._pending.popleft()
        if step is not None:
            self._sum += gradient * step
        if not self._begun:
            self._baseline_score, self._begun = score, True
        self._gradient = gradient

    def finding(self) -> Finding:
        """What it comes to."""
        return Finding(attribution=self._sum, baseline_score=self._baseline_score)


class StraightPath(_Path):
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365)."""

    def _way(self) -> Iterator[tuple[Picture, Step]]:
        baseline = _baseline(self._method, self._spec, self._picture)
        self._difference = self._picture - baseline
        yield baseline, None
        for place, weight in zip(*_quadrature(self._method), strict=True):
            yield baseline + np.float32(place) * self._difference, float(weight)

    def finding(self) -> Finding:
        """What it comes to."""
        return Finding(self._sum * self._difference, baseline_score=self._baseline_score)


class BlurPath(_Path):
    """Blur integrated gradients (Xu et al. 2020, arXiv 2004.03383).

    The way leads from the strongest blur to the picture, linear in the Gaussian's standard
    deviation; beyond the edges lie zeros, as in the authors' code. Gradients are taken in the
    middle of each step, and a step is the difference of its ends, so that they add up exactly.
    """

    def _way(self) -> Iterator[tuple[Picture, Step]]:
        assert self._method.steps is not None
        assert self._method.blur is not None
        strongest = self._method.blur * min(self._picture.shape[:2])
        ends = np.linspace(strongest, 0, self._method.steps + 1)
        before = blur(self._picture, ends[0], "zero")
        yield before, None
        for start, end in pairwise(ends):
            after = blur(self._picture, end, "zero")
            yield blur(self._picture, (start + end) / 2, "zero"), after - before
            before = after


class GuidedPath(_Path):
    """Guided integrated gradients (Kapishnikov et al. 2021, arXiv 2106.09788).

    Every number goes its own straight way from baseline to picture, and `share` says how much of it
    is done. Each step brings the whole nearer by 1 / steps of the L1 distance, moving the numbers
    of the smallest derivatives first, none more than `max_distance` ahead of or behind the rest.
    """

    one_at_a_time = True

    def _way(self) -> Iterator[tuple[Picture, Step]]:
        steps, reach = self._method.steps, self._method.max_distance
        assert steps is not None
        assert reach is not None
        baseline = _baseline(self._method, self._spec, self._picture)
        difference = (self._picture - baseline).astype(np.float64)
        lengths = np.abs(difference)
        share = np.zeros(lengths.shape)
        for step in range(1, steps + 1):
            yield (baseline + share * difference).astype(np.float32), None
            done = step / steps
            moved = self._move(
                np.maximum(share, max(done - reach, 0.0)),
                lengths,
                left=lengths.sum() * (1 - done),
                limit=min(done + reach, 1.0),
            )
            self._sum += self._gradient * difference * (moved - share)
            share = moved

    def _move(
        self, share: NDArray[np.float64], lengths: NDArray[np.float64], *, left: float, limit: float
    ) -> NDArray[np.float64]:
        """Move shares towards `limit` until the way that is left is `left`."""
        fraction = self._method.fraction
        assert fraction is not None
        rank = int(fraction * (share.size - 1))
        slopes = np.abs(self._gradient)
        while (ahead := float((lengths * (1 - share)).sum()) - left) > _ARRIVED * lengths.sum():
            slopes = np.where((share < limit) & (lengths > 0), slopes, np.inf)
            threshold = np.partition(slopes, rank, axis=None)[rank]
            chosen = (slopes <= threshold) & np.isfinite(slopes)
            possible = float((lengths * (limit - share))[chosen].sum())
            if possible <= 0:
                break
            part = min(ahead / possible, 1.0)
            target = limit if part == 1.0 else share + part * (limit - share)
            share = np.where(chosen, target, share)
        return share


def _baseline(method: Method, spec: InputSpec, picture: Picture) -> Picture:
    """Where the way begins, `(H, W, C)`."""
    if method.baseline == "mean":
        return np.zeros_like(picture)
    if method.baseline == "blur":
        assert method.blur is not None
        return blur(picture, method.blur * min(picture.shape[:2]))
    low, high = input_range(spec, picture)
    if method.baseline == "black":
        return np.broadcast_to(low, picture.shape)
    random = generator(method, picture).random(picture.shape, dtype=np.float32)
    return low + random * (high - low)


def _quadrature(method: Method) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places from 0 to 1, and weights that add up to 1."""
    assert method.steps is not None
    if method.quadrature == "riemann":
        places = (np.arange(method.steps) + 0.5) / method.steps
        return places, np.full(method.steps, 1 / method.steps)
    places, weights = np.polynomial.legendre.leggauss(method.steps)
    return (places + 1) / 2, weights / 2
