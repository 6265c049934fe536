"""Sinks whose results are files of one picture: on disk as soon as they are written."""

from collections.abc import Sequence
from typing import Self

from deepinside.engine.batch.work import Outcome

__all__ = ["WrittenAtOnce"]


class WrittenAtOnce:
    """What such sinks have in common: nothing is held back, and no name is given later.

    Attributes:
        shard_size: maps in a file of several pictures: none.
    """

    shard_size = 0

    def commit(self, outcome: Outcome) -> list[Outcome]:
        """The outcomes that are on disk now and may be listed."""
        return [outcome]

    def finish(self) -> list[Outcome]:
        """The outcomes that were held back."""
        return []

    def part(self, name: str) -> Self:
        """The sink itself: other processes may write as well."""
        return self

    def adopt(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """What another process wrote, as it is."""
        return list(outcomes)
