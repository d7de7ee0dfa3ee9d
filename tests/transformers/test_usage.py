"""The documented examples of CodeGen with one changed import, and the other doors of transformers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, CodeGenConfig, CodeGenForCausalLM, pipeline

from codegen_edge.bundle import Bundle
from codegen_edge.errors import RuntimeUnavailableError
from codegen_edge.runtimes.backends.tensorrt import TensorRTRuntime
from codegen_edge.transformers import CodeGenEdgeConfig, CodeGenEdgeForCausalLM, CodeGenEdgeModel
from tests.runtimes.stand_ins import StreamingHost, fake_library
from tests.transformers.conftest import PROMPTS, Pair

# Of the model's page in transformers' documentation, and of the checkpoint's own page on the hub.
IMPORT = "from transformers import AutoModelForCausalLM, AutoTokenizer"
DOCUMENTED = f"""
{IMPORT}

checkpoint = "Salesforce/codegen-350M-mono"
model = AutoModelForCausalLM.from_pretrained(checkpoint)
tokenizer = AutoTokenizer.from_pretrained(checkpoint)

text = "def hello_world():"

completion = model.generate(**tokenizer(text, return_tensors="pt"))

print(tokenizer.decode(completion[0]))
"""
MODEL_CARD = f"""
{IMPORT}
tokenizer = AutoTokenizer.from_pretrained("Salesforce/codegen-350M-mono")
model = AutoModelForCausalLM.from_pretrained("Salesforce/codegen-350M-mono")

text = "def hello_world():"
input_ids = tokenizer(text, return_tensors="pt").input_ids

generated_ids = model.generate(input_ids, max_length=128)
print(tokenizer.decode(generated_ids[0], skip_special_tokens=True))
"""


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")  # both examples name no length
@pytest.mark.parametrize("example", [DOCUMENTED, MODEL_CARD], ids=["documentation", "model card"])
def test_example_runs_with_one_changed_import(
    example: str, tiny_bundle: Bundle, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.count(IMPORT) == 1
    printed = []
    for folder, import_line in (
        (tiny_bundle.path, IMPORT.replace("from transformers", "from codegen_edge.transformers")),
        (tiny_checkpoint, IMPORT),
    ):
        program = example.replace(IMPORT, import_line).replace("Salesforce/codegen-350M-mono", str(folder))
        exec(compile(program, "example", "exec"), {})
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].startswith("def hello_world():")


def test_package_itself_imports_neither_torch_nor_transformers() -> None:
    program = "import sys, codegen_edge; assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_auto_class_of_transformers_opens_a_bundle_by_its_config(
    pair: Pair, tiny_bundle: Bundle, tokenizer: Any
) -> None:
    config = CodeGenEdgeConfig.from_pretrained(tiny_bundle.path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_bundle.path, config=config, runtime="cpu", threads=1, dtype="auto", device_map="cpu"
    )
    assert type(model) is CodeGenEdgeForCausalLM
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    assert torch.equal(model.generate(**inputs, max_new_tokens=8), pair.torch.generate(**inputs, max_new_tokens=8))
    model.close()


def test_registered_classes_are_listed_beside_those_of_transformers() -> None:
    for auto, made in (
        (transformers.AutoModelForCausalLM, CodeGenEdgeForCausalLM),
        (transformers.AutoModel, CodeGenEdgeModel),
    ):
        assert CodeGenEdgeConfig in auto._model_mapping
        assert auto._model_mapping[CodeGenEdgeConfig] is made
    assert transformers.AutoModelForCausalLM._model_mapping[CodeGenConfig] is CodeGenForCausalLM


def test_stock_classes_stay_what_they_are(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    assert type(AutoConfig.from_pretrained(tiny_bundle.path)) is CodeGenConfig
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)) is CodeGenForCausalLM
    # A bundle holds no weights of torch: without our config transformers fails, and makes none up.
    with pytest.raises(OSError, match="no file named"):
        transformers.AutoModelForCausalLM.from_pretrained(tiny_bundle.path)
    assert AutoConfig.for_model("codegen_edge").model_type == "codegen_edge"


def test_headless_auto_class_opens_a_feature_bundle(feature_bundle: Bundle) -> None:
    config = CodeGenEdgeConfig.from_pretrained(feature_bundle.path)
    assert type(transformers.AutoModel.from_pretrained(feature_bundle.path, config=config)) is CodeGenEdgeModel


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "top_k": 20}, {"num_beams": 3, "num_return_sequences": 2}, {"return_full_text": False}],
    ids=str,
)
def test_text_generation_pipeline_is_equal(options: dict[str, Any], pair: Pair, tokenizer: Any) -> None:
    texts = []
    for model in (pair.edge, pair.torch):
        generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
        torch.manual_seed(5)
        texts.append(generator(list(PROMPTS), batch_size=2, max_new_tokens=10, **options))
    assert texts[0] == texts[1]


def test_text_generation_pipeline_knows_the_class(
    pair: Pair, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline("text-generation", model=pair.edge, tokenizer=tokenizer)
    assert "not supported" not in capfd.readouterr().err


@pytest.fixture(params=["static-cpu", "cpu (exact steps)", "tensorrt (stand-in)"])
def other(
    request: pytest.FixtureRequest, pair: Pair, tiny_bundle: Bundle, static_bundle: Bundle, engine_bundle: Bundle
) -> Iterator[Any]:
    """The drop-in over another runtime than the one of `pair`."""
    if request.param == "static-cpu":
        model = CodeGenEdgeForCausalLM.from_pretrained(static_bundle.path, runtime="static-cpu", threads=1)
    elif request.param == "cpu (exact steps)":
        try:
            model = CodeGenEdgeForCausalLM.from_pretrained(tiny_bundle.path, exact_steps=True, threads=1)
        except RuntimeUnavailableError as error:  # onnxruntime before 1.32
            pytest.skip(str(error).partition(":")[0])
    else:
        runtime = TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())
        model = CodeGenEdgeForCausalLM(pair.edge.config, runtime, pair.edge.generation_config)
    with model:
        yield model


@pytest.mark.parametrize("num_beams", [1, 2])
def test_other_runtimes_generate_the_same(num_beams: int, other: Any, pair: Pair, padded: Any) -> None:
    options = {"max_new_tokens": 8, "num_beams": num_beams}
    assert torch.equal(other.generate(**padded, **options), pair.edge.generate(**padded, **options))


def test_other_runtimes_check_drafts(other: Any, pair: Pair, drafters: Pair, tokenizer: Any) -> None:
    inputs = tokenizer(PROMPTS[1], return_tensors="pt")
    expected = pair.torch.generate(**inputs, max_new_tokens=16)
    assert torch.equal(other.generate(**inputs, max_new_tokens=16, assistant_model=drafters.edge), expected)
