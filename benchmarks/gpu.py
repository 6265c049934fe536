"""Times the input gradient and class pictures on an NVIDIA GPU, beside PyTorch, in one run.

    benchmarks/gpu.sh                                # all of it, with an environment of its own
    python benchmarks/gpu.py [--timm resnet50 ...] [--batch 1 16 64] [--rounds 20]
    python benchmarks/gpu.py --device cpu --small    # does it run at all? for machines without GPU

Pictures and results stay on the device, for PyTorch and for us, unless a case says host to host. A
round runs every case once, one after the other. Prints and writes benchmarks/results/gpu-DATE.json
after every network; benchmarks/gpu_page.py makes the page's table of it.
"""

import argparse
import contextlib
import copy
import datetime
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cpu
import numpy as np
from gpu_limits import count_flops, count_traffic, limits
from rivals import Case

from deepinside.engine import Engine, EngineError
from deepinside.engine.binding import BoundRun
from deepinside.engine.session import Session, SessionSettings, open_session
from deepinside.exporters import export_saliency, export_visualization

TIMM = (
    "resnet50",
    "mobilenetv2_100",
    "efficientnet_b0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
)
PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "triton", "nvidia-cudnn-cu13")
# Case: file, settings of the session. Files are those of `files`.
OURS: dict[str, tuple[str, dict[str, bool]]] = {
    "ours: float32": ("float32", {}),
    "ours: float32, forms for any runtime": ("any", {}),
    "ours: float32, CUDA graph": ("float32", {"cuda_graph": True}),
    "ours: TF32": ("float32", {"tf32": True}),
    "ours: TF32, channels last": ("float32", {"tf32": True, "channels_last": True}),
    "ours: float16": ("float16", {}),
    "ours: float16, CUDA graph": ("float16", {"cuda_graph": True}),
    "ours: float16, channels last": ("float16", {"channels_last": True}),
    "ours: float16, channels last, CUDA graph": (
        "float16",
        {"channels_last": True, "cuda_graph": True},
    ),
}
TENSORRT: dict[str, tuple[str, dict[str, bool]]] = {
    "ours: TensorRT": ("any", {}),
    "ours: TensorRT, float16": ("any", {"float16": True}),
    "ours: TensorRT, float16, CUDA graph": ("any", {"float16": True, "cuda_graph": True}),
}
HOST = "ours: float16, host to host"


class Resident:
    """Runs a file again and again on what lies on the device."""

    def __init__(self, session: Session, image: np.ndarray) -> None:
        import onnxruntime

        self.session = session
        place = session.device.memory
        first = next(iter(session.inputs))
        value = onnxruntime.OrtValue.ortvalue_from_numpy(image, *place)
        trial = session.raw.io_binding()
        trial.bind_ortvalue_input(first, value)
        for name in session.outputs:
            trial.bind_output(name, *place)
        unrecorded = session.run_options(graph=-1) if session.cuda_graph else None
        session.raw.run_with_iobinding(trial, unrecorded)
        self.values = dict(zip(session.outputs, trial.get_outputs(), strict=True))
        self.binding = session.raw.io_binding()
        self.binding.bind_ortvalue_input(first, value)
        for name, output in self.values.items():
            self.binding.bind_ortvalue_output(name, output)
        graph = session.new_graph() if session.cuda_graph else None
        self.options = session.run_options(graph=graph)

    def __call__(self) -> None:
        """One run; returns when it is done."""
        self.session.raw.run_with_iobinding(self.binding, self.options)

    def gradient(self) -> np.ndarray:
        """Of the last run."""
        return np.asarray(self.values["gradient"].numpy(), np.float64)


