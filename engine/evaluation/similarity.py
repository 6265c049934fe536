"""How alike two maps of one picture are: ranks, structure, and direction.

The sanity check goes by the first two: unrelated maps without a sign have a cosine of 0.6 already.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.packages import require_package
from deepinside.engine.render import normalise

__all__ = ["SIMILARITIES", "cosine", "spearman", "ssim"]

Map = NDArray[np.floating]

_WINDOW = 11  # of SSIM's Gaussian with a standard deviation of 1.5, cut at 3.5 of them


def spearman(first: Map, second: Map) -> float:
    """Rank correlation of the pixels, -1 to 1; 0 where a map is constant and ranks nothing.

    Raises:
        PackageMissingError: scipy is not installed.
    """
    require_package("scipy", "Spearman's rank correlation", "evaluate")
    from scipy.stats import rankdata

    ranks = [rankdata(each.ravel()) for each in (first, second)]
    return cosine(*(each - each.mean() for each in ranks))


def ssim(first: Map, second: Map) -> float:
    """Structural similarity (Wang et al. 2004), -1 to 1, of maps scaled for display.

    Each is scaled by its own 99.5th percentile: as they are, the largest pixels of a gradient map
    are so rare that all maps would look alike, black.

    Raises:
        PackageMissingError: scikit-image is not installed.
    """
    require_package("skimage", "SSIM", "evaluate")
    from skimage.metrics import structural_similarity

    window = min(_WINDOW, *first.shape)
    value = structural_similarity(  # type: ignore[no-untyped-call]
        normalise(np.maximum(first, 0)),
        normalise(np.maximum(second, 0)),
        data_range=1.0,
        gaussian_weights=window == _WINDOW,
        use_sample_covariance=window != _WINDOW,
        win_size=window - 1 + window % 2,
    )
    return float(value)


def cosine(first: Map, second: Map) -> float:
    """Cosine of the angle between two maps taken as vectors; 0 where one is all zeros."""
    one, other = (each.ravel().astype(np.float64) for each in (first, second))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


SIMILARITIES: Mapping[str, Callable[[Map, Map], float]] = {
    "spearman": spearman,
    "ssim": ssim,
}
