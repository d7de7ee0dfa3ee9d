"""A scheme, a runtime and a metric: one file and one line each, and the command line has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.metrics import METRICS
from codegen_edge.quantization.schemes import SCHEMES
from codegen_edge.registry import Registry
from codegen_edge.runtimes.registry import RUNTIMES

SCHEME = '''
from codegen_edge.quantization.forms.half import Half
from codegen_edge.quantization.plan import Planned
from codegen_edge.quantization.schemes import Scheme

def plan(matrices, options):
    """Only the LM head in half precision."""
    return [Planned(matrix=each, form=Half(), reason="an example") for each in matrices if each.kind == "lm_head"]

SCHEME = Scheme(plan=plan, has_blocks=False)
'''
RUNTIME = '''
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime, script_of_tokens

def open_runtime(bundle, *, token_id: int = 65):
    """Writes one token over and over."""
    vocab_size = bundle.manifest.model.vocab_size
    return ScriptedRuntime(script_of_tokens([token_id], vocab_size, 0), vocab_size=vocab_size)
'''
METRIC = """
from dataclasses import asdict, dataclass
from codegen_edge.evaluation.quality.metrics import Metric

@dataclass
class Lengths:
    num_tokens: int

    @property
    def summary(self):
        return f"{self.num_tokens} tokens"

    def to_dict(self):
        return asdict(self)

METRIC = Metric(measure=lambda given: Lengths(sum(len(given.tokenizer.encode(text)) for text in given.documents)))
"""


@pytest.fixture
def one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what is registered from it is forgotten afterwards."""
    for registry in (SCHEMES, RUNTIMES, METRICS):
        monkeypatch.setattr(registry, "_homes", dict(registry._homes))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_scheme", "my_runtime", "my_metric"):
        sys.modules.pop(name, None)


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_registered_scheme_is_in_the_command_line(one_file: Path, tiny_bundle: Bundle) -> None:
    (one_file / "my_scheme.py").write_text(SCHEME)
    SCHEMES.register("head-fp16", "my_scheme:SCHEME")
    assert "head-fp16" in run("quantize", "--help")
    assert "head-fp16" in run("export", "--help")
    out = one_file / "out"
    run("quantize", tiny_bundle.path, out, "--scheme", "head-fp16", "--measure-tokens", 64)
    quantized = open_bundle(out)
    assert quantized.manifest.precision == "head-fp16"
    assert quantized.size_bytes < tiny_bundle.size_bytes
    assert run("generate", out, "--prompt", "def f", "--max-new-tokens", 2)


def test_registered_runtime_is_in_the_command_line(one_file: Path, tiny_bundle: Bundle) -> None:
    (one_file / "my_runtime.py").write_text(RUNTIME)
    RUNTIMES.register("one-token", "my_runtime:open_runtime")
    assert "one-token" in run("generate", "--help")
    made = run(
        "generate", tiny_bundle.path, "--prompt", "def f", "--max-new-tokens", 3, "--runtime", "one-token", "--json"
    )
    assert json.loads(made)["token_ids"] == [65, 65, 65]


def test_registered_metric_is_in_the_command_line(one_file: Path, tiny_bundle: Bundle) -> None:
    (one_file / "my_metric.py").write_text(METRIC)
    METRICS.register("lengths", "my_metric:METRIC")
    assert "lengths" in run("evaluate", "metrics", "--help")
    text = one_file / "a.py"
    text.write_text("def f():\n    pass\n")
    found = json.loads(run("evaluate", tiny_bundle.path, "--metric", "lengths", "--text", text, "--json"))
    assert found["lengths"]["num_tokens"] > 0


def test_registry_refuses_what_it_cannot_find() -> None:
    registry: Registry[object] = Registry("part", {"one": "codegen_edge.errors:CodegenEdgeError"})
    with pytest.raises(InvalidInputError, match="there is no part 'two'; there are: one"):
        registry.find("two")
    with pytest.raises(InvalidInputError, match="there is a part 'one' already"):
        registry.register("one", "somewhere:else")
    with pytest.raises(InvalidInputError, match='registered as "module:attribute"'):
        registry.register("three", "somewhere")
    assert list(registry) == ["one"]


@pytest.mark.parametrize("option", ["--scheme", "--method"])
def test_choice_that_is_not_registered_is_named_with_those_that_are(
    option: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    arguments = ["quantize", str(tiny_bundle.path), str(tmp_path / "out"), "--scheme", "int8", option, "nothing"]
    outcome = CliRunner().invoke(cli, arguments)
    assert isinstance(outcome.exception, InvalidInputError)
    assert f"{option} must be one of " in str(outcome.exception)
