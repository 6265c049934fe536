"""The state of an ascent on its way, to go on from after an interruption."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.files import parse_array, replacing
from deepinside.engine.goals import Goal
from deepinside.engine.results import Snapshot

__all__ = ["AscentState", "load_state", "save_state"]


# Bytes; a state of one picture has some megabytes, with all its snapshots some hundred.
_LARGEST = 1 << 31
# What zip files, arrays and JSON of strangers are known to lead to.
_UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class AscentState:
    """One picture on its way.

    Attributes:
        goal: what it is of.
        step: number of steps done.
        parts: the state of the step's graph, without batch axis.
        score_steps: numbers of steps at which the score was read.
        scores: at those steps.
        snapshots: pictures on the way so far.
        settings: of the ascent, all plain values.
        source: digest of the classifier.
    """

    goal: Goal
    step: int
    parts: Mapping[str, NDArray[Any]]
    score_steps: tuple[int, ...]
    scores: tuple[float, ...]
    snapshots: tuple[Snapshot, ...]
    settings: Mapping[str, str | int | float | None]
    source: str

    def require(self, goal: Goal, settings: Mapping[str, Any], source: str) -> None:
        """Refuse to go on with another ascent.

        Raises:
            SettingError: the state is of another goal, other settings or another classifier.
        """
        names = [n for n, value in settings.items() if self.settings.get(n) != value]
        if goal != self.goal or source != self.source or names:
            what = "settings " + ", ".join(names) if names else "class or classifier"
            raise SettingError(
                f"the state at step {self.step} is of another ascent ({what}): go on with the same "
                "ones, or start anew."
            )

    def require_parts(self, like: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Refuse arrays that the step's graph does not take.

        Args:
            like: part -> shape and type.

        Raises:
            SettingError: parts are missing, more than wanted, or of another shape or type.
        """
        if {name: (part.shape, part.dtype) for name, part in self.parts.items()} != dict(like):
            raise SettingError(
                f"the state at step {self.step} does not fit the model: start anew, without it."
            )


def save_state(path: Path, state: AscentState) -> None:
    """Write a state as .npz.

    Raises:
        OutputError: the file can't be written.
    """
    facts = {
        "goal": state.goal.parts,
        "step": state.step,
        "score_steps": state.score_steps,
        "snapshot_steps": [snapshot.step for snapshot in state.snapshots],
        "settings": dict(state.settings),
        "source": state.source,
    }
    pictures = [s.picture for s in state.snapshots if s.picture is not None]
    arrays: dict[str, Any] = {
        "facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
        "scores": np.array(state.scores, dtype=np.float64),
        "snapshots": np.array(pictures, dtype=np.uint8),
        **{f"state_{part}": value for part, value in state.parts.items()},
    }
    with replacing(path) as stream:
        np.savez(stream, **arrays)


def load_state(path: Path) -> AscentState:
    """Read a state; nothing in the file is run.

    Raises:
        SettingError: the file is missing or holds no state.
    """
    try:
        if path.stat().st_size > _LARGEST or not path.is_file():
            raise ValueError("it is no file, or too large")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError("it is too large")
            arrays = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            return _state(
                {name: parse_array(archive.read(entry)) for name, entry in arrays.items()}
            )
    except _UNREADABLE as error:
        raise SettingError(f"{path} holds no state of an ascent ({error}).") from error


def _state(arrays: dict[str, NDArray[Any]]) -> AscentState:
    facts = json.loads(arrays.pop("facts").tobytes())
    pictures = list(arrays.pop("snapshots")) or [None] * len(facts["snapshot_steps"])
    if not all(picture is None or _is_picture(picture) for picture in pictures):
        raise ValueError("its snapshots are no pictures")
    settings = facts["settings"]
    if not isinstance(settings, dict):
        raise TypeError("its settings are no table")
    scores = tuple(float(score) for score in arrays.pop("scores"))
    steps = tuple(int(step) for step in facts["score_steps"])
    if len(scores) != len(steps) or int(facts["step"]) < 0:
        raise ValueError("its scores do not fit its steps")
    return AscentState(
        goal=Goal(tuple((int(index), float(weight)) for index, weight in facts["goal"])),
        step=int(facts["step"]),
        scores=scores,
        score_steps=steps,
        snapshots=tuple(
            Snapshot(int(step), picture)
            for step, picture in zip(facts["snapshot_steps"], pictures, strict=True)
        ),
        settings=settings,
        source=str(facts["source"]),
        parts={name.removeprefix("state_"): value for name, value in arrays.items()},
    )


def _is_picture(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
