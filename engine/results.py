"""What the engine returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.decode import Picture
from deepinside.engine.errors import EngineError
from deepinside.engine.methods import Method
from deepinside.engine.preprocess import Region

__all__ = [
    "Box",
    "CheckReport",
    "ClassImage",
    "ClassScore",
    "InputFailure",
    "InputMaps",
    "Localization",
    "SaliencyMap",
    "Snapshot",
]


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """The saliency of one class in one picture.

    Attributes:
        saliency: float32 `(H, W)` at the model's input size, not negative and not scaled: the
            largest absolute gradient over the channels, or what another method makes of it.
        gradient: dS_c/dI in the model's layout and float type, without batch axis; None where it
            was not kept or the file does not give it.
        score: S_c, the unnormalised score (or the probability, where the file says so); None
            where the file does not give it.
        probability: of the class, from the classifier's own output.
        index: of the class.
        label: of the class, where the file has labels.
        source: path of the picture, or its position such as `#0`.
        region: what the map covers, in pixels of the original picture; None for an input that
            was already preprocessed.
        size: (H, W) of the original picture; None likewise.
        method: that made the map.
        attribution: what the method gives per number of the input, in the model's layout, without
            batch axis; of vanilla, the gradient. None where it was not kept, or there are only
            maps (crops).
        signed: float32 `(H, W)`, the sum of the attribution over the channels; None where there is
            no attribution or its sign means nothing.
        completeness_gap: of methods that integrate: by how much the attributions add up to more
            than `score - baseline_score`; None for others, or where the file gives no score.
        baseline_score: S_c where the integral begins; None likewise.
    """

    saliency: NDArray[np.float32]
    gradient: NDArray[np.floating] | None
    score: float | None
    probability: float
    index: int
    label: str | None
    source: str
    region: Region | None
    size: tuple[int, int] | None
    method: Method = field(default_factory=Method)
    attribution: NDArray[np.floating] | None = None
    signed: NDArray[np.float32] | None = None
    completeness_gap: float | None = None
    baseline_score: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """What a classifier gives a class.

    Attributes:
        index: of the class.
        label: of the class, where the file has labels.
        probability: of the class, from the classifier's own output.
    """

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True, eq=False)
class InputMaps:
    """The maps of one input.

    Attributes:
        source: path of the picture, or its position such as `#0`.
        position: of the input, from 0.
        picture: the decoded picture, for overlays; smaller, or None, where that was asked for;
            None for an input already preprocessed.
        maps: one per class, in the order asked for.
        best: the classifier's five best classes, best first.
    """

    source: str
    position: int
    picture: Picture | None
    maps: tuple[SaliencyMap, ...]
    best: tuple[ClassScore, ...] = ()


@dataclass(frozen=True, eq=False)
class InputFailure:
    """An input that gave no maps.

    Attributes:
        source: path of the picture, or its position such as `#0`.
        position: of the input, from 0.
        error: why.
    """

    source: str
    position: int
    error: EngineError


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels of the original picture.

    Attributes:
        left: first column.
        top: first row.
        right: end of the columns.
        bottom: end of the rows.
    """

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, eq=False)
class Localization:
    """Where the object of one class is in one picture.

    Attributes:
        part: bool `(h, w)`, the object's pixels at the size that was cut.
        size: (H, W) of the original picture.
        box: of the mask; None where no object was found, and the mask is empty.
        score: S_c, as in `SaliencyMap`.
        probability: of the class, from the classifier's own output.
        index: of the class.
        label: of the class, where the file has labels.
        source: path of the picture, or its position such as `#0`.
    """

    part: NDArray[np.bool_]
    size: tuple[int, int]
    box: Box | None
    score: float | None
    probability: float
    index: int
    label: str | None
    source: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The object's pixels in the original picture, bool `(H, W)`."""
        whole = Image.fromarray(self.part).resize(self.size[::-1], Image.Resampling.NEAREST)
        return np.asarray(whole, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A class picture on its way.

    Attributes:
        step: number of steps done.
        picture: uint8 `(H, W, 3)`, RGB; None where the file has no preprocessing record.
    """

    step: int
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class ClassImage:
    """The picture that a network takes for the ideal of a class.

    Attributes:
        picture: uint8 `(H, W, 3)`, RGB, the mean added back; None where the file has no
            preprocessing record, which holds the mean.
        image: float32, the image input itself, normalised, in the model's layout.
        index: of the class; of a mix, the class with the largest weight.
        label: of the class or the mix, where the file has labels.
        score: S_c of the final image; of a mix, the weighted sum.
        score_steps: numbers of steps at which the score was read; the last is the final image's.
        scores: S_c at those steps.
        steps: steps done.
        stopped_early: whether the score had stopped rising before all steps were done.
        settings: of the ascent, all plain values.
        snapshots: pictures on the way.
    """

    picture: NDArray[np.uint8] | None
    image: NDArray[np.float32]
    index: int
    label: str | None
    score: float
    score_steps: tuple[int, ...]
    scores: tuple[float, ...]
    steps: int
    stopped_early: bool
    settings: Mapping[str, str | int | float | None]
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True)
class CheckReport:
    """Whether a file's gradient is the derivative of its score, on the runtime in use.

    Attributes:
        passed: both errors are within their tolerances.
        error: relative error of the derivatives along the gradient and patches of it, the worst
            image's.
        blind_error: the same along white noise, which rounding makes less precise.
        tolerance: allowed for `error`.
        blind_tolerance: allowed for `blind_error`.
        errors: `error` of each image.
        blind_errors: `blind_error` of each image.
        device: that the file ran on.
    """

    passed: bool
    error: float
    blind_error: float
    tolerance: float
    blind_tolerance: float
    errors: tuple[float, ...]
    blind_errors: tuple[float, ...]
    device: str
