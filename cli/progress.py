"""What is said on the terminal: progress and messages on standard error, results as JSON.

Progress is a bar on a terminal, a plain line now and then elsewhere.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["Advance", "PlainFormatter", "echo_json", "printable", "progress_bar", "say"]

# Done, of how many (None where that is not known), and a note.
Advance = Callable[[int, int | None, str], None]

_LINE_EVERY = 10.0  # seconds


def say(text: str, *, quiet: bool = False) -> None:
    """A line on standard error; what would end or colour it, as in names of files, is escaped."""
    if not quiet:
        click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """The text with its control characters written out, which would steer the terminal.

    Names and labels come from files, file names from archives: either may hold control characters.
    """
    return "".join(map(_plain, text))


def echo_json(value: Any) -> None:
    """A line of JSON on standard output, with what is not printable as JSON's own escapes.

    JSON itself asks for that of the first 32 characters only, and terminals obey others too.
    """
    text = json.dumps(value, ensure_ascii=False)
    click.echo("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


class PlainFormatter(logging.Formatter):
    """Log messages, of other packages too, whose characters do nothing to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of the message."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def _plain(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Advance]:
    """A bar; calling what it gives sets how much is done of how much, and a note beside it."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield lambda done, total, note: None
    elif not console.is_terminal:
        yield _Lines(title)
    else:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None, note="", rate="")

            def advance(done: int, total: int | None, note: str) -> None:
                speed = bar.tasks[0].speed
                rate = "" if speed is None else f"{speed:.1f}/s"
                shown = printable(note)[-40:]
                bar.update(task, completed=done, total=total, note=shown, rate=rate)

            yield advance


class _Lines:
    """Progress for logs: a line every so many seconds, none for what is done before."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._time = time.monotonic()
        self._done = 0

    def __call__(self, done: int, total: int | None, note: str) -> None:
        passed = time.monotonic() - self._time
        if passed < _LINE_EVERY:
            return
        rate = (done - self._done) / passed
        self._time, self._done = time.monotonic(), done
        of = "" if total is None else f" of {total}"
        left = ""
        if total is not None and rate > 0:
            left = f", {_duration((total - done) / rate)} left"
        say(f"{self._title}: {done}{of}, {rate:.1f}/s{left}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
