"""Whatever a caller gives as an image becomes the image input, or an ImageError."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside.engine.contract import Contract
from deepinside.engine.decode import ImageFile, Picture, load_picture
from deepinside.engine.errors import ImageError, ModelFileError
from deepinside.engine.layout import as_input, as_picture, input_shape
from deepinside.engine.preprocess import Region, preprocess
from deepinside.engine.session import Session

__all__ = [
    "ImageFile",
    "ImageLike",
    "InputSpec",
    "Prepared",
    "input_spec",
    "iterate_images",
    "prepare",
]

ImageLike = (
    str | PathLike[str] | bytes | BinaryIO | ImageFile | Image.Image | Picture | NDArray[Any]
)


@dataclass(frozen=True)
class InputSpec:
    """The image input of a file.

    Attributes:
        contract: of the file.
        dtype: float type.
        batch: its fixed batch size, or None where it is dynamic.
        shape: `(C, H, W)`, `(H, W, C)` or flat, `(H * W * C,)`; None where a size is dynamic.
    """

    contract: Contract
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | None, ...]

    @property
    def picture_size(self) -> tuple[int | None, int | None]:
        """Height and width of the pictures that the file takes, None where one is open."""
        if self.contract.picture_size is not None:
            return self.contract.picture_size
        height, width = self.shape[1:] if self.contract.layout == "NCHW" else self.shape[:2]
        return height, width

    def shape_at(self, size: tuple[int, int] | None = None) -> tuple[int, ...] | None:
        """The shape with this size, or the preprocessing record's, where the file leaves it open.

        None where it stays open.
        """
        if self.contract.layout == "flat":
            return tuple(length for length in self.shape if length is not None)
        record = self.contract.preprocessing
        channels = self.shape[0 if self.contract.layout == "NCHW" else 2]
        channels = channels if record is None else record.channels
        height, width = size or (record.input_size if record is not None else (None, None))
        given = input_shape((height, width, channels), self.contract.layout)
        sizes = [b if a is None else a for a, b in zip(self.shape, given, strict=True)]
        known = tuple(length for length in sizes if length is not None)
        return known if len(known) == len(sizes) else None

    def as_picture(self, image: NDArray[Any]) -> NDArray[Any]:
        """An input without batch axis as `(H, W, C)`."""
        return as_picture(image, self.contract.layout, self.contract.picture_size)

    def as_input(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture `(H, W, C)` as an input without batch axis."""
        return as_input(picture, self.contract.layout)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image, ready for the network.

    Attributes:
        array: the input without batch axis, C order, in the file's float type.
        source: path, or position such as `#0`.
        picture: decoded, perhaps made smaller; None where the caller gave a preprocessed array, or
            wants none.
        region: what the input covers of the picture at its own size; None for such an array.
        size: (H, W) of the picture at its own size; None likewise.
    """

    array: NDArray[Any]
    source: str
    picture: Picture | None
    region: Region | None
    size: tuple[int, int] | None


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
    # In the natural step and in loops, the image is worked out inside, and handed out.
    inside = contract.step_rule == "natural" or contract.loop is not None
    info = (session.outputs if inside else session.inputs).get(name)
    axes = 2 if contract.layout == "flat" else 4
    if info is None or info.dtype is None or info.dtype.kind != "f" or len(info.shape) != axes:
        raise ModelFileError(
            f"the image input {name!r} of {session.path} is not a batch of floating-point "
            "pictures: export the file again."
        )
    batch, *sizes = (size if isinstance(size, int) else None for size in info.shape)
    spec = InputSpec(contract, info.dtype, batch, tuple(sizes))
    if contract.picture is not None and spec.shape != input_shape(contract.picture, "flat"):
        raise ModelFileError(
            f"the metadata of {session.path} call its image input {spec.shape} a picture of "
            f"{contract.picture}: export the file again."
        )
    record = contract.preprocessing
    if record is not None:
        expected = input_shape((*record.input_size, record.channels), contract.layout)
        if spec.shape_at() != expected:
            raise ModelFileError(
                f"the preprocessing record of {session.path} gives inputs of {expected}, but its "
                f"image input is {spec.shape}: export the file again with a record that fits."
            )
    return spec


def iterate_images(images: ImageLike | Iterable[ImageLike], spec: InputSpec) -> Iterator[ImageLike]:
    """The images one by one, whether one was given, several, or a batch as one array."""
    if isinstance(images, np.ndarray):
        # Floats are inputs, other numbers pictures.
        if images.ndim == (len(spec.shape) + 1 if images.dtype.kind == "f" else 4):
            yield from images
        else:
            yield images
    elif isinstance(images, (str, PathLike, bytes, ImageFile, Image.Image, Picture)) or _is_stream(
        images
    ):
        yield images
    else:
        yield from images


def prepare(
    image: ImageLike,
    position: int,
    spec: InputSpec,
    size: tuple[int, int] | Literal["original"] | None = None,
    picture_pixels: int | None = None,
) -> Prepared:
    """Decode and preprocess one image.

    Args:
        image: path, file's bytes, open file, `ImageFile`, PIL image, `Picture`, uint8 array
            `(H, W)` or `(H, W, 3)`; or a float array of the input's shape, already preprocessed.
        position: of the image, names it where it has no path.
        spec: the image input.
        size: (H, W) of the input, or each picture's own; None for the record's. Arrays that are
            already preprocessed keep theirs.
        picture_pixels: the picture is kept with so many pixels at most; 0 for not at all.

    Raises:
        ImageError: it can't be decoded, or does not fit the input.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return Prepared(_checked(image, f"#{position}", spec), f"#{position}", None, None, None)
    record = spec.contract.preprocessing
    if isinstance(image, Picture):
        picture = image
    elif isinstance(image, (str, PathLike, ImageFile)):
        picture = load_picture(image)
    elif isinstance(image, (np.ndarray, Image.Image, bytes)):
        filename = getattr(image, "filename", "") if isinstance(image, Image.Image) else ""
        picture = load_picture(image, filename or f"#{position}")
    elif _is_stream(image):
        picture = load_picture(image, str(getattr(image, "name", "")) or f"#{position}")
    else:
        raise ImageError(
            f"#{position}",
            f"is a {type(image).__name__}; possible: a path, bytes, a file, a PIL image, an array.",
        )
    if record is None:
        raise ImageError(
            picture.source,
            "the model file does not say how a picture becomes its input: export the classifier "
            "again with --preprocessing FILE.json, or give arrays that are already preprocessed.",
        )
    array, region = preprocess(picture, record, spec.contract.layout, dtype=spec.dtype, size=size)
    kept = _at_most(picture, picture_pixels)
    return Prepared(array, picture.source, kept, region, picture.size)


def _is_stream(image: object) -> TypeGuard[BinaryIO]:
    return hasattr(image, "read") and hasattr(image, "seek")


def _at_most(picture: Picture, pixels: int | None) -> Picture | None:
    """The picture, made smaller where it has more pixels; None for none."""
    height, width = picture.size
    if pixels is None or height * width <= pixels:
        return picture
    if pixels == 0:
        return None
    factor = (pixels / (height * width)) ** 0.5
    smaller = max(1, int(width * factor)), max(1, int(height * factor))
    image = Image.fromarray(picture.pixels).resize(smaller, Image.Resampling.BOX)
    return Picture(np.asarray(image), picture.source)


def _checked(array: NDArray[Any], source: str, spec: InputSpec) -> NDArray[Any]:
    fits = array.ndim == len(spec.shape) and all(
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
