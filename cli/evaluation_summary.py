"""What the records of an evaluation say together: the summary, and its table."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepinside.engine.batch import Record
    from deepinside.engine.evaluation import Running

__all__ = ["Summary", "table"]

# What all records of one evaluation agree on.
_FACTS = ("targets", "size", "settings", "model_sha256", "file_sha256")

# Name of a figure without its score -> head of its column; the arrow points to the better end.
_COLUMNS = {
    "insertion": "insertion ↑",
    "deletion": "deletion ↓",
    "road": "ROAD ↑",
    "sensitivity": "sens.-n ↑",
    "pointing": "pointing ↑",
    "energy": "energy ↑",
    "randomised_spearman": "random: Spearman ↓",
    "randomised_ssim": "random: SSIM ↓",
}


class Summary:
    """Takes the records of an evaluation one by one; only sums are kept."""

    def __init__(self) -> None:
        self._first: Record | None = None
        self._done = self._failed = self._maps = 0
        self._methods: dict[str, _Sums] = {}

    def add(self, record: "Record") -> None:
        """Take the record of a picture."""
        if record["status"] == "failed":
            self._failed += 1
            return
        if self._first is None:
            self._first = {name: record[name] for name in (*_FACTS, "methods", "depths", "layers")}
            self._methods = {method: _Sums() for method in record["methods"]}
        elif record["targets"] != self._first["targets"]:
            self._first["targets"] = None
        self._done += 1
        self._maps += len(record["maps"])
        for entry in record["maps"]:
            self._methods[entry["method"]].add(entry, record["settings"]["randomise"])

    def result(self) -> dict[str, Any] | None:
        """Mean, spread and count of every figure of every method; None where nothing was evaluated.

        The targets are None where pictures had targets of their own.
        """
        if self._first is None:
            return None
        return {
            "task": "evaluation-summary",
            "pictures": self._done,
            "failed": self._failed,
            "maps": self._maps // len(self._methods),
            **{name: self._first[name] for name in (*_FACTS, "depths", "layers")},
            "methods": {method: sums.result() for method, sums in self._methods.items()},
        }


class _Sums:
    """What the maps of one method have in common."""

    def __init__(self) -> None:
        from deepinside.engine.evaluation import Running

        self._figures: defaultdict[str, Running] = defaultdict(Running)
        # By curve (or similarity) and part of it, a number for each step.
        self._curves: dict[str, dict[str, list[Running]]] = {}
        self._randomisation: dict[str, list[Running]] = {}

    def add(self, entry: "Record", mode: str) -> None:
        """Take a map; `mode` is the sanity check's."""
        for name, value in {**entry["figures"], **_randomised(entry, mode)}.items():
            self._figures[name].add(value)
        for name, curve in entry["curves"].items():
            _add(self._curves.setdefault(name, {}), curve)
        _add(self._randomisation, entry["randomisation"])

    def result(self) -> dict[str, Any]:
        """The method's part of the summary."""
        figures = {name: running.statistic for name, running in self._figures.items()}
        return {
            "figures": {
                name: dataclasses.asdict(statistic)
                for name, statistic in figures.items()
                if statistic is not None
            },
            # The maps' shares are equal up to whole pixels.
            "curves": {name: _means(curve) for name, curve in self._curves.items()},
            "randomisation": _means(self._randomisation),
        }


def _add(sums: "dict[str, list[Running]]", rows: "Mapping[str, Sequence[float | None]]") -> None:
    """Add each part's values, step by step; those that are not known are left out."""
    from deepinside.engine.evaluation import Running

    for part, values in rows.items():
        known = sums.setdefault(part, [Running() for _ in values])
        known += [Running() for _ in values[len(known) :]]
        for running, value in zip(known, values, strict=False):
            running.add(value)


def _means(sums: "dict[str, list[Running]]") -> dict[str, list[float | None]]:
    return {part: [running.mean for running in known] for part, known in sums.items()}


def table(summary: dict[str, Any], score: str) -> str:
    """The summary's main figures as a table of text, `mean ± spread`."""
    methods = summary["methods"]
    rows = [["", *(_COLUMNS[column] for column in _shown(summary, score))]]
    for method, facts in methods.items():
        row = [method]
        for column in _shown(summary, score):
            statistic = _statistic(facts["figures"], column, score)
            row.append("-" if statistic is None else _text(statistic))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    head = f"{summary['maps']} maps of {summary['pictures']} pictures, score: {score}"
    return "\n".join([head, *lines])


def _shown(summary: dict[str, Any], score: str) -> list[str]:
    return [
        column
        for column in _COLUMNS
        if any(
            _statistic(facts["figures"], column, score) is not None
            for facts in summary["methods"].values()
        )
    ]


def _statistic(figures: dict[str, Any], column: str, score: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = figures.get(f"{column}.{score}", figures.get(column))
    return found


def _text(statistic: dict[str, Any]) -> str:
    spread = "" if statistic["spread"] is None else f" ± {statistic['spread']:.3f}"
    return f"{statistic['mean']:.3f}{spread}"


def _randomised(entry: "Record", mode: str) -> dict[str, float | None]:
    """Cascading, what remains with all layers random; independent, the mean over the layers."""
    found = {}
    for kind, values in entry["randomisation"].items():
        known = [value for value in values if value is not None]
        if mode == "independent" and known:
            found[f"randomised_{kind}"] = sum(known) / len(known)
        else:
            found[f"randomised_{kind}"] = values[-1] if values else None
    return found
