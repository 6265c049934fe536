"""Which room may import what: read from the sources, so that one careless import fails at once.

exporters know graphs and never a runtime, engine knows a runtime and never graphs (an edge device
installs no graph library), models know neither, and cli imports everything heavy inside functions.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("exporters", "engine", "cli", "models")
GRAPH_LIBRARIES = frozenset({"onnx", "onnx_ir", "onnxscript"})
FRAMEWORKS = frozenset(
    {"torch", "torchvision", "timm", "transformers", "keras", "tensorflow"}
    | {"jax", "jax2onnx", "flax", "equinox", "sklearn", "skl2onnx", "skops"}
)

NEVER: dict[str, frozenset[str]] = {
    "engine": GRAPH_LIBRARIES
    | FRAMEWORKS
    | {"click", "rich", "deepinside.exporters", "deepinside.cli"},
    "exporters": frozenset(
        {"onnxruntime", "click", "rich", "deepinside.engine", "deepinside.cli", "deepinside.models"}
    ),
    "models": frozenset(
        {"onnxruntime", "click", "deepinside.engine", "deepinside.exporters", "deepinside.cli"}
    ),
    "cli": frozenset(),
}
ONLY_IN_FUNCTIONS: dict[str, frozenset[str]] = {
    "engine": frozenset(),
    "exporters": FRAMEWORKS,
    "models": GRAPH_LIBRARIES | FRAMEWORKS | {"PIL"},
    "cli": GRAPH_LIBRARIES
    | FRAMEWORKS
    | {
        "numpy",
        "onnxruntime",
        "PIL",
        "deepinside.engine",
        "deepinside.exporters",
        "deepinside.models",
    },
}

# The builder that it calls is part of a runtime; nothing else of the room knows one.
SECOND_BACK_END = REPOSITORY / "exporters" / "ort_training.py"

Scope = Literal["module", "function", "typing"]


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute dotted name; a relative import keeps its dots."""

    module: str
    line: int
    scope: Scope


def imports(node: ast.AST, scope: Scope = "module") -> Iterator[Import]:
    """Yields every import below a node, `importlib.import_module("name")` included."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                for name in names:
                    yield Import(name.name, child.lineno, scope)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                # `from deepinside import engine` names the room only in its alias.
                for name in names:
                    yield Import(f"{base}.{name.name}", child.lineno, scope)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(name, child.lineno, scope)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, "function" if scope == "module" else scope)
        elif (
            isinstance(child, ast.If)
            and ast.unparse(child.test).endswith("TYPE_CHECKING")
            and scope == "module"
        ):
            for statement in child.body:
                yield from imports(ast.Module([statement], []), "typing")
            for statement in child.orelse:
                yield from imports(ast.Module([statement], []), scope)
        else:
            yield from imports(child, scope)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(room: str, source: str, file: str = "source.py") -> list[str]:
    """Lists what one source file of a room imports against the rules, a sentence each."""
    found = []
    for item in imports(ast.parse(source)):
        where = f"{file}:{item.line}: {item.module}"
        if item.module.startswith("."):
            found.append(f"{where} is relative; write deepinside.{room}")
        if any(is_within(item.module, name) for name in ROOMS):
            found.append(f"{where} must be imported as deepinside.*")
        for package in NEVER[room]:
            if is_within(item.module, package):
                found.append(f"{where}: {room} never imports {package}")
        for package in ONLY_IN_FUNCTIONS[room]:
            if item.scope == "module" and is_within(item.module, package):
                found.append(f"{where}: {room} imports {package} only inside functions")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_the_room_keeps_its_direction(room: str) -> None:
    files = sorted(set((REPOSITORY / room).rglob("*.py")) - {SECOND_BACK_END})
    assert files
    found = [
        sentence
        for file in files
        for sentence in violations(
            room, file.read_text(encoding="utf-8"), str(file.relative_to(REPOSITORY))
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("engine", "import onnx"),
        ("engine", "import onnx.helper as helper"),
        ("engine", "from onnx_ir import passes"),
        ("engine", "import onnxscript"),
        ("engine", "import click"),
        ("engine", "import deepinside.exporters.export"),
        ("engine", "from deepinside import exporters"),
        ("engine", "from deepinside.cli.main import main"),
        ("engine", "def run():\n    import onnx"),
        ("engine", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
        ("engine", "import importlib\nonnx = importlib.import_module('onnx')"),
        ("engine", "onnx = __import__('onnx')"),
        ("engine", "from . import errors"),
        ("engine", "from .errors import EngineError"),
        ("engine", "from engine import errors"),
        ("exporters", "import onnxruntime"),
        ("exporters", "try:\n    import onnxruntime as runtime\nexcept ImportError:\n    pass"),
        ("exporters", "from deepinside.engine import Engine"),
        ("exporters", "class Late:\n    from deepinside import cli"),
        ("exporters", "import torch"),
        ("models", "from deepinside.engine import Engine"),
        ("models", "async def load():\n    import deepinside.exporters"),
        ("models", "import onnx"),
        ("cli", "import numpy as np"),
        ("cli", "from PIL import Image"),
        ("cli", "import onnx, json"),
        ("cli", "if True:\n    import onnxruntime"),
        ("cli", "from deepinside.engine import Engine"),
        ("cli", "from deepinside import models"),
        (
            "cli",
            "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import numpy",
        ),
    ],
)
def test_a_wrong_source_is_caught(room: str, source: str) -> None:
    assert violations(room, source)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("engine", "import onnxruntime\nimport numpy as np\nfrom PIL import Image"),
        ("engine", "from deepinside.engine.errors import EngineError"),
        ("engine", "import onnxruntime_extensions"),
        ("exporters", "import onnx\nfrom deepinside.exporters.rules import pooling"),
        ("exporters", "def load():\n    import torch"),
        ("models", "import json\ndef rebuild():\n    import onnx\n    import torch"),
        (
            "cli",
            "import click\ndef saliency():\n    import numpy\n    from deepinside import engine",
        ),
        ("cli", "from deepinside.cli.options import model_option"),
        (
            "cli",
            "import typing\nif typing.TYPE_CHECKING:\n    from deepinside.engine import Engine",
        ),
    ],
)
def test_a_right_source_passes(room: str, source: str) -> None:
    assert violations(room, source) == []
