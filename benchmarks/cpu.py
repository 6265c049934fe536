"""Times the input gradient on a CPU: ONNX Runtime on our files beside PyTorch, in one run.

    python benchmarks/cpu.py [--timm resnet50 ... | --all] [--batch 1 16] [--rounds 20] [--compile]
                             [--onnx-ad] [--training PYTHON]

Needs the extra `dev` and, for the embedded classifier's PyTorch twin, the packages named in
models/convert.py; --compile, which adds torch.compile, a C++ compiler. A round runs every case
once, one after the other, so that a busy moment of the machine hits all alike; the medians' ratios
carry over to other machines, milliseconds do not. Prints a table and writes
benchmarks/results/*.json, after every network.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from rivals import Case, open_session

from deepinside import models
from deepinside.exporters import export_saliency

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("deepinside", "numpy", "onnx", "onnxruntime", "onnxscript", "timm", "torch")
WARM_UP_ROUNDS = 3
BASELINE = "onnxruntime: forward"
OURS = "onnxruntime: our file"
TORCH = "pytorch: forward + input gradient"
COMPILED = "torch.compile: forward + input gradient"
ONNX_AD = "onnxruntime: onnx-ad's adjoint"
TRAINING = "onnxruntime-training: its own gradient"
TIMM = (
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "vgg16",
    "densenet121",
    "inception_v3",
    "convnext_tiny",
    "regnety_002",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_b16_224",
)


@dataclass(frozen=True)
class Network:
    """A classifier in its three forms, with the same weights.

    Attributes:
        name: as printed.
        module: the PyTorch network in inference mode, its parameters frozen.
        classifier: its ONNX file.
        saliency: the file exported from that, in the forms for CPUs.
        portable: the same in the forms for all runtimes.
        image_size: height and width of the input.
    """

    name: str
    module: Any
    classifier: Path
    saliency: Path
    portable: Path
    image_size: int
    export_seconds: float


def embedded(folder: Path) -> Network:
    """The embedded EfficientNet-Lite0; PyTorch runs the network its weights were taken from."""
    from deepinside.models import convert

    module = convert.load_network().requires_grad_(False)
    name = "efficientnet-lite0 (embedded)"
    return exported(name, module, models.default_classifier(), convert.IMAGE_SIZE, folder)


def exported(name: str, module: Any, classifier: Path, size: int, folder: Path) -> Network:
    """The network with its saliency files."""
    files = {form: folder / f"{classifier.stem}.{form}.onnx" for form in ("cpu", "any")}
    for form, path in files.items():
        report = export_saliency(classifier, path, optimize_for=form)
    return Network(name, module, classifier, files["cpu"], files["any"], size, report.seconds)


def from_timm(name: str, folder: Path, size: int | None = None) -> Network:
    """A timm network with random weights, at its own picture size or another."""
    module, classifier, size = classifier_from_timm(name, folder, size)
    return exported(f"timm {name} (random weights)", module, classifier, size, folder)


def classifier_from_timm(name: str, folder: Path, size: int | None = None) -> tuple[Any, Path, int]:
    """A timm network with random weights, its ONNX file and its picture size."""
    import timm
    import torch

    module = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
    size = size or timm.data.resolve_model_data_config(module)["input_size"][-1]
    assert size is not None
    classifier = folder / f"{name}.onnx"
    torch.onnx.export(
        module,
        (torch.randn(2, 3, size, size),),
        classifier,
        input_names=["image"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        external_data=False,
        verbose=False,
    )
    return module, classifier, size


def torch_gradient(module: Any, image: Any) -> tuple[Any, Any]:
    """PyTorch's logits and the gradient of each image's top-1 logit."""
    image.requires_grad_(True)
    image.grad = None
    logits = module(image)
    logits.amax(dim=1).sum().backward()
    return logits.detach(), image.grad


def cases(
    network: Network, batch: int, threads: int, options: argparse.Namespace
) -> tuple[dict[str, Case], dict[str, float], dict[str, str]]:
    """Builds the cases to time.

    Returns:
        The cases; how far ours and PyTorch's results are apart; why others can't take part.
    """
    import torch

    random = np.random.default_rng(0)
    shape = (batch, 3, network.image_size, network.image_size)
    image = random.standard_normal(shape, dtype=np.float32)
    tensor, leaf = torch.from_numpy(image), torch.from_numpy(image.copy())
    forward = open_session(network.classifier, threads)
    saliency = open_session(network.saliency, threads)
    portable = open_session(network.portable, threads)
    feed = {forward.get_inputs()[0].name: image}

    def torch_forward() -> Any:
        with torch.no_grad():
            return network.module(tensor)

    timed: dict[str, Case] = {
        BASELINE: lambda: forward.run(None, feed),
        OURS: lambda: saliency.run(None, feed),
        f"{OURS}, not for CPUs": lambda: portable.run(None, feed),
        "pytorch: forward": torch_forward,
        TORCH: lambda: torch_gradient(network.module, leaf),
    }
    if options.compile:
        quick = torch.compile(network.module)
        torch_gradient(quick, leaf)
        timed[COMPILED] = lambda: torch_gradient(quick, leaf)
    refused = {}
    makers: dict[str, Any] = {}
    if options.onnx_ad:
        classes = forward.run(None, feed)[0].argmax(axis=1)
        makers[ONNX_AD] = partial(rivals.onnx_ad, network.classifier, image, classes, threads)
    if options.training:
        makers[TRAINING] = partial(
            rivals.Training, options.training, network.classifier, image, threads
        )
    for name, make in makers.items():
        try:
            timed[name] = make()
        except Exception as error:  # whatever it raises is its answer
            refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    ours = np.asarray(saliency.run(["gradient"], feed)[0], np.float64)
    theirs = np.asarray(torch_gradient(network.module, leaf)[1].numpy(), np.float64)
    return (
        timed,
        {
            "gradient_cosine": float(
                (ours * theirs).sum() / (np.linalg.norm(ours) * np.linalg.norm(theirs))
            ),
            "gradient_difference_over_maximum": float(
                np.abs(ours - theirs).max() / np.abs(theirs).max()
            ),
        },
        refused,
    )


def time_rounds(timed: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Returns each case's milliseconds, one per round."""
    milliseconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, case in timed.items():
            started = time.perf_counter()
            case()
            elapsed = 1000 * (time.perf_counter() - started)
            if number >= WARM_UP_ROUNDS:
                milliseconds[name].append(elapsed)
    return milliseconds


