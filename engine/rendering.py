"""How maps are drawn, apart from their numbers: the scale, the colours, the overlay."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.errors import SettingError
from deepinside.engine.preprocess import Region
from deepinside.engine.render import (
    COLOUR_MAP,
    OPACITY,
    PERCENTILE,
    SMOOTHING,
    Upsampling,
    colour_table,
    heatmap,
    overlay,
    peak,
    smooth,
)
from deepinside.engine.results import InputMaps, SaliencyMap

__all__ = ["NORMS", "Norm", "Rendering"]

Norm = Literal["image", "batch", "fixed", "none"]
NORMS: tuple[str, ...] = get_args(Norm)

# Perceptually uniform to both sides of its light middle (Crameri 2018).
_SIGNED_COLOUR_MAP = "vik"


@dataclass(frozen=True)
class Rendering:
    """How maps are drawn.

    Attributes:
        norm: what the end of the colour scale is. `image`: a percentile of the map's own
            magnitudes; `batch`: of those of all maps of its picture together, so that classes can
            be compared, and never more than one picture's maps are needed; `fixed`: `level`;
            `none`: 1, the numbers as they are.
        percentile: of `image` and `batch`.
        level: of `fixed`.
        signed: draw what speaks for and against the class in two colours.
        colour_map: a name of the package cmap; None for inferno, or vik where `signed`.
        opacity: how much of the colour covers the most salient pixels of an overlay, 0 to 1.
        smoothing: blur of an overlay, a share of the map's shorter side.
        upsampling: of an overlay.
    """

    norm: Norm = "image"
    percentile: float = PERCENTILE
    level: float | None = None
    signed: bool = False
    colour_map: str | None = None
    opacity: float = OPACITY
    smoothing: float = SMOOTHING
    upsampling: Upsampling = "bilinear"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SettingError: one is not possible.
        """
        for name, choices in (("norm", NORMS), ("upsampling", get_args(Upsampling))):
            if getattr(self, name) not in choices:
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}; it must be {' or '.join(choices)}."
                )
        if (self.norm == "fixed") != (self.level is not None):
            raise SettingError("level is the end of the scale of norm fixed: give both or neither.")
        if self.level is not None and not 0 < self.level < np.inf:
            raise SettingError(f"level is {self.level}; it must be a positive number.")
        for name, most in (("opacity", 1), ("smoothing", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise SettingError(
                    f"{name} is {getattr(self, name)}; it must be a share from 0 to {most}."
                )
        if not 0 < self.percentile <= 100:
            raise SettingError(
                f"percentile is {self.percentile}; it must be above 0 and at most 100."
            )
        colour_table(self._colour_map)

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def heatmap(self, saliency: SaliencyMap, item: InputMaps) -> NDArray[np.uint8]:
        """The map in colours, at its own size: uint8 `(H, W, 3)`.

        Args:
            saliency: one of the maps of `item`.
            item: the maps of its picture.

        Raises:
            SettingError: it is to be signed, and there are no signs.
        """
        return heatmap(
            self.values(saliency),
            colour_map=self._colour_map,
            percentile=self.percentile,
            top=self._top([self.values(each) for each in item.maps]),
            signed=self.signed,
        )

    def overlay(self, saliency: SaliencyMap, item: InputMaps) -> NDArray[np.uint8]:
        """The map laid on its picture, uint8 `(H, W, 3)`; `item` holds a picture.

        Raises:
            SettingError: as `heatmap`.
        """
        assert item.picture is not None
        assert saliency.region is not None
        region = saliency.region.scaled(saliency.size or item.picture.size, item.picture.size)
        maps = [self.values(each) for each in item.maps]
        return self._laid(item.picture.pixels, self.values(saliency), region, maps)

    def overlays(
        self, pixels: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]], region: Region
    ) -> list[NDArray[np.uint8]]:
        """All maps of a picture, each laid on it, or on a smaller copy.

        Args:
            pixels: uint8 `(H, W, 3)`.
            maps: `(h, w)`, as `values` gives them.
            region: what they cover, in pixels of `pixels`.

        Returns:
            uint8 `(H, W, 3)` for each map.
        """
        return [self._laid(pixels, each, region, maps) for each in maps]

    def values(self, saliency: SaliencyMap) -> NDArray[np.float32]:
        """What of a map is drawn, `(h, w)`: with a sign where that is asked for.

        Raises:
            SettingError: it is to be signed, and there are no signs.
        """
        if not self.signed:
            return saliency.saliency
        if saliency.signed is None:
            raise SettingError(
                f"the maps of {saliency.method.variant or saliency.method.name} have no signs here:"
                " draw them unsigned."
            )
        return saliency.signed

    def _laid(
        self,
        pixels: NDArray[np.uint8],
        values: NDArray[np.float32],
        region: Region,
        maps: Sequence[NDArray[np.float32]],
    ) -> NDArray[np.uint8]:
        """A map laid on its picture; `maps` are all of the picture, for norm batch."""
        smoothed = []
        if self.norm == "batch":
            smoothed = [smooth(each, self.smoothing * min(each.shape)) for each in maps]
        return overlay(
            pixels,
            values,
            region,
            colour_map=self._colour_map,
            percentile=self.percentile,
            top=self._top(smoothed),
            smoothing=self.smoothing,
            opacity=self.opacity,
            upsampling=self.upsampling,
            signed=self.signed,
        )

    @property
    def _colour_map(self) -> str:
        return self.colour_map or (_SIGNED_COLOUR_MAP if self.signed else COLOUR_MAP)

    def _top(self, maps: Sequence[NDArray[np.float32]]) -> float | None:
        """What the end of the scale stands for; None for the map's own percentile."""
        if self.norm == "batch":
            return peak(maps, self.percentile)
        return {"fixed": self.level, "none": 1.0, "image": None}[self.norm]
