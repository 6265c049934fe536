"""Saliency methods against independent implementations: Captum, PAIR, and plain NumPy.

The same PyTorch networks are explained by Captum 0.9 (autograd) and PAIR's `saliency` 0.2, and by
the engine on their exported files. Networks with ReLU have kinks: maps are compared by cosine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepinside import models
from deepinside.engine import Engine, Method
from deepinside.engine.blur import blur
from deepinside.engine.estimates import generator
from deepinside.exporters import export_saliency

torch = pytest.importorskip("torch")
captum = pytest.importorskip("captum.attr")
pair = pytest.importorskip("saliency.core")

RECORD = {
    "input_size": [16, 20],
    "resize": "stretch",
    "resize_size": None,
    "interpolation": "bilinear",
    "channel_order": "RGB",
    "value_range": [0, 255],
    "mean": [120.0, 110.0, 100.0],
    "std": [60.0, 55.0, 50.0],
}
BLACK = -np.array(RECORD["mean"], np.float32) / np.array(RECORD["std"], np.float32)
RANGE = 255 / np.array(RECORD["std"], np.float32)


def network(activation: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        activation(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 12, 3, padding=1),
        activation(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 5),
    ).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module", params=["ReLU", "SiLU"])
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[Any, Engine]:
    net = network(getattr(torch.nn, request.param))
    return net, engine(net, folder / f"{request.param}.onnx")


def engine(net: Any, file: Path, **options: Any) -> Engine:
    export_saliency(net, file, input_shape=(2, 3, 16, 20), preprocessing=RECORD, **options)
    return Engine(file, "cpu")


def leaf(x: NDArray[np.float32]) -> Any:
    return torch.tensor(x, requires_grad=True)


def pictures(count: int = 2) -> NDArray[np.float32]:
    """Smooth pictures with a little noise (N, 3, 16, 20)."""
    random = np.random.default_rng(3)
    coarse = random.standard_normal((count, 3, 4, 5)).repeat(4, axis=2).repeat(4, axis=3)
    return (coarse + 0.2 * random.standard_normal((count, 3, 16, 20))).astype(np.float32)


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = (np.asarray(x, np.float64).ravel() for x in (one, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def noise(method: Method, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The noisy copies (samples, 3, H, W) of one picture, as the engine draws them."""
    assert method.samples is not None
    assert method.noise is not None
    last = picture.transpose(1, 2, 0)
    random = generator(method, last)
    drawn = [
        random.standard_normal(last.shape, dtype=np.float32) * method.noise * RANGE
        for _ in range(method.samples)
    ]
    return np.stack(drawn).transpose(0, 3, 1, 2)


def test_vanilla_and_input_times_gradient(case: tuple[Any, Engine]) -> None:
    net, ours = case
    x = pictures()
    theirs = {
        "vanilla": captum.Saliency(net).attribute(leaf(x), target=3, abs=False),
        "input-x-gradient": captum.InputXGradient(net).attribute(leaf(x), target=3),
    }
    for name, expected in theirs.items():
        found = ours.saliency(x, 3, method=name)
        for item, wanted in zip(found, expected.detach().numpy(), strict=True):
            assert cosine(item.attribution, wanted) > 0.9999
            np.testing.assert_allclose(item.attribution, wanted, atol=2e-2 * np.abs(wanted).max())


@pytest.mark.parametrize("quadrature", ["gauss-legendre", "riemann"])
@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_integrated_gradients(case: tuple[Any, Engine], quadrature: Any, baseline: Any) -> None:
    net, ours = case
    x = pictures()
    method = Method("integrated-gradients", steps=20, quadrature=quadrature, baseline=baseline)
    start = BLACK if baseline == "black" else np.zeros(3, np.float32)
    start = np.broadcast_to(start[:, None, None], x.shape).copy()
    names = {"gauss-legendre": "gausslegendre", "riemann": "riemann_middle"}
    expected, gaps = captum.IntegratedGradients(net).attribute(
        leaf(x),
        baselines=torch.tensor(start),
        target=1,
        n_steps=20,
        method=names[quadrature],
        return_convergence_delta=True,
    )
    found = ours.saliency(x, 1, method=method, batch_size=8)
    for item, wanted, gap in zip(found, expected.detach().numpy(), gaps.numpy(), strict=True):
        assert cosine(item.attribution, wanted) > 0.9999
        assert item.score is not None
        assert item.baseline_score is not None
        assert item.completeness_gap == pytest.approx(gap, abs=1e-3 * float(np.abs(wanted).sum()))
        assert abs(item.completeness_gap) < 0.02 * np.abs(wanted).sum()
        total = item.score - item.baseline_score + item.completeness_gap
        assert np.asarray(item.attribution).sum() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("smoothgrad", "smoothgrad"),
        ("smoothgrad-squared", "smoothgrad_sq"),
        ("vargrad", "vargrad"),
    ],
)
def test_noisy_gradients(
    case: tuple[Any, Engine], name: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, ours = case
    method = Method(name, samples=7, noise=0.1, seed=5)
    for item, x in zip(ours.saliency(pictures(), 2, method=method), pictures(), strict=True):
        drawn = torch.tensor(noise(method, x))
        # Captum draws its noise with torch.normal: here, that gives ours.
        monkeypatch.setattr(torch, "normal", lambda mean, *_, drawn=drawn, **__: mean + drawn)
        expected = captum.NoiseTunnel(captum.Saliency(net)).attribute(
            leaf(x[None]), nt_type=kind, nt_samples=7, target=2, abs=False
        )
        wanted = expected[0].numpy()
        assert cosine(item.attribution, wanted) > 0.9999
        np.testing.assert_allclose(item.attribution, wanted, atol=2e-2 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "relu", "kind"),
    [
        ("guided-backprop", "guided", captum.GuidedBackprop),
        ("deconvnet", "deconvnet", captum.Deconvolution),
    ],
)
def test_rules_of_relu(folder: Path, name: str, relu: str, kind: Any) -> None:
    net = network(torch.nn.ReLU)
    ours = engine(net, folder / f"{relu}.onnx", relu=relu)
    x = pictures()
    with pytest.warns(UserWarning, match="hooks"):
        expected = kind(net).attribute(leaf(x), target=4)
    plain = captum.Saliency(network(torch.nn.ReLU)).attribute(leaf(x), 4, abs=False)
    for item, wanted, other in zip(
        ours.saliency(x, 4, method=name), expected.detach().numpy(), plain.numpy(), strict=True
    ):
        assert item.method.name == name
        assert cosine(item.attribution, wanted) > 0.9999
        assert cosine(item.attribution, other) < 0.99


