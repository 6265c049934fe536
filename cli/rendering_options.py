"""The options that say how maps are drawn; the numbers stay as they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.options import gathered

if TYPE_CHECKING:
    from deepinside.engine import Rendering

__all__ = ["RenderingChoice", "rendering_options"]


@dataclass(frozen=True)
class RenderingChoice:
    """The options that were given."""

    settings: dict[str, Any]

    def rendering(self) -> "Rendering":
        """How maps are drawn.

        Raises:
            SettingError: a setting is not possible.
        """
        from deepinside.engine import Rendering

        return Rendering(**self.settings)


_OPTIONS = {
    "norm": click.option(
        "--norm",
        type=click.Choice(["image", "batch", "fixed", "none"]),
        help="End of the colour scale: a percentile of each map; of all maps of its picture "
        "together (batch); --level; or 1.  [default: image]",
    ),
    "percentile": click.option(
        "--percentile",
        type=float,
        metavar="P",
        help="Percentile of --norm image and batch.  [default: 99.5]",
    ),
    "level": click.option(
        "--level", type=float, metavar="X", help="End of the scale of --norm fixed."
    ),
    "signed": click.option(
        "--signed",
        is_flag=True,
        default=None,
        help="Draw what speaks for and against the class in two colours.",
    ),
    "colour_map": click.option(
        "--colour-map",
        metavar="NAME",
        help="A name of the package cmap, best a perceptually uniform one.  [default: inferno; "
        "vik with --signed]",
    ),
    "opacity": click.option(
        "--opacity", type=float, metavar="SHARE", help="Of an overlay's colours.  [default: 0.9]"
    ),
    "upsampling": click.option(
        "--upsampling",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
        help="Of an overlay.  [default: bilinear]",
    ),
}


def _choice(given: dict[str, Any]) -> RenderingChoice:
    return RenderingChoice({name: value for name, value in given.items() if value is not None})


# The command gets them as one `rendering`, a `RenderingChoice`.
rendering_options = gathered("rendering", _choice, tuple(_OPTIONS), tuple(_OPTIONS.values()))
