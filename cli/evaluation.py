"""The work of `deepinside evaluate`: pictures in, records out."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from deepinside.cli.inputs import file_sha256
from deepinside.cli.pictures import Input

if TYPE_CHECKING:
    from deepinside.engine import EngineError
    from deepinside.engine.batch import Manifest, Record
    from deepinside.engine.evaluation import Evaluation, EvaluationSettings, Explainer, Figures
    from deepinside.engine.evaluation.figures import Subject
    from deepinside.engine.inputs import Prepared

__all__ = ["TASK", "EvaluationJob"]

TASK = "evaluation"


class EvaluationJob:
    """Evaluates pictures, a batch of them at a time; a context manager."""

    def __init__(
        self,
        manifest: "Manifest",
        file: Path,
        explainers: "Mapping[str, Explainer]",
        settings: "EvaluationSettings",
        *,
        targets: Sequence[str],
        objects: tuple[Path | None, Path | None],
        size: str | None,
        device: str,
        batch_size: int,
        overwrite: bool,
    ) -> None:
        """Open the classifier and read where the objects are.

        Args:
            manifest: of the output folder.
            file: the saliency file.
            explainers: by the name of the method.
            settings: which metrics.
            targets: classes, as asked for.
            objects: a file of boxes and a folder of masks, at most one of them.
            size: as asked for.
            device: as asked for.
            batch_size: pictures at once.
            overwrite: evaluate again what is there.
        """
        from deepinside.engine import Engine
        from deepinside.engine.evaluation import Scorer
        from deepinside.engine.evaluation.objects import Masks, load_boxes
        from deepinside.engine.modelfile import content_sha256
        from deepinside.engine.sizes import chosen_size
        from deepinside.engine.targets import plan_targets

        boxes, masks = objects
        self._manifest, self._explainers, self._settings = manifest, explainers, settings
        self._objects = load_boxes(boxes) if boxes else Masks(masks) if masks else None
        engine = Engine(file, device)
        self._spec = engine.spec
        self._plan = plan_targets(targets, engine.contract)
        self._size = chosen_size(size, engine.spec, str(file))
        self._batch_size = batch_size
        self._overwrite = overwrite
        self._facts: Record = {
            "targets": list(targets),
            "size": size,
            "methods": list(explainers),
            "objects": None if boxes is None else file_sha256(boxes),
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(settings).items()
            },
            "model_sha256": engine.contract.source_sha256,
            "file_sha256": content_sha256(file),
        }
        self._scorer = Scorer(file, engine.spec, batch_size=batch_size, device=device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scorer.__exit__(kind, error, traceback)

    def records(self, pictures: Sequence[Input]) -> "Iterator[Record]":
        """The record of each picture, in order; new ones are in the manifest then.

        Raises:
            click.UsageError: the folder holds evaluations with other settings.
        """
        kept = {} if self._overwrite else self._kept(pictures)
        for start in range(0, len(pictures), self._batch_size):
            batch = pictures[start : start + self._batch_size]
            new = [item for item in batch if item.name not in kept]
            found = dict(zip((item.name for item in new), self._evaluated(new), strict=True))
            for item in batch:
                if item.name in kept:
                    yield {**kept[item.name], "status": "kept"}
                else:
                    self._manifest.add(found[item.name])
                    yield found[item.name]

    def _kept(self, pictures: Sequence[Input]) -> "dict[str, Record]":
        """What an earlier run found in the same way."""
        found = {}
        for item in pictures:
            record = self._manifest.get(TASK, item.name)
            if record is None or record["status"] != "ok":
                continue
            differing = [name for name, value in self._facts.items() if record.get(name) != value]
            if differing:
                raise click.UsageError(
                    f"{self._manifest.folder} holds an evaluation of {item.name} with other "
                    f"{', '.join(differing)}: choose another folder with -o, or replace it with "
                    "--overwrite."
                )
            if record["input_sha256"] == file_sha256(item.path) and record[
                "maps_sha256"
            ] == self._given(item, [entry["index"] for entry in record["maps"]]):
                found[item.name] = record
        return found

    def _given(self, item: Input, classes: Sequence[int]) -> list[str | None]:
        """Hashes of the files that other tools made for a picture, its mask among them."""
        from deepinside.engine.evaluation import GivenMaps
        from deepinside.engine.evaluation.objects import Masks

        paths = [
            path
            for explainer in self._explainers.values()
            if isinstance(explainer, GivenMaps)
            for index in dict.fromkeys(classes)
            for path in explainer.paths(item.stem, index)
        ]
        if isinstance(self._objects, Masks):
            paths.append(self._objects.file(item.name))
        return [file_sha256(path) for path in paths]

    def _evaluated(self, items: Sequence[Input]) -> "list[Record]":
        """Records of some pictures; those that fail together are tried one by one."""
        from deepinside.engine import EngineError
        from deepinside.engine.evaluation import evaluate

        subjects: dict[str, list[Subject] | EngineError] = {}
        for item in items:
            try:
                subjects[item.name] = self._subjects(item)
            except EngineError as error:
                subjects[item.name] = error
        flat = [one for each in subjects.values() if isinstance(each, list) for one in each]
        try:
            found = evaluate(self._explainers, flat, self._settings) if flat else None
        except EngineError as error:
            if len(items) > 1:
                return [record for item in items for record in self._evaluated([item])]
            return [self._failure(items[0], error)]
        records, done = [], 0
        for item in items:
            own = subjects[item.name]
            if not isinstance(own, list):
                records.append(self._failure(item, own))
                continue
            assert found is not None
            records.append(self._record(item, own, found, slice(done, done + len(own))))
            done += len(own)
        return records

    def _subjects(self, item: Input) -> "list[Subject]":
        """The picture with each class.

        Raises:
            EngineError: it can't be used.
        """
        import numpy as np

        from deepinside.engine.evaluation import Subject
        from deepinside.engine.inputs import prepare

        prepared = prepare(item.path, 0, self._spec, self._size)
        image = self._spec.as_picture(prepared.array)
        scores = self._scorer.class_scores(image)
        contract = self._spec.contract
        return [
            Subject(
                source=item.name,
                stem=item.stem,
                image=image,
                index=index,
                label=contract.label(index),
                score=self._scorer.of_class(index),
                quantities=self._scorer.quantities,
                record=contract.preprocessing,
                inside=self._inside(item, index, prepared),
                settings=self._settings,
            )
            for index in self._plan.classes(scores, int(np.argmax(scores)))
        ]

    def _inside(self, item: Input, index: int, prepared: "Prepared") -> Any:
        """Where the object is on the map, as far as that was asked for and is known."""
        if self._objects is None or "localisation" not in self._settings.metrics:
            return None
        assert prepared.region is not None
        assert prepared.picture is not None
        height, width = self._spec.as_picture(prepared.array).shape[:2]
        size = prepared.picture.size
        return self._objects.inside(item.name, size, index, prepared.region, (height, width))

    def _record(
        self, item: Input, subjects: "Sequence[Subject]", found: "Evaluation", places: slice
    ) -> "Record":
        from deepinside.engine import EngineError

        maps = []
        for subject, figures in zip(subjects, found.figures[places], strict=True):
            if isinstance(figures, EngineError):
                return self._failure(item, figures)
            scores = subject.score([subject.image])[0]
            maps += [
                {
                    "index": subject.index,
                    "label": subject.label,
                    "method": method,
                    **dict(zip(subject.quantities, map(_short, scores), strict=True)),
                    **_plain(each, subject.quantities),
                }
                for method, each in figures.items()
            ]
        steps = {"depths": found.depths, "layers": found.layers}
        return {**self._frame(item, [subject.index for subject in subjects]), **steps, "maps": maps}

    def _failure(self, item: Input, error: "EngineError") -> "Record":
        return {**self._frame(item, []), "status": "failed", "error": str(error), "maps": []}

    def _frame(self, item: Input, classes: Sequence[int]) -> "Record":
        return {
            "task": TASK,
            "input": item.name,
            "input_sha256": file_sha256(item.path),
            "maps_sha256": self._given(item, classes),
            "status": "ok",
            "error": None,
            **self._facts,
        }


def _plain(figures: "Figures", quantities: Sequence[str]) -> "Record":
    """The figures of a map as JSON has them."""
    curves = {
        name: {
            "shares": list(map(_short, curve.shares)),
            **{
                quantity: list(map(_short, curve.values[:, column]))
                for column, quantity in enumerate(quantities)
            },
        }
        for name, curve in figures.curves.items()
    }
    return {
        "figures": {name: _short(value) for name, value in figures.numbers.items()},
        "curves": curves,
        "randomisation": {
            kind: [None if value is None else _short(value) for value in values]
            for kind, values in figures.randomisation.items()
        },
    }


def _short(number: float) -> float:
    """Six digits: more is rounding, and would fill the manifest."""
    return float(f"{number:.6g}")
