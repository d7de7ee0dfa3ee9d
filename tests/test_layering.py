"""The house: which room may import which, and how large a file and a function may grow."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.imports import GROUND, PACKAGE, REPOSITORY, graph, imports_of, modules, room_of

# An import goes from a room to one of a lower floor. `codegen_edge` itself is the public API: the roof.
FLOORS = {
    "cli": 6,
    "workflows": 5,
    "server": 5,
    "evaluation": 4,
    "generation": 3,
    "transformers": 3,
    "exporter": 2,
    "runtimes": 2,
    "quantization": 2,
    "bundle": 1,
    "checkpoints": 1,
    GROUND: 0,
}
ROOF = 7
MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 60  # without decorators and docstring
LONG_FUNCTIONS = {
    "training/model_card.py:model_card": "one text, the card",
    "src/codegen_edge/workflows/quantizing.py:quantize": "its signature is the public API",
}
SOURCE = (
    *("src", "exporter", "runtimes", "generation", "quantization", "evaluation", "server", "checkpoints"),
    "training",
)


def floor(module: str) -> int:
    return ROOF if module in (PACKAGE.name, f"{PACKAGE.name}.__main__") else FLOORS[room_of(module)]


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in modules()} == set(FLOORS)


def test_imports_go_downwards() -> None:
    upward = sorted(
        f"{each.importer} imports {each.imported}"
        for each in graph()
        if room_of(each.importer) != room_of(each.imported) and floor(each.importer) <= floor(each.imported)
    )
    assert not upward


def test_modules_import_in_no_circle() -> None:
    edges: dict[str, set[str]] = {}
    for each in graph():
        # What only type checkers read is no import; a package's own modules may import it while it is being imported.
        if not each.is_typing and not each.importer.startswith(f"{each.imported}."):
            edges.setdefault(each.importer, set()).add(each.imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for imported in sorted(edges.get(module, ())):
            if imported != PACKAGE.name:
                visit(imported, (*path, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_no_private_name_crosses_a_room() -> None:
    known = modules()
    outside = [path for folder in ("benchmarks", "training") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    imports = [each for path in outside for each in imports_of(path.parent.name, path, known)] + graph()
    crossing = [
        f"{each.importer} takes {each.name or each.imported}"
        for each in imports
        if room_of(each.importer) != room_of(each.imported)
        and any(part.startswith("_") and not part.startswith("__") for part in (each.name, *each.imported.split(".")))
    ]
    assert not crossing


def source_files() -> list[Path]:
    return [path for folder in SOURCE for path in sorted((REPOSITORY / folder).rglob("*.py")) if not is_linked(path)]


def is_linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def test_no_file_is_too_long() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in source_files()}
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_A_FILE}


def test_no_function_is_too_long() -> None:
    long = {}
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                has_docstring = ast.get_docstring(node) is not None
                docstring = node.body[0] if has_docstring else None
                lines = (node.end_lineno or 0) - node.lineno + 1
                if docstring is not None:
                    lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long[f"{path.relative_to(REPOSITORY).as_posix()}:{node.name}"] = lines
    assert long.keys() == LONG_FUNCTIONS.keys(), long
