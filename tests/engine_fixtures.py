"""Exported files made by hand, whose every value is known in closed form.

S_k(x) = <w_k, x> + a_k / 2 * |x|^2, so that dS_k/dx = w_k + a_k x.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

LABELS = ["tabby, tabby cat", "tiger cat", "Great Dane"]
RECORD = {
    "input_size": [6, 8],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 1],
    "mean": [0.5, 0.25, 0.0],
    "std": [0.5, 0.25, 1.0],
}
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True)
class Recipe:
    """What file to make."""

    task: str = "saliency"
    layout: str = "NCHW"
    size: tuple[int, int] = (6, 8)
    dtype: str = "float32"
    batch: int | None = None
    classes: int = 3
    activation: str = "none"
    outputs: tuple[str, ...] = ("score", "target_index", "gradient", "saliency")
    target_input: str = "optional"
    gradient_factor: float = 1.0  # other than 1: a file whose gradient is wrong
    overrides: dict[str, str | None] = field(default_factory=dict)
    record: dict[str, Any] | None = field(default_factory=lambda: dict(RECORD))
    labels: list[str] | None = field(default_factory=lambda: list(LABELS))

    def but(self, **changes: Any) -> "Recipe":
        return replace(self, **changes)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout == "flat":
            return (3 * self.size[0] * self.size[1],)
        return (3, *self.size) if self.layout == "NCHW" else (*self.size, 3)

    def picture(self, x: NDArray[Any]) -> NDArray[Any]:
        """An input without batch axis as (H, W, C)."""
        if self.layout == "flat":
            return x.reshape(*self.size, 3)
        return x.transpose(1, 2, 0) if self.layout == "NCHW" else x

    @property
    def weights(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """w: (K, C * H * W), a: (K,)."""
        random = np.random.default_rng(1)
        w = random.standard_normal((self.classes, int(np.prod(self.shape)))).astype(self.dtype)
        return w, np.linspace(0.02, 0.06, self.classes).astype(self.dtype)

    def scores(self, x: NDArray[Any]) -> NDArray[np.float64]:
        w, a = self.weights
        flat = x.reshape(len(x), -1).astype(np.float64)
        return flat @ w.T + 0.5 * (flat**2).sum(1, keepdims=True) * a

    def gradient(self, x: NDArray[Any], index: int) -> NDArray[np.float64]:
        w, a = self.weights
        return w[index].reshape(x.shape) + a[index] * x.astype(np.float64)


class Hill(Recipe):
    """Every class looks at the middle of the pictures' red."""

    @property
    def weights(self) -> tuple[NDArray[Any], NDArray[Any]]:
        rows, columns = np.indices(self.size)
        hill = np.exp(-((rows - 2.3) ** 2 + (columns - 2.8) ** 2) / 4)
        factors = np.arange(1, self.classes + 1)[:, np.newaxis]
        w = factors * np.tile(hill.ravel(), 3)
        return w.astype(self.dtype), np.zeros(self.classes, dtype=self.dtype)


