"""Writes docs/operators.md from the registry of gradient rules: `python docs/make_operators.py`."""

from itertools import groupby
from pathlib import Path

from deepinside.exporters.gradient import backpropagate  # noqa: F401  (registers the rules)
from deepinside.exporters.nondifferentiable import FLAT
from deepinside.exporters.registry import rules

_HEAD = """# Operators with a gradient rule

Written by `docs/make_operators.py`. A node between image and score of any other operator or version
stops the export with an error that names it. Outside that path every operator may stand.

| operator | schema versions, from opset 17 on |
|---|---|
"""


def table() -> str:
    """The page's text."""
    rows = "".join(
        f"| {operator} | {', '.join(str(version) for _, version in versions)} |\n"
        for operator, versions in groupby(sorted(rules()), key=lambda rule: rule[0])
    )
    return (
        f"{_HEAD}{rows}\nFlat everywhere, so that no gradient passes: {', '.join(sorted(FLAT))}.\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "operators.md").write_text(table(), encoding="utf-8")
