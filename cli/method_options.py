"""The options that choose a saliency method and its settings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.options import gathered
from deepinside.cli.progress import say

if TYPE_CHECKING:
    from deepinside.engine import Method

__all__ = ["MethodChoice", "method_of", "method_options"]

# Written out: the engine, whose METHODS they are, is not imported for a help text.
NAMES = (
    "vanilla",
    "smoothgrad",
    "smoothgrad-squared",
    "vargrad",
    "input-x-gradient",
    "integrated-gradients",
    "blur-ig",
    "guided-ig",
    "deconvnet",
    "guided-backprop",
)
# Their maps hardly depend on the class, or on the weights of the later layers.
_CLASSLESS = ("deconvnet", "guided-backprop")


@dataclass(frozen=True)
class MethodChoice:
    """What the user asked for.

    Attributes:
        name: of the method; None for what the file gives.
        settings: the options that were given.
    """

    name: str | None
    settings: dict[str, Any]

    def method(self) -> "str | Method | None":
        """The method; None for what the file gives, a name for its settings too.

        Raises:
            SettingError: a setting is not possible.
        """
        from deepinside.engine import Method

        if not self.settings:
            return self.name
        return Method(self.name or "vanilla", **self.settings)  # type: ignore[arg-type]

    @property
    def export_options(self) -> dict[str, str]:
        """What a plain classifier has to be exported with for it."""
        from deepinside.engine import Method

        relu = Method(self.name or "vanilla", **self.settings).relu  # type: ignore[arg-type]
        return {} if relu == "gradient" else {"relu": relu}

    def warn(self, *, quiet: bool) -> None:
        """Say what has to be known about the method's maps."""
        if self.name in _CLASSLESS:
            say(
                f"Warning: the maps of {self.name} are sharp, but nearly the same for every class "
                "(Adebayo et al. 2018): they show edges, not what the class depends on.",
                quiet=quiet,
            )


def method_of(text: str) -> "Method":
    """The method that a text means, such as `smoothgrad:samples=50,noise=0.2`.

    Raises:
        SettingError: there is no such method, or not with such settings.
    """
    from deepinside.engine import METHODS, Method, SettingError

    name, _, listed = text.partition(":")
    defaults = METHODS.get(name, {})
    settings = {}
    for part in filter(None, listed.split(",")):
        key, _, value = part.partition("=")
        if name in METHODS and key not in defaults:
            has = ", ".join(defaults) or "none"
            raise SettingError(f"{key} is not a setting of the method {name}, which has: {has}.")
        kind = type(defaults.get(key, ""))
        try:
            settings[key] = kind(value)
        except ValueError:
            raise SettingError(
                f"the method {text!r} gives {key} as {value!r}; it must be of the kind of "
                f"{defaults[key]}."
            ) from None
    return Method(name, **settings)  # type: ignore[arg-type]


_OPTIONS = {
    "method": click.option(
        "--method",
        type=click.Choice(NAMES),
        help="Saliency method; docs/methods.md describes them.  [default: vanilla]",
    ),
    "crops": click.option(
        "--crops",
        type=click.Choice(["1", "10"]),
        help="Average the maps of so many sub-images, as the paper does (vanilla).  [default: 1]",
    ),
    "samples": click.option(
        "--samples",
        type=int,
        metavar="N",
        help="Noisy copies (smoothgrad, smoothgrad-squared, vargrad).  [default: 25]",
    ),
    "noise": click.option(
        "--noise",
        type=float,
        metavar="SHARE",
        help="Their noise, a share of the input's range.  [default: 0.15]",
    ),
    "steps": click.option(
        "--steps",
        type=int,
        metavar="N",
        help="Gradients on the way (integrated-gradients 50, blur-ig 100, guided-ig 200).",
    ),
    "baseline": click.option(
        "--baseline",
        type=click.Choice(["black", "mean", "blur", "noise"]),
        help="Where that way begins (integrated-gradients, guided-ig).  [default: black]",
    ),
    "blur": click.option(
        "--blur",
        type=float,
        metavar="SHARE",
        help="Blur of the baseline (default 0.1) or of blur-ig's way (0.2), a share of the "
        "shorter side.",
    ),
    "quadrature": click.option(
        "--quadrature",
        type=click.Choice(["gauss-legendre", "riemann"]),
        help="How integrated-gradients sums.  [default: gauss-legendre]",
    ),
    "seed": click.option(
        "--seed", type=int, metavar="N", help="Of noise; same seed, same map.  [default: 0]"
    ),
}


def _choice(given: dict[str, Any]) -> MethodChoice:
    chosen = {name: value for name, value in given.items() if value is not None}
    if "crops" in chosen:
        chosen["crops"] = int(chosen["crops"])
    return MethodChoice(chosen.pop("method", None), chosen)


# The command gets them as one `method`, a `MethodChoice`.
method_options = gathered("method", _choice, tuple(_OPTIONS), tuple(_OPTIONS.values()))
