"""From seeds to an object: colour models of the seeds, a minimum cut, and its largest part.

OpenCV does the work: Gaussian mixtures of five colours each, and the cut of Boykov & Jolly 2001,
both inside its GrabCut (Rother, Kolmogorov & Blake 2004). It is imported by the first call.
"""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import PackageMissingError

__all__ = ["BACKGROUND", "FOREGROUND", "UNDECIDED", "largest_component", "opencv", "segment"]

FOREGROUND = 1
BACKGROUND = -1
UNDECIDED = 0

# A mixture of five Gaussians, as OpenCV keeps it: weights, means and covariances.
_MODEL_SHAPE = (1, 65)


def opencv() -> ModuleType:
    """The package cv2.

    Raises:
        PackageMissingError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise PackageMissingError(
            "cv2",
            f"localisation needs the package opencv-python-headless, which can't be imported "
            f"({error}): run pip install 'deepinside[localize]'.",
        ) from error
    return cv2


def segment(
    pixels: NDArray[np.uint8], seeds: NDArray[np.int8], *, rounds: int
) -> NDArray[np.bool_]:
    """The object of which seeds tell a part.

    Background seeds stay background. Foreground seeds give the object's colours, and may end up on
    either side: of a gradient map, single salient cells often lie off the object.

    Args:
        pixels: uint8 `(H, W, 3)`.
        seeds: int8 `(H, W)` of `FOREGROUND`, `BACKGROUND` and `UNDECIDED`; some of each of the
            first two.
        rounds: how often the colour models are fitted again, to what the last cut gave, and the cut
            repeated; 0 for the seeds' own colours and one cut.

    Returns:
        bool `(H, W)`, which may hold nothing.

    Raises:
        PackageMissingError: OpenCV is not installed.
    """
    cv2 = opencv()
    # The mixtures start from random centres; the generator is the thread's own.
    cv2.setRNGSeed(0)
    background, foreground = np.zeros(_MODEL_SHAPE), np.zeros(_MODEL_SHAPE)
    seeded = seeds != UNDECIDED
    # As a picture of one column, so that undecided pixels take no part in the models.
    column = np.ascontiguousarray(pixels[seeded][:, np.newaxis])
    sides = np.where(seeds[seeded] == FOREGROUND, cv2.GC_FGD, cv2.GC_BGD)
    sides = sides.astype(np.uint8)[:, np.newaxis]
    cv2.grabCut(column, sides, None, background, foreground, 0, cv2.GC_INIT_WITH_MASK)

    labels = np.full(seeds.shape, cv2.GC_PR_BGD, dtype=np.uint8)
    labels[seeds == BACKGROUND] = cv2.GC_BGD
    image = np.ascontiguousarray(pixels)
    cv2.grabCut(image, labels, None, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    # A model of no pixels can't be fitted.
    if rounds and (labels == cv2.GC_PR_FGD).any():
        cv2.grabCut(image, labels, None, background, foreground, rounds, cv2.GC_EVAL)
    return np.asarray(labels == cv2.GC_PR_FGD)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask; pixels that share a side are connected.

    Args:
        mask: bool `(H, W)`; of an empty one, nothing is the largest part.

    Returns:
        bool `(H, W)`. Of several largest parts, the first in row-major order.

    Raises:
        PackageMissingError: OpenCV is not installed.
    """
    cv2 = opencv()
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    areas = np.bincount(parts.ravel(), minlength=count)
    return np.asarray(parts == 1 + int(np.argmax(areas[1:])))
