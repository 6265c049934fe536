"""Makes docs/gallery: `python docs/make_gallery.py`, with deepinside[cpu] installed.

Every method with its default settings, on the three example pictures and the embedded classifier,
each for the class that the classifier sees; and the signed maps of those that have signs.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepinside import models
from deepinside.engine import METHODS, Engine, InputMaps, Method, Rendering
from deepinside.engine.preprocess import Region
from deepinside.engine.sheet import contact_sheet
from deepinside.exporters import export_saliency

_PICTURES = ("chelsea", "coffee", "camera")
_VARIANTS = (Method(), Method(crops=10), *(Method(name) for name in METHODS if name != "vanilla"))
_SIGNED = ("vanilla", "smoothgrad", "input-x-gradient", "integrated-gradients", "blur-ig")
_SIGNED += ("guided-ig",)
_FOLDER = Path(__file__).parent / "gallery"


def main() -> None:
    """A sheet per picture, and one of signed maps."""
    _FOLDER.mkdir(exist_ok=True)
    found = {method.variant: _maps(method) for method in _VARIANTS}
    for number, name in enumerate(_PICTURES):
        items = [(variant, maps[number]) for variant, maps in found.items()]
        tiles = [_seen(items[0][1]), *(_drawn(item, signed=False) for _, item in items)]
        captions = [items[0][1].maps[0].label or "", *(v or "vanilla" for v, _ in items)]
        _save(f"{name}.jpg", tiles, captions)
    signed = [found["" if name == "vanilla" else name][0] for name in _SIGNED]
    _save("signed.jpg", [_drawn(item, signed=True) for item in signed], _SIGNED)


def _maps(method: Method) -> list[InputMaps]:
    card = models.card()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "saliency.onnx"
        export_saliency(
            models.default_classifier(),
            file,
            preprocessing=card["preprocessing"],
            labels=models.labels(),
            relu=method.relu,
            optimize_for="cpu",
        )
        pictures = [models.example(name) for name in _PICTURES]
        found = list(Engine(file, "cpu").iter_saliency(pictures, method=method))
    print(method.variant or method.name)
    return [item for item in found if isinstance(item, InputMaps)]


def _seen(item: InputMaps) -> NDArray[np.uint8]:
    """What the network sees of the picture."""
    assert item.picture is not None
    region = item.maps[0].region
    assert isinstance(region, Region)
    box = (region.left, region.top, region.right, region.bottom)
    return np.asarray(Image.fromarray(item.picture.pixels).resize((224, 224), box=box))


def _drawn(item: InputMaps, *, signed: bool) -> NDArray[np.uint8]:
    heat = Rendering(signed=signed).heatmap(item.maps[0], item)
    return np.asarray(Image.fromarray(heat).resize((224, 224)))


def _save(name: str, tiles: list[NDArray[np.uint8]], captions: list[str] | tuple[str, ...]) -> None:
    Image.fromarray(contact_sheet(tiles, list(captions))).save(_FOLDER / name, quality=85)
    print(_FOLDER / name)


if __name__ == "__main__":
    main()
