"""Image classifiers of transformers: each family, at a depth that runs in seconds, random weights.

The architecture is the library's own; only depths and widths are cut.
"""

import copy
from typing import Any

import numpy as np

from families import Loaded

__all__ = ["load", "names"]

# Model type -> what differs from the family's default configuration.
_SMALL: dict[str, dict[str, Any]] = {
    "beit": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192, "use_relative_position_bias": True},
    "bit": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "embedding_size": 16}
    | {"num_groups": 8},
    "clip": {},
    "convnext": {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 1]},
    "convnextv2": {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 1]},
    "cvt": {"depth": [1, 2, 3], "embed_dim": [32, 64, 96], "num_heads": [1, 2, 3]},
    "data2vec-vision": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192, "use_relative_position_bias": True},
    "deit": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192},
    "dinat": {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
    | {"dilations": [[1], [1], [1], [1]]},
    "dinov2": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3},
    "dinov2_with_registers": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "image_size": 224}
    | {"hidden_dim": 640},
    "focalnet": {"embed_dim": 32, "depths": [1, 1, 2, 1]},
    "hgnet_v2": {},
    "hiera": {"embed_dim": 32, "depths": [1, 1, 2, 1]},
    "ijepa": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192},
    "levit": {},
    "mobilenet_v1": {"depth_multiplier": 0.5},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320]},
    "mobilevitv2": {"width_multiplier": 0.5},
    "poolformer": {"depths": [1, 1, 2, 1], "hidden_sizes": [32, 48, 64, 96]},
    "pp_lcnet": {},
    "pvt": {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 96, 128]}
    | {"num_attention_heads": [1, 2, 3, 4]},
    "pvt_v2": {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 96, 128]}
    | {"num_attention_heads": [1, 2, 3, 4]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}
    | {"groups_width": 16},
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "segformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]},
    "siglip": {},
    "swiftformer": {"depths": [1, 1, 2, 1], "embed_dims": [24, 32, 48, 64]},
    "swin": {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "swinv2": {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "textnet": {},
    "vit": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192},
    "vit_msn": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"intermediate_size": 192},
}
_TOWER = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
_CLASSES = 10


def names() -> list[str]:
    """The model types of transformers."""
    return sorted(_SMALL)


def load(name: str) -> Loaded:
    """A network, pictures `(2, C, H, W)`, and its own scores and gradient.

    The function takes pictures, class indices and an element type's name.
    """
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **_SMALL[name])
    if hasattr(config, "vision_config"):
        for key, value in (_TOWER | {"intermediate_size": 192}).items():
            setattr(config.vision_config, key, value)
    config.num_labels = _CLASSES
    known = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[name]
    config.architectures = [known if isinstance(known, str) else known[0]]
    network = transformers.AutoModelForImageClassification.from_config(
        config, attn_implementation="eager"
    )
    size = getattr(getattr(config, "vision_config", config), "image_size", 224)
    size = size if isinstance(size, int) else size[0]
    pixels = torch.randn(2, getattr(config, "num_channels", 3), size, size)
    _scale(network, pixels)
    network.eval().requires_grad_(False)

    def reference(
        pictures: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        # A copy: LeViT keeps what it worked out, in the type that it ran in.
        module = copy.deepcopy(network).to(getattr(torch, dtype))
        image = torch.tensor(pictures, dtype=getattr(torch, dtype), requires_grad=True)
        scores = module(pixel_values=image).logits
        scores[range(len(pictures)), targets].sum().backward()
        return scores.detach().numpy(), image.grad.numpy()

    return Loaded(
        {"": lambda: network}, [pixels.numpy()], reference, {"example_input": pixels.numpy()}
    )


def _scale(network: Any, pixels: Any) -> None:
    """Set weights and BatchNormalization's statistics so that signals keep their size."""
    import torch

    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                fan = layer.weight[0].numel()
                layer.weight.normal_(std=fan**-0.5)
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # a plain average
        for name, parameter in network.named_parameters():
            if "lambda" in name or "layer_scale" in name or "gamma" in name:
                parameter.fill_(0.5)  # what begins as 1e-6 hides the branch behind it
        network.train()(pixel_values=pixels)
