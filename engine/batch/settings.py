"""What a job asks for, and the records that say what came of it."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.batch.items import Item, Target
from deepinside.engine.batch.manifest import Record, finite
from deepinside.engine.errors import SettingError
from deepinside.engine.methods import Method
from deepinside.engine.rendering import Rendering
from deepinside.engine.results import InputMaps, SaliencyMap

__all__ = [
    "Format",
    "JobSettings",
    "Number",
    "facts_of",
    "files_of",
    "map_entry",
    "new_record",
    "restored",
    "stored",
]

# Of records from before there were others.
_FIRST: Record = {
    "method": {"name": "vanilla", "crops": 1},
    "rendering": {},
    "format": "files",
    "dtype": "float32",
}

Format = Literal["files", "npz", "parquet"]
Number = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class JobSettings:
    """What makes two results of one picture the same.

    Attributes:
        targets: classes to explain, where an item has none of its own.
        method: of the maps.
        size: of the input, as asked for.
        model_sha256: of the classifier.
        file_sha256: of the exported file.
        format: of the results.
        dtype: of the stored maps.
        rendering: of the maps, where they are drawn.
        task: of the records.
    """

    task: ClassVar[str] = "saliency"

    targets: tuple[Target, ...]
    method: Method
    size: str | None
    model_sha256: str
    file_sha256: str
    format: Format = "files"
    dtype: Number = "float32"
    rendering: Rendering = field(default_factory=Rendering)

    def __post_init__(self) -> None:
        """Check what goes with what.

        Raises:
            SettingError: maps of several sizes, or with signs, for a format that holds none.
        """
        if self.format == "npz" and self.size == "original":
            raise SettingError(
                "an .npz shard holds maps of one size: give a --size, or take --format parquet or "
                "files."
            )
        if self.format != "files" and self.rendering.signed:
            raise SettingError(
                f"{self.format} shards hold maps without signs, so that nothing can be drawn "
                "signed: take --format files."
            )

    @property
    def variant(self) -> str:
        """Tells records of one picture apart that stand beside one another."""
        return self.method.variant

    @property
    def nothing(self) -> Record:
        """What is found of a picture, where nothing is."""
        return {"maps": [], "picture_size": None, "region": None, "top5": []}

    def of(self, item: Item) -> Record:
        """The part of an item's record that says how it was made."""
        return {
            "targets": list(item.targets or self.targets),
            "method": {"name": self.method.name, **self.method.settings},
            **({"variant": self.variant} if self.variant else {}),
            "rendering": self.rendering.settings if self.format == "files" else {},
            "size": self.size,
            "format": self.format,
            "dtype": self.dtype,
            "model_sha256": self.model_sha256,
            "file_sha256": self.file_sha256,
        }

    def differences(self, record: Record, item: Item) -> Iterator[str]:
        """In what a record's settings differ; those of older versions had the defaults."""
        earlier = {**_FIRST, **record}
        for name, value in self.of(item).items():
            if earlier.get(name) != value:
                yield name


def new_record(settings: JobSettings, item: Item, sha256: str | None, **found: Any) -> Record:
    """The record of an item.

    Args:
        settings: of the job.
        item: the picture.
        sha256: of its bytes; None where they could not be read.
        found: `stem`, `error`, and what the settings' `nothing` names; a failure has its error
            alone.
    """
    error = found.get("error")
    return {
        "task": settings.task,
        "input": item.name,
        "input_sha256": sha256,
        "status": "ok" if error is None else "failed",
        "stem": found.get("stem"),
        **{name: found.get(name, nothing) for name, nothing in settings.nothing.items()},
        **settings.of(item),
        "error": error,
    }


def facts_of(result: InputMaps) -> Record:
    """What a picture's record says of all its maps: what they cover, and the best classes."""
    first = result.maps[0]
    return {
        "picture_size": None if first.size is None else list(first.size),
        "region": None if first.region is None else list(dataclasses.astuple(first.region)),
        "top5": [
            {"index": best.index, "label": best.label, "probability": finite(best.probability)}
            for best in result.best
        ],
    }


def map_entry(saliency: SaliencyMap, files: Mapping[str, str], scale: float | None) -> Record:
    """A map's part of its picture's record."""
    entry: Record = {
        "index": saliency.index,
        "label": saliency.label,
        "score": finite(saliency.score),
        "probability": finite(saliency.probability),
        **_completeness(saliency),
        "files": dict(files),
    }
    return entry if scale is None else {**entry, "scale": scale}


def _completeness(saliency: SaliencyMap) -> Record:
    """How well an integral's attributions add up; nothing for other methods."""
    if saliency.completeness_gap is None:
        return {}
    return {
        "completeness_gap": finite(saliency.completeness_gap),
        "baseline_score": finite(saliency.baseline_score),
    }


def files_of(record: Record) -> Iterator[str]:
    """The files that hold a picture's results, relative to the folder; shards come once a map."""
    if record.get("picture"):
        yield record["picture"]
    for entry in record.get("maps", ()):
        yield from entry["files"].values()
    for entry in record.get("objects", ()):
        yield entry["mask"]


def stored(
    saliency: NDArray[np.float32], dtype: Number
) -> tuple[NDArray[np.float32 | np.float16 | np.uint8], float | None]:
    """A map in the numbers that are stored, and the scale that turns them back.

    Gradients are often too small for float16; so the largest element becomes 1, or 255.

    Args:
        saliency: float32 `(H, W)`, not negative.
        dtype: wanted.

    Returns:
        `(H, W)`, and the factor that gives the map again; None for float32, stored as it is.
    """
    if dtype == "float32":
        return saliency, None
    full = 255 if dtype == "uint8" else 1
    scale = float(saliency.max()) / full
    if scale == 0:
        return np.zeros(saliency.shape, dtype=dtype), 0.0
    scaled = saliency / np.float64(scale)
    return (np.rint(scaled) if dtype == "uint8" else scaled).astype(dtype), scale


def restored(values: NDArray[Any], scale: float | None) -> NDArray[np.float32]:
    """The map of stored numbers."""
    plain = values.astype(np.float32)
    return plain if scale is None else plain * np.float32(scale)
