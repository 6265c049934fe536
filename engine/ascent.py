"""The two ascents on the device: the paper's step from picture to picture, and the natural one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.binding import PingPong
from deepinside.engine.errors import TargetError
from deepinside.engine.goals import Goal, tables
from deepinside.engine.inputs import InputSpec
from deepinside.engine.natural import schedule, start_spectrum
from deepinside.engine.session import Session
from deepinside.engine.settings import AscentSettings

__all__ = ["Ascent", "open_ascent", "state_like"]

State = Mapping[str, NDArray[Any]]
Starts = Sequence[NDArray[np.floating]]


class Ascent(ABC):
    """One batch of pictures on their way.

    Attributes:
        parts: of the state.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(self, loop: PingPong) -> None:
        self._loop = loop

    def advance(self, *, read: bool) -> NDArray[np.floating] | None:
        """Take a step.

        Returns:
            The scores `(N,)` of the pictures before it, where they are to be read.
        """
        scores = self.scores() if read else None
        self._loop.step()
        return scores

    def scores(self) -> NDArray[np.floating]:
        """The scores `(N,)` of the pictures."""
        self._loop.evaluate()
        return self._loop.output("score")

    @abstractmethod
    def images(self) -> NDArray[np.floating]:
        """The pictures `(N, ...)`, in the network's input space."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the ascent needs to go on."""
        return {part: self._loop.state(part) for part in self.parts}


class _Plain(Ascent):
    parts = ("image",)

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        goals: Sequence[Goal],
        settings: AscentSettings,
        starts: Starts,
        state: State | None,
    ) -> None:
        if any(goal.is_mix for goal in goals):
            raise TargetError(
                f"{session.path} takes one class per picture: mixes go with preset natural."
            )
        dtype = spec.dtype
        images = np.stack(starts).astype(dtype)
        super().__init__(
            PingPong(
                session,
                spec.contract.names,
                {"image": images} if state is None else state,
                constants={
                    "target": np.array([goal.index for goal in goals], dtype=np.int64),
                    "step_size": np.asarray(settings.step_size, dtype=dtype),
                    "l2": np.asarray(settings.l2, dtype=dtype),
                },
                outputs={"score": np.zeros(len(goals), dtype=dtype)},
            )
        )

    def advance(self, *, read: bool) -> NDArray[np.floating] | None:
        """A plain step gives the scores of the pictures before it for nothing."""
        self._loop.step()
        return self._loop.output("score") if read else None

    def images(self) -> NDArray[np.floating]:
        return self._loop.state("image")


class _Natural(Ascent):
    parts = ("spectrum", "first_moment", "second_moment", "step")

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        goals: Sequence[Goal],
        settings: AscentSettings,
        starts: Starts,
        state: State | None,
    ) -> None:
        images = np.stack(starts)
        if state is None:
            state = _natural_start(spec, goals, settings, images)
        classes, weights = tables(goals)
        numbers = {part: getattr(settings, part) for part in ("step_size", "l2", "total_variation")}
        super().__init__(
            PingPong(
                session,
                spec.contract.names,
                state,
                constants={
                    "target": classes,
                    "weights": weights,
                    "schedule": schedule(settings, spec.as_picture(images[0]).shape[:2]),
                    **{part: np.array(value, np.float32) for part, value in numbers.items()},
                },
                outputs={
                    "score": np.zeros(len(goals), dtype=spec.dtype),
                    "image": images.astype(spec.dtype),
                },
                still={"step": np.array(settings.steps, dtype=np.int64)},
            )
        )

    def images(self) -> NDArray[np.floating]:
        self._loop.evaluate()
        return self._loop.output("image")


def open_ascent(
    session: Session,
    spec: InputSpec,
    goals: Sequence[Goal],
    settings: AscentSettings,
    *,
    starts: Starts,
    state: State | None = None,
) -> Ascent:
    """Put a batch on the device.

    Args:
        session: an open visualization file.
        spec: its image.
        goals: of each picture.
        settings: of the ascent; they fit the file's step rule.
        starts: of each picture, an image without batch axis.
        state: to go on from, instead of the starts.

    Raises:
        RunError: the device's memory does not hold the buffers.
        TargetError: a mix, and the file takes one class per picture.
    """
    kind = _Natural if spec.contract.step_rule == "natural" else _Plain
    return kind(session, spec, goals, settings, starts, state)


def state_like(
    spec: InputSpec, start: NDArray[np.floating]
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each part of a picture's state, without batch axis.

    Args:
        spec: its image.
        start: an image without batch axis.
    """
    if spec.contract.step_rule != "natural":
        return {"image": (start.shape, spec.dtype)}
    height, width, channels = spec.as_picture(start).shape
    spectrum = ((channels, height, width), np.dtype(np.float32))
    return {
        **dict.fromkeys(_Natural.parts[:3], spectrum),
        "step": ((), np.dtype(np.int64)),
    }


def _natural_start(
    spec: InputSpec, goals: Sequence[Goal], settings: AscentSettings, images: NDArray[np.floating]
) -> dict[str, NDArray[Any]]:
    record = spec.contract.preprocessing
    assert record is not None  # such a file can't be exported without one
    grey = settings.init in ("zeros", "noise")
    spectrum = np.stack(
        [
            start_spectrum(
                spec.as_picture(image), record, grey=grey, seed=settings.seed, index=goal.index
            )
            for image, goal in zip(images, goals, strict=True)
        ]
    )
    return {
        "spectrum": spectrum,
        "first_moment": np.zeros_like(spectrum),
        "second_moment": np.zeros_like(spectrum),
        "step": np.array(0, dtype=np.int64),
    }
