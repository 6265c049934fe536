"""The saliency methods and their settings; docs/methods.md says what each computes, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from deepinside.engine.contract import Contract
from deepinside.engine.errors import SettingError

__all__ = ["METHODS", "Method", "MethodName", "find_method"]

MethodName = Literal["vanilla", "input-x-gradient"]

# The settings that each method has, with their defaults.
METHODS: Mapping[MethodName, Mapping[str, Any]] = {
    "vanilla": {},
    "input-x-gradient": {},
}
# Methods whose attributions add up to (nearly) a difference of scores: the share of a pixel is the
# sum over its channels, not the largest of them.
_SHARES = ("input-x-gradient",)


@dataclass(frozen=True)
class Method:
    """A saliency method with its settings; those left None become the method's own defaults.

    Attributes:
        name: of the method.
    """

    name: MethodName = "vanilla"

    def __post_init__(self) -> None:
        """Fill in the defaults.

        Raises:
            SettingError: there is no such method, or a setting is not one of it, or not possible.
        """
        if self.name not in get_args(MethodName):
            raise SettingError(
                f"there is no saliency method {self.name!r}; possible: "
                f"{', '.join(get_args(MethodName))}."
            )
        defaults = METHODS[self.name]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is None:
                object.__setattr__(self, field.name, defaults.get(field.name))
            elif field.name not in defaults:
                raise SettingError(f"{field.name} is not a setting of the method {self.name}.")

    @property
    def settings(self) -> dict[str, str | int | float]:
        """The settings that the method has, by name."""
        return {name: getattr(self, name) for name in METHODS[self.name]}

    @property
    def variant(self) -> str:
        """Tells the results of methods apart in names of files; empty for plain vanilla."""
        return "" if self.name == "vanilla" else self.name

    @property
    def gives_shares(self) -> bool:
        """Whether attributions are shares of a score: a pixel's is the sum over its channels."""
        return self.name in _SHARES


def find_method(method: "str | Method | None", contract: Contract) -> Method:
    """The method that a caller asks for.

    Args:
        method: name or method; None for what the file gives.
        contract: of the file.

    Raises:
        SettingError: there is no such method.
    """
    if isinstance(method, Method):
        return method
    return Method("vanilla" if method is None else method)  # type: ignore[arg-type]
