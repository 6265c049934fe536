"""Turns the rooms' own errors into one sentence and an exit code; other errors are bugs."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

__all__ = ["Failure", "reports_errors"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Failure(click.ClickException):
    """Something failed: one sentence on stderr, exit code 1."""

    exit_code = 1


def reports_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command: an EngineError becomes a `Failure`, or a usage error where it is one."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from deepinside.engine.errors import EngineError, SettingError, TargetError

        try:
            return command(*args, **kwargs)
        except (SettingError, TargetError) as error:
            raise click.UsageError(str(error)) from error
        except EngineError as error:
            raise Failure(str(error)) from error

    return wrapped
