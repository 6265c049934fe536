"""Sensitivity-n: does the sum of some pixels' attributions tell what removing them does?

Ancona et al. 2018, "Towards better understanding of gradient-based attribution methods", section
4. It is meant for attributions with a sign, whose sums have the unit of the score; for a map of
magnitudes it only says whether pixels of large values matter more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.evaluation.scoring import Image, Score

__all__ = ["Removals", "remove_at_random"]


@dataclass(frozen=True, eq=False)
class Removals:
    """What removing random sets of pixels does to the score; the same for all maps of a picture.

    Attributes:
        sets: for each number n of pixels, the sets `(M, n)` of places in the flat map.
        drops: for each, by how much the scores fall, `(M,)` or `(M, Q)`.
    """

    sets: tuple[NDArray[np.int64], ...]
    drops: tuple[NDArray[np.float64], ...]

    def sensitivity(self, attribution: NDArray[np.floating]) -> NDArray[np.float64]:
        """Pearson's correlation of the sets' summed attributions with the drops, for each n.

        Args:
            attribution: `(H, W)`, summed over channels.

        Returns:
            `(number of n,)` or `(number of n, Q)`; 1 is perfect, 0 where nothing varies.
        """
        flat = attribution.ravel().astype(np.float64)
        return np.stack(
            [
                _correlation(flat[places].sum(axis=1), drops)
                for places, drops in zip(self.sets, self.drops, strict=True)
            ]
        )


def remove_at_random(
    score: Score,
    image: Image,
    baseline: Image,
    *,
    counts: Sequence[int],
    samples: int = 64,
    seed: int = 0,
) -> Removals:
    """Remove random sets of pixels.

    Args:
        score: from pictures to scores.
        image: `(H, W, C)`.
        baseline: what removed pixels become, the same shape.
        counts: the numbers n of pixels that are removed at once.
        samples: sets for each n.
        seed: of the sets.

    Raises:
        SettingError: a number of pixels or samples is not possible.
    """
    pixels = image.shape[0] * image.shape[1]
    if samples < 2 or not all(1 <= count < pixels for count in counts):
        raise SettingError(
            f"sensitivity-n takes 2 samples or more of 1 to {pixels - 1} pixels, not {samples} of "
            f"{', '.join(map(str, counts))}."
        )
    whole = score([image])
    random = np.random.default_rng(seed)
    sets = [
        np.stack([random.choice(pixels, count, replace=False) for _ in range(samples)])
        for count in counts
    ]
    drops = [whole - score(_without(image, baseline, places)) for places in sets]
    return Removals(tuple(sets), tuple(drops))


def _without(image: Image, baseline: Image, sets: NDArray[np.int64]) -> Iterator[Image]:
    pixels, instead = image.reshape(-1, image.shape[2]), baseline.reshape(-1, image.shape[2])
    for places in sets:
        changed = pixels.copy()
        changed[places] = instead[places]
        yield changed.reshape(image.shape)


def _correlation(sums: NDArray[np.float64], drops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of `(M,)` with each column of `(M,)` or `(M, Q)`."""
    first, second = sums - sums.mean(), drops - drops.mean(axis=0)
    lengths = np.sqrt((first**2).sum() * (second**2).sum(axis=0))
    products = np.tensordot(first, second, axes=1)
    return np.asarray(products / np.where(lengths > 0, lengths, 1))
