"""Figures of many pictures as mean, spread and count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Statistic", "summarise"]


@dataclass(frozen=True)
class Statistic:
    """One figure over the maps.

    Attributes:
        mean: of the figures.
        spread: their standard deviation (of a sample: over n - 1); None for a single one.
        count: how many there are.
    """

    mean: float
    spread: float | None
    count: int


def summarise(figures: Iterable[Mapping[str, float | None]]) -> dict[str, Statistic]:
    """Name -> statistic of what maps have under that name; None is left out, and so not counted."""
    values: dict[str, list[float]] = {}
    for each in figures:
        for name, value in each.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {
        name: Statistic(
            float(np.mean(found)),
            float(np.std(found, ddof=1)) if len(found) > 1 else None,
            len(found),
        )
        for name, found in values.items()
    }
