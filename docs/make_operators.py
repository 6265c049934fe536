"""Writes docs/operators.md from the registry of gradient rules: `python docs/make_operators.py`."""

from itertools import groupby
from pathlib import Path

import onnx

from deepinside.exporters.functions import has_definition
from deepinside.exporters.gradient import backpropagate  # noqa: F401  (registers the rules)
from deepinside.exporters.nondifferentiable import FLAT
from deepinside.exporters.registry import rules, schema_versions

_HEAD = """# Operators and their gradients

Written by `docs/make_operators.py`; every operator of ONNX's default domain is here once. A node
between image and score of an operator or version without a gradient stops the export with an error
that names it. Outside that path every operator may stand. Gradients are measured against
differences in `tests/test_rules.py` and on ONNX's own node tests in `tests/test_node_suite.py`.

## With a gradient rule

| operator | schema versions, from opset 17 on |
|---|---|
"""

_DEFINED = """
## Replaced by their definition

ONNX defines these by simpler operators, which take their place in the exported file.

| operator | schema versions, from opset 17 on |
|---|---|
"""

_WRITTEN = """
## Written out

| operator | how |
|---|---|
"""

_WITHOUT = """
## Without a gradient

| why | operators |
|---|---|
"""

# Operators without a rule that the exporter writes out, and as what.
WRITTEN_OUT: dict[str, tuple[str, ...]] = {
    "as a Scan over their steps": ("GRU", "LSTM", "RNN"),
    "in float, between QuantizeLinear and DequantizeLinear": (
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    ),
}

# Why an operator has no gradient. Flat ones are in the registry's own data.
REASONS: dict[str, tuple[str, ...]] = {
    "integers, booleans or bits": (
        *("And", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("Or", "Xor"),
    ),
    "no input that an image could reach: constants, windows, random numbers": (
        *("BlackmanWindow", "Constant", "HammingWindow", "HannWindow", "MelWeightMatrix"),
        *("RandomNormal", "RandomUniform"),
    ),
    "random choice": ("Bernoulli", "Multinomial"),
    "the output's size depends on values": ("NonMaxSuppression", "Range", "Unique"),
    "sequences and optional values": (
        *("ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
        *("SequenceLength", "SequenceMap", "SplitToSequence"),
    ),
    "text, and encoded pictures": (
        *("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
        "TfIdfVectorizer",
    ),
    "withdrawn by ONNX": ("Scatter", "Upsample"),
    "no form of the gradient that every runtime has": (
        *("DeformConv", "Det", "MaxRoiPool", "RoiAlign"),
    ),
    "of audio and language models": ("CumProd", "STFT", "TensorScatter"),
}


def versions_with_rule() -> dict[str, list[int]]:
    """The versions that have a rule, by operator."""
    found = groupby(sorted(rules()), key=lambda rule: rule[0])
    return {operator: [version for _, version in versions] for operator, versions in found}


def versions_with_definition() -> dict[str, list[int]]:
    """The versions that are replaced by their definition, by operator."""
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    found = {
        name: [v for v in schema_versions(name) if has_definition(name, v)]
        for name in sorted(names)
    }
    return {name: versions for name, versions in found.items() if versions}


def table() -> str:
    """The page's text."""
    ruled, defined = versions_with_rule(), versions_with_definition()
    for name in ruled.keys() & defined.keys():
        ruled[name] = [*ruled[name], *defined.pop(name)]
    rows, definitions = (
        "".join(
            f"| {operator} | {', '.join(str(v) for v in sorted(versions))} |\n"
            for operator, versions in sorted(found.items())
        )
        for found in (ruled, defined)
    )
    written = "".join(
        f"| {name} | {form} |\n" for form, names in WRITTEN_OUT.items() for name in names
    )
    reasons = {"flat everywhere: no gradient passes": tuple(FLAT), **REASONS}
    without = "".join(
        f"| {reason} | {', '.join(sorted(names))} |\n" for reason, names in reasons.items()
    )
    return f"{_HEAD}{rows}{_DEFINED}{definitions}{_WRITTEN}{written}{_WITHOUT}{without}"


if __name__ == "__main__":
    (Path(__file__).parent / "operators.md").write_text(table(), encoding="utf-8")
