"""Hands work to whichever of several lanes is free, and gives results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

__all__ = ["in_lanes"]

_Lane = TypeVar("_Lane")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def in_lanes(
    lanes: Sequence[_Lane], tasks: Iterable[_Task], work: Callable[[_Lane, _Task], _Result]
) -> Iterator[_Result]:
    """`work(lane, task)` for each task, by a lane that is free; results in the tasks' order.

    Tasks are taken in the caller's thread, one more than there are lanes beyond the one whose
    result is due. A single lane works in the caller's thread too, task by task. What a task
    raises is raised in its turn; those that have not begun by then are dropped.

    Args:
        lanes: what can work at the same time, such as sessions on several GPUs.
        tasks: may be endless.
        work: what a lane does with a task.
    """
    if len(lanes) == 1:
        for task in tasks:
            yield work(lanes[0], task)
        return
    free: SimpleQueue[_Lane] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def do(task: _Task) -> _Result:
        lane = free.get()
        try:
            return work(lane, task)
        finally:
            free.put(lane)

    pool = ThreadPoolExecutor(len(lanes), thread_name_prefix="lane")
    begun: deque[Future[_Result]] = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(do, task))
            if len(begun) > len(lanes):
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
