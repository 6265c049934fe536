"""Writes tables into docs/performance.md, between two comments that say who writes there."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["replace_between", "table_of"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def replace_between(marks: tuple[str, str], text: str) -> None:
    """Put a text in the place of what stands between the marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(marks[0])
    after = rest.split(marks[1])[1]
    PAGE.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}", encoding="utf-8")
