"""Whatever a caller gives as an image becomes the image input, or an ImageError."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.contract import Contract
from deepinside.engine.decode import Picture, load_picture
from deepinside.engine.errors import ImageError, ModelFileError
from deepinside.engine.preprocess import Region, preprocess
from deepinside.engine.session import Session

__all__ = ["ImageLike", "InputSpec", "Prepared", "input_spec", "iterate_images", "prepare"]

ImageLike = str | PathLike[str] | Image.Image | Picture | NDArray[Any]


@dataclass(frozen=True)
class InputSpec:
    """The image input of a file.

    Attributes:
        contract: of the file.
        dtype: float type.
        batch: its fixed batch size, or None where it is dynamic.
        shape: `(C, H, W)` or `(H, W, C)`, None where a size is dynamic.
    """

    contract: Contract
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | None, int | None, int | None]

    def spatial(self, shape: Sequence[int | None]) -> tuple[int | None, int | None]:
        """Height and width of a shape in this layout."""
        first, second = (axis for axis in range(3) if axis != self.contract.channel_axis - 1)
        return shape[first], shape[second]

    def shape_at(self, size: tuple[int, int] | None = None) -> tuple[int, int, int] | None:
        """The shape with this size, or the preprocessing record's, where the file leaves it open.

        None where it stays open.
        """
        record = self.contract.preprocessing
        channel_axis = self.contract.channel_axis - 1
        channels = self.shape[channel_axis] if record is None else record.channels
        height, width = size or (record.input_size if record is not None else (None, None))
        known = [height, width]
        known.insert(channel_axis, channels)
        sizes = [
            given if size is None else size for size, given in zip(self.shape, known, strict=True)
        ]
        first, second, third = sizes
        if first is None or second is None or third is None:
            return None
        return first, second, third


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image, ready for the network.

    Attributes:
        array: the input without batch axis, C order, in the file's float type.
        source: path, or position such as `#0`.
        picture: decoded; None where the caller gave a preprocessed array.
        region: what the input covers of the picture; None likewise.
    """

    array: NDArray[Any]
    source: str
    picture: Picture | None
    region: Region | None


def input_spec(session: Session, contract: Contract) -> InputSpec:
    """Read the image input of an open file.

    Raises:
        ModelFileError: the file does not keep what its metadata promise.
    """
    name = contract.names["image"]
    known = {**session.inputs, **session.outputs}
    for part, tensor in contract.names.items():
        if tensor not in known:
            raise ModelFileError(
                f"the metadata of {session.path} call the tensor {tensor!r} its {part}, but it has "
                "no such input or output: export the file again."
            )
    info = session.inputs.get(name)
    if info is None or info.dtype is None or info.dtype.kind != "f" or len(info.shape) != 4:
        raise ModelFileError(
            f"the image input {name!r} of {session.path} is not a batch of floating-point "
            "pictures: export the file again."
        )
    batch, *sizes = (size if isinstance(size, int) else None for size in info.shape)
    spec = InputSpec(contract, info.dtype, batch, (sizes[0], sizes[1], sizes[2]))
    record = contract.preprocessing
    if record is not None:
        expected = list(record.input_size)
        expected.insert(contract.channel_axis - 1, record.channels)
        if spec.shape_at() != tuple(expected):
            raise ModelFileError(
                f"the preprocessing record of {session.path} gives inputs of {tuple(expected)}, "
                f"but its image input is {spec.shape}: export the file again with a record that "
                "fits."
            )
    return spec


def iterate_images(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """The images one by one, whether one was given, several, or a batch as one array."""
    if isinstance(images, np.ndarray):
        if images.ndim == 4:
            yield from images
        else:
            yield images
    elif isinstance(images, (str, PathLike, Image.Image, Picture)):
        yield images
    else:
        yield from images


def prepare(
    image: ImageLike,
    position: int,
    spec: InputSpec,
    size: tuple[int, int] | Literal["original"] | None = None,
) -> Prepared:
    """Decode and preprocess one image.

    Args:
        image: path, PIL image, `Picture`, uint8 array `(H, W)` or `(H, W, 3)`; or a float array
            of the input's shape, already preprocessed.
        position: of the image, names it where it has no path.
        spec: the image input.
        size: (H, W) of the input, or each picture's own; None for the record's. Arrays that are
            already preprocessed keep theirs.

    Raises:
        ImageError: it can't be decoded, or does not fit the input.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return Prepared(_checked(image, f"#{position}", spec), f"#{position}", None, None)
    record = spec.contract.preprocessing
    if isinstance(image, Picture):
        picture = image
    elif isinstance(image, (str, PathLike)):
        picture = load_picture(image)
    elif isinstance(image, (np.ndarray, Image.Image)):
        filename = "" if isinstance(image, np.ndarray) else getattr(image, "filename", "")
        picture = load_picture(image, filename or f"#{position}")
    else:
        raise ImageError(
            f"#{position}",
            f"is a {type(image).__name__}; possible: a path, a PIL image, an array.",
        )
    if record is None:
        raise ImageError(
            picture.source,
            "the model file does not say how a picture becomes its input: export the classifier "
            "again with --preprocessing FILE.json, or give arrays that are already preprocessed.",
        )
    array, region = preprocess(picture, record, spec.contract.layout, dtype=spec.dtype, size=size)
    return Prepared(array, picture.source, picture, region)


def _checked(array: NDArray[Any], source: str, spec: InputSpec) -> NDArray[Any]:
    fits = array.ndim == 3 and all(
        wanted is None or size == wanted
        for size, wanted in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if size is None else str(size) for size in spec.shape)
        raise ImageError(
            source,
            f"is a float array of shape {array.shape}; the model's input is ({shape}) "
            f"({spec.contract.layout} without N), and a picture is a uint8 array.",
        )
    if not np.isfinite(array).all():
        raise ImageError(source, "holds infinite values or NaN.")
    return np.ascontiguousarray(array, dtype=spec.dtype)
