"""`deepinside saliency`: maps of pictures."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.inputs import Input, expand_inputs
from deepinside.cli.manifest import Manifest, Record, finite
from deepinside.cli.model import exported_file
from deepinside.cli.options import (
    batch_size_option,
    device_option,
    json_option,
    labels_option,
    model_option,
    output_option,
    overwrite_option,
    preprocessing_option,
    quiet_option,
)
from deepinside.cli.progress import progress_bar, say
from deepinside.cli.slugs import class_slug, unique_stems

if TYPE_CHECKING:
    from deepinside.engine import InputMaps, SaliencyMap

__all__ = ["saliency"]

_TASK = "saliency"
_ENDINGS = {"saliency": "saliency.npy", "heatmap": "heatmap.png", "overlay": "overlay.png"}


@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@model_option
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("top1",),
    show_default=True,
    metavar="TARGET",
    help="Class to explain: top1, top5, an index or a label. May be repeated.",
)
@output_option
@device_option
@batch_size_option("Pictures")
@preprocessing_option
@labels_option
@json_option
@overwrite_option
@quiet_option
@click.pass_context
@reports_errors
def saliency(
    context: click.Context,
    inputs: tuple[str, ...],
    model: str | None,
    targets: tuple[str, ...],
    output: Path,
    device: str,
    batch_size: int,
    preprocessing: Path | None,
    labels: Path | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write which pixels of a picture matter most for a class.

    INPUT is a picture, a folder of pictures, a glob, or an embedded picture such as
    example:chelsea. For each picture and class, DIR gets

    \b
      STEM.CLASS.saliency.npy  the map, float32 (H, W), not scaled
      STEM.CLASS.heatmap.png   the map in colours
      STEM.CLASS.overlay.png   the map laid on the picture
      manifest.jsonl           a line per picture: status, classes, scores, files

    A picture that can't be read is reported and the others go on; the exit code is then 1.

    \b
    Examples:
      deepinside saliency example:chelsea
      deepinside saliency photos/ -t top5 -o maps
      deepinside saliency cat.jpg -t "tiger cat" -t 285 -m resnet50.onnx --device cuda
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import Engine, InputFailure
    from deepinside.engine.modelfile import content_sha256

    pictures = expand_inputs(inputs, output)
    file = exported_file(model, _TASK, preprocessing=preprocessing, labels=labels, quiet=quiet)
    engine = Engine(file, device)
    with Manifest(output) as manifest:
        job = _Job(
            manifest,
            list(targets),
            engine.contract.source_sha256,
            content_sha256(file),
            overwrite,
            quiet,
        )
        stems = job.stems(pictures)
        finished = {} if overwrite else job.finished(pictures)
        results = engine.iter_saliency(
            (item.path for item in pictures if item.name not in finished),
            targets,
            batch_size=batch_size,
            keep_gradient=False,
        )
        counts = dict.fromkeys(("ok", "kept", "failed"), 0)
        with progress_bar("Saliency", quiet=quiet) as advance:
            for number, item in enumerate(pictures, 1):
                if item.name in finished:
                    record = {**finished[item.name], "status": "kept"}
                else:
                    result = next(results)
                    if isinstance(result, InputFailure):
                        say(f"Error: {result.error}")
                        record = job.failure(item, result.error)
                    else:
                        record = job.write(item, stems[item.name], result)
                    manifest.add(record)
                counts[record["status"]] += 1
                advance(number, len(pictures), item.path.name)
                _show(record, output, as_json=as_json)
    say(
        f"{counts['ok']} done, {counts['kept']} kept, {counts['failed']} failed, on "
        f"{engine.device}; results are in {output}"
        + (" (kept results are replaced with --overwrite)" if counts["kept"] else ""),
        quiet=quiet,
    )
    if counts["failed"]:
        context.exit(1)


@dataclass(frozen=True)
class _Job:
    """Writes results and their records.

    Attributes:
        manifest: of the output folder.
        targets: as asked for.
        model_sha256: of the classifier.
        file_sha256: of the exported file.
        overwrite: replace existing results.
        quiet: don't say what was kept.
    """

    manifest: Manifest
    targets: list[str]
    model_sha256: str
    file_sha256: str
    overwrite: bool
    quiet: bool

    def stems(self, pictures: Sequence[Input]) -> dict[str, str]:
        taken = {
            record["stem"]: record["input"]
            for record in self.manifest.records(_TASK)
            if record.get("stem")
        }
        return unique_stems({item.name: item.stem for item in pictures}, taken)

    def finished(self, pictures: Sequence[Input]) -> dict[str, Record]:
        """Records of pictures for which an earlier run made exactly this."""
        found = {}
        for item in pictures:
            record = self.manifest.get(_TASK, item.name)
            if (
                record is not None
                and record["status"] == "ok"
                and record.get("targets") == self.targets
                and record.get("file_sha256") == self.file_sha256
                and all((self.manifest.folder / name).exists() for name in _files(record))
            ):
                found[item.name] = record
        return found

    def failure(self, item: Input, error: Exception) -> Record:
        return self._record(item, None, "failed", [], str(error))

    def write(self, item: Input, stem: str, result: "InputMaps") -> Record:
        entries = [self._write_map(stem, item, result, saliency) for saliency in result.maps]
        kept = all(entry["kept"] for entry in entries)
        return self._record(item, stem, "kept" if kept else "ok", entries, None)

    def _record(
        self, item: Input, stem: str | None, status: str, maps: list[Record], error: str | None
    ) -> Record:
        return {
            "task": _TASK,
            "input": item.name,
            "status": status,
            "stem": stem,
            "targets": self.targets,
            "maps": maps,
            "model_sha256": self.model_sha256,
            "file_sha256": self.file_sha256,
            "error": error,
        }

    def _write_map(
        self, stem: str, item: Input, result: "InputMaps", saliency: "SaliencyMap"
    ) -> Record:
        from deepinside.engine import heatmap, overlay
        from deepinside.engine.files import save_array, save_picture

        name = f"{stem}.{class_slug(saliency.index, saliency.label)}"
        files = {kind: f"{name}.{ending}" for kind, ending in _ENDINGS.items()}
        paths = {kind: self.manifest.folder / file for kind, file in files.items()}
        # An incomplete set is what a killed run left: it is completed.
        complete = all(path.exists() for path in paths.values())
        kept = complete and not self.overwrite and not _holds(paths["saliency"], saliency)
        if kept:
            say(
                f"Kept: {item.name}: {paths['saliency']} exists and holds another map; replace it "
                "with --overwrite.",
                quiet=self.quiet,
            )
        elif not complete or self.overwrite:
            assert result.picture is not None
            assert saliency.region is not None
            save_picture(paths["heatmap"], heatmap(saliency.saliency))
            save_picture(
                paths["overlay"],
                overlay(result.picture.pixels, saliency.saliency, saliency.region),
            )
            save_array(paths["saliency"], saliency.saliency)
        return {
            "index": saliency.index,
            "label": saliency.label,
            # Those of a kept map are not known: it was made otherwise.
            "score": None if kept else finite(saliency.score),
            "probability": None if kept else finite(saliency.probability),
            "files": files,
            "kept": kept,
        }


def _holds(path: Path, saliency: "SaliencyMap") -> bool:
    """Whether a file holds this very map, up to rounding."""
    import numpy as np

    try:
        existing = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    if existing.shape != saliency.saliency.shape or existing.dtype.kind != "f":
        return False
    least = 1e-5 * float(saliency.saliency.max())
    return bool(np.allclose(existing, saliency.saliency, rtol=1e-3, atol=least))


def _files(record: Record) -> Iterator[str]:
    for entry in record["maps"]:
        yield from entry["files"].values()


def _show(record: Record, output: Path, *, as_json: bool) -> None:
    """The record with paths as seen from here, or only the paths."""
    if not as_json:
        for name in _files(record):
            click.echo(output / name)
        return
    maps: list[dict[str, Any]] = [
        {**entry, "files": {kind: str(output / name) for kind, name in entry["files"].items()}}
        for entry in record["maps"]
    ]
    click.echo(json.dumps({**record, "maps": maps}, ensure_ascii=False))
