"""The work of `deepinside evaluate`: pictures in, records out."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from deepinside.cli.inputs import file_sha256

if TYPE_CHECKING:
    from deepinside.engine import EngineError
    from deepinside.engine.batch import Item, Manifest, Record, Work
    from deepinside.engine.evaluation import Evaluation, EvaluationSettings, Explainer, Figures
    from deepinside.engine.evaluation.figures import Subject
    from deepinside.engine.inputs import Prepared

__all__ = ["TASK", "EvaluationJob"]

TASK = "evaluation"


class EvaluationJob:
    """Evaluates pictures, a batch of them at a time; a context manager.

    Attributes:
        device: that the classifier runs on.
    """

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
        resume: bool,
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
            overwrite: evaluate again what is there ...
            resume: ... unless it was evaluated in just the same way.
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
        self.device = engine.device
        self._spec = engine.spec
        self._plan = plan_targets(targets, engine.contract)
        self._size = chosen_size(size, engine.spec, str(file))
        self._batch_size = batch_size
        self._overwrite = overwrite
        self._keep = resume or not overwrite
        self._targets = targets
        self._facts: Record = {
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

    def records(self, items: "Iterable[Item]") -> "Iterator[Record]":
        """The record of each picture, in order; new ones are in the manifest then.

        Raises:
            click.UsageError: the folder holds evaluations with other settings.
        """
        from deepinside.engine.batch import Work

        pictures = iter(items)
        while batch := list(islice(pictures, self._batch_size)):
            works = [Work(item, _stem(item), self._manifest.get(TASK, item.name)) for item in batch]
            kept = {work: self._kept(work) for work in works}
            new = [work for work, record in kept.items() if record is None]
            found = iter(self._evaluated(new))
            for record in kept.values():
                if record is not None:
                    yield {**record, "status": "kept"}
                else:
                    made = next(found)
                    self._manifest.add(made)
                    yield made

    def _kept(self, work: "Work") -> "Record | None":
        """What an earlier run found in the same way."""
        from deepinside.engine import EngineError

        record = work.earlier
        if not self._keep or record is None or record["status"] != "ok":
            return None
        facts = self._facts_of(work.item)
        differing = [name for name, value in facts.items() if record.get(name) != value]
        if differing and self._overwrite:
            return None
        if differing:
            raise click.UsageError(
                f"{self._manifest.folder} holds an evaluation of {work.item.name} with other "
                f"{', '.join(differing)}: choose another folder with -o, or replace it with "
                "--overwrite."
            )
        try:
            work.open().close()
        except (EngineError, OSError):
            return None  # which decoding it will tell
        classes = [entry["index"] for entry in record["maps"]]
        is_same = not work.has_changed and record["maps_sha256"] == self._given(work, classes)
        return record if is_same else None

    def _given(self, work: "Work", classes: Sequence[int]) -> list[str | None]:
        """Hashes of the files that other tools made for a picture, its mask among them."""
        from deepinside.engine.evaluation import GivenMaps
        from deepinside.engine.evaluation.objects import Masks

        paths = [
            path
            for explainer in self._explainers.values()
            if isinstance(explainer, GivenMaps)
            for index in dict.fromkeys(classes)
            for path in explainer.paths(work.stem, index)
        ]
        if isinstance(self._objects, Masks):
            paths.append(self._objects.file(work.item.name))
        return [file_sha256(path) for path in paths]

    def _evaluated(self, works: "Sequence[Work]") -> "list[Record]":
        """Records of some pictures; those that fail together are tried one by one."""
        from deepinside.engine import EngineError
        from deepinside.engine.evaluation import evaluate

        subjects = [self._subjects_or_error(work) for work in works]
        flat = [one for each in subjects if isinstance(each, list) for one in each]
        try:
            found = evaluate(self._explainers, flat, self._settings) if flat else None
        except EngineError as error:
            if len(works) > 1:
                return [record for work in works for record in self._evaluated([work])]
            return [self._failure(works[0], error)]
        records, done = [], 0
        for work, own in zip(works, subjects, strict=True):
            if not isinstance(own, list):
                records.append(self._failure(work, own))
                continue
            assert found is not None
            records.append(self._record(work, own, found, slice(done, done + len(own))))
            done += len(own)
        return records

    def _subjects_or_error(self, work: "Work") -> "list[Subject] | EngineError":
        from deepinside.engine import EngineError

        try:
            return self._subjects(work)
        except EngineError as error:
            return error

    def _subjects(self, work: "Work") -> "list[Subject]":
        """The picture with each class.

        Raises:
            EngineError: it can't be used.
        """
        import numpy as np

        from deepinside.engine import ImageFile, TargetError
        from deepinside.engine.evaluation import Subject
        from deepinside.engine.inputs import prepare
        from deepinside.engine.targets import plan_targets

        item, contract = work.item, self._spec.contract
        prepared = prepare(ImageFile(item.name, work.open), 0, self._spec, self._size)
        try:
            plan = self._plan if item.targets is None else plan_targets(item.targets, contract)
        except TargetError as error:
            raise TargetError(f"{item.name}: {error}", error.candidates) from error
        image = self._spec.as_picture(prepared.array)
        scores = self._scorer.class_scores(image)
        return [
            Subject(
                source=item.name,
                stem=work.stem,
                image=image,
                index=index,
                label=contract.label(index),
                score=self._scorer.of_class(index),
                quantities=self._scorer.quantities,
                record=contract.preprocessing,
                inside=self._inside(item.name, index, prepared),
                settings=self._settings,
            )
            for index in plan.classes(scores, int(np.argmax(scores)))
        ]

    def _inside(self, name: str, index: int, prepared: "Prepared") -> Any:
        """Where the object is on the map, as far as that was asked for and is known."""
        if self._objects is None or "localisation" not in self._settings.metrics:
            return None
        assert prepared.region is not None
        assert prepared.picture is not None
        height, width = self._spec.as_picture(prepared.array).shape[:2]
        size = prepared.picture.size
        return self._objects.inside(name, size, index, prepared.region, (height, width))

    def _record(
        self, work: "Work", subjects: "Sequence[Subject]", found: "Evaluation", places: slice
    ) -> "Record":
        from deepinside.engine import EngineError

        maps = []
        for subject, figures in zip(subjects, found.figures[places], strict=True):
            if isinstance(figures, EngineError):
                return self._failure(work, figures)
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
        return {**self._frame(work, [subject.index for subject in subjects]), **steps, "maps": maps}

    def _failure(self, work: "Work", error: "EngineError") -> "Record":
        return {**self._frame(work, []), "status": "failed", "error": str(error), "maps": []}

    def _frame(self, work: "Work", classes: Sequence[int]) -> "Record":
        return {
            "task": TASK,
            "input": work.item.name,
            "input_sha256": work.sha256,
            "maps_sha256": self._given(work, classes),
            "status": "ok",
            "error": None,
            **self._facts_of(work.item),
        }

    def _facts_of(self, item: "Item") -> "Record":
        """What decides the figures of a picture besides its bytes."""
        return {"targets": list(item.targets or self._targets), **self._facts}


def _stem(item: "Item") -> str:
    """By which given maps are found: that which `deepinside saliency` gives its files."""
    from deepinside.engine.batch.names import unshared_stem

    return unshared_stem(item.stem, item.name) if item.shared else item.stem


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
