"""What the records of an evaluation say together: the summary, and its table."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepinside.engine.batch import Record

__all__ = ["summary_of", "table"]

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


def summary_of(records: "Sequence[Record]") -> dict[str, Any] | None:
    """Mean, spread and count of every figure of every method; None where nothing was evaluated."""
    from deepinside.engine.evaluation import summarise

    done = [record for record in records if record["status"] != "failed"]
    if not done:
        return None
    mode = done[0]["settings"]["randomise"]
    methods = {}
    for method in done[0]["methods"]:
        maps = [entry for record in done for entry in record["maps"] if entry["method"] == method]
        statistics = summarise({**entry["figures"], **_randomised(entry, mode)} for entry in maps)
        methods[method] = {
            "figures": {name: dataclasses.asdict(each) for name, each in statistics.items()},
            "curves": _mean_curves([entry["curves"] for entry in maps]),
            "randomisation": {
                kind: _means(entry["randomisation"][kind] for entry in maps)
                for kind in maps[0]["randomisation"]
            },
        }
    return {
        "task": "evaluation-summary",
        "pictures": len(done),
        "failed": len(records) - len(done),
        "maps": sum(len(record["maps"]) for record in done) // len(methods),
        **{
            name: done[0][name]
            for name in ("targets", "size", "settings", "model_sha256", "file_sha256")
        },
        "depths": done[0]["depths"],
        "layers": done[0]["layers"],
        "methods": methods,
    }


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


def _mean_curves(entries: "Sequence[Record]") -> "Record":
    """The mean of each curve at each step; the maps' shares are equal up to whole pixels."""
    return {
        name: {part: _means(entry[name][part] for entry in entries) for part in entries[0][name]}
        for name in entries[0]
    }


def _means(rows: Iterable[Sequence[float | None]]) -> list[float | None]:
    """Column by column, of the numbers that are known."""
    columns = (
        [value for value in column if value is not None] for column in zip(*rows, strict=True)
    )
    return [sum(known) / len(known) if known else None for known in columns]
