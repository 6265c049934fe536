"""Figures of any number of maps as mean, spread and count."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Running", "Statistic", "summarise"]


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


class Running:
    """A statistic of numbers that come one by one and are not kept (Welford 1962)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = 0.0

    def add(self, value: float | None) -> None:
        """Take a number; None is left out, and so not counted."""
        if value is None:
            return
        self._count += 1
        difference = value - self._mean
        self._mean += difference / self._count
        self._squares += difference * (value - self._mean)

    @property
    def mean(self) -> float | None:
        """Of the numbers so far; None where there are none."""
        return self._mean if self._count else None

    @property
    def statistic(self) -> Statistic | None:
        """Of the numbers so far; None where there are none."""
        if not self._count:
            return None
        spread = math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else None
        return Statistic(self._mean, spread, self._count)


def summarise(figures: Iterable[Mapping[str, float | None]]) -> dict[str, Statistic]:
    """Name -> statistic of what maps have under that name; None is left out, and so not counted."""
    found: dict[str, Running] = {}
    for each in figures:
        for name, value in each.items():
            found.setdefault(name, Running()).add(value)
    known = {name: running.statistic for name, running in found.items()}
    return {name: statistic for name, statistic in known.items() if statistic is not None}
