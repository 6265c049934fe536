"""Real network architectures with random weights, for comparison with PyTorch's autograd."""

from typing import Any

__all__ = ["NETWORKS", "build", "picture_size", "settle", "smooth_pictures"]

NETWORKS = (
    "alexnet",
    "vgg16",
    "squeezenet1_1",
    "googlenet",
    "resnet50",
    "densenet121",
    "inception_v3",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_tiny_patch16_224",
)


def picture_size(name: str) -> int:
    """Height and width of the network's input.

    Smaller for deep ReLU networks: of ten million activations some lie within rounding of zero,
    where one side's mask differs from the other's although both gradients are right.
    """
    return {
        "googlenet": 96,
        "resnet50": 96,
        "densenet121": 96,
        "mobilenet_v2": 96,
        "inception_v3": 139,
    }.get(name, 224)


def smooth_pictures(count: int, size: int) -> Any:
    """Pictures `(count, 3, size, size)` with large soft shapes, normalised."""
    import torch

    random = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 14, 14, generator=random)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").numpy()


def build(name: str) -> Any:
    """The network in eval mode, its weights random but its signals well scaled.

    Fresh BatchNormalization statistics leave deep networks with vanishing or exploding signals, in
    which float32 says nothing: they are set from one batch of noise.
    """
    import timm
    import torch
    import torchvision.models

    torch.manual_seed(0)
    if hasattr(torchvision.models, name):
        inception = name in ("googlenet", "inception_v3")
        auxiliary = {"init_weights": True, "aux_logits": False} if inception else {}
        module = getattr(torchvision.models, name)(weights=None, **auxiliary)
    else:
        module = timm.create_model(name)
    size = picture_size(name)
    return settle(module, torch.randn(4, 3, size, size))


def settle(module: Any, pixels: Any) -> Any:
    """Set BatchNormalization's statistics from a batch; the module in eval mode."""
    import torch

    for layer in module.modules():
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            layer.momentum = None  # a plain average
    with torch.no_grad():
        module.train()(pixels)
    return module.eval().requires_grad_(False)
