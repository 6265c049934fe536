"""Named settings of class visualisation, each with the reason for its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from deepinside.engine.errors import SettingError

__all__ = ["PRESETS", "Preset", "find_preset"]


@dataclass(frozen=True)
class Preset:
    """Settings of the ascent; the paper gives none of these numbers.

    Attributes:
        step_rule: `plain`, or `natural`: of the file that it needs. A file with the rule
            `normalized` goes with preset `paper` too.
        steps: number of steps.
        step_size: length factor of a step: normalised input units, or coefficients of the spectrum.
        l2: weight lambda of the penalty `l2 * ||I||^2`.
        total_variation: weight of the picture's total variation. This and the following are of the
            natural step, and None elsewhere.
        jitter: views are shifted by at most this part of the picture's side.
        rotation: views are turned by at most so many degrees.
        zoom: views are zoomed by at most this factor, out and in.
        detail: the lowest part of the frequencies, with which the ascent begins.
    """

    step_rule: Literal["plain", "natural"]
    steps: int
    step_size: float
    l2: float
    total_variation: float | None = None
    jitter: float | None = None
    rotation: float | None = None
    zoom: float | None = None
    detail: float | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # Simonyan et al. 2014, section 2: zero start, unnormalised score, L2 penalty, plain
        # gradient ascent. The numbers are ours, chosen by looking at the embedded classifier's
        # pictures (docs/design.md has what was tried). With step_size * 2 * l2 = 0.01 the penalty
        # alone shrinks the picture by 1 % a step, so that 300 steps forget the start.
        "paper": Preset("plain", steps=300, step_size=1.0, l2=0.005),
        # What the years since have found to give pictures on modern networks: see picture.py and
        # docs/visualisation.md, which has what was tried.
        "natural": Preset(
            "natural",
            steps=320,
            step_size=0.06,
            l2=2e-5,
            total_variation=700.0,
            jitter=0.3,
            rotation=10.0,
            zoom=1.4,
            detail=0.03,
        ),
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
