"""Named settings of class visualisation, each with the reason for its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deepinside.engine.errors import SettingError

__all__ = ["PRESETS", "Preset", "find_preset"]


@dataclass(frozen=True)
class Preset:
    """Settings of the ascent; the paper gives none of these numbers.

    Attributes:
        steps: number of steps.
        step_size: length factor of a step, normalised input units.
        l2: weight lambda of the penalty `l2 * ||I||^2`.
    """

    steps: int
    step_size: float
    l2: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # Simonyan et al. 2014, section 2: zero start, unnormalised score, L2 penalty, plain
        # gradient ascent. The numbers are ours, chosen by looking at the embedded classifier's
        # pictures (docs/design.md has what was tried). With step_size * 2 * l2 = 0.01 the penalty
        # alone shrinks the picture by 1 % a step, so that 300 steps forget the start.
        "paper": Preset(steps=300, step_size=1.0, l2=0.005),
    }
)


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        SettingError: there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise SettingError(
            f"there is no preset {name!r}; possible: {', '.join(PRESETS)}."
        ) from None
