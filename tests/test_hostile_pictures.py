"""Pictures of all kinds: shown as a person expects, or refused with the reason."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixtures import write
from PIL import Image, ImageChops

from deepinside import models
from deepinside.engine import Engine, ImageError, InputFailure, load_picture
from deepinside.engine import decode as decode_module

_PHOTO = Image.open(models.example("chelsea")).convert("RGB").resize((400, 320))


def photo() -> Image.Image:
    """A small photograph, not square."""
    return _PHOTO.resize((48, 32))


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file that says what it likes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg_that_says(width: int, height: int, **options: Any) -> bytes:
    """A JPEG file with another size in its header than its data has."""
    content = bytearray(encoded(photo(), "JPEG", **options))
    marker = b"\xff\xc2" if options.get("progressive") else b"\xff\xc0"
    at = content.index(marker)
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff_that_says(width: int, height: int) -> bytes:
    content = bytearray(encoded(photo(), "TIFF"))
    for tag, size in ((256, width), (257, height)):
        for kind, form in ((3, "<H"), (4, "<I")):
            at = content.find(struct.pack("<HHI", tag, kind, 1))
            if at >= 0:
                content[at + 2 : at + 4] = struct.pack("<H", 4)
                content[at + 8 : at + 12] = struct.pack("<I", size)
                del form
    return bytes(content)


BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "is empty"),
    "page.jpg": (b"<!doctype html><title>Not found</title>", "not a picture"),
    "random.png": (bytes(range(256)) * 8, "not a picture"),
    "cut.jpg": (encoded(photo(), "JPEG")[:400], "cut short"),
    "cut.png": (encoded(photo(), "PNG")[:900], "cut short"),
    "bomb.png": (png(60_000, 60_000, bytes(1000)), "too large"),
    "flat bomb.png": (png(40_000, 40_000, bytes(5_000_000), depth=1, colour=0), "too large"),
    "nothing behind.png": (png(10_000, 10_000, b""), "cut short"),
    "enormous.tif": (tiff_that_says(2_000_000, 2_000_000), "too large"),
    "enormous.jpg": (jpeg_that_says(65_500, 65_500, progressive=True), "too large"),
    "no size.png": (png(0, 0, b""), "broken or cut short|not a picture|no pixels"),
    "program.png": (encoded(photo(), "EPS"), "is PostScript, which is a program"),
    "float.tif": (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(k, *v) for k, v in BAD.items()])
def test_bad_pictures_have_a_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_picture(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_bad_picture_stops_the_others(tmp_path: Path) -> None:
    for name, (content, _) in BAD.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    photo().save(tmp_path / "zz good.png")
    files = [*sorted(tmp_path.iterdir()), Path("/dev/zero"), tmp_path, tmp_path / "gone.jpg"]
    results = list(Engine(write(tmp_path / "s.onnx"), "cpu").iter_saliency(files))
    assert [isinstance(result, InputFailure) for result in results] == [
        file.name != "zz good.png" for file in files
    ]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    photo().save(tmp_path / "a.png")
    monkeypatch.setattr("deepinside.engine.decode.Image.open", refusing)
    with pytest.raises(ImageError, match=r"a\.png.*may not be read"):
        load_picture(tmp_path / "a.png")


def ycck(image: Image.Image) -> bytes:
    """A JPEG of inks as Photoshop writes it: inverted, and as brightness and colour differences."""
    *inks, black = image.convert("CMYK").split()
    parts = Image.merge("RGB", inks).convert("YCbCr").split()
    stored = Image.merge("CMYK", [*map(ImageChops.invert, parts), black])  # which Pillow inverts
    content = encoded(stored, "JPEG", quality=95, subsampling=0)
    at = content.index(b"Adobe") + 11
    return content[:at] + b"\2" + content[at + 1 :]


def tiff(image: Image.Image, bits: int) -> bytes:
    """An RGB TIFF of so many bits a colour."""
    largest = (1 << bits) - 1
    pixels = (np.asarray(image) * (largest / 255)).round().astype(f"<u{bits // 8}")
    data = pixels.tobytes()
    end = 8 + len(data)
    fields = [(256, image.width), (257, image.height), (262, 2), (273, 8), (277, 3)]
    fields += [(278, image.height), (279, len(data))]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields]
    entries.append(struct.pack("<HHII", 258, 3, 3, end))
    directory = struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    return (
        b"II*\0" + struct.pack("<I", end + 6) + data + struct.pack("<3H", *[bits] * 3) + directory
    )


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "palette.png": lambda p: encoded(p.quantize(256), "PNG"),
    "palette.gif": lambda p: encoded(p.quantize(256), "GIF"),
    "opaque.png": lambda p: encoded(p.convert("RGBA"), "PNG"),
    "wrong ending.txt": lambda p: encoded(p, "PNG"),
    "cmyk.tif": lambda p: encoded(p.convert("CMYK"), "TIFF"),
    "cmyk.jpg": lambda p: encoded(p.convert("CMYK"), "JPEG", quality=95),
    "ycck.jpg": ycck,
    "16 bits.tif": lambda p: tiff(p, 16),
    "two pictures.mpo": lambda p: encoded(
        p, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
    "ycbcr.tif": lambda p: encoded(p.convert("YCbCr"), "TIFF"),
    "lab.webp": lambda p: encoded(p, "WEBP", lossless=True),
    "progressive.jpg": lambda p: encoded(p, "JPEG", quality=95, progressive=True),
    "16 bits.png": lambda p: png(
        *p.size,
        b"".join(
            b"\0" + row.astype(">u2").tobytes() for row in np.asarray(p).astype(np.uint16) * 257
        ),
        depth=16,
    ),
    "animated.gif": lambda p: encoded(
        p.quantize(256), "GIF", save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
    "animated.png": lambda p: encoded(
        p, "PNG", save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
    "animated.webp": lambda p: encoded(
        p, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pictures_look_like_the_photograph(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name](photo()))
    found = load_picture(tmp_path / name).pixels.astype(float)
    assert found.shape == (32, 48, 3)
    assert np.abs(found - np.asarray(photo())).mean() < 6


@pytest.mark.parametrize("name", ["grey.png", "16 bits grey.png", "grey.jpg", "grey alpha.png"])
def test_grey_pictures(tmp_path: Path, name: str) -> None:
    grey = photo().convert("L")
    image = {
        "16 bits grey.png": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "grey alpha.png": grey.convert("LA"),
    }.get(name, grey)
    image.save(tmp_path / name, quality=95)
    found = load_picture(tmp_path / name).pixels.astype(float)
    assert np.abs(found - np.asarray(grey)[..., None]).mean() < 2


def test_transparent_pixels_are_white_and_single_bits_black_and_white(tmp_path: Path) -> None:
    Image.new("LA", (5, 4), (10, 0)).save(tmp_path / "la.png")
    Image.new("RGBA", (5, 4), (255, 0, 0, 0)).save(tmp_path / "rgba.png")
    clear = Image.new("P", (5, 4), 0)
    clear.putpalette([0, 0, 0])
    clear.save(tmp_path / "p.png", transparency=0)
    for name in ("la.png", "rgba.png", "p.png"):
        assert (load_picture(tmp_path / name).pixels == 255).all(), name
    photo().convert("1").save(tmp_path / "1.png")
    assert set(np.unique(load_picture(tmp_path / "1.png").pixels)) == {0, 255}
    Image.new("RGB", (1, 1), "teal").save(tmp_path / "tiny.png")
    assert load_picture(tmp_path / "tiny.png").pixels.tolist() == [[[0, 128, 128]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_upright(tmp_path: Path, orientation: int) -> None:
    how = Image.Transpose
    stored = {  # the inverse of what a viewer has to do
        2: how.FLIP_LEFT_RIGHT,
        3: how.ROTATE_180,
        4: how.FLIP_TOP_BOTTOM,
        5: how.TRANSPOSE,
        6: how.ROTATE_90,
        7: how.TRANSVERSE,
        8: how.ROTATE_270,
    }.get(orientation)
    upright = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright if stored is None else upright.transpose(stored)).save(tmp_path / "o.png", exif=exif)
    np.testing.assert_array_equal(load_picture(tmp_path / "o.png").pixels, np.asarray(upright))


# --- very large JPEG pictures; the limit is lowered, Pillow's own with it ---


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 20_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


@pytest.mark.usefixtures("low_limit")
def test_a_very_large_jpeg_is_read_smaller(tmp_path: Path) -> None:
    whole = _PHOTO
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", quality=95, exif=exif)
    found = load_picture(tmp_path / "a.jpg").pixels
    assert found.shape == (80, 100, 3)
    shrunk = np.asarray(whole.resize((100, 80), Image.Resampling.BOX)).astype(float)
    assert np.abs(found - shrunk).mean() < 5


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {"progressive": True}), ("a.png", {}), ("a.webp", {})]
)
def test_what_the_decoder_would_hold_whole_is_refused(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    _PHOTO.save(tmp_path / name, **options)
    with pytest.raises(ImageError, match="too large to be decoded safely"):
        load_picture(tmp_path / name)


def test_a_small_file_that_says_it_is_a_very_large_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_that_says(65_500, 65_500))
    with pytest.raises(ImageError, match="cut short"):
        load_picture(tmp_path / "a.jpg")
