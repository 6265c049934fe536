"""A saliency map on an edge device: ONNX Runtime, NumPy and Pillow, nothing else.

    python edge.py MODEL.onnx PICTURE [MAP.png]

MODEL.onnx is a saliency file written by `deepinside export`; all that this script needs to know is
in its metadata (docs/file-contract.md). Pictures become the input exactly as deepinside makes it.

Not covered, and refused: pictures of 16 bits or of floating-point values, files without a
preprocessing record or without one of the outputs saliency, score and target_index. Not covered
either: fixed batch sizes other than 1, and strips so narrow that the picture, scaled up, would not
fit into memory.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

NUMBER_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF block says, lays transparency on white, and makes it RGB."""
    if picture.mode[0] in "IF":
        raise SystemExit(f"This example does not know pictures of mode {picture.mode}.")
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def resized_size(width: int, height: int, record: dict[str, Any]) -> tuple[int, int]:
    """Width and height that the preprocessing record scales a picture to."""
    input_height, input_width = record["input_size"]
    if record["resize"] == "stretch":
        return input_width, input_height
    if record["resize"] == "letterbox":
        scale = min(input_height / height, input_width / width)
        return max(1, round(width * scale)), max(1, round(height * scale))
    # Exactly so long is the shorter side, and the longer one is rounded down.
    short = record["resize_size"]
    if height <= width:
        return max(short, int(short * width / height)), short
    return short, max(short, int(short * height / width))


def preprocess(picture: Image.Image, record: dict[str, Any], layout: str) -> np.ndarray:
    """Turns a picture into the image input: (1, C, H, W), (1, H, W, C) or flat, as layout says."""
    picture = upright_rgb(picture).convert("L" if record["channel_order"] == "L" else "RGB")
    width, height = resized_size(*picture.size, record)
    method = Image.Resampling[record["interpolation"].upper()]
    pixels = np.asarray(picture.resize((width, height), method), np.float32)
    pixels = pixels.reshape(height, width, -1)
    if record["channel_order"] == "BGR":
        pixels = pixels[..., ::-1]
    pixels = pixels / np.float32(255 / record["value_range"][1])
    pixels = (pixels - np.float32(record["mean"])) / np.float32(record["std"])
    # The centre is cut out; where the picture does not reach, the input is 0, which is the mean.
    rows, columns = record["input_size"]
    image = np.zeros((rows, columns, pixels.shape[2]), np.float32)
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    seen = pixels[max(top, 0) : top + rows, max(left, 0) : left + columns]
    top, left = max(-top, 0), max(-left, 0)
    image[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    if layout == "flat":
        return image.reshape(1, -1)
    return np.ascontiguousarray(image.transpose(2, 0, 1) if layout == "NCHW" else image)[None]


def main(model: str, picture: str, output: str = "map.png") -> None:
    """Explains the class the model sees in the picture, and writes the map."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning would say that `target` has a default value
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    # A part of the contract is called as the contract says unless the classifier used that name.
    names = json.loads(metadata.get("deepinside.names", "{}"))
    wanted = ("saliency", "score", "target_index")
    if "deepinside.preprocessing" not in metadata or not names.keys() >= set(wanted):
        raise SystemExit(f"{model} lacks what this example needs, see its first lines.")
    record = json.loads(metadata["deepinside.preprocessing"])
    labels = json.loads(metadata.get("deepinside.labels", "null"))

    with Image.open(picture) as file:
        image = preprocess(file, record, metadata["deepinside.layout"])
    (kind,) = [item.type for item in session.get_inputs() if item.name == names["image"]]
    inputs = {names["image"]: image.astype(NUMBER_TYPES[kind])}
    if "target" in names:  # not in a file that was made for one class
        # Any negative number means the top-1 class; to explain class 282 instead, write 282.
        inputs[names["target"]] = np.array([-1], np.int64)
    outputs = session.run([names[part] for part in wanted], inputs)
    (saliency,), (score,), (index,) = outputs

    print(f"{labels[index] if labels else f'class {index}'} ({index}), score {score:.2f}")
    # Single pixels stand far out; without the cut at the 99 % quantile the rest would look black.
    brightness = np.clip(saliency / max(float(np.quantile(saliency, 0.99)), 1e-12), 0, 1)
    Image.fromarray((brightness * 255).astype(np.uint8)).save(output)
    print(output)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