def files(classifier: Path, folder: Path, device: str) -> dict[str, Path]:
    """The saliency files that are compared."""
    forms = "cuda" if device == "cuda" else "any"  # float16's ScatterElements is not on CPUs
    wanted: dict[str, dict[str, Any]] = {
        "any": {},
        "float32": {"optimize_for": forms},
        "float16": {"optimize_for": forms, "precision": "float16"},
    }
    made = {}
    for name, options in wanted.items():
        made[name] = folder / f"{classifier.stem}.{name}.onnx"
        export_saliency(classifier, made[name], **options)
    return made


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether PyTorch rounds float32 factors."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def torch_cases(module: Any, image: np.ndarray, device: str) -> dict[str, Callable[[], Case]]:
    """PyTorch's gradient in its ways; each made when it is asked for."""
    import torch

    def synchronised(network: Any, leaf: Any, *, rounded: bool, half: bool) -> Case:
        def case() -> Any:
            with tf32(rounded), torch.autocast(device, torch.float16, enabled=half):
                result = cpu.torch_gradient(network, leaf)
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        return case

    def make(*, rounded: bool = False, half: bool = False, mode: str | None = None) -> Case:
        network, leaf = copy.deepcopy(module).to(device), torch.from_numpy(image.copy()).to(device)
        if half:
            network = network.to(memory_format=torch.channels_last)
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        if mode is not None:
            torch.compiler.reset()
            network = torch.compile(network, mode=mode)
        return synchronised(network, leaf.detach(), rounded=rounded, half=half)

    cases = {
        "pytorch: eager, float32": partial(make),
        "pytorch: eager, TF32": partial(make, rounded=True),
        "pytorch: eager, channels last, float16": partial(make, half=True),
    }
    if device == "cuda":
        cases |= {
            "pytorch: compiled, TF32": partial(make, rounded=True, mode="default"),
            "pytorch: compiled, channels last, float16": partial(make, half=True, mode="default"),
            "pytorch: compiled with CUDA graphs, channels last, float16": partial(
                make, half=True, mode="reduce-overhead"
            ),
        }
    return cases


def free_memory(device: str) -> int | None:
    """Bytes of the GPU's memory that nobody has."""
    if device != "cuda":
        return None
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def our_cases(made: dict[str, Path], image: np.ndarray, device: str) -> dict[str, Any]:
    """Our gradient in its ways; each made when it is asked for."""

    def make(path: Path, where: str, settings: dict[str, bool]) -> Resident:
        session = open_session(path, SessionSettings(where, spinning=False, **settings))
        return Resident(session, image)

    def host_to_host() -> Case:
        session = open_session(made["float16"], SessionSettings(device, spinning=False))
        run, first = BoundRun(session).run, next(iter(session.inputs))
        turns = [{first: image}, {first: image.copy()}]

        def case() -> Any:
            turns.reverse()  # the same array would not be sent again
            return run(["saliency"], turns[0])

        return case

    plain = {} if device == "cuda" else {"tf32", "channels_last", "cuda_graph"}
    cases: dict[str, Any] = {
        name: partial(make, made[file], device, settings)
        for name, (file, settings) in OURS.items()
        if not plain & settings.keys()
    }
    if device == "cuda":
        cases |= {
            name: partial(make, made[file], "tensorrt", settings)
            for name, (file, settings) in TENSORRT.items()
        }
    return {**cases, HOST: host_to_host}


