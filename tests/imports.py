"""The import graph of the source, read without importing it: python -m tests.imports prints it by room."""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "codegen_edge"
GROUND = "ground floor"  # modules that lie in the package itself


@dataclass(frozen=True, slots=True)
class Import:
    """A module names another one, or something in it.

    Attributes:
        importer, imported: modules.
        name: what is taken of it; "" for the module itself.
        is_typing: whether it stands under TYPE_CHECKING, and so is not run.
    """

    importer: str
    imported: str
    name: str
    is_typing: bool


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of the package by its name; the rooms are links in it."""
    found = {}
    for folder, _, files in os.walk(package, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder) / file
                parts = path.relative_to(package).with_suffix("").parts
                found[".".join((package.name, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def room_of(module: str, package: Path = PACKAGE) -> str:
    """The folder below the package that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (package / parts[1]).is_dir() else GROUND


def imports_of(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """What a module imports of the package, anywhere in its text."""
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    root = PACKAGE.name
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == root:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = (whole, "") if whole in known else (node.module, alias.name)
                yield Import(module, *target, id(node) in typing)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == root:
                    yield Import(module, alias.name, "", id(node) in typing)


def graph(package: Path = PACKAGE) -> list[Import]:
    """Every import within the package."""
    known = modules(package)
    return [each for module, path in known.items() for each in imports_of(module, path, known)]


def main() -> None:
    """Print how many modules of a room import another room."""
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    rooms = {
        (each.importer, room_of(each.importer, package), room_of(each.imported, package)) for each in graph(package)
    }
    edges = Counter((importer, imported) for _, importer, imported in rooms if importer != imported)
    for (importer, imported), count in sorted(edges.items()):
        print(f"{importer:>13} -> {imported:<13} {count:3} modules")
    lines = sum(len(path.read_text().splitlines()) for path in modules(package).values())
    print(f"{len(edges)} pairs of rooms, {sum(edges.values())} edges from a module to a room, {lines} lines")


if __name__ == "__main__":
    main()
