"""What stands in place of a pixel that is taken away: no choice is neutral, so it is named."""

from typing import Literal, get_args

import numpy as np

from deepinside.engine.errors import SettingError
from deepinside.engine.evaluation.scoring import Image
from deepinside.engine.record import Preprocessing
from deepinside.engine.render import smooth

__all__ = ["BASELINES", "BLUR", "Baseline", "baseline_of"]

Baseline = Literal["blur", "mean", "black"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

BLUR = 0.045
"""Standard deviation of the blur, as a part of the picture's shorter side: 10 pixels of 224."""


def baseline_of(
    image: Image, kind: str, record: Preprocessing | None, *, blur: float = BLUR
) -> Image:
    """The picture without its content.

    Args:
        image: `(H, W, C)`, normalised.
        kind: `blur` (a Gaussian, mirrored at the borders), `mean` (0 in the normalised input: the
            mean that the preprocessing record takes away) or `black`.
        record: needed for `black`, to know where black is.
        blur: standard deviation of the Gaussian, as a part of the shorter side.

    Raises:
        SettingError: there is no such baseline, or the record is missing.
    """
    if kind == "mean":
        return np.zeros_like(image)
    if kind == "blur":
        deviation = blur * min(image.shape[:2])
        planes = [smooth(image[..., channel], deviation) for channel in range(image.shape[2])]
        return np.stack(planes, axis=2).astype(image.dtype)
    if kind == "black":
        if record is None:
            raise SettingError(
                "the baseline black needs a preprocessing record, which the file lacks: choose "
                "blur or mean, or export the classifier with --preprocessing FILE.json."
            )
        black = -np.array(record.mean) / np.array(record.std)
        return np.broadcast_to(black, image.shape).astype(image.dtype)
    raise SettingError(f"there is no baseline {kind!r}; possible: {', '.join(BASELINES)}.")
