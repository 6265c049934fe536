"""What a class picture is of: one class, or several with weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepinside.engine.contract import Contract
from deepinside.engine.errors import TargetError
from deepinside.engine.targets import find_class

__all__ = ["Goal", "find_goal"]

# Of weights; far below the range of float32, in which they are used.
_LARGEST = 1e6
_PART = re.compile(r"\s*([+-]?\s*(?:\d+\.?\d*|\.\d+))\s*\*\s*([^*+]+?)\s*")


@dataclass(frozen=True)
class Goal:
    """The score to raise: the sum of weight times S_c.

    Attributes:
        parts: (class index, weight) of each class, each class once; ((c, 1.0),) for one class.
    """

    parts: tuple[tuple[int, float], ...]

    @property
    def index(self) -> int:
        """The class, of a mix the one with the largest weight."""
        return max(self.parts, key=lambda part: part[1])[0]

    @property
    def is_mix(self) -> bool:
        """Whether there is more to it than one class."""
        return self.parts != ((self.index, 1.0),)

    def label(self, contract: Contract) -> str | None:
        """Name of the class, or `0.5*tiger cat + 0.5*ostrich`; None where there are no labels."""
        if not self.is_mix:
            return contract.label(self.index)
        words = [f"{weight:g}*{self._word(index, contract)}" for index, weight in self.parts]
        return " + ".join(words)

    @staticmethod
    def _word(index: int, contract: Contract) -> str:
        return (contract.label(index) or str(index)).split(",")[0]


def find_goal(target: int | str | Goal, contract: Contract) -> Goal:
    """The goal that a text or an index means; a goal is itself.

    A mix is written `0.5*tiger cat + 0.5*ostrich`: for each class a number, `*`, and the class as
    `find_class` takes it. Weights may be negative (`1*goose + -0.3*swan`) and need no sum of 1.

    Raises:
        TargetError: no such class, several fit, or the mix is not written so.
    """
    if isinstance(target, Goal):
        return target
    if not isinstance(target, str) or "*" not in target:
        return Goal(((find_class(target, contract), 1.0),))
    # A plus is between two parts where a number and a star follow.
    texts = re.split(r"\+(?=\s*[+-]?\s*(?:\d+\.?\d*|\.\d+)\s*\*)", target)
    weights: dict[int, float] = {}
    for text in texts:
        match = _PART.fullmatch(text)
        if match is None:
            raise TargetError(
                f"the mix {target!r} can't be read at {text.strip()!r}: write it as "
                "'0.5*tiger cat + 0.5*ostrich', a number and a class for each part."
            )
        index = find_class(match[2], contract)
        if index in weights:
            raise TargetError(f"the mix {target!r} names the class {index} twice.")
        weights[index] = float("".join(match[1].split()))
    if not all(abs(weight) <= _LARGEST for weight in weights.values()):
        raise TargetError(f"the mix {target!r} has a weight beyond {_LARGEST:g}.")
    if not any(weight > 0 for weight in weights.values()):
        raise TargetError(f"the mix {target!r} needs at least one positive weight.")
    return Goal(tuple(weights.items()))


def tables(goals: Sequence[Goal]) -> tuple[np.ndarray, np.ndarray]:
    """Class indices int64 `(N, M)` and weights float32 `(N, M)`; short rows get weights of 0."""
    width = max(len(goal.parts) for goal in goals)
    padded = [(*goal.parts, *[(goal.index, 0.0)] * (width - len(goal.parts))) for goal in goals]
    indices = [[index for index, _ in row] for row in padded]
    weights = [[weight for _, weight in row] for row in padded]
    return np.array(indices, dtype=np.int64), np.array(weights, dtype=np.float32)
