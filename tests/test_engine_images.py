"""Pictures of every kind, good and bad, and what the network sees of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from deepinside.engine import ImageError, Picture, Preprocessing, load_picture
from deepinside.engine import decode as decode_module
from deepinside.engine.preprocess import Region, picture_of, preprocess

FLOAT = np.dtype(np.float32)


def gradient_image(height: int = 4, width: int = 6) -> np.ndarray[Any, Any]:
    ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width) * 5
    return np.stack([ramp, 255 - ramp, ramp // 2], axis=2)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def record(**changes: Any) -> Preprocessing:
    values: dict[str, Any] = {
        "input_size": (4, 4),
        "resize": "stretch",
        "resize_size": None,
        "interpolation": "nearest",
        "channel_order": "RGB",
        "value_range": (0.0, 255.0),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    return Preprocessing(**(values | changes))


def test_paths_arrays_and_pil_images_agree(tmp_path: Path) -> None:
    pixels = gradient_image()
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    for image in (path, str(path), Image.open(path), Image.fromarray(pixels), pixels):
        picture = load_picture(image)
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture.pixels.dtype == np.uint8
        assert picture.size == (4, 6)
    assert load_picture(path).source == str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = gradient_image()
    turned = {  # how a camera stores it, by the EXIF standard
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(turned))
    path = saved(tmp_path / "a.png", image, exif=exif)
    np.testing.assert_array_equal(load_picture(path).pixels, upright)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(load_picture(path).pixels, expected)
    np.testing.assert_array_equal(load_picture(pixels).pixels, expected)
    grey = Image.fromarray(np.array([[[0, 51]]], dtype=np.uint8), "LA")
    np.testing.assert_array_equal(load_picture(grey).pixels, [[[204] * 3]])
    premultiplied = Image.fromarray(pixels).convert("RGBa")
    np.testing.assert_array_equal(load_picture(premultiplied).pixels, expected)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", image, transparency=1)
    np.testing.assert_array_equal(load_picture(path).pixels, [[[10, 20, 30], [255, 255, 255]]])


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bit_grey(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 257, 32896, 65535, 128, 129]], dtype=np.uint16)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(values))
    np.testing.assert_array_equal(load_picture(path).pixels[0, :, 0], [0, 1, 128, 255, 0, 1])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_colour_spaces(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (255, 255, 255)).convert("L" if mode == "1" else "RGB")
    white = Image.new("LAB", (3, 2), (255, 128, 128)) if mode == "LAB" else image.convert(mode)
    pixels = load_picture(white).pixels
    assert pixels.shape == (2, 3, 3)
    assert pixels.min() >= 254


def inks() -> Image.Image:
    """Red, and a dark cyan."""
    image = Image.new("CMYK", (32, 16), (0, 255, 255, 0))
    image.paste((255, 0, 0, 64), (16, 0, 32, 16))
    return image


@pytest.mark.parametrize("name", ["marked.jpg", "bare.jpg", "inks.tif"])
def test_cmyk(tmp_path: Path, name: str) -> None:
    """JPEG pictures of inks are taken for inverted with and without Adobe's marker."""
    path = saved(tmp_path / name, inks(), quality=100)
    if name == "bare.jpg":
        content = path.read_bytes()
        marker = content.index(b"\xff\xee\0\x0eAdobe")
        path.write_bytes(content[:marker] + content[marker + 16 :])
    pixels = load_picture(path).pixels.astype(int)
    for place, colour in ((8, (255, 0, 0)), (24, (0, 191, 191))):
        np.testing.assert_allclose(pixels[8, place], colour, atol=4)
    other = pytest.importorskip("cv2").imread(str(path))[..., ::-1]
    np.testing.assert_allclose(pixels, other, atol=4)


def exchanging_profile() -> bytes:
    """That of sRGB with red and blue exchanged: nobody can overlook where it is applied."""
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = usual.index(b"rXYZ"), usual.index(b"bXYZ")
    changed = bytearray(usual)
    changed[red : red + 4], changed[blue : blue + 4] = b"bXYZ", b"rXYZ"
    applied = ImageCms.profileToProfile(
        Image.new("RGB", (1, 1), (200, 50, 20)), io.BytesIO(changed), io.BytesIO(usual)
    )
    assert applied is not None
    assert applied.getpixel((0, 0)) == (20, 50, 200)
    return bytes(changed)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *(("RGB", ending) for ending in ("png", "jpg", "tif", "webp")),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
    ],
)
def test_colour_profiles_are_ignored(tmp_path: Path, mode: str, ending: str) -> None:
    image, profile = inks().convert(mode), exchanging_profile()
    path = saved(tmp_path / f"a.{ending}", image, icc_profile=profile)
    with Image.open(path) as opened:
        assert opened.info["icc_profile"] == profile
        np.testing.assert_array_equal(load_picture(path).pixels, opened.convert("RGB"))
    bare = saved(tmp_path / f"b.{ending}", image)
    np.testing.assert_array_equal(load_picture(path).pixels, load_picture(bare).pixels)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_picture(path).pixels[0, 0], [255, 0, 0])


