"""What users import: pinned, typed, and light until it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import pytest

import codegen_edge
from codegen_edge import GenerationParams, workflows

PUBLIC = [
    "Bundle",
    "CancelToken",
    "CodegenEdgeError",
    "Completion",
    "GenerationParams",
    "Model",
    "Session",
    "TextEvent",
    "__version__",
    "build",
    "evaluate",
    "export",
    "load_model",
    "open_bundle",
    "quantize",
    "verify",
]
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "tokenizers", "numpy", "rich")


def test_public_names_are_these_and_can_be_had() -> None:
    assert codegen_edge.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(codegen_edge, name) is not None


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_public_names_say_what_they_take_give_and_raise(name: str) -> None:
    part = getattr(codegen_edge, name)
    assert inspect.getdoc(part)
    if inspect.isfunction(part):
        doc = inspect.getdoc(part) or ""
        assert "Args:" in doc
        assert "Raises:" in doc
        given = [each for each in inspect.signature(part).parameters if each != "options"]
        assert not [each for each in given if f"{each}: " not in doc]


@pytest.mark.parametrize("name", ["export", "quantize", "verify", "build", "evaluate"])
def test_workflows_are_typed(name: str) -> None:
    part = getattr(workflows, name)
    parameters = inspect.signature(part).parameters
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters.values())
    assert inspect.signature(part).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize(
    "statement", ["import codegen_edge", "import codegen_edge.cli", "import codegen_edge.workflows"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    program = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom codegen_edge.cli import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "quantize" in found.stdout
    assert found.stdout.splitlines()[-1] == "LOADED"


def test_fields_of_the_parameters_are_typed() -> None:
    hints = typing.get_type_hints(GenerationParams)
    assert hints["temperature"] is float
    assert hints["max_new_tokens"] is int
