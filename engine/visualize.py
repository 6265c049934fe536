"""Class model visualisation: gradient ascent from picture to picture on the device.

Simonyan et al. 2014, section 2: `argmax_I S_c(I) - l2 * ||I||^2`. The update is in the graph
(docs/file-contract.md); here is the loop around it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.binding import PingPong
from deepinside.engine.decode import Picture
from deepinside.engine.errors import DivergenceError, SettingError, TaskError
from deepinside.engine.inputs import ImageLike, InputSpec, prepare
from deepinside.engine.preprocess import picture_of
from deepinside.engine.presets import find_preset
from deepinside.engine.results import ClassImage, Snapshot
from deepinside.engine.session import Session
from deepinside.engine.sizes import PictureSize

__all__ = ["AscentSettings", "Progress", "ascend", "ascent_settings"]

# Standard deviation of the noise start, normalised input units: faint against a picture's 1.
NOISE_DEVIATION = 0.1
# A rise of the score below this fraction of its size counts as none.
_LEAST_RISE = 1e-3


@dataclass(frozen=True)
class AscentSettings:
    """Settings of the ascent.

    Attributes:
        preset: that the numbers started from.
        steps: at most so many.
        step_size: length factor of a step.
        l2: weight of the penalty.
        init: `zeros`, `noise`, or the name of a picture.
        seed: of the noise.
        snapshot_every: keep a picture every so many steps; None for none.
        score_every: read the scores every so many steps.
        patience: stop once the score has not risen for so many steps; None for never.
        size: as it was asked for; None for the file's own.
    """

    preset: str
    steps: int
    step_size: float
    l2: float
    init: str
    seed: int
    snapshot_every: int | None
    score_every: int
    patience: int | None
    size: str | None


@dataclass(frozen=True, eq=False)
class Progress:
    """The state of the loop, for progress bars.

    Attributes:
        step: steps done.
        steps: of all.
        classes: class indices of the batch.
        scores: float `(N,)`, of the picture at `step`.
    """

    step: int
    steps: int
    classes: tuple[int, ...]
    scores: NDArray[np.floating]


def ascent_settings(
    preset: str,
    *,
    steps: int | None,
    step_size: float | None,
    l2: float | None,
    init: ImageLike,
    seed: int,
    snapshot_every: int | None,
    score_every: int,
    patience: int | None,
    size: PictureSize | None = None,
) -> AscentSettings:
    """A preset's settings with the caller's on top.

    Raises:
        SettingError: a value is not possible.
    """
    chosen = find_preset(preset)
    settings = AscentSettings(
        preset=preset,
        steps=chosen.steps if steps is None else steps,
        step_size=chosen.step_size if step_size is None else step_size,
        l2=chosen.l2 if l2 is None else l2,
        init=_name_of(init),
        seed=seed,
        snapshot_every=snapshot_every,
        score_every=score_every,
        patience=patience,
        size=size
        if size is None or isinstance(size, str)
        else "x".join(map(str, np.atleast_1d(size))),
    )
    for name in ("steps", "snapshot_every", "score_every", "patience"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1.")
    if not (np.isfinite(settings.step_size) and settings.step_size > 0):
        raise SettingError(f"step_size is {settings.step_size}; it must be a positive number.")
    if not (np.isfinite(settings.l2) and settings.l2 >= 0):
        raise SettingError(f"l2 is {settings.l2}; it must be 0 or a positive number.")
    if settings.seed < 0:
        raise SettingError(f"seed is {settings.seed}; it must be 0 or a positive number.")
    return settings


def ascend(
    session: Session,
    spec: InputSpec,
    classes: Sequence[int],
    settings: AscentSettings,
    *,
    init: ImageLike,
    size: tuple[int, int] | Literal["original"] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[ClassImage]:
    """Make the class pictures of one batch.

    Args:
        session: an open visualization file.
        spec: its image input.
        classes: class index per picture; at most the file's fixed batch size.
        settings: of the ascent.
        init: start: `zeros`, `noise`, or an image.
        size: of the pictures, where the file leaves it open; None for the record's.
        progress: called whenever the scores are read.

    Raises:
        DivergenceError: a score or picture became infinite or not a number.
        ImageError: the start can't be decoded.
        RunError: ONNX Runtime failed.
        TaskError: the size of the picture is open.
    """
    count = len(classes)
    padded = [*classes, *[classes[-1]] * ((spec.batch or count) - count)]
    start = np.stack([_start(spec, index, settings, init, size) for index in padded])
    loop = PingPong(
        session,
        spec.contract.names,
        start,
        constants={
            "target": np.asarray(padded, dtype=np.int64),
            "step_size": np.asarray(settings.step_size, dtype=spec.dtype),
            "l2": np.asarray(settings.l2, dtype=spec.dtype),
        },
    )
    curve: list[tuple[int, NDArray[np.floating]]] = []
    snapshots: list[tuple[int, NDArray[np.floating]]] = []

    def record(step: int) -> None:
        scores = loop.scores()[:count].astype(np.float64)
        _check_finite(scores, classes, step, settings)
        curve.append((step, scores))
        if progress is not None:
            progress(Progress(step, settings.steps, tuple(classes), scores))

    done = 0
    stopped = False
    while done < settings.steps and not stopped:
        loop.step()
        if done % settings.score_every == 0:
            record(done)
            stopped = _has_settled(curve, settings.patience)
        done += 1
        if settings.snapshot_every and done % settings.snapshot_every == 0:
            snapshots.append((done, loop.image()[:count]))
    loop.evaluate()
    record(done)
    images = loop.image()[:count].astype(np.float32)
    _check_finite(images.reshape(count, -1).sum(axis=1), classes, done, settings)
    return [
        ClassImage(
            picture=_picture(images[n], spec),
            image=images[n].copy(),
            index=index,
            label=spec.contract.label(index),
            score=float(curve[-1][1][n]),
            score_steps=tuple(step for step, _ in curve),
            scores=tuple(float(scores[n]) for _, scores in curve),
            steps=done,
            stopped_early=stopped,
            settings=asdict(settings),
            snapshots=tuple(Snapshot(step, _picture(state[n], spec)) for step, state in snapshots),
        )
        for n, index in enumerate(classes)
    ]


def batches(classes: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive parts of at most `size` classes."""
    for start in range(0, len(classes), size):
        yield classes[start : start + size]


