"""Turns the rooms' own errors into one sentence and an exit code; other errors are bugs."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from deepinside.cli.progress import printable

__all__ = ["Failure", "reports_errors"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Failure(click.ClickException):
    """Something failed: one sentence on stderr, exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Keep the message in one line that does nothing to the terminal."""
        super().__init__(printable(" ".join(message.split())))


def reports_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command: an EngineError becomes a `Failure`, or a usage error where it is one."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from deepinside.engine.errors import EngineError, SettingError, TargetError

        try:
            return command(*args, **kwargs)
        except (SettingError, TargetError) as error:
            raise click.UsageError(printable(" ".join(str(error).split()))) from error
        except EngineError as error:
            raise Failure(str(error)) from error

    return wrapped
