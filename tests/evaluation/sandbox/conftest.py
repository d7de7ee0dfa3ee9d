"""Sandboxes shared by the tests of a session; a test that ends one or changes its times makes its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codegen_edge.errors import SandboxUnavailableError
from codegen_edge.evaluation.sandbox import Limits, Sandbox

MEBIBYTE = 1 << 20
LIMITS = Limits(
    wall_seconds=3.0,
    cpu_seconds=2.0,
    memory_bytes=512 * MEBIBYTE,
    file_bytes=2 * MEBIBYTE,
    folder_bytes=4 * MEBIBYTE,
    processes=16,
)


def bubblewrap_sandbox(limits: Limits = LIMITS, *, strict: bool = False) -> Sandbox:
    try:
        return Sandbox(limits=limits, strict=strict)
    except SandboxUnavailableError as exc:
        pytest.skip(f"needs a bubblewrap that works: {exc}")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with bubblewrap_sandbox() as made:
        yield made


@pytest.fixture(scope="session")
def strict_sandbox() -> Iterator[Sandbox]:
    with bubblewrap_sandbox(strict=True) as made:
        yield made


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.ways", list)


@pytest.fixture(scope="session")
def bare_sandboxes() -> Iterator[dict[bool, Sandbox]]:
    """Bare processes, by whether they are strict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codegen_edge.evaluation.sandbox.sandbox.ways", list)
        made = {strict: Sandbox(limits=LIMITS, strict=strict, allow_unsandboxed=True) for strict in (False, True)}
    with made[False], made[True]:
        yield made


@pytest.fixture(params=["bubblewrap", "bubblewrap, strict", "process", "process, strict"])
def any_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    strict = "strict" in request.param
    if "process" in request.param:
        made: Sandbox = request.getfixturevalue("bare_sandboxes")[strict]
    else:
        made = request.getfixturevalue("strict_sandbox" if strict else "sandbox")
    return made
