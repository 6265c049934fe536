"""All cases, and which of them fit an operator's schema version."""

from collections import Counter

import rule_cases_control
import rule_cases_elementwise
import rule_cases_indexing
import rule_cases_layout
import rule_cases_linear
import rule_cases_movement
import rule_cases_normalization
import rule_cases_reductions
import rule_cases_resize
import rule_cases_selection
import rule_cases_windows
from rule_case import Case

from deepinside.exporters import registry

__all__ = ["CASES", "cases_for", "opset_of"]

CASES: tuple[Case, ...] = (
    *rule_cases_control.CASES,
    *rule_cases_elementwise.CASES,
    *rule_cases_indexing.CASES,
    *rule_cases_layout.CASES,
    *rule_cases_linear.CASES,
    *rule_cases_movement.CASES,
    *rule_cases_normalization.CASES,
    *rule_cases_reductions.CASES,
    *rule_cases_resize.CASES,
    *rule_cases_selection.CASES,
    *rule_cases_windows.CASES,
)


def cases_for(operator: str, version: int) -> list[Case]:
    """The cases that are valid models of this version."""
    return [c for c in CASES if c.operator == operator and c.since <= version <= c.until]


def opset_of(version: int) -> int:
    """An opset at which the schema version is in force."""
    return max(registry.OPSET_FLOOR, version)


_TWICE = [key for key, n in Counter((c.operator, c.name, c.since) for c in CASES).items() if n > 1]
assert not _TWICE, f"cases of the same name: {_TWICE}"
