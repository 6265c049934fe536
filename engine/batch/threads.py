"""Work for threads whose results are wanted in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_threads"]

_THREADS = max(2, min(4, os.cpu_count() or 1))

_T = TypeVar("_T")


def in_threads(tasks: Iterable[Callable[[], _T]], *, ahead: int) -> Iterator[_T]:
    """The results of tasks, in order; at most `ahead` tasks wait or run behind the one due.

    Tasks are taken one by one in the caller's thread. What a task raises is raised in its turn;
    what `tasks` raises, after the results of those before.
    """
    failure: Exception | None = None
    source = iter(tasks)
    begun: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="write") as pool:
        while True:
            try:
                task = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            begun.append(pool.submit(task))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    if failure is not None:
        raise failure
