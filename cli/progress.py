"""Progress on standard error: a bar on a terminal, nothing but the summary elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["printable", "progress_bar", "say"]


def say(text: str, *, quiet: bool = False) -> None:
    """A line on standard error."""
    if not quiet:
        click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """The text with its control characters written out, which would steer the terminal.

    Names and labels come from files, file names from archives: either may hold control characters.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A bar; calling what it gives sets how much is done of how much, and a note beside it."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total, note: None
        return
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
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total, note: bar.update(
            task, completed=done, total=total, note=printable(note)
        )
