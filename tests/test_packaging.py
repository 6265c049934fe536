"""pyproject.toml, README and CHANGELOG say what the tree really holds.

A folder missing from pyproject.toml works in an editable install and is silently left out of the
wheel, hence these comparisons; `.ci/run` builds, installs and uses the wheel itself.
"""

import importlib.metadata
import importlib.util
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("cli", "engine", "exporters", "models")
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def packages_in(tree: Path) -> dict[str, str]:
    """Returns package name -> folder for every folder of the rooms that holds Python files."""
    found = {}
    for room in ROOMS:
        for file in (tree / room).rglob("*.py"):
            folder = file.parent.relative_to(tree).as_posix()
            found["deepinside." + folder.replace("/", ".")] = folder
    return found


def files_left_out(tree: Path, package_data: dict[str, list[str]]) -> list[str]:
    """Returns the files of the rooms that are neither Python nor matched by any package-data."""
    left_out = []
    for room in ROOMS:
        patterns = [f"{room}/{pattern}" for pattern in package_data.get(f"deepinside.{room}", [])]
        for file in sorted((tree / room).rglob("*")):
            name = file.relative_to(tree)
            if file.is_dir() or file.suffix == ".py" or "__pycache__" in file.parts:
                continue
            # match, unlike fnmatch, keeps a star within its folder, as setuptools does.
            if not any(name.match(pattern) for pattern in patterns):
                left_out.append(name.as_posix())
    return left_out


def test_every_folder_with_python_files_is_a_listed_package() -> None:
    expected = packages_in(REPOSITORY)
    assert sorted(SETUPTOOLS["packages"]) == sorted(expected)
    assert SETUPTOOLS["package-dir"] == expected


def test_every_package_has_an_init() -> None:
    folders = packages_in(REPOSITORY).values()
    assert [
        folder for folder in folders if not (REPOSITORY / folder / "__init__.py").is_file()
    ] == []


def test_every_data_file_is_in_the_wheel() -> None:
    assert files_left_out(REPOSITORY, SETUPTOOLS["package-data"]) == []
    for package in (f"deepinside.{room}" for room in ROOMS):
        assert "py.typed" in SETUPTOOLS["package-data"][package]


def test_forgotten_folders_and_files_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "engine" / "new").mkdir(parents=True)
    (tmp_path / "engine" / "new" / "module.py").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.bin").touch()
    assert packages_in(tmp_path) == {"deepinside.engine.new": "engine/new"}
    assert files_left_out(tmp_path, SETUPTOOLS["package-data"]) == ["models/weights.bin"]


def test_the_licence_is_there_whole() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    licence = text("LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_readmes_extras_are_those_that_exist() -> None:
    named = {
        extra
        for group in re.findall(r"(?:\.|deepinside)\[([a-z, -]+)\]", text("README.md"))
        for extra in re.split(r", *", group)
    }
    assert named == set(PROJECT["project"]["optional-dependencies"])


def test_extras_refer_to_extras_that_exist() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in (line for lines in extras.values() for line in lines):
        for group in re.findall(r"^deepinside\[([a-z,]+)\]", requirement):
            assert set(group.split(",")) <= set(extras)


def test_the_base_installs_neither_a_runtime_nor_a_graph_library() -> None:
    for requirement in PROJECT["project"]["dependencies"]:
        assert not requirement.startswith(("onnx", "torch"))


def test_the_version_is_the_changelogs_newest() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]
    assert versions[0] == importlib.metadata.version("deepinside")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_ci_can_be_run() -> None:
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_into_the_repository_exist(name: str) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", text(name))
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def test_every_operator_is_on_the_page_once() -> None:
    onnx = pytest.importorskip("onnx")
    rows = [line.split("|")[1:-1] for line in text("docs/operators.md").splitlines() if "|" in line]
    listed = [
        name.strip()
        for left, right in rows
        for name in (left if re.match(r" [A-Z]\w* $", left) else right).split(",")
        if re.fullmatch(r" ?[A-Z]\w* ?", name)
    ]
    existing = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert sorted(listed) == sorted(existing)


def test_the_page_of_operators_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location(
        "operators", REPOSITORY / "docs/make_operators.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text("docs/operators.md") == module.table()
