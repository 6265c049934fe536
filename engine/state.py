"""The state of an ascent on its way, to go on from after an interruption."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.files import replacing
from deepinside.engine.goals import Goal
from deepinside.engine.results import Snapshot

__all__ = ["AscentState", "load_state", "save_state"]


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
    """Read a state.

    Raises:
        SettingError: the file is missing or holds no state.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = dict(data)
        facts = json.loads(arrays.pop("facts").tobytes())
        pictures = list(arrays.pop("snapshots")) or [None] * len(facts["snapshot_steps"])
        return AscentState(
            goal=Goal(tuple((int(index), float(weight)) for index, weight in facts["goal"])),
            step=int(facts["step"]),
            scores=tuple(float(score) for score in arrays.pop("scores")),
            score_steps=tuple(facts["score_steps"]),
            snapshots=tuple(
                Snapshot(step, picture)
                for step, picture in zip(facts["snapshot_steps"], pictures, strict=True)
            ),
            settings=facts["settings"],
            source=str(facts["source"]),
            parts={name.removeprefix("state_"): value for name, value in arrays.items()},
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SettingError(f"{path} holds no state of an ascent ({error}).") from error
