"""JAX networks in the three usual libraries, written as their users write them, random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np

from families import Loaded

__all__ = ["load", "names"]

_SIZE = 64
_CLASSES = 10


def names() -> list[str]:
    """Library and architecture."""
    return sorted(_builders())


def load(name: str) -> Loaded:
    """A network, pictures `(2, ...)`, and its own scores and gradient.

    The function takes pictures, class indices and an element type's name; JAX's float64 needs
    `jax_enable_x64`, which float32 weights do not use, so that float32 is the reference throughout.
    """
    import jax

    shape = (2, 3, _SIZE, _SIZE) if name.startswith("equinox") else (2, _SIZE, _SIZE, 3)
    pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    network = _builders()[name]()
    if hasattr(network, "eval"):
        network.eval()

    def reference(
        pictures: np.ndarray, targets: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        def total(x: Any) -> Any:
            scores = network(x)
            return scores[np.arange(len(pictures)), targets].sum(), scores

        gradient, scores = jax.grad(total, has_aux=True)(pictures)
        return np.asarray(scores, np.float64), np.asarray(gradient, np.float64)

    return Loaded(
        {"": lambda: network}, [pixels], reference, {"example_input": pixels}, singles=False
    )


def _builders() -> dict[str, Callable[[], Any]]:
    import equinox
    import jax
    from flax import linen, nnx

    class Residual(nnx.Module):
        def __init__(self, channels: int, rngs: Any) -> None:
            self.first = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
            self.second = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
            self.norms = nnx.List([nnx.BatchNorm(channels, rngs=rngs) for _ in range(2)])

        def __call__(self, x: Any) -> Any:
            inner = nnx.relu(self.norms[0](self.first(x)))
            return nnx.relu(x + self.norms[1](self.second(inner)))

    class ResNet(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.stem = nnx.Conv(3, 16, (7, 7), strides=(2, 2), rngs=rngs)
            self.blocks = nnx.List([Residual(16, rngs), Residual(32, rngs)])
            self.down = nnx.Conv(16, 32, (3, 3), strides=(2, 2), rngs=rngs)
            self.last = nnx.Linear(32, _CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.stem(x))
            x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
            x = self.blocks[1](self.down(self.blocks[0](x)))
            return self.last(x.mean(axis=(1, 2)))

    class Transformer(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.patches = nnx.Conv(3, 48, (8, 8), strides=(8, 8), rngs=rngs)
            self.norms = nnx.List([nnx.LayerNorm(48, rngs=rngs) for _ in range(3)])
            self.attention = nnx.MultiHeadAttention(4, 48, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(48, 96, rngs=rngs), nnx.Linear(96, 48, rngs=rngs)
            self.last = nnx.Linear(48, _CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = self.patches(x)
            x = x.reshape(x.shape[0], -1, 48)
            x = x + self.attention(self.norms[0](x))
            x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
            return self.last(self.norms[2](x).mean(axis=1))

    class Mobile(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.swish(linen.Conv(16, (3, 3), strides=2)(x))
            x = linen.Conv(32, (1, 1))(x)
            x = linen.hard_swish(linen.Conv(32, (5, 5), feature_group_count=32)(x))
            gate = linen.sigmoid(linen.Dense(32)(x.mean(axis=(1, 2), keepdims=True)))
            x = linen.GroupNorm(8)(x * gate)
            x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
            return linen.Dense(_CLASSES)(x.reshape((x.shape[0], -1)))

    def linen_bound() -> Any:
        module = Mobile()
        first = np.zeros((1, _SIZE, _SIZE, 3), np.float32)
        return module.bind(module.init(jax.random.PRNGKey(0), first))

    class Convolutional(equinox.Module):
        layers: list[Any]

        def __init__(self) -> None:
            keys = jax.random.split(jax.random.PRNGKey(0), 4)
            self.layers = [
                equinox.nn.Conv2d(3, 16, 5, stride=2, key=keys[0]),
                jax.nn.elu,
                equinox.nn.MaxPool2d(2, 2),
                equinox.nn.Conv2d(16, 24, 3, padding=1, key=keys[1]),
                jax.nn.softplus,
                equinox.nn.AdaptiveAvgPool2d(1),
                jax.numpy.ravel,
                equinox.nn.Linear(24, _CLASSES, key=keys[2]),
            ]

        def __call__(self, x: Any) -> Any:
            def one(image: Any) -> Any:
                for layer in self.layers:
                    image = layer(image)
                return image

            return jax.vmap(one)(x)

    return {
        "equinox-convolutional": Convolutional,
        "flax-linen-mobile": linen_bound,
        "flax-nnx-resnet": ResNet,
        "flax-nnx-transformer": Transformer,
    }
