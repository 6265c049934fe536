"""`deepinside saliency`: maps of pictures."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepinside.cli.errors import reports_errors
from deepinside.cli.inputs import Input, expand_inputs, file_sha256
from deepinside.cli.manifest import Manifest, Record, finite
from deepinside.cli.method_options import MethodChoice, method_options
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
    size_option,
)
from deepinside.cli.progress import progress_bar, say
from deepinside.cli.slugs import class_slug, unique_stems
from deepinside.cli.threads import in_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepinside.engine import InputMaps, Method, SaliencyMap

__all__ = ["saliency"]

_TASK = "saliency"
_ENDINGS = {"saliency": "saliency.npy", "heatmap": "heatmap.png", "overlay": "overlay.png"}
# Colours of one overlay differ by at most so much, 0 to 255, between two devices.
_COLOUR_STEP = 8


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
@method_options
@output_option
@device_option
@batch_size_option("Pictures")
@size_option
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
    method: MethodChoice,
    output: Path,
    device: str,
    batch_size: int,
    size: str | None,
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

    Methods other than vanilla put their name in front: STEM.CLASS.METHOD.saliency.npy.

    A picture that can't be read is reported and the others go on; the exit code is then 1.

    Results that an earlier run made of the very same picture, model, targets and size are kept. A
    changed picture is explained anew. Where another map stands under a result's name (of a changed
    picture or another model), it is replaced only with --overwrite; without it, the picture is
    reported as failed, and the exit code is 1.

    \b
    Examples:
      deepinside saliency example:chelsea
      deepinside saliency photos/ -t top5 -o maps
      deepinside saliency cat.jpg -t "tiger cat" -t 285 -m resnet50.onnx --device cuda
      deepinside saliency cat.jpg -m any-size.onnx --size original
    """  # noqa: D301  (click takes the character \b as "do not rewrap")
    from deepinside.engine import Engine, InputFailure
    from deepinside.engine.modelfile import content_sha256

    pictures = expand_inputs(inputs, output)
    file = exported_file(
        model,
        _TASK,
        device=device,
        preprocessing=preprocessing,
        labels=labels,
        quiet=quiet,
        options=method.export_options,
    )
    method.warn(quiet=quiet)
    engine = Engine(file, device)
    chosen = engine.method(method.method())
    with Manifest(output) as manifest:
        job = _Job(
            manifest,
            list(targets),
            chosen,
            engine.contract.source_sha256,
            content_sha256(file),
            size,
            overwrite,
            quiet,
        )
        stems = job.stems(pictures)
        finished = {} if overwrite else job.finished(pictures)
        results = engine.iter_saliency(
            job.paths(item for item in pictures if item.name not in finished),
            targets,
            method=chosen,
            batch_size=batch_size,
            keep_gradient=False,
            size=size,
            ahead=1,
        )

        def record_of(item: Input) -> Callable[[], Record]:
            """What makes the record of a picture, files and all; run by a thread."""
            if item.name in finished:
                return lambda: {**finished[item.name], "status": "kept"}
            result = next(results)
            if isinstance(result, InputFailure):
                return lambda: job.failure(item, result.error)
            return lambda: job.write(item, stems[item.name], result)

        counts = dict.fromkeys(("ok", "kept", "failed"), 0)
        records = in_threads(map(record_of, pictures), ahead=batch_size)
        with progress_bar("Saliency", quiet=quiet) as advance:
            for number, (item, record) in enumerate(zip(pictures, records, strict=True), 1):
                if record["status"] != "kept":
                    manifest.add(record)
                if record["error"]:
                    say(f"Error: {record['error']}")
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
        method: of the maps.
        model_sha256: of the classifier.
        file_sha256: of the exported file.
        size: as asked for.
        overwrite: replace existing results.
        quiet: don't say which files are out of date.
        sha256: input -> hash of the picture's bytes, of those that were read.
    """

    manifest: Manifest
    targets: list[str]
    method: "Method"
    model_sha256: str
    file_sha256: str
    size: str | None
    overwrite: bool
    quiet: bool
    sha256: dict[str, str | None] = field(default_factory=dict)

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
            record = self._earlier(item)
            if (
                record is not None
                and record["status"] == "ok"
                and record.get("targets") == self.targets
                and record.get("method", {"name": "vanilla"}) == self._method()
                and record.get("size") == self.size
                and record.get("file_sha256") == self.file_sha256
                and record.get("input_sha256") == file_sha256(item.path)
                and all((self.manifest.folder / name).exists() for name in _files(record))
            ):
                found[item.name] = record
        return found

    def _earlier(self, item: Input) -> Record | None:
        return self.manifest.get(_TASK, item.name, self.method.variant)

    def _method(self) -> Record:
        return {"name": self.method.name, **self.method.settings}

    def paths(self, pictures: Iterable[Input]) -> Iterator[Path]:
        """The pictures' paths; each is hashed before its reader gets it.

        A picture that changes in between is then taken for a changed one by the next run.
        """
        for item in pictures:
            self.sha256[item.name] = file_sha256(item.path)
            yield item.path

    def failure(self, item: Input, error: Exception) -> Record:
        return self._record(item, None, [], str(error))

    def write(self, item: Input, stem: str, result: "InputMaps") -> Record:
        maps, foreign = [], []
        for saliency in result.maps:
            files = _names(stem, saliency)
            if self._write_map(files, result, saliency):
                maps.append(_entry(files, saliency))
            else:
                foreign.append(str(self.manifest.folder / files["saliency"]))
        error = None
        if foreign:
            error = (
                f"{item.name}: another map than its own is in {', '.join(foreign)}"
                f"{self._reason(item)}; replace it with --overwrite, or choose another folder with "
                "-o."
            )
        record = self._record(item, stem, maps, error)
        self._tell_leftovers(item, record)
        return record

    def _reason(self, item: Input) -> str:
        """What is known to have changed since the earlier run."""
        earlier = self._earlier(item) or {}
        if self._has_changed(item):
            return " (the picture has changed)"
        if earlier.get("model_sha256", self.model_sha256) != self.model_sha256:
            return " (of another model)"
        if earlier and earlier.get("size") != self.size:
            return " (of another size)"
        if earlier and earlier.get("method", self._method()) != self._method():
            return " (of other settings of the method)"
        return ""

    def _has_changed(self, item: Input) -> bool:
        earlier = (self._earlier(item) or {}).get("input_sha256")
        return earlier is not None and earlier != self.sha256[item.name]

    def _tell_leftovers(self, item: Input, record: Record) -> None:
        """Say which files show what the picture was before."""
        if record["error"] or not self._has_changed(item):
            return
        earlier = self._earlier(item) or {"maps": []}
        old = sorted(set(_files(earlier)) - set(_files(record)))
        left = [name for name in old if (self.manifest.folder / name).exists()]
        if left:
            say(
                f"{item.name} has changed: of what it was before, {', '.join(left)} remain.",
                quiet=self.quiet,
            )

    def _record(
        self, item: Input, stem: str | None, maps: list[Record], error: str | None
    ) -> Record:
        return {
            "task": _TASK,
            "input": item.name,
            "input_sha256": self.sha256[item.name],
            "status": "ok" if error is None else "failed",
            "stem": stem,
            "targets": self.targets,
            "method": self._method(),
            **({"variant": self.method.variant} if self.method.variant else {}),
            "size": self.size,
            "maps": maps,
            "model_sha256": self.model_sha256,
            "file_sha256": self.file_sha256,
            "error": error,
        }

    def _write_map(
        self, files: Mapping[str, str], result: "InputMaps", saliency: "SaliencyMap"
    ) -> bool:
        """Write one map's files; False where other ones are there, which may not be replaced."""
        from deepinside.engine import heatmap, overlay
        from deepinside.engine.files import save_array, save_picture

        assert result.picture is not None
        assert saliency.region is not None
        paths = {kind: self.manifest.folder / file for kind, file in files.items()}
        laid = overlay(result.picture.pixels, saliency.saliency, saliency.region)
        # An incomplete set is what a killed run left: it is completed.
        if not self.overwrite and all(path.exists() for path in paths.values()):
            return _holds(paths, saliency, laid)
        save_picture(paths["heatmap"], heatmap(saliency.saliency))
        save_picture(paths["overlay"], laid)
        save_array(paths["saliency"], saliency.saliency)
        return True


