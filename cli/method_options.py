"""The options that choose a saliency method and its settings."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from deepinside.engine import Method

__all__ = ["MethodChoice", "method_options"]

# Written out, as settings.METHODS has them: the engine is not imported for a help text.
NAMES = ("vanilla", "input-x-gradient")


@dataclass(frozen=True)
class MethodChoice:
    """What the user asked for.

    Attributes:
        name: of the method; None for what the file gives.
        settings: the options that were given.
    """

    name: str | None
    settings: dict[str, Any]

    def method(self) -> "Method | None":
        """The method; None for what the file gives.

        Raises:
            SettingError: a setting is not possible.
        """
        from deepinside.engine import Method

        if self.name is None and not self.settings:
            return None
        return Method(self.name or "vanilla", **self.settings)  # type: ignore[arg-type]


_OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(NAMES),
        help="Saliency method; docs/methods.md describes them.  [default: vanilla]",
    ),
)


def method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options; it gets them as one `method`, a `MethodChoice`."""

    @functools.wraps(command)
    def wrapped(*args: Any, method: str | None, **given: Any) -> Any:
        settings = {name: given.pop(name) for name in _SETTINGS}
        chosen = {name: value for name, value in settings.items() if value is not None}
        return command(*args, method=MethodChoice(method, chosen), **given)

    result: Callable[..., Any] = wrapped
    for option in reversed(_OPTIONS):
        result = option(result)
    return result


_SETTINGS: tuple[str, ...] = ()
