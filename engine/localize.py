"""Weakly supervised localisation: from a saliency map to a mask and a box.

Simonyan et al. 2014, section 3. The map's most and least salient pixels are seeds of object and
background, a cut by colour makes a segment of them, and the object is its largest connected part.
No box was seen in training. docs/localisation.md says how well it does.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.decode import Picture
from deepinside.engine.errors import ImageError, SettingError
from deepinside.engine.graphcut import BACKGROUND, FOREGROUND, largest_component, segment
from deepinside.engine.preprocess import Region
from deepinside.engine.render import fit, smooth
from deepinside.engine.results import Box, Localization, SaliencyMap

__all__ = ["LocalizationSettings", "bounding_box", "find_seeds", "localize"]

# Values that differ by so small a part of the largest are equal: blurring rounds them.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class LocalizationSettings:
    """Settings of a localisation.

    Attributes:
        foreground: percentile of the map above which pixels are seeds of the object. This one and
            the next are the paper's.
        background: percentile below which they are background.
        smoothing: standard deviation of the map's blur, as a part of its shorter side.
        work_size: the picture is cut at this many pixels of its longer side, if it has more.
        rounds: how often the colour models are fitted again, to the last cut, and the cut is
            repeated; the paper's method has none.

    Raises:
        SettingError: a setting is not possible.
    """

    foreground: float = 95.0
    background: float = 30.0
    smoothing: float = 0.05
    work_size: int = 256
    rounds: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.background <= self.foreground < 100:
            raise SettingError(
                f"the percentiles are {self.background:g} for the background and "
                f"{self.foreground:g} for the foreground; they must be above 0, below 100, and the "
                "background's not the higher one."
            )
        if not 0 <= self.smoothing <= 1:
            raise SettingError(f"smoothing is {self.smoothing}; it must be a part from 0 to 1.")
        if self.work_size < 1:
            raise SettingError(f"work_size is {self.work_size}; it must be at least 1.")
        if self.rounds < 0:
            raise SettingError(f"rounds is {self.rounds}; it must be at least 0.")


def localize(
    saliency: SaliencyMap, picture: Picture, settings: LocalizationSettings | None = None
) -> Localization:
    """Find the object that a saliency map points at.

    The result is the same for the same map and picture, in any thread.

    Args:
        saliency: map of a class.
        picture: that it is of, as in `InputMaps.picture`: perhaps a smaller copy.
        settings: by default `LocalizationSettings()`.

    Returns:
        The object. It has no box where the map is the same everywhere, or where no pixel looks more
        like the object's seeds than like the background's.

    Raises:
        ImageError: the map is not of this picture, or of an input that was already preprocessed.
        PackageMissingError: OpenCV is not installed.
    """
    settings = settings or LocalizationSettings()
    region, whole = saliency.region, saliency.size
    if region is None or whole is None or not _is_copy(picture.size, whole):
        raise ImageError(
            picture.source,
            f"its size {picture.size} is not that of the map's picture, {whole}: give the "
            "picture that the map was made of.",
        )
    height, width = whole
    scale = min(1.0, settings.work_size / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    values = smooth(saliency.saliency, settings.smoothing * min(saliency.saliency.shape))
    down, across = size[0] / height, size[1] / width
    scaled = Region(
        region.left * across, region.top * down, region.right * across, region.bottom * down
    )
    rows, columns, values = fit(values, scaled, size)
    covered = find_seeds(values, settings.foreground, settings.background)
    found = np.zeros(size, dtype=np.bool_)
    if covered is not None:
        # Where the network did not look, nothing is known: the cut decides.
        seeds = np.zeros(size, dtype=np.int8)
        seeds[rows, columns] = covered
        pixels = Image.fromarray(picture.pixels).resize(size[::-1], Image.Resampling.BOX)
        parts = segment(np.asarray(pixels), seeds, rounds=settings.rounds)
        found = largest_component(parts)
    located = Localization(
        part=found,
        size=whole,
        box=None,
        score=saliency.score,
        probability=saliency.probability,
        index=saliency.index,
        label=saliency.label,
        source=saliency.source,
    )
    return replace(located, box=bounding_box(located.mask))


def _is_copy(size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether a picture of a size can be a picture of another size, perhaps made smaller."""
    shares = [part / of for part, of in zip(size, whole, strict=True)]
    # Sizes are whole numbers: of small ones, shares differ.
    return max(shares) <= 1 and max(shares) - min(shares) <= 1 / min(whole)


def find_seeds(
    values: NDArray[np.floating], foreground: float, background: float
) -> NDArray[np.int8] | None:
    """What a map says for certain.

    Args:
        values: `(H, W)`.
        foreground: percentile above which a pixel is object.
        background: percentile below which it is background.

    Returns:
        int8 `(H, W)` of `FOREGROUND`, `BACKGROUND` and `UNDECIDED`, some of each of the first two:
        where so many values tie that none is beyond its percentile, those equal to it count. None
        where the map has one value only.
    """
    if values.size == 0 or np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return None
    low, high = np.percentile(values, (background, foreground))
    above = values > high if high < values.max() else values >= high
    below = values < low if low > values.min() else values <= low
    seeds = np.zeros(values.shape, dtype=np.int8)
    seeds[below] = BACKGROUND
    seeds[above] = FOREGROUND
    return seeds


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box around a mask `(H, W)`; None around an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