def agreement(found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """How far a gradient is from PyTorch's in float32."""
    a, b = found.reshape(len(found), -1), exact.reshape(len(exact), -1)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    errors = np.abs(a - b) / np.abs(b).max(1, keepdims=True)
    return {
        "smallest_cosine": float(cosines.min()),
        "median_error": float(np.median(errors)),
        "error_of_999_in_1000": float(np.quantile(errors, 0.999)),
        "largest_error": float(errors.max()),
    }


def precision_of(case: str) -> str:
    """Which of a data sheet's peaks a case is held against."""
    if "float16" in case:
        return "float16"
    return "tf32" if "TF32" in case else "float32"


def measure(
    module: Any, made: dict[str, Path], batch: int, size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measures one network at one batch size."""
    import torch

    device = options.device
    shape = (batch, 3, size, size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    makers = {**our_cases(made, image, device), **torch_cases(module, image, device)}
    with tf32(False):
        leaf = torch.from_numpy(image.copy()).to(device)
        exact = cpu.torch_gradient(module.to(device), leaf)[1].cpu().numpy().astype(np.float64)
    timed: dict[str, Case] = {}
    refused, memory, agreements = {}, {}, {}
    for name, make in makers.items():
        before = free_memory(device)
        try:
            case = make()
            case()
        except (EngineError, RuntimeError, ValueError) as error:
            refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            continue
        if before is not None:
            memory[name] = before - (free_memory(device) or 0)
        timed[name] = case
        if isinstance(case, Resident):
            agreements[name] = agreement(case.gradient(), exact)
    milliseconds = cpu.time_rounds(timed, options.rounds)
    flops = batch * count_flops(copy.deepcopy(module).cpu(), torch.zeros(1, 3, size, size))
    traffic = {name: count_traffic(path, batch) for name, path in made.items()}
    sheet = limits(torch.cuda.get_device_name()) if device == "cuda" else None
    cases = {}
    for name, values in milliseconds.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        cases[name] = {
            "median_ms": round(middle, 4),
            "quartiles_ms": [round(low, 4), round(high, 4)],
            "images_per_second": round(1000 * batch / middle, 1),
            "memory_bytes": memory.get(name),
            "agreement": agreements.get(name),
        }
        peak = sheet and sheet.get(precision_of(name))
        if peak:
            cases[name]["share_of_flops"] = round(flops / peak / (middle / 1000), 4)
        file = next((f for n, (f, _) in (OURS | TENSORRT).items() if n == name), None)
        if sheet and file:
            cases[name]["share_of_bandwidth"] = round(
                traffic[file] / sheet["bytes"] / (middle / 1000), 4
            )
    return {
        "batch": batch,
        "flops": flops,
        "traffic_bytes": traffic,
        "limits": sheet,
        "refused": refused,
        "cases": cases,
    }


def placement(made: dict[str, Path], device: str) -> dict[str, Any]:
    """Nodes on the host, and copies between host and device, of each file."""
    found: dict[str, Any] = {}
    for name, path in made.items():
        try:
            session = open_session(path, SessionSettings(device, strict=True, spinning=False))
        except EngineError as error:
            found[name] = {"refused": str(error)[:300]}
            continue
        off = session.off_device
        found[name] = {
            "nodes_on_host": None if off is None else len(off),
            "copies": session.copies,
        }
    return found


def visualisation(
    module: Any, classifier: Path, folder: Path, size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Iterations per second of the ascent on one class: the paper's step, and preset natural's."""
    device, steps = options.device, options.steps
    forms = "cuda" if device == "cuda" else "any"
    record = {
        "input_size": [size, size],
        "resize": "stretch",
        "resize_size": None,
        "interpolation": "bilinear",
        "channel_order": "RGB",
        "value_range": [0, 1],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    timed: dict[str, Case] = {}
    refused = {}
    for rule in ("plain", "natural"):
        for precision in (None, "float16"):
            path = folder / f"{rule}.{precision}.onnx"
            export_visualization(
                classifier,
                path,
                step_rule=rule,
                preprocessing=record,
                optimize_for=forms,
                precision=precision,
            )
            for graph in (False, True) if device == "cuda" else (False,):
                name = f"ours: {rule}, {precision or 'float32'}{', CUDA graph' if graph else ''}"
                try:
                    engine = Engine(path, device, spinning=False, cuda_graph=graph)
                    case = partial(
                        engine.visualize, 1, steps=steps, score_every=options.score_every
                    )
                    case()
                except EngineError as error:
                    refused[name] = str(error)[:300]
                    continue
                timed[name] = case
    for name, mode in (
        ("eager", None),
        ("compiled", "default"),
        ("with CUDA graphs", "reduce-overhead"),
    ):
        if mode is None or device == "cuda":
            timed[f"pytorch: plain, float32, {name}"] = torch_ascent(module, size, options, mode)
    milliseconds = cpu.time_rounds(timed, options.rounds)
    return {
        "steps": steps,
        "score_every": options.score_every,
        "refused": refused,
        "iterations_per_second": {
            name: round(1000 * steps / statistics.median(values), 1)
            for name, values in milliseconds.items()
        },
    }


def torch_ascent(module: Any, size: int, options: argparse.Namespace, mode: str | None) -> Case:
    """The paper's ascent in PyTorch, scores read as often as ours."""
    import torch

    device = options.device
    network = module.to(device)

    def step(image: Any) -> tuple[Any, Any]:
        leaf = image.detach().requires_grad_(True)
        score = network(leaf)[:, 1].sum()
        (gradient,) = torch.autograd.grad(score, leaf)
        return image + (gradient - 2 * 0.005 * image), score.detach()

    if mode is not None:
        torch.compiler.reset()
        network = torch.compile(module, mode=mode)

    def case() -> None:
        with tf32(False):
            image = torch.zeros(1, 3, size, size, device=device)
            for number in range(options.steps):
                image, score = step(image)
                if number % options.score_every == 0:
                    score.item()
            image.cpu()

    return case


def gpus() -> list[str]:
    """The GPUs and their driver, as nvidia-smi has them, below a line that names the columns."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()


def table(item: dict[str, Any]) -> str:
    """One measurement for reading."""
    lines = [f"\n{item['network']}, batch {item['batch']}"]
    for name, case in sorted(item["cases"].items(), key=lambda pair: pair[1]["median_ms"]):
        shares = [
            f"{case[key]:7.1%}" for key in ("share_of_flops", "share_of_bandwidth") if key in case
        ]
        cosine = case["agreement"] and f"cosine {case['agreement']['smallest_cosine']:.6f}"
        lines.append(f"{name:62}{case['median_ms']:10.3f} ms {' '.join(shares)} {cosine or ''}")
    lines += [f"{name}: {reason}" for name, reason in item["refused"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a small network, few rounds")
    parser.add_argument("--timm", nargs="+", default=TIMM, metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of a visualisation")
    parser.add_argument("--score-every", type=int, default=10)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    size = None
    if options.small:
        options.timm, options.batch, size = ["resnet18"], [1, 2], 64
        options.rounds, options.steps = 2, 4
    kept = cpu.make_timm_importable()
    import torch

    torch.manual_seed(0)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    output = options.output or cpu.RESULTS / f"gpu-{date}.json"
    report: dict[str, Any] = {
        "date": date,
        "device": options.device,
        "machine": cpu.machine(),
        "gpus": gpus() if options.device == "cuda" else None,
        "versions": cpu.versions((*cpu.PACKAGES, *PACKAGES)) | {"cuda": torch.version.cuda},
        "settings": {"rounds": options.rounds, "weights": "random", "resident": True},
        "measurements": [],
        "placement": {},
        "visualisation": {},
    }

    def write() -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    for name in options.timm:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            module, classifier, own = cpu.classifier_from_timm(name, folder, size)
            made = files(classifier, folder, options.device)
            if options.device == "cuda":
                report["placement"][name] = placement(made, options.device)
            for batch in options.batch:
                item = {"network": name, **measure(module, made, batch, own, options)}
                report["measurements"].append(item)
                sys.stdout.write(table(item) + "\n")
                sys.stdout.flush()
                write()
            report["visualisation"][name] = visualisation(module, classifier, folder, own, options)
            sys.stdout.write(json.dumps(report["visualisation"][name], indent=1) + "\n")
            write()
            torch.compiler.reset()
    del kept
    sys.stdout.write(f"\n{output}\n")


if __name__ == "__main__":
    main()