def _names(stem: str, saliency: "SaliencyMap") -> dict[str, str]:
    parts = [stem, class_slug(saliency.index, saliency.label), saliency.method.variant]
    name = ".".join(part for part in parts if part)
    return {kind: f"{name}.{ending}" for kind, ending in _ENDINGS.items()}


def _entry(files: Mapping[str, str], saliency: "SaliencyMap") -> Record:
    return {
        "index": saliency.index,
        "label": saliency.label,
        "score": finite(saliency.score),
        "probability": finite(saliency.probability),
        **_completeness(saliency),
        "files": files,
    }


def _completeness(saliency: "SaliencyMap") -> Record:
    """How well an integral's attributions add up; nothing for other methods."""
    if saliency.completeness_gap is None:
        return {}
    return {
        "completeness_gap": finite(saliency.completeness_gap),
        "baseline_score": finite(saliency.baseline_score),
    }


def _holds(paths: Mapping[str, Path], saliency: "SaliencyMap", laid: "NDArray[np.uint8]") -> bool:
    """Whether files hold this very map of this very picture, up to rounding."""
    import numpy as np

    from deepinside.engine import ImageError, load_picture

    try:
        existing = np.load(paths["saliency"], allow_pickle=False)
        shown = load_picture(paths["overlay"]).pixels
    except (OSError, ValueError, EOFError, ImageError):
        return False
    if existing.shape != saliency.saliency.shape or existing.dtype.kind != "f":
        return False
    least = 1e-5 * float(saliency.saliency.max())
    if not np.allclose(existing, saliency.saliency, rtol=1e-3, atol=least):
        return False
    # What the model does not look at differs here only; rounding moves colours a little.
    return shown.shape == laid.shape and np.allclose(shown, laid, rtol=0, atol=_COLOUR_STEP)


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
