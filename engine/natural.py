"""What the natural step needs from the host: where the ascent starts, and the views on its way.

The file itself holds the picture's parametrisation (docs/file-contract.md); here is its inverse,
for a start from a photo, and the schedule, drawn from the seed before the first step.
"""

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.record import Preprocessing
from deepinside.engine.settings import AscentSettings, ascent_settings

__all__ = ["loop_defaults", "schedule", "spectrum_of", "start_spectrum"]

# Standard deviation of a start's coefficients: an almost even grey.
_NOISE = 0.01
# The sigmoid reaches neither black nor white: photos are kept this far from both.
_MARGIN = 0.02
# Parts of the ascent: the share of frequencies grows in the first, the steps shrink in the last.
_OPENING = 0.5
_COOLING = 0.3
_STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_CONTRAST = 0.25
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


def schedule(settings: AscentSettings, size: tuple[int, int]) -> NDArray[np.float32]:
    """The input `schedule`: view, detail and rate of every step, `(steps + 1, 8)`.

    The last row looks at the picture straight on and moves nothing: scores are read with it.

    Args:
        settings: of the ascent.
        size: (H, W) of the picture.
    """
    steps = settings.steps
    assert settings.jitter is not None
    assert settings.rotation is not None
    assert settings.zoom is not None
    assert settings.detail is not None
    drawn = np.random.default_rng(settings.seed).uniform(-1.0, 1.0, (steps, 4))
    angle = np.deg2rad(settings.rotation) * drawn[:, 0]
    scale = settings.zoom ** drawn[:, 1]
    down, across = (settings.jitter * length * drawn[:, 2 + i] for i, length in enumerate(size))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    progress = np.arange(steps) / steps
    opened = np.minimum(progress / _OPENING, 1.0)
    detail = settings.detail ** (1.0 - opened)
    rate = np.minimum((1.0 - progress) / _COOLING, 1.0)
    rows = np.stack([cosine, -sine, across, sine, cosine, down, detail, rate], axis=1)
    return np.vstack([rows, [*_STRAIGHT, 1.0, 0.0]]).astype(np.float32)


def loop_defaults(
    steps: int, size: tuple[int, int], channels: int, *, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """The inputs of a whole ascent as one graph, with the numbers of preset `natural`.

    Args:
        steps: of the ascent.
        size: (H, W) of the picture.
        channels: of the picture.
        seed: of the start and of the views.
    """
    settings = ascent_settings(
        "natural",
        steps=steps,
        init="zeros",
        seed=seed,
        snapshot_every=None,
        score_every=1,
        patience=None,
    )
    noise = np.random.default_rng(seed).standard_normal((channels, *size)) * _NOISE
    numbers = {part: getattr(settings, part) for part in ("step_size", "l2", "total_variation")}
    return {
        "schedule": schedule(settings, size),
        "spectrum": noise.astype(np.float32),
        **{part: np.array(number, np.float32) for part, number in numbers.items()},
    }


def start_spectrum(
    picture: NDArray[np.floating], record: Preprocessing, *, grey: bool, seed: int, index: int
) -> NDArray[np.float32]:
    """The spectrum to start from, `(C, H, W)`: that of a picture, and faint noise.

    Args:
        picture: normalised `(H, W, C)`.
        record: the normalisation.
        grey: start from an even grey instead of the picture.
        seed: of the noise.
        index: of the class: each has noise of its own, whatever else is in its batch.
    """
    height, width, channels = picture.shape
    random = np.random.default_rng([seed, index])
    noise = random.standard_normal((channels, height, width)) * _NOISE
    return ((0.0 if grey else spectrum_of(picture, record)) + noise).astype(np.float32)


def spectrum_of(picture: NDArray[np.floating], record: Preprocessing) -> NDArray[np.float64]:
    """The spectrum `(C, H, W)` whose picture is the given one, normalised `(H, W, C)`."""
    pixels = picture.astype(np.float64) * np.array(record.std) + np.array(record.mean)
    pixels = np.clip(pixels / record.value_range[1], _MARGIN, 1 - _MARGIN)
    logits = np.log(pixels / (1 - pixels))
    if len(record.channel_order) == 3:
        matrix = _COLOURS / np.linalg.norm(_COLOURS, axis=0).max()
        matrix = matrix[::-1] if record.channel_order == "BGR" else matrix
        logits = logits @ np.linalg.inv(matrix).T
    height, width, _ = logits.shape
    rows, columns = _cosines(height), _cosines(width)
    waves = np.hypot(
        np.arange(height)[:, None] / (2 * height), np.arange(width)[None, :] / (2 * width)
    )
    weights = _CONTRAST / np.maximum(waves, 1 / max(height, width))
    result: NDArray[np.float64] = rows.T @ logits.transpose(2, 0, 1) @ columns / weights
    return result


def _cosines(size: int) -> NDArray[np.float64]:
    """The orthonormal cosine basis (DCT-II), (places, frequencies)."""
    places, waves = np.arange(size) + 0.5, np.arange(size)
    basis = np.cos(np.pi / size * places[:, None] * waves[None, :]) * np.sqrt(2.0 / size)
    basis[:, 0] = np.sqrt(1.0 / size)
    return np.asarray(basis)