def gradient_of(net: Any, target: int) -> Callable[..., dict[str, Any]]:
    """PAIR's form of a network, pictures with channels last."""

    def call(batch: Any, **_: Any) -> dict[str, Any]:
        x = np.asarray(batch, np.float32).transpose(0, 3, 1, 2).copy()
        pixels = torch.tensor(x, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(pixels)[:, target].sum(), pixels)
        return {pair.base.INPUT_OUTPUT_GRADIENTS: gradient.numpy().transpose(0, 2, 3, 1)}

    return call


def test_blur_integrated_gradients(case: tuple[Any, Engine]) -> None:
    net, ours = case
    x = pictures(1)
    (found,) = ours.saliency(x, 2, method=Method("blur-ig", steps=100, blur=0.25))
    # PAIR takes gradients at the ends of steps: many of them come near the integral.
    expected = pair.BlurIG().GetMask(
        x[0].transpose(1, 2, 0).astype(np.float64),
        gradient_of(net, 2),
        max_sigma=4.0,
        steps=1000,
        grad_step=1e-3,
        batch_size=50,
    )
    assert cosine(np.asarray(found.attribution).transpose(1, 2, 0), expected) > 0.999
    assert abs(found.completeness_gap or 9) < 0.01 * np.abs(expected).sum()


def test_guided_integrated_gradients(
    case: tuple[Any, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, ours = case
    x = pictures(1)
    method = Method("guided-ig", steps=30, baseline="mean", max_distance=0.1)
    (found,) = ours.saliency(x, 2, method=method)
    # An argument that NumPy has renamed since.
    quantile = np.quantile
    monkeypatch.setattr(
        np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation)
    )
    expected = pair.GuidedIG().GetMask(
        x[0].transpose(1, 2, 0),
        gradient_of(net, 2),
        x_baseline=np.zeros((16, 20, 3)),
        x_steps=30,
        fraction=0.25,
        max_dist=0.1,
    )
    (straight,) = ours.saliency(
        x, 2, method=Method("integrated-gradients", steps=30, baseline="mean")
    )
    wanted = expected.transpose(2, 0, 1)
    assert cosine(found.attribution, wanted) > 0.999
    assert cosine(straight.attribution, wanted) < 0.99


@pytest.mark.parametrize("deviation", [0.4, 2.0, 9.0])
def test_blur_is_scipys(deviation: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = np.random.default_rng(0).standard_normal((16, 21, 3))
    sigma = (deviation, deviation, 0)
    for border, mode in (("zero", "constant"), ("mirror", "reflect")):
        expected = ndimage.gaussian_filter(picture, sigma, mode=mode)
        found = blur(picture, deviation, border)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_the_embedded_classifier_agrees_with_captum(folder: Path) -> None:
    """Cosine of at least 0.999 for vanilla, input x gradient and integrated gradients."""
    from deepinside.models.convert import load_network

    net = load_network()
    card = models.card()
    file = folder / "embedded.onnx"
    export_saliency(models.default_classifier(), file, preprocessing=card["preprocessing"])
    ours = Engine(file, "cpu")
    from deepinside.engine.inputs import prepare

    x = prepare(models.example("chelsea"), 0, ours.spec).array[None]
    black = torch.full((1, 3, 224, 224), -127 / 128)
    pixels = leaf(x)
    theirs = {
        "vanilla": captum.Saliency(net).attribute(pixels, target=285, abs=False),
        "input-x-gradient": captum.InputXGradient(net).attribute(pixels, target=285),
        "integrated-gradients": captum.IntegratedGradients(net).attribute(
            pixels, black, target=285, n_steps=8, internal_batch_size=8
        ),
    }
    for name, expected in theirs.items():
        steps = {"steps": 8} if name == "integrated-gradients" else {}
        (found,) = ours.saliency(x, 285, method=Method(name, **steps))  # type: ignore[arg-type]
        assert cosine(found.attribution, expected[0].detach().numpy()) >= 0.999