def _name_of(init: ImageLike) -> str:
    if isinstance(init, (str, Path)):
        return str(init)
    if isinstance(init, Picture):
        return init.source
    return (isinstance(init, Image.Image) and str(getattr(init, "filename", ""))) or "array"


def _start(
    spec: InputSpec,
    index: int,
    settings: AscentSettings,
    init: ImageLike,
    size: tuple[int, int] | Literal["original"] | None,
) -> NDArray[np.floating]:
    if not isinstance(init, str) or init not in ("zeros", "noise"):
        return prepare(init, 0, spec, size).array
    if size == "original":
        raise SettingError(f"the size original needs a picture to start from, not {init}.")
    shape = spec.shape_at(size)
    if shape is None:
        raise TaskError(
            "the file leaves the picture's size open: give a size, or start from a picture or an "
            "array of the wanted size."
        )
    if init == "zeros":
        return np.zeros(shape, dtype=spec.dtype)
    # Seeded per class: a class's picture does not depend on the others in its batch.
    noise = np.random.default_rng([settings.seed, index]).standard_normal(shape, dtype=np.float32)
    return (noise * np.float32(NOISE_DEVIATION)).astype(spec.dtype)


def _picture(image: NDArray[np.floating], spec: InputSpec) -> NDArray[np.uint8] | None:
    record = spec.contract.preprocessing
    return None if record is None else picture_of(image, record, spec.contract.layout)


def _check_finite(
    values: NDArray[np.floating], classes: Sequence[int], step: int, settings: AscentSettings
) -> None:
    for index, value in zip(classes, values, strict=True):
        if not np.isfinite(value):
            raise DivergenceError(
                f"the ascent of class {index} left the range of numbers by step {step}: the step "
                f"size {settings.step_size:g} is too large for l2 {settings.l2:g}, try a tenth of "
                "it."
            )


def _has_settled(curve: Sequence[tuple[int, NDArray[np.floating]]], patience: int | None) -> bool:
    """Whether no picture's best score has risen noticeably within the last `patience` steps."""
    last = curve[-1][0]
    if patience is None or last - curve[0][0] < patience:
        return False
    before = np.max([scores for step, scores in curve if step <= last - patience], axis=0)
    now = np.max([scores for _, scores in curve], axis=0)
    return bool(np.all(now - before <= _LEAST_RISE * np.abs(before)))