def open_seconds(path: Path, threads: int) -> float:
    """Seconds until a file is ready to run."""
    started = time.perf_counter()
    open_session(path, threads)
    return round(time.perf_counter() - started, 3)


def measure(
    network: Network, batch: int, rounds: int, threads: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measures one network at one batch size."""
    timed, agreement, refused = cases(network, batch, threads, options)
    results = {}
    milliseconds = time_rounds(timed, rounds)
    if isinstance(worker := timed.get(TRAINING), rivals.Training):
        worker.close()
    baseline = statistics.median(milliseconds[BASELINE])
    for name, values in milliseconds.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        results[name] = {
            "median_ms": round(middle, 3),
            "quartiles_ms": [round(low, 3), round(high, 3)],
            "times_forward": round(middle / baseline, 2),
        }
    return {
        "network": network.name,
        "batch": batch,
        "classifier_bytes": network.classifier.stat().st_size,
        "saliency_bytes": network.saliency.stat().st_size,
        "export_seconds": round(network.export_seconds, 2),
        "open_seconds": {
            "classifier": open_seconds(network.classifier, threads),
            "saliency": open_seconds(network.saliency, threads),
        },
        "agreement": agreement,
        "refused": refused,
        "cases": results,
    }


def machine() -> dict[str, Any]:
    """Describes the machine by what decides the times."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of what takes part."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(measurements: Iterable[dict[str, Any]]) -> str:
    """Formats the measurements for reading."""
    lines = []
    for item in measurements:
        lines.append(f"\n{item['network']}, batch {item['batch']}")
        lines.append(f"{'':38}{'median ms':>10}{'quartiles':>18}{'x forward':>11}")
        for name, result in item["cases"].items():
            low, high = result["quartiles_ms"]
            lines.append(
                f"{name:38}{result['median_ms']:10.2f}{f'{low:.2f}-{high:.2f}':>18}"
                f"{result['times_forward']:11.2f}"
            )
        agreement = item["agreement"]
        lines.append(
            f"gradients: cosine {agreement['gradient_cosine']:.7f}, largest difference "
            f"{agreement['gradient_difference_over_maximum']:.1e} of the maximum"
        )
        lines += [f"{name}: {reason}" for name, reason in item["refused"].items()]
    return "\n".join(lines)


def make_timm_importable() -> Any:
    """Declares the operators that torchvision's CUDA build can't register beside a CPU PyTorch.

    Returns what must be kept alive; None where torchvision works.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--timm", nargs="+", default=[], metavar="NAME")
    chosen.add_argument("--all", action="store_true", help="the networks of docs/performance.md")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--onnx-ad", action="store_true", help="onnx-ad's adjoint too")
    parser.add_argument("--training", type=Path, metavar="PYTHON", help="see benchmarks/rivals.py")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    # Read when PyTorch's OpenMP library is loaded, below. Waiting threads that spin would take
    # the other library's cores.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    names = TIMM if arguments.all else arguments.timm
    kept = make_timm_importable() if names else None
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    output = arguments.output or RESULTS / f"cpu-{date}.json"
    measurements: list[dict[str, Any]] = []
    report = {
        "date": date,
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "rounds": arguments.rounds,
            "threads": arguments.threads,
            "precision": "float32",
            "spinning": False,
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        "measurements": measurements,
    }
    for build in (embedded, *(partial(from_timm, name) for name in names)):
        with tempfile.TemporaryDirectory() as folder:
            network = build(Path(folder))
            for batch in arguments.batch:
                measurements.append(
                    measure(network, batch, arguments.rounds, arguments.threads, arguments)
                )
                sys.stdout.write(table(measurements[-1:]) + "\n")
                sys.stdout.flush()
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            torch.compiler.reset()
    del kept
    sys.stdout.write(f"\n{output}\n")


if __name__ == "__main__":
    main()
