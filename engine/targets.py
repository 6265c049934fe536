"""Which classes are meant: `top1`, `top5`, an index, a label, or several of these."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepinside.engine.contract import Contract
from deepinside.engine.errors import TargetError

__all__ = ["TargetPlan", "find_class", "plan_targets"]

_TOP = re.compile(r"top-?(\d{1,9})", re.IGNORECASE | re.ASCII)
_SHOWN = 8


@dataclass(frozen=True)
class TargetPlan:
    """The classes to explain for every picture.

    Attributes:
        parts: in the order asked for: a class index, or minus N for the N best classes.
    """

    parts: tuple[int, ...]

    @property
    def first(self) -> int:
        """The class of the first map; -1 for the best one."""
        return max(self.parts[0], -1)

    @property
    def needs_scores(self) -> bool:
        """Whether the classes depend on the picture's scores beyond its best class."""
        return self.parts != (-1,) and any(part < 0 for part in self.parts)

    def classes(self, scores: NDArray[np.floating] | None, best: int) -> list[int]:
        """The class indices for one picture, in order, each once.

        Args:
            scores: `(K,)`, all classes' scores; needed where `needs_scores`.
            best: the picture's top-1 class.
        """
        found: list[int] = []
        for part in self.parts:
            if part >= 0:
                found.append(part)
            elif part == -1:
                found.append(best)
            else:
                assert scores is not None
                # Stable, so that equal scores keep the order of the classes, as ArgMax does.
                found.extend(int(i) for i in np.argsort(-scores, kind="stable")[:-part])
        return list(dict.fromkeys(found))


def plan_targets(
    target: int | str | Sequence[int | str] | Iterable[int | str], contract: Contract
) -> TargetPlan:
    """Read what a caller asks for.

    Args:
        target: `top1`, `topN`, a class index (also as text), a label, or a sequence of these.
        contract: of the file, with its labels.

    Raises:
        TargetError: no such class, several fit, or the file was made for another one.
    """
    specs = [target] if isinstance(target, (int, np.integer, str)) else list(target)
    if not specs:
        raise TargetError("no target was given; possible: top1, top5, a class index or a label.")
    parts = []
    for spec in specs:
        match = _TOP.fullmatch(spec) if isinstance(spec, str) else None
        if match is None:
            parts.append(find_class(spec, contract))
            continue
        count = int(match[1])
        if not 1 <= count <= contract.num_classes:
            raise TargetError(
                f"the target {spec!r} asks for {count} classes; possible: 1 to "
                f"{contract.num_classes}."
            )
        parts.append(-count)
    fixed = contract.fixed_target
    if fixed is not None and parts != [fixed]:
        raise TargetError(
            f"the file was exported for class {fixed} only: give that as the target, or export "
            "the classifier again with --target-input optional."
        )
    return TargetPlan(tuple(parts))


def find_class(spec: int | str, contract: Contract) -> int:
    """The class index that an index or a label means.

    A text of digits is an index. Otherwise the label has to fit, whatever its case, and with
    `-` and `_` taken as spaces: as a whole; else as one of its synonyms (`tabby` in
    `tabby, tabby cat`); else as whole words of one label only. A mere part of a word never does:
    `cat` must not quietly become `catamaran`.

    Raises:
        TargetError: no such class, or several fit.
    """
    classes = contract.num_classes
    if isinstance(spec, bool) or not isinstance(spec, (int, np.integer, str)):
        raise TargetError(f"a target is an index or a text, not {spec!r}.")
    # Stripped first: `int` leaves on some of what `strip` takes off.
    number = spec.strip() if isinstance(spec, str) else str(spec)
    if not isinstance(spec, str) or re.fullmatch(r"[+-]?\d{1,18}", number, re.ASCII):
        index = int(number)
        if not 0 <= index < classes:
            raise TargetError(f"there is no class {index}; possible: 0 to {classes - 1}.")
        return index
    if contract.labels is None:
        raise TargetError(
            f"the label {spec!r} can't be looked up, the file has no labels: give a class index "
            f"from 0 to {classes - 1}, or export the classifier again with --labels FILE.txt."
        )
    labels = [_normal(label) for label in contract.labels]
    wanted = _normal(spec)
    stages = (
        lambda label: label == wanted,
        lambda label: wanted in (part.strip() for part in label.split(",")),
        lambda label: f" {wanted} " in f" {label.replace(',', ' ')} ",
    )
    for fits in stages:
        found = [index for index, label in enumerate(labels) if wanted and fits(label)]
        if len(found) == 1:
            return found[0]
        if found:
            candidates = [(index, contract.labels[index]) for index in found]
            shown = "; ".join(f"{index} {label}" for index, label in candidates[:_SHOWN])
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise TargetError(
                f"the label {spec!r} fits {len(found)} classes ({shown}{more}): give an index.",
                candidates,
            )
    similar = [
        (index, label) for index, label in enumerate(contract.labels) if wanted in _normal(label)
    ]
    hint = "; ".join(f"{index} {label}" for index, label in similar[:_SHOWN] if wanted)
    raise TargetError(
        f"no class is labelled {spec!r}: "
        + (f"similar ones are {hint}; " if hint else "")
        + f"give whole words of a label, or an index from 0 to {classes - 1} (deepinside inspect "
        "--json FILE lists the labels).",
        similar,
    )


def _normal(label: str) -> str:
    return " ".join(re.sub(r"[-_]", " ", label.casefold()).split())
