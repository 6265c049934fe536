"""A saliency map on an edge device: ONNX Runtime, NumPy and Pillow, nothing else.

    python edge.py MODEL.onnx PICTURE [MAP.png]

MODEL.onnx is a file written by `deepinside export`. Everything this script needs to know is in the
file's metadata (docs/file-contract.md), so it works for any classifier.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

NUMBER_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def resize(picture: Image.Image, record: dict[str, Any]) -> Image.Image:
    """Brings a picture to the classifier's input size, as the preprocessing record says."""
    height, width = record["input_size"]
    method = Image.Resampling[record["interpolation"].upper()]
    if record["resize"] == "stretch":
        return picture.resize((width, height), method)
    if record["resize"] != "shorter-side":
        raise SystemExit(f"This example does not know the resize mode {record['resize']!r}.")
    scale = record["resize_size"] / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), method)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def preprocess(picture: Image.Image, record: dict[str, Any], layout: str) -> np.ndarray:
    """Turns a picture into the image input: (1, C, H, W), or (1, H, W, C) for layout NHWC."""
    mode = "L" if record["channel_order"] == "L" else "RGB"
    # A camera's picture may be stored sideways, with a note in its EXIF block.
    pixels = np.asarray(resize(ImageOps.exif_transpose(picture).convert(mode), record), np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if record["channel_order"] == "BGR":
        pixels = pixels[..., ::-1]
    low, high = record["value_range"]
    pixels = low + pixels / 255 * (high - low)
    pixels = (pixels - np.float32(record["mean"])) / np.float32(record["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels)[None]


def main(model: str, picture: str, output: str = "map.png") -> None:
    """Explains the class the model sees in the picture, and writes the map."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning would say that `target` has a default value
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    # A part of the contract is called as the contract says unless the classifier used that name.
    names = json.loads(metadata["deepinside.names"])
    record = json.loads(metadata["deepinside.preprocessing"])
    labels = json.loads(metadata.get("deepinside.labels", "null"))

    with Image.open(picture) as file:
        image = preprocess(file, record, metadata["deepinside.layout"])
    image = image.astype(NUMBER_TYPES[session.get_inputs()[0].type])
    # `target` is left out: the file explains the top-1 class. To explain class 282 instead, add
    # names["target"]: np.array([282]) to the inputs.
    wanted = [names[part] for part in ("saliency", "score", "target_index")]
    (saliency,), (score,), (index,) = session.run(wanted, {names["image"]: image})

    print(f"{labels[index] if labels else f'class {index}'} ({index}), score {score:.2f}")
    # Single pixels stand far out; without the cut at the 99 % quantile the rest would look black.
    brightness = np.clip(saliency / max(float(np.quantile(saliency, 0.99)), 1e-12), 0, 1)
    Image.fromarray((brightness * 255).astype(np.uint8)).save(output)
    print(output)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
