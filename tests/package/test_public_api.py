"""What users import: pinned, typed, and light until it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import codegen_edge
from codegen_edge import GenerationParams, workflows
from codegen_edge.bundle import Bundle

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
    "evaluate_task",
    "export",
    "list_bundles",
    "load_model",
    "open_bundle",
    "push",
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


@pytest.mark.parametrize(
    "call",
    [
        "export('codegen-5M-mono', OUT)",
        "quantize(BUNDLE, OUT, scheme='int8')",
        "verify(BUNDLE, 'codegen-5M-mono')",
        "build(BUNDLE, OUT, runtime='cuda')",
    ],
)
def test_workflow_without_its_packages_names_the_extra(call: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """As where only a runtime is installed; the import must not fail before the packages are asked for."""
    blocked = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "huggingface_hub")
    program = (
        f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n"
        "import codegen_edge\nfrom codegen_edge.errors import RuntimeUnavailableError\n"
        f"BUNDLE, OUT = {str(tiny_bundle.path)!r}, {str(tmp_path / 'out')!r}\n"
        f"try:\n    codegen_edge.{call}\nexcept RuntimeUnavailableError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pip install" in done.stdout


@pytest.mark.parametrize("command", ["export", "quantize", "build", "generate", "evaluate"])
def test_help_of_a_command_needs_no_extra(command: str) -> None:
    program = (
        "import sys\nfor name in ('torch', 'transformers', 'onnx', 'onnx_ir', 'onnxruntime'):\n"
        f"    sys.modules[name] = None\nfrom codegen_edge.cli import cli\ncli.main([{command!r}, '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "Usage:" in done.stdout
