"""How far float16 moves the gradient, found out on a CPU: `python benchmarks/half.py`.

ONNX Runtime's CPU provider computes float16 files in float32 and rounds only where it must, which
says nothing of a GPU. Here every float16 tensor of the file is rounded to float16 and back by two
Casts, and computed with in float32 between, as tensor cores do: sums are in float32, what is stored
is in float16. Compared with the float32 file, on the example pictures, for the class that it sees.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import cpu
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rivals import open_session

from deepinside import models
from deepinside.engine import Engine
from deepinside.engine.inputs import prepare
from deepinside.exporters import export_saliency

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
TIMM = ("resnet50", "vit_tiny_patch16_224")


def simulated(path: Path, output: Path) -> Path:
    """The file with float16 as a matter of rounding alone."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    rounded = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == HALF}
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == HALF:
                attribute.i = SINGLE
            elif attribute.t.data_type == HALF:
                array = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(array))
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in rounded:
                continue
            node.output[index] = f"{name}/exact"
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=HALF))
            nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=SINGLE))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, output)
    return output


def gradients(path: Path, pictures: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each picture's gradient, and the class that the file sees."""
    run = open_session(path, 1)
    image = run.get_inputs()[0].name
    found = run.run(["gradient", "target_index"], {image: pictures, "target": targets})
    return found[0].astype(np.float64).reshape(len(pictures), -1), found[1]


def describe(name: str, exact: np.ndarray, found: np.ndarray) -> str:
    """A line of the table."""
    if not np.isfinite(found).all():
        return f"{name}not finite: it overflows"
    products = (exact * found).sum(1)
    cosines = (
        products / np.linalg.norm(exact, axis=1) / np.maximum(np.linalg.norm(found, axis=1), 1e-300)
    )
    errors = np.abs(found - exact) / np.abs(exact).max(1, keepdims=True)
    middle, most = np.quantile(errors, [0.5, 0.999])
    lost = np.mean((found == 0) & (exact != 0))
    return f"{name}{cosines.min():10.6f}{middle:11.1e}{most:11.1e}{errors.max():11.1e}{lost:10.2%}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--timm", nargs="*", default=TIMM, metavar="NAME")
    parser.add_argument("--scales", nargs="+", type=int, default=[1, 64, 1024, 8192, 32768])
    arguments = parser.parse_args()
    kept = cpu.make_timm_importable()
    heads = ("scale", "cosine", "median", "99.9 %", "largest", "lost")
    widths = (7, 10, 11, 11, 11, 10)
    line = "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    sys.stdout.write(f"{'':38}{line}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classifiers = [("efficientnet-lite0 (embedded)", models.default_classifier())]
        for timm in arguments.timm:
            _, classifier, _ = cpu.classifier_from_timm(timm, folder)
            classifiers.append((f"timm {timm} (random weights)", classifier))
        single = folder / "single.onnx"
        card = models.card()
        export_saliency(classifiers[0][1], single, preprocessing=card["preprocessing"])
        spec = Engine(single, "cpu").spec
        paths = sorted(Path(models.__file__).parent.glob("pictures/*.png"))
        pictures = np.stack([prepare(p, i, spec, None).array for i, p in enumerate(paths)])
        for title, classifier in classifiers:
            export_saliency(classifier, single)
            exact, seen = gradients(single, pictures, np.array([-1]))
            for scale in arguments.scales:
                half = folder / "half.onnx"
                export_saliency(classifier, half, precision="float16", gradient_scale=scale)
                found, _ = gradients(simulated(half, folder / "simulated.onnx"), pictures, seen)
                sys.stdout.write(describe(f"{title:38}{scale:7}", exact, found) + "\n")
                sys.stdout.flush()
    del kept


if __name__ == "__main__":
    main()