def png_bytes() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "is not a picture"),
        (png_bytes()[:2000], "broken or cut short"),
        (png_bytes()[:30], "broken or cut short|is not a picture"),
        (png_bytes()[:1000] + bytes(500) + png_bytes()[1500:], "broken or cut short"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "broken or cut short|is not a picture"),
        (b"GIF89a" + bytes(10), "broken or cut short|is not a picture"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_picture(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.source == str(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_picture(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="folder"):
        load_picture(tmp_path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ImageError, match="too large"):
        load_picture(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # Pillow only warns
    assert load_picture(path).size == (100, 100)
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 9000)
    with pytest.raises(ImageError, match="too large"):
        load_picture(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((4, 4), np.uint16),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), bool),
    ],
)
def test_bad_arrays(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImageError):
        load_picture(array, "#3")


def test_pictures_without_a_known_range() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        load_picture(Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(ImageError, match="beyond 16 bits"):
        load_picture(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)))


# --- preprocessing ---


def test_stretch_and_normalisation() -> None:
    pixels = gradient_image(8, 4)
    changes = {"value_range": (0.0, 1.0), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}
    x, region = preprocess(Picture(pixels, "a"), record(**changes), "NCHW", dtype=FLOAT)
    resized = np.asarray(Image.fromarray(pixels).resize((4, 4), Image.Resampling.NEAREST))
    expected = (resized / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert region == Region(0, 0, 4, 8)


def test_shorter_side_and_centre_crop_as_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    rng = np.random.default_rng(0)
    for height, width in [(301, 451), (97, 64), (40, 40), (33, 300)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        changes = {
            "resize": "shorter-side",
            "resize_size": 36,
            "input_size": (32, 29),
            "interpolation": "bicubic",
        }
        x, _ = preprocess(Picture(pixels, "a"), record(**changes), "NHWC", dtype=FLOAT)
        bicubic = transforms.InterpolationMode.BICUBIC
        steps = [transforms.Resize(36, bicubic), transforms.CenterCrop((32, 29))]
        expected = np.asarray(transforms.Compose(steps)(Image.fromarray(pixels)))
        np.testing.assert_array_equal(x, expected)


def test_shorter_side_region() -> None:
    changes = {"resize": "shorter-side", "resize_size": 8, "input_size": (4, 4)}
    picture = Picture(np.zeros((16, 32, 3), np.uint8), "a")
    _, region = preprocess(picture, record(**changes), "NCHW", dtype=FLOAT)
    assert region == Region(left=12, top=4, right=20, bottom=12)


def test_a_crop_larger_than_the_picture_is_filled_with_the_mean() -> None:
    changes = {"resize": "shorter-side", "resize_size": 2, "mean": (9.0, 9.0, 9.0)}
    picture = Picture(np.full((2, 2, 3), 200, np.uint8), "a")
    x, region = preprocess(picture, record(**changes), "NHWC", dtype=FLOAT)
    np.testing.assert_array_equal(x[..., 0] != 0, np.pad(np.ones((2, 2), bool), 1))
    assert region == Region(-1, -1, 3, 3)


def test_letterbox() -> None:
    changes = {"resize": "letterbox", "input_size": (8, 8), "mean": (5.0, 6.0, 7.0)}
    picture = Picture(np.full((8, 16, 3), 100, np.uint8), "a")
    x, region = preprocess(picture, record(**changes), "NCHW", dtype=FLOAT)
    np.testing.assert_array_equal(x[0, 2:6], 95)
    assert (x[:, :2] == 0).all()
    assert (x[:, 6:] == 0).all()
    assert region == Region(left=0, top=-4, right=16, bottom=12)


def test_channel_orders() -> None:
    pixels = gradient_image(4, 4)
    rgb, _ = preprocess(Picture(pixels, "a"), record(), "NHWC", dtype=FLOAT)
    bgr, _ = preprocess(Picture(pixels, "a"), record(channel_order="BGR"), "NHWC", dtype=FLOAT)
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    grey = record(channel_order="L", mean=(0.0,), std=(1.0,))
    x, _ = preprocess(Picture(pixels, "a"), grey, "NCHW", dtype=FLOAT)
    np.testing.assert_array_equal(x[0], np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize("order", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "flat"])
def test_display_inverts_the_normalisation(order: Any, layout: Any) -> None:
    channels = 1 if order == "L" else 3
    changes = {
        "channel_order": order,
        "value_range": (0.0, 1.0),
        "mean": (0.4, 0.5, 0.6)[:channels],
        "std": (0.2, 0.3, 0.4)[:channels],
    }
    pixels = gradient_image(4, 4)
    if order == "L":
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    x, _ = preprocess(Picture(pixels, "a"), record(**changes), layout, dtype=FLOAT)
    np.testing.assert_array_equal(picture_of(x, record(**changes), layout), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    changes = {"resize": "shorter-side", "resize_size": 256, "input_size": (224, 224)}
    picture = Picture(np.full((*size, 3), 77, np.uint8), "a")
    x, region = preprocess(picture, record(**changes, interpolation="bicubic"), "NCHW", dtype=FLOAT)
    np.testing.assert_array_equal(x, np.full((3, 224, 224), 77))
    assert region.right - region.left == pytest.approx(224 / 256)


def test_a_strip_is_cropped_as_if_it_had_been_resized_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    changes = {"resize": "shorter-side", "resize_size": 40, "interpolation": "bicubic"}
    chosen = record(**changes, input_size=(32, 32))
    whole, _ = preprocess(Picture(pixels, "a"), chosen, "NCHW", dtype=FLOAT)
    monkeypatch.setattr("deepinside.engine.preprocess._MAX_RESIZED", 0)
    part, _ = preprocess(Picture(pixels, "a"), chosen, "NCHW", dtype=FLOAT)
    assert np.abs(part - whole).max() <= 1
