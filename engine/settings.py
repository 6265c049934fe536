"""Settings of the ascent: a preset's, with the caller's on top."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepinside.engine.decode import Picture
from deepinside.engine.errors import SettingError
from deepinside.engine.inputs import ImageLike
from deepinside.engine.presets import find_preset
from deepinside.engine.sizes import PictureSize

__all__ = ["AscentSettings", "ascent_settings"]


@dataclass(frozen=True)
class AscentSettings:
    """Settings of the ascent.

    Attributes:
        preset: that the numbers started from.
        steps: at most so many.
        step_size: length factor of a step.
        l2: weight of the penalty.
        init: `zeros`, `noise`, or the name of a picture.
        seed: of the noise and of the views.
        snapshot_every: keep a picture every so many steps; None for none.
        score_every: read the scores every so many steps.
        patience: stop once the score has not risen for so many steps; None for never.
        size: as it was asked for; None for the file's own.
        total_variation, jitter, rotation, zoom, detail: as in `Preset`; None in preset `paper`.
    """

    preset: str
    steps: int
    step_size: float
    l2: float
    init: str
    seed: int
    snapshot_every: int | None
    score_every: int
    patience: int | None
    size: str | None
    total_variation: float | None
    jitter: float | None
    rotation: float | None
    zoom: float | None
    detail: float | None


_LEAST = float(np.finfo(np.float64).tiny)
_RANGES = (
    ("step_size", _LEAST, np.inf, "a positive number"),
    ("l2", 0, np.inf, "0 or a positive number"),
    ("total_variation", 0, np.inf, "0 or a positive number"),
    ("jitter", 0, 0.5, "a part of the picture's side from 0 to 0.5"),
    # Together, they are what the file's view can lean.
    ("rotation", 0, 10, "degrees from 0 to 10"),
    ("zoom", 1, 1.4, "a factor from 1 to 1.4"),
    ("detail", _LEAST, 1, "a share above 0 and at most 1"),
)


def ascent_settings(
    preset: str,
    *,
    init: ImageLike,
    seed: int,
    snapshot_every: int | None,
    score_every: int,
    patience: int | None,
    size: PictureSize | None = None,
    **chosen: float | None,
) -> AscentSettings:
    """A preset's settings with the caller's on top.

    `chosen` are the preset's own numbers by name; what is None or left out is the preset's.

    Raises:
        SettingError: a value is not possible.
    """
    base = asdict(find_preset(preset))
    base.pop("step_rule")
    _refuse_foreign(preset, base, chosen)
    numbers = {**base, **{name: value for name, value in chosen.items() if value is not None}}
    settings = AscentSettings(
        preset=preset,
        **numbers,
        init=_name_of(init),
        seed=seed,
        snapshot_every=snapshot_every,
        score_every=score_every,
        patience=patience,
        size=size
        if size is None or isinstance(size, str)
        else "x".join(map(str, np.atleast_1d(size))),
    )
    for name in ("steps", "snapshot_every", "score_every", "patience"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1.")
    for name, least, most, wanted in _RANGES:
        value = getattr(settings, name)
        if value is not None and not (np.isfinite(value) and least <= value <= most):
            raise SettingError(f"{name} is {value}; it must be {wanted}.")
    if settings.seed < 0:
        raise SettingError(f"seed is {settings.seed}; it must be 0 or a positive number.")
    return settings


def _refuse_foreign(
    preset: str, base: Mapping[str, Any], chosen: Mapping[str, float | None]
) -> None:
    for name, value in chosen.items():
        if name not in base:
            raise TypeError(f"ascent_settings() has no setting {name!r}")
        if value is not None and base[name] is None:
            raise SettingError(f"{name} is a setting of preset natural, not of {preset}.")


def _name_of(init: ImageLike) -> str:
    if isinstance(init, (str, Path)):
        return str(init)
    if isinstance(init, Picture):
        return init.source
    return (isinstance(init, Image.Image) and str(getattr(init, "filename", ""))) or "array"