def write(path: Path, recipe: Recipe | None = None) -> Path:
    """Write the file of a recipe."""
    recipe = recipe or Recipe()
    w, a = recipe.weights
    number = _TYPES[recipe.dtype]
    batch: int | str = recipe.batch or "N"
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(w.T), "w"),
        numpy_helper.from_array(w, "rows"),
        numpy_helper.from_array(a.reshape(1, -1), "a"),
        numpy_helper.from_array(a.reshape(-1, 1), "a_rows"),
        numpy_helper.from_array(np.array(0.5, recipe.dtype), "half"),
        numpy_helper.from_array(np.array(2, recipe.dtype), "two"),
        numpy_helper.from_array(np.array(recipe.gradient_factor, recipe.dtype), "factor"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array(0), "zero"),
    ]
    node = helper.make_node
    nodes = [
        node("Flatten", ["pixels"], ["flat"]),
        node("MatMul", ["flat", "w"], ["linear"]),
        node("Mul", ["flat", "flat"], ["squares"]),
        node("ReduceSum", ["squares", "one"], ["square"]),
        node("Mul", ["square", "half"], ["halved"]),
        node("Mul", ["halved", "a"], ["curved"]),
        node("Add", ["linear", "curved"], ["logits"]),
        node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        node("Less", ["target", "zero"], ["open"]),
        node("Where", ["open", "best", "target"], ["chosen"]),
        node("Mul", ["best", "zero"], ["zeros"]),
        node("Add", ["chosen", "zeros"], ["target_index"]),  # T = 1 becomes N
        node("Unsqueeze", ["target_index", "one"], ["column"]),
        node("GatherElements", ["logits", "column"], ["picked"], axis=1),
        node("Squeeze", ["picked", "one"], ["score"]),
        node("Gather", ["rows", "target_index"], ["row"]),
        node("Gather", ["a_rows", "target_index"], ["slope"]),
        node("Mul", ["slope", "flat"], ["bend"]),
        node("Add", ["row", "bend"], ["slopes"]),
        node("Mul", ["slopes", "factor"], ["scaled"]),
        node("Shape", ["pixels"], ["shape"]),
        node("Reshape", ["scaled", "shape"], ["gradient"]),
    ]
    shape = [batch, *recipe.shape]
    inputs = [helper.make_tensor_value_info("pixels", number, shape)]
    target = helper.make_tensor_value_info("target", TensorProto.INT64, ["T"])
    names = {"image": "pixels"}
    fixed = recipe.target_input.startswith("fixed:")
    if fixed:
        index = int(recipe.target_input.partition(":")[2])
        initializers.append(numpy_helper.from_array(np.array([index]), "target"))
    else:
        names["target"] = "target"
        inputs.append(target)
    if recipe.task == "saliency":
        if recipe.target_input == "optional":
            initializers.append(numpy_helper.from_array(np.array([-1]), "target"))
        outputs = _saliency_outputs(recipe, nodes, names, number, shape)
    else:
        nodes += [
            node("Mul", ["pixels", "l2"], ["shrunk"]),
            node("Mul", ["shrunk", "two"], ["penalty"]),
            node("Sub", ["gradient", "penalty"], ["direction"]),
            node("Mul", ["direction", "step_size"], ["move"]),
            node("Add", ["pixels", "move"], ["next_image"]),
        ]
        inputs += [helper.make_tensor_value_info(n, number, []) for n in ("step_size", "l2")]
        outputs = [
            helper.make_tensor_value_info("next_image", number, shape),
            helper.make_tensor_value_info("score", number, [batch]),
        ]
        names |= {part: part for part in ("step_size", "l2", "next_image", "score")}
    graph = helper.make_graph(nodes, "by_hand", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    helper.set_model_props(model, metadata(recipe, names))
    path.write_bytes(model.SerializeToString())
    return path


def _saliency_outputs(
    recipe: Recipe, nodes: list[Any], names: dict[str, str], number: int, shape: list[Any]
) -> list[Any]:
    channel = 1 if recipe.layout == "NCHW" else 3
    picture = [shape[0], *recipe.size, 3] if recipe.layout == "flat" else shape
    target = numpy_helper.from_array(np.array([-1, *picture[1:]]))
    nodes += [
        helper.make_node("Constant", [], ["picture_shape"], value=target),
        helper.make_node("Abs", ["gradient"], ["lengths"]),
        helper.make_node("Reshape", ["lengths", "picture_shape"], ["magnitude"]),
        helper.make_node("ReduceMax", ["magnitude"], ["saliency"], axes=[channel], keepdims=0),
        {
            "none": helper.make_node("Identity", ["logits"], ["scores"]),
            "softmax": helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
            "log_softmax": helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=1),
            "sigmoid": helper.make_node("Sigmoid", ["logits"], ["scores"]),
        }[recipe.activation],
    ]
    names["class_scores"] = "scores"
    known = {
        "score": (number, shape[:1]),
        "target_index": (TensorProto.INT64, shape[:1]),
        "gradient": (number, shape),
        "saliency": (number, [n for axis, n in enumerate(picture) if axis != channel]),
    }
    outputs = [helper.make_tensor_value_info("scores", number, [shape[0], recipe.classes])]
    for part in recipe.outputs:
        names[part] = part
        outputs.append(helper.make_tensor_value_info(part, *known[part]))
    return outputs


def metadata(recipe: Recipe, names: dict[str, str]) -> dict[str, str]:
    """The metadata of a recipe; an override of None leaves a key out."""
    values: dict[str, str | None] = {
        "contract_version": "1",
        "tool_version": "0.1.0",
        "task": recipe.task,
        "source_sha256": "ab" * 32,
        "names": json.dumps(names),
        "layout": recipe.layout,
        "num_classes": str(recipe.classes),
        "activation": recipe.activation,
        "score": json.dumps({"kind": "logit", "tensor": "logits", "bypassed": []}),
        "relu": "gradient",
    }
    if recipe.task == "saliency":
        values["target_input"] = recipe.target_input
    else:
        values["step_rule"] = "plain"
    if recipe.layout == "flat":
        values |= {"contract_version": "2", "picture": json.dumps([*recipe.size, 3])}
    if recipe.record is not None:
        values["preprocessing"] = json.dumps(recipe.record)
    if recipe.labels is not None:
        values["labels"] = json.dumps(recipe.labels)
    values |= recipe.overrides
    return {f"deepinside.{key}": text for key, text in values.items() if text is not None}


def pictures(count: int, recipe: Recipe | None = None) -> NDArray[np.float32]:
    """Preprocessed pictures (N, ...) of a recipe's shape."""
    recipe = recipe or Recipe()
    random = np.random.default_rng(7)
    return random.standard_normal((count, *recipe.shape)).astype(recipe.dtype)


def write_pictures(folder: Path, count: int) -> None:
    """Pictures of noise, `000.png` and so on, no two the same."""
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed:03d}.png")
