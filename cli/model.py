"""The MODEL option: an exported file as it is, a plain classifier through the export cache."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from deepinside.cli.errors import Failure
from deepinside.cli.progress import say

__all__ = [
    "FRONT_DOORS",
    "classifier_facts",
    "exported_file",
    "layers_of",
    "read_labels",
    "read_record",
    "run_export",
]

# Bytes; a million labels have some tens of millions.
_LARGEST_TEXT = 1 << 27

# Written out: the exporters, which define them, are not imported for a word.
FRONT_DOORS = ("hf", "jax", "keras", "sklearn", "timm", "torch")


def exported_file(
    model: str | None,
    task: str,
    *,
    device: str = "auto",
    preprocessing: Path | None = None,
    labels: Path | None = None,
    quiet: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """An exported file for a MODEL.

    Args:
        model: as the user gave it; None for the embedded classifier.
        task: `saliency` or `visualization`, where it has to be exported first.
        device: where it will run: a plain classifier is exported in the forms that suit it.
        preprocessing: record for a plain classifier.
        labels: names of a plain classifier's classes.
        quiet: don't say what is exported.
        options: further ones of a plain classifier's export.

    Raises:
        click.UsageError: the option can't mean a file, or the file is exported already and
            brings its own record and labels.
        EngineError: the file can't be read.
        Failure: it can't be exported.
    """
    from deepinside import models
    from deepinside.engine import NotExportedError, read_contract
    from deepinside.engine.providers import runs_on_cpu, runs_on_cuda

    if model is not None and model.partition(":")[0] in FRONT_DOORS:
        raise click.UsageError(
            f"{model} has to be exported first: deepinside export {model} -o FILE.onnx "
            f"--task {task}"
        )
    path = models.default_classifier() if model is None else Path(model)
    try:
        read_contract(path)
    except NotExportedError:
        chosen = {**classifier_facts(path), **(options or {})}
        if preprocessing is not None:
            chosen["preprocessing"] = read_record(preprocessing)
        if labels is not None:
            chosen["labels"] = read_labels(labels)
        if runs_on_cpu(device):
            chosen["optimize_for"] = "cpu"
        elif runs_on_cuda(device):
            chosen["optimize_for"] = "cuda"
        return _cached_export(path, task, chosen, quiet=quiet)
    if preprocessing is not None or labels is not None:
        raise click.UsageError(
            f"{path} is exported already and brings its own record and labels: leave "
            "--preprocessing and --labels out, or export the classifier again with them."
        )
    return path


def classifier_facts(path: Path) -> dict[str, Any]:
    """Record, labels and licence of the embedded classifier, or nothing for another file."""
    from deepinside import models

    card = models.card()
    size = models.default_classifier().stat().st_size
    if not path.is_file() or path.stat().st_size != size:
        return {}
    if hashlib.sha256(path.read_bytes()).hexdigest() != card["sha256"]:
        return {}
    return {
        "preprocessing": card["preprocessing"],
        "labels": models.labels(),
        "licence": card["licence"],
    }


def run_export(classifier: str | Path, output: Path, task: str, options: Mapping[str, Any]) -> Any:
    """Export a classifier and return the exporter's report.

    Raises:
        Failure: the packages for it are missing, or it can't be exported.
    """
    try:
        from deepinside.exporters import ExportError, export_saliency, export_visualization
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    export = export_saliency if task == "saliency" else export_visualization
    try:
        return export(classifier, output, **options)
    except ExportError as error:
        raise Failure(str(error)) from error


def _missing(error: ModuleNotFoundError) -> Failure:
    """What a missing graph library means; one of our own modules that is missing is a bug."""
    if (error.name or "").partition(".")[0] == "deepinside":
        raise error
    return Failure(
        f"exporting a classifier needs the package {error.name!r}, which is not installed: "
        "run pip install 'deepinside[export]'."
    )


def layers_of(file: Path) -> Any:
    """The layers of a plain classifier; `deepinside.exporters.layers_of` says more.

    Raises:
        Failure: the packages for it are missing, or the classifier can't be opened.
    """
    try:
        from deepinside.exporters import ExportError, layers_of
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    try:
        return layers_of(file)
    except ExportError as error:
        raise Failure(str(error)) from error


def read_record(path: Path) -> dict[str, Any]:
    """A preprocessing record from a JSON file.

    Raises:
        click.UsageError: it is not a JSON object.
    """
    text = _read_text(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is not a JSON file ({error}).") from error
    if not isinstance(record, dict):
        raise click.UsageError(f"{path} holds no JSON object; docs/file-contract.md shows one.")
    return record


def read_labels(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        click.UsageError: it is not UTF-8.
    """
    text = _read_text(path).removesuffix("\n")
    # Not splitlines, which also splits at what may stand in a name.
    return text.split("\n") if text else []


def _read_text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LARGEST_TEXT:
        raise click.UsageError(f"{path} is no text file of at most {_LARGEST_TEXT} bytes.")
    try:
        # Windows' editors begin UTF-8 with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): "
            "save it as UTF-8."
        ) from error


def _cached_export(path: Path, task: str, options: dict[str, Any], *, quiet: bool) -> Path:
    import platformdirs

    from deepinside.engine.files import make_folder
    from deepinside.engine.modelfile import content_sha256

    key = {
        "content": content_sha256(path),
        "task": task,
        "tool": _tool_fingerprint(),
        "options": options,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(platformdirs.user_cache_dir("deepinside")) / "exports"
    cached = folder / f"{digest}.onnx"
    if cached.exists():
        return cached
    make_folder(folder)
    say(f"Exporting {path.name} for {task} (done once, then kept in a cache) ...", quiet=quiet)
    report = run_export(path, cached, task, options)  # all of it appears, or nothing
    for sentence in report.bypassed:
        say(f"Bypassed: {sentence}", quiet=quiet)
    return cached


def _tool_fingerprint() -> str:
    """Version and sources of the exporter: a changed exporter must not meet its old results."""
    # Imported here: they would cost `deepinside --help` a fifth of its time.
    import importlib.metadata
    import importlib.util

    digest = hashlib.sha256(importlib.metadata.version("deepinside").encode())
    spec = importlib.util.find_spec("deepinside.exporters")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for source in sorted(Path(folder).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()
