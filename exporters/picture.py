"""The picture of preset `natural` as a graph: from a spectrum to what the network looks at.

Everything here is ordinary forward nodes in front of the classifier, so that the one sweep
differentiates it too. The parametrisation and the moving view follow Olah et al., Feature
Visualization (Distill 2017): decorrelated colours, frequencies scaled like those of photographs,
random jitter, rotation and zoom.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from deepinside.exporters.builder import Builder
from deepinside.exporters.errors import ExportError
from deepinside.exporters.image import ImageInput
from deepinside.exporters.shapes import Shape

__all__ = ["SHEAR_REACH", "arrange", "draw", "frequencies", "normalise", "roughness", "view"]

# How far a view may lean, as a part of half the longer side: some 14 degrees at scale 1.
SHEAR_REACH = 0.25
# Height of a coefficient of 1 at the lowest frequency, in units before the sigmoid, is about half.
_CONTRAST = 0.25
# Square root of the covariance of ImageNet's colours, columns are decorrelated directions, rows R,
# G, B, longest column 1 (Olah et al., github.com/tensorflow/lucid, Apache-2.0).
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
_FLOAT = ir.DataType.FLOAT


def cosines(size: int) -> np.ndarray:
    """The orthonormal cosine basis (DCT-II): (places, frequencies), both `size`."""
    places, waves = np.arange(size) + 0.5, np.arange(size)
    basis = np.cos(np.pi / size * places[:, None] * waves[None, :]) * np.sqrt(2.0 / size)
    basis[:, 0] = np.sqrt(1.0 / size)
    return np.asarray(basis)


def frequencies(height: int, width: int) -> np.ndarray:
    """Cycles per pixel of each coefficient, `(H, W)`, at least that of one wave per picture."""
    down, across = np.arange(height) / (2 * height), np.arange(width) / (2 * width)
    return np.maximum(np.hypot(down[:, None], across[None, :]), 1 / max(height, width))


def draw(op: Builder, spectrum: ir.Value, record: Mapping[str, Any]) -> ir.Value:
    """The picture of a spectrum, pixels from 0 to 1.

    `sigmoid(M (B_h (S * w) B_w^T))`: S is the spectrum, w falls like 1 / frequency, B are cosine
    bases and M brings decorrelated colours to the record's channels.

    Args:
        op: builder.
        spectrum: float32 `(N, C, H, W)`, its shape known.
        record: preprocessing record; its channel order is the picture's.
    """
    shape = op.shapes.known(spectrum)
    assert shape is not None
    height, width = shape[2][0], shape[3][0]
    # Divided, and transposed, in the graph: constants are stored once, and runtimes fold this.
    weights = op.Div(_CONTRAST, op.constant(frequencies(height, width).astype("f")))
    rows = _like(op, op.MatMul(cosines(height).astype("f"), op.Mul(spectrum, weights)), shape)
    across = op.Transpose(op.constant(cosines(width).astype("f")), perm=[1, 0])
    op.shapes.record(across, (shape[3], shape[3]))
    logits = _like(op, op.MatMul(rows, across), shape)
    if len(record["channel_order"]) == 3:
        logits = _like(op, _mix_colours(op, logits, record["channel_order"]), shape)
    return op.Sigmoid(logits)


def _mix_colours(op: Builder, logits: ir.Value, order: str) -> ir.Value:
    matrix = _COLOURS / np.linalg.norm(_COLOURS, axis=0).max()
    if order == "BGR":
        matrix = matrix[::-1]
    kernel = np.ascontiguousarray(matrix[:, :, None, None], dtype=np.float32)
    ones = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1]}
    return op.Conv(logits, kernel, pads=[0] * 4, group=1, **ones)


def normalise(op: Builder, pixels: ir.Value, record: Mapping[str, Any]) -> ir.Value:
    """Pixels from 0 to 1, `(N, C, H, W)`, in the network's input space."""
    mean, std = (np.array(record[key], dtype=np.float64) for key in ("mean", "std"))
    factor = record["value_range"][1] / std
    column = (1, len(std), 1, 1)
    scaled = op.Mul(pixels, factor.reshape(column))
    return op.Sub(scaled, (mean / std).reshape(column))


def view(op: Builder, x: ir.Value, matrix: ir.Value) -> ir.Value:
    """What is seen of a picture from another place: turned, zoomed and shifted, of the same size.

    Two passes, one per axis (Catmull & Smith 1980), each a shear and then a zoom with linear
    weights: a convolution per line and a matrix product, so that no runtime has to scatter in the
    backward pass. Outside of the picture is 0. Zooming out widens the weights, as resizing does.

    Args:
        op: builder.
        x: `(N, C, H, W)`.
        matrix: float32 `(6,)`, a b s c d t: the pixel (x, y) of the result shows the place
            (a x + b y + s, c x + d y + t) of the picture, in pixels from the centre of either.
    """
    a, b, s, c, d, t = (op.Slice(matrix, [i], [i + 1], [0]) for i in range(6))
    for value in (a, b, s, c, d, t):
        op.shapes.record(value, (op.shapes.dim(1),))
    # y is (v - c x - t) / d where the first pass works on lines v of the picture.
    lean = op.Div(b, d)
    x = _resample(op, x, lean, op.Sub(a, op.Mul(lean, c)), op.Sub(s, op.Mul(lean, t)))
    x = _resample(op, _flip(op, x), c, d, t)
    return _flip(op, x)


