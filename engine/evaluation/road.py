"""ROAD: removal of pixels that leaves no outline of what was removed.

Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods". Pixels
set to one value show the network the shape of the mask, from which alone it can tell classes.
Noisy linear imputation replaces a removed pixel by the weighted mean of its eight neighbours
(1/6 straight, 1/12 across), solved for all at once, and adds a little noise.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.evaluation.curves import Curve
from deepinside.engine.evaluation.scoring import Image, Score
from deepinside.engine.packages import require_package

__all__ = ["NOISE", "SHARES", "imputed", "removal_curve"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISE = 0.01
"""Standard deviation of the noise, in units of the normalised input, as in the authors' code."""

_WEIGHTS = {1: 1 / 6, 2: 1 / 12}  # by the number of axes along which the neighbour lies off
_HALF = tuple((dy, dx) for dy in (0, 1) for dx in (-1, 0, 1) if (dy, dx) > (0, 0))


def imputed(
    image: Image,
    removed: NDArray[np.bool_],
    *,
    noise: float = NOISE,
    random: np.random.Generator | None = None,
) -> Image:
    """The picture with some pixels made up from the others.

    Args:
        image: `(H, W, C)`.
        removed: `(H, W)`; not all of them.
        noise: standard deviation of what is added to them.
        random: for the noise; seed 0 by default.

    Raises:
        PackageMissingError: scipy is not installed.
        SettingError: all pixels are removed.
    """
    if removed.all():
        raise SettingError("all pixels are removed, so that none is left to impute them from.")
    result = np.array(image)
    if removed.any():
        solved = _solve(image, removed)
        random = np.random.default_rng(0) if random is None else random
        result[removed] = solved + noise * random.standard_normal(solved.shape)
    return result


def removal_curve(
    score: Score,
    image: Image,
    order: NDArray[np.int64],
    *,
    shares: Sequence[float] = SHARES,
    least_first: bool = False,
    noise: float = NOISE,
    seed: int = 0,
) -> Curve:
    """The scores while pixels are removed.

    Args:
        score: from pictures to scores.
        image: `(H, W, C)`.
        order: of the pixels, the most salient first, as `ranking` gives it.
        shares: of the pixels that are removed, rising, each below 1.
        least_first: remove the least salient pixels first.
        noise: as in `imputed`.
        seed: of the noise.

    Raises:
        PackageMissingError: scipy is not installed.
        SettingError: a share is not possible.
    """
    if not all(0 <= share < 1 for share in shares) or list(shares) != sorted(set(shares)):
        raise SettingError(f"the shares {tuple(shares)} must rise, from 0 on and below 1.")
    places = order[::-1] if least_first else order

    def pictures() -> Iterator[Image]:
        for share in shares:
            removed = np.zeros(order.size, dtype=np.bool_)
            removed[places[: round(share * order.size)]] = True
            mask = removed.reshape(image.shape[:2])
            yield imputed(image, mask, noise=noise, random=np.random.default_rng(seed))

    return Curve(np.array(shares, dtype=np.float64), score(pictures()))


def _solve(image: Image, removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`sum_j w_j (x_i - x_j) = 0` over the neighbours of every removed pixel; `(R, C)`.

    The matrix is a weighted graph Laplacian: symmetric, and definite since pixels are left.
    """
    require_package("scipy", "ROAD", "evaluate")
    from scipy import sparse
    from scipy.sparse.linalg import splu

    count = int(removed.sum())
    numbers = np.full(removed.shape, -1)
    numbers[removed] = np.arange(count)
    diagonal = np.zeros(count)
    right = np.zeros((count, image.shape[2]))
    rows: list[NDArray[Any]] = [np.arange(count)]
    columns: list[NDArray[Any]] = [np.arange(count)]
    entries: list[NDArray[Any]] = []
    for dy, dx in _HALF:
        weight = _WEIGHTS[abs(dy) + abs(dx)]
        here, there = _pair(removed.shape, dy, dx)
        for one, other in ((here, there), (there, here)):
            mine, theirs = numbers[one], numbers[other]
            gone, known = (mine >= 0) & (theirs >= 0), (mine >= 0) & (theirs < 0)
            # A pixel has one neighbour in each direction, so that no place occurs twice.
            diagonal[mine[mine >= 0]] += weight
            right[mine[known]] += weight * image[other][known]
            rows.append(mine[gone])
            columns.append(theirs[gone])
            entries.append(np.full(int(gone.sum()), -weight))
    values = np.concatenate([diagonal, *entries])
    places = (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.csc_matrix((values, places), shape=(count, count))
    return np.asarray(splu(matrix).solve(right))


def _pair(
    shape: tuple[int, ...], dy: int, dx: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Pixels that have a neighbour at (dy, dx), and those neighbours."""
    height, width = shape
    here = (slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
    there = (slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
    return here, there
