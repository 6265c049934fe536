"""Ctrl-C and `kill` end a job in good order: what is in flight is finished."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from deepinside.cli.progress import say

__all__ = ["Stop", "stoppable"]

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the user wants the job to end.

    Attributes:
        signal: that asked for it; None for none.
    """

    signal: int | None = None

    def __bool__(self) -> bool:
        """Whether it is asked for."""
        return self.signal is not None

    def before(self, items: Iterable[_T]) -> Iterator[_T]:
        """Items until the job is to end."""
        for item in items:
            if self:
                return
            yield item


@contextmanager
def stoppable() -> Iterator[Stop]:
    """The first signal asks for the end, the second one takes it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)
        say("Stopping: finishing what is in flight; once more to stop at once.")

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