def _resample(
    op: Builder, x: ir.Value, lean: ir.Value, zoom: ir.Value, shift: ir.Value
) -> ir.Value:
    """Line v of the result at p is line v of x at `zoom * p + shift + lean * v`."""
    shape = op.shapes.known(x)
    assert shape is not None
    lines, length = shape[2][0], shape[3][0]
    reach = int(np.ceil(SHEAR_REACH * max(lines, length) / 2))
    taps = np.arange(-reach, reach + 1).reshape(1, 1, 1, -1)
    away = op.Mul(lean, _centred(lines).reshape(lines, 1, 1, 1))
    kernel = op.Max(op.Sub(1.0, op.Abs(op.Sub(away, taps.astype("f")))), 0.0)
    op.shapes.record(kernel, tuple(map(op.shapes.dim, (lines, 1, 1, 2 * reach + 1))))
    count = shape[1][0]
    one = op.shapes.dim(1)
    folded = tuple(n * count for n in shape[0])
    flat = _like(op, op.Reshape(x, [-1, lines, 1, length]), (folded, shape[2], one, shape[3]))
    sheared = op.Conv(
        flat,
        kernel,
        kernel_shape=[1, 2 * reach + 1],
        strides=[1, 1],
        dilations=[1, 1],
        pads=[0, reach, 0, reach],
        group=lines,
    )
    _like(op, sheared, (folded, shape[2], one, shape[3]))
    back = _like(op, op.Reshape(sheared, [-1, count, lines, length]), shape)
    places = op.Add(op.Mul(zoom, _centred(length)), shift)
    width = op.Max(zoom, 1.0)
    distance = op.Abs(op.Sub(_centred(length).reshape(-1, 1), places))
    hats = op.Div(op.Max(op.Sub(1.0, op.Div(distance, width)), 0.0), width)
    op.shapes.record(hats, (shape[3], shape[3]))
    return _like(op, op.MatMul(back, hats), shape)


def _flip(op: Builder, x: ir.Value) -> ir.Value:
    shape = op.shapes.known(x)
    assert shape is not None
    return _like(op, op.Transpose(x, perm=[0, 1, 3, 2]), (*shape[:2], shape[3], shape[2]))


def arrange(op: Builder, x: ir.Value, image: ImageInput) -> ir.Value:
    """A picture `(N, C, H, W)` in the axes and type of the classifier's image input."""
    shape = op.shapes.known(x)
    assert shape is not None
    if image.layout != "NCHW":
        shape = (shape[0], *shape[2:], shape[1])
        x = _like(op, op.Transpose(x, perm=[0, 2, 3, 1]), shape)
    if image.layout == "flat":
        features = int(np.prod([dim[0] for dim in shape[1:]]))
        x = _like(op, op.Reshape(x, [-1, features]), (shape[0], op.shapes.dim(features)))
    return x if image.value.dtype == _FLOAT else op.Cast(x, to=image.value.dtype)


def roughness(op: Builder, pixels: ir.Value) -> ir.Value:
    """The total variation of pixels `(N, C, H, W)` per pixel and channel, `(N,)`.

    The mean length of the step to the next pixel on the right and below; smooth at 0.
    """
    shape = op.shapes.known(pixels)
    assert shape is not None
    height, width = shape[2][0], shape[3][0]
    if min(height, width) < 2:
        raise ExportError(f"a picture of {height} x {width} pixels has no total variation.")
    inner = (*shape[:2], op.shapes.dim(height - 1), op.shapes.dim(width - 1))

    def part(top: int, left: int) -> ir.Value:
        ends = [top + height - 1, left + width - 1]
        return _like(op, op.Slice(pixels, [top, left], ends, [2, 3], [1, 1]), inner)

    here = part(0, 0)
    down, across = op.Sub(part(1, 0), here), op.Sub(part(0, 1), here)
    square = op.Add(op.Add(op.Mul(down, down), op.Mul(across, across)), 1e-6)
    return op.reduce("ReduceMean", op.Sqrt(square), [1, 2, 3], keepdims=False)


def _centred(size: int) -> np.ndarray:
    """The places of an axis, counted from its centre, float32 `(size,)`."""
    return (np.arange(size) - (size - 1) / 2).astype(np.float32)


def _like(op: Builder, value: ir.Value, shape: Shape) -> ir.Value:
    """The value with its shape noted."""
    op.shapes.record(value, shape)
    return value
