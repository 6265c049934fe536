"""JAX networks through jax2onnx: flax, equinox and plain functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifiers import session

from deepinside.exporters import ClassifierError, export_saliency

jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx")
nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
equinox = pytest.importorskip("equinox")

SIZE = 16


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(3, 8, (3, 3), strides=(2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.gelu(self.norm(self.first(x)))
        x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nnx.tanh(self.second(x))
        return self.last(self.dropout(x.mean(axis=(1, 2))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.gelu(linen.Conv(8, (3, 3), strides=2)(x))
        x = linen.GroupNorm(4)(x)
        x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return linen.Dense(5)(x.reshape((x.shape[0], -1)))


class Equinox(equinox.Module):
    first: Any
    last: Any

    def __init__(self) -> None:
        key, other = jax.random.split(jax.random.PRNGKey(0))
        self.first = equinox.nn.Conv2d(3, 8, 3, key=key)
        self.last = equinox.nn.Linear(8, 5, key=other)

    def __call__(self, x: Any) -> Any:
        def one(image: Any) -> Any:
            return self.last(jax.nn.silu(self.first(image)).mean(axis=(1, 2)))

        return jax.vmap(one)(x)


def bound() -> Any:
    module = Linen()
    return module.bind(module.init(jax.random.PRNGKey(0), np.zeros((1, SIZE, SIZE, 3))))


def function() -> Callable[[Any], Any]:
    weights = np.random.default_rng(0).standard_normal((SIZE * SIZE * 3, 5)).astype(np.float32)

    def scores(x: Any) -> Any:
        return jax.numpy.sin(x.reshape((x.shape[0], -1))) @ weights

    return scores


NETWORKS: dict[str, Callable[[], Any]] = {
    "flax nnx": Nnx,
    "flax linen": bound,
    "function": function,
    "compiled function": lambda: jax.jit(function()),
    "equinox": Equinox,
}


def pictures(name: str) -> np.ndarray:
    shape = (2, 3, SIZE, SIZE) if name == "equinox" else (2, SIZE, SIZE, 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def agrees(path: Path, network: Any, pixels: np.ndarray) -> None:
    """Scores and gradient are JAX's own."""
    targets = np.array([1, 4])
    scores, gradient = session(path).run(
        ["scores", "gradient"], {"image": pixels, "target": targets}
    )

    def total(x: Any) -> Any:
        return network(x)[np.arange(2), targets].sum()

    expected = np.asarray(jax.grad(total)(pixels))
    np.testing.assert_allclose(scores, network(pixels), atol=1e-5 * np.abs(scores).max())
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_is_that_of_jax(tmp_path: Path, name: str) -> None:
    network, pixels = NETWORKS[name](), pictures(name)
    report = export_saliency(network, tmp_path / "s.onnx", example_input=pixels)
    if name == "flax nnx":
        assert not network.dropout.deterministic  # the caller's stays as it was
        network.eval()
    agrees(report.path, network, pixels)


def test_a_factory_by_name(tmp_path: Path) -> None:
    report = export_saliency(
        "jax:test_frontdoors_jax:Nnx", tmp_path / "s.onnx", input_shape=(1, SIZE, SIZE, 3)
    )
    network = Nnx()
    network.eval()
    agrees(report.path, network, pictures("flax nnx"))


def not_callable() -> int:
    return 3


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("jax:test_frontdoors_jax", {}, "does not name a factory"),
        ("jax:test_frontdoors_jax:absent", {}, "can't be imported"),
        ("jax:test_frontdoors_jax:not_callable", {}, "int can't be called"),
        ("jax:test_frontdoors_jax:Nnx", {}, "--input-shape"),
        ("jax:test_frontdoors_jax:Nnx", {"input_shape": (1, 16, 16, 4)}, "jax2onnx can't export"),
        ("jax:test_frontdoors_jax:Nnx", {"random_weights": True}, "--random-weights can't be used"),
    ],
)
def test_what_can_not_be_opened(
    tmp_path: Path, name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ClassifierError, match=sentence):
        export_saliency(name, tmp_path / "s.onnx", **options)
