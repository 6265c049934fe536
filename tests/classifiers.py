"""Small classifiers written out in ONNX's text form, for tests of the export."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

__all__ = ["CONV_NET", "classifier", "numeric_gradient", "session"]

# Conv, Relu, global pool, 5 classes. {tail} turns `s` into the output.
CONV_NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[{batch},3,{size},{size}] image) => ({outputs}) <
  float[8,3,3,3] w, float[5,8] v, float[5] b, int64[2] flat
> {{
  c = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (image, w)
  r = Relu (c)
  p = GlobalAveragePool (r)
  f = Reshape (p, flat)
  s = Gemm <transB = 1> (f, v, b)
  {tail}
}}
"""


def classifier(
    *,
    tail: str = "logits = Identity (s)",
    outputs: str = "float[N,5] logits",
    batch: str = "N",
    size: int = 8,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """The small network with random weights and the given end."""
    text = CONV_NET.format(tail=tail, outputs=outputs, batch=batch, size=size, opset=opset)
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": random.standard_normal((5, 8)).astype(np.float32),
        "b": random.standard_normal(5).astype(np.float32),
        "flat": np.array([-1, 8]),
    }
    del model.graph.value_info[:]
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def session(path: str | Path | bytes) -> onnxruntime.InferenceSession:
    """A quiet CPU session."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # an overridable initializer is what the contract wants
    source = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def numeric_gradient(
    run: onnxruntime.InferenceSession,
    output: str,
    pixels: np.ndarray,
    targets: np.ndarray,
    direction: np.ndarray,
) -> float:
    """Central difference of the targets' summed scores along a direction."""
    step = 1e-2
    above, below = (
        run.run([output], {run.get_inputs()[0].name: (pixels + sign * direction).astype("f")})[0]
        for sign in (step, -step)
    )
    rows = range(len(pixels))
    return float((above[rows, targets] - below[rows, targets]).sum() / (2 * step))
