"""Class model visualisation: gradient ascent from picture to picture on the device.

Simonyan et al. 2014, section 2: `argmax_I S_c(I) - l2 * ||I||^2`. The update is in the graph
(docs/file-contract.md); here is the loop around it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.ascent import open_ascent, state_like
from deepinside.engine.errors import DivergenceError, SettingError, TaskError
from deepinside.engine.goals import Goal
from deepinside.engine.inputs import ImageLike, InputSpec, prepare
from deepinside.engine.preprocess import picture_of
from deepinside.engine.results import ClassImage, Snapshot
from deepinside.engine.session import Session
from deepinside.engine.settings import AscentSettings
from deepinside.engine.state import AscentState

__all__ = ["Progress", "ascend", "batches"]

# Standard deviation of the noise start, normalised input units: faint against a picture's 1.
NOISE_DEVIATION = 0.1
# A rise of the score below this fraction of its size counts as none.
_LEAST_RISE = 1e-3


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


def ascend(
    session: Session,
    spec: InputSpec,
    goals: Sequence[Goal],
    settings: AscentSettings,
    *,
    init: ImageLike,
    size: tuple[int, int] | Literal["original"] | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: Sequence[AscentState] | None = None,
    state_every: int | None = None,
    on_state: Callable[[AscentState], None] | None = None,
) -> list[ClassImage]:
    """Make the class pictures of one batch.

    Args:
        session: an open visualization file.
        spec: its image input.
        goals: of each picture; at most the file's fixed batch size.
        settings: of the ascent.
        init: start: `zeros`, `noise`, or an image.
        size: of the pictures, where the file leaves it open; None for the record's.
        progress: called whenever the scores are read.
        resume: states to go on from, one per goal and all of one step.
        state_every: give `on_state` the states every so many steps.
        on_state: called with each picture's state.

    Raises:
        DivergenceError: a score or picture became infinite or not a number.
        ImageError: the start can't be decoded.
        RunError: ONNX Runtime failed.
        TaskError: the size of the picture is open.
    """
    count = len(goals)
    classes = [goal.index for goal in goals]
    padded = [*goals, *[goals[-1]] * ((spec.batch or count) - count)]
    starts = [_start(spec, goal.index, settings, init, size) for goal in padded]
    curve: list[tuple[int, NDArray[np.floating]]] = []
    snapshots: list[list[Snapshot]] = [[] for _ in goals]
    begun = None
    if resume:
        for state, goal in zip(resume, goals, strict=True):
            state.require(goal, asdict(settings), spec.contract.source_sha256)
            state.require_parts(state_like(spec, starts[0]))
            if state.score_steps != resume[0].score_steps:
                raise SettingError("the states are of different ascents: go on with one at a time.")
        begun = _stacked([*resume, *[resume[-1]] * (len(padded) - count)])
        table = np.array([state.scores for state in resume])
        curve = [(step, table[:, i]) for i, step in enumerate(resume[0].score_steps)]
        snapshots = [list(state.snapshots) for state in resume]
    ascent = open_ascent(session, spec, padded, settings, starts=starts, state=begun)

    def record(step: int, read: NDArray[np.floating]) -> None:
        scores = read[:count].astype(np.float64)
        _check_finite(scores, classes, step, settings)
        curve.append((step, scores))
        if progress is not None:
            progress(Progress(step, settings.steps, tuple(classes), scores))

    done = resume[0].step if resume else 0
    stopped = False
    while done < settings.steps and not stopped:
        scores = ascent.advance(read=done % settings.score_every == 0)
        if scores is not None:
            record(done, scores)
            stopped = _has_settled(curve, settings.patience)
        done += 1
        if settings.snapshot_every and done % settings.snapshot_every == 0:
            for found, image in zip(snapshots, ascent.images(), strict=False):
                found.append(Snapshot(done, _picture(image, spec)))
        if on_state and state_every and done % state_every == 0 and done < settings.steps:
            parts = ascent.state()
            for n, goal in enumerate(goals):
                on_state(
                    AscentState(
                        goal=goal,
                        step=done,
                        parts={k: v[n] if v.ndim else v for k, v in parts.items()},
                        score_steps=tuple(step for step, _ in curve),
                        scores=tuple(float(scores[n]) for _, scores in curve),
                        snapshots=tuple(snapshots[n]),
                        settings=asdict(settings),
                        source=spec.contract.source_sha256,
                    )
                )
    record(done, ascent.scores())
    images = ascent.images()[:count].astype(np.float32)
    _check_finite(images.reshape(count, -1).sum(axis=1), classes, done, settings)
    return [
        ClassImage(
            picture=_picture(images[n], spec),
            image=images[n].copy(),
            index=goal.index,
            label=goal.label(spec.contract),
            score=float(curve[-1][1][n]),
            score_steps=tuple(step for step, _ in curve),
            scores=tuple(float(scores[n]) for _, scores in curve),
            steps=done,
            stopped_early=stopped,
            settings=asdict(settings),
            snapshots=tuple(snapshots[n]),
        )
        for n, goal in enumerate(goals)
    ]


def batches(goals: Sequence[Goal], size: int) -> Iterator[Sequence[Goal]]:
    """Consecutive parts of at most `size` goals."""
    for start in range(0, len(goals), size):
        yield goals[start : start + size]


def _stacked(states: Sequence[AscentState]) -> dict[str, NDArray[np.generic]]:
    """The state of a batch; what all pictures share (the number of steps) once."""
    first = states[0].parts
    return {
        part: np.stack([state.parts[part] for state in states]) if first[part].ndim else first[part]
        for part in first
    }


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
