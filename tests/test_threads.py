"""Work in threads, results in order."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deepinside.engine.batch.threads import in_threads


def test_results_are_in_order_and_run_beside_each_other() -> None:
    met = threading.Barrier(2)  # every machine has two threads, if not two cores

    def task(number: int) -> Callable[[], int]:
        def work() -> int:
            if number < 2:
                met.wait(timeout=10)  # the first two can't end alone
            time.sleep(0.002 * (5 - number % 5))
            return number

        return work

    assert list(in_threads((task(n) for n in range(20)), ahead=4)) == list(range(20))


def test_few_tasks_are_taken_ahead() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(10):
            taken.append(number)
            yield lambda number=number: number  # type: ignore[misc]

    results = in_threads(tasks(), ahead=3)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]


def test_what_was_begun_comes_before_a_failure() -> None:
    def tasks() -> Iterator[Callable[[], int]]:
        yield lambda: 1
        yield lambda: 2
        raise OSError("no more")

    results = in_threads(tasks(), ahead=5)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="no more"):
        next(results)


def test_a_failing_task_is_told_in_its_turn() -> None:
    results = in_threads([lambda: 1, lambda: 1 // 0, lambda: 3], ahead=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
