"""Results as files: per picture and class a map, a heat map and an overlay."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.batch.at_once import WrittenAtOnce
from deepinside.engine.batch.earlier import foreign_results, leftovers
from deepinside.engine.batch.names import class_slug
from deepinside.engine.batch.settings import (
    JobSettings,
    facts_of,
    map_entry,
    new_record,
    stored,
)
from deepinside.engine.batch.work import Outcome, Work
from deepinside.engine.decode import load_picture
from deepinside.engine.errors import ImageError
from deepinside.engine.files import load_array, save_array, save_picture
from deepinside.engine.results import InputMaps, SaliencyMap

__all__ = ["FileSink"]

_ENDINGS = {"saliency": "saliency.npy", "heatmap": "heatmap.png", "overlay": "overlay.png"}
# Why another map than a picture's own may be there.
_REASONS = {
    "model_sha256": "of another model",
    "size": "of another size",
    "method": "of other settings of the method",
    "rendering": "drawn otherwise",
    "dtype": "in other numbers",
}
# Colours of one overlay differ by at most so much, 0 to 255, between two devices.
_COLOUR_STEP = 8


@dataclass(frozen=True)
class FileSink(WrittenAtOnce):
    """Writes `STEM.CLASS.saliency.npy` and its pictures.

    Attributes:
        folder: of the results.
        settings: of the job.
        overwrite: replace maps of other pictures, models or settings.
    """

    folder: Path
    settings: JobSettings
    overwrite: bool

    needs_picture = True

    def write(self, work: Work, result: InputMaps) -> Outcome:
        """Write a picture's files; may run in any thread."""
        maps, foreign = [], []
        for saliency in result.maps:
            files = _names(work.stem, saliency)
            values, scale = stored(saliency.saliency, self.settings.dtype)
            if self._write_map(files, result, saliency, values):
                maps.append(map_entry(saliency, files, scale))
            else:
                foreign.append(self.folder / files["saliency"])
        error = None
        if foreign:
            what = "another map than its own"
            error = foreign_results(work, self.settings, foreign, what, _REASONS)
        record = new_record(
            self.settings,
            work.item,
            work.sha256,
            stem=work.stem,
            maps=maps,
            **facts_of(result),
            error=error,
        )
        return Outcome(record, note=leftovers(self.folder, work, record))

    def _write_map(
        self,
        files: Mapping[str, str],
        result: InputMaps,
        saliency: SaliencyMap,
        values: NDArray[np.float32 | np.float16 | np.uint8],
    ) -> bool:
        """Write one map's files; False where other ones are there, which may not be replaced."""
        paths = {kind: self.folder / file for kind, file in files.items()}
        laid = self.settings.rendering.overlay(saliency, result)
        # An incomplete set is what a killed run left: it is completed.
        if not self.overwrite and all(path.exists() for path in paths.values()):
            return _holds(paths, values, laid)
        save_picture(paths["heatmap"], self.settings.rendering.heatmap(saliency, result))
        save_picture(paths["overlay"], laid)
        save_array(paths["saliency"], values)
        return True


def _names(stem: str, saliency: SaliencyMap) -> dict[str, str]:
    parts = [stem, class_slug(saliency.index, saliency.label), saliency.method.variant]
    name = ".".join(part for part in parts if part)
    return {kind: f"{name}.{ending}" for kind, ending in _ENDINGS.items()}


def _holds(
    paths: Mapping[str, Path],
    values: NDArray[np.float32 | np.float16 | np.uint8],
    laid: NDArray[np.uint8],
) -> bool:
    """Whether files hold this very map of this very picture, up to rounding."""
    try:
        existing = load_array(paths["saliency"])
        shown = load_picture(paths["overlay"]).pixels
    except (OSError, ValueError, ImageError):
        return False
    if existing.shape != values.shape or existing.dtype != values.dtype:
        return False
    # Integers may be rounded to either side, float16 has three digits.
    least = 1 if values.dtype == np.uint8 else 1e-5 * float(values.max())
    if not np.allclose(
        existing.astype(np.float32), values.astype(np.float32), rtol=1e-3, atol=least
    ):
        return False
    # What the model does not look at differs here only; rounding moves colours a little.
    return shown.shape == laid.shape and np.allclose(shown, laid, rtol=0, atol=_COLOUR_STEP)
