"""Insertion and deletion: how the score changes while pixels come or go, most salient first.

Petsiuk, Das and Saenko 2018, "RISE", section 4. A good map reaches a high score early when its
pixels are inserted, and loses it early when they are deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.evaluation.scoring import Image, Score

__all__ = ["Curve", "curve", "ranking"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores while pixels are replaced.

    Attributes:
        shares: of the pixels that are replaced, `(S,)`, rising, 0 to 1.
        values: the scores there, `(S,)` or `(S, Q)`.
    """

    shares: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def area(self) -> NDArray[np.float64]:
        """The mean score on the way: the area under the curve over its width, `()` or `(Q,)`."""
        width = self.shares[-1] - self.shares[0]
        return np.asarray(np.trapezoid(self.values, self.shares, axis=0) / width)


def ranking(saliency: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.int64]:
    """Places of the pixels in `saliency.ravel()`, the most salient first.

    Equal ones come in an order drawn at random, since their order in the map would be one from
    the top down.
    """
    drawn = np.random.default_rng(seed).permutation(saliency.size)
    return drawn[np.argsort(-saliency.ravel()[drawn], kind="stable")]


def curve(
    score: Score,
    start: Image,
    end: Image,
    order: NDArray[np.int64],
    *,
    steps: int = 32,
) -> Curve:
    """The scores while the pixels of one picture are replaced by those of another.

    Insertion starts from a baseline and ends at the picture, deletion the other way.

    Args:
        score: from pictures to scores.
        start: `(H, W, C)`.
        end: the same shape.
        order: of the pixels, as `ranking` gives it.
        steps: equal parts in which the pixels are replaced.

    Raises:
        SettingError: there are no steps, or more than pixels.
    """
    if not 1 <= steps <= order.size:
        raise SettingError(
            f"{steps} steps are not possible; possible: 1 to {order.size}, the number of pixels."
        )
    counts = np.rint(np.linspace(0, order.size, steps + 1)).astype(np.int64)

    def pictures() -> Iterator[Image]:
        current = np.array(start)
        pixels, new = current.reshape(order.size, -1), end.reshape(order.size, -1)
        done = 0
        for count in counts:
            places = order[done:count]
            pixels[places] = new[places]
            done = count
            yield current.copy()

    return Curve(counts / order.size, score(pictures()))
