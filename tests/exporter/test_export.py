from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.errors import (
    CheckpointError,
    IncompatibleVersionError,
    InvalidInputError,
    NumericsError,
    ParityError,
    StorageError,
    UnsupportedModelError,
)
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.exporter import (
    ExportOptions,
    export_checkpoint,
    load_reference_model,
    locate_checkpoint,
    open_checkpoint,
)
from codegen_edge.exporter.random_checkpoint import ModelShape
from codegen_edge.exporter.targets.rotary import rotary_tables
from tests.conftest import MakeCheckpoint


def export(checkpoint: Path, out: Path, **options: Any) -> Bundle:
    return export_checkpoint(locate_checkpoint(str(checkpoint)), out, ExportOptions(**options))


def axes_of(values: Any) -> dict[str, list[str | int]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }


@pytest.fixture(scope="module")
def graph(tiny_bundle: Bundle) -> onnx.GraphProto:
    return onnx.load(tiny_bundle.model_path, load_external_data=False).graph


def test_graph_keeps_the_contract(graph: onnx.GraphProto) -> None:
    past = [contract.AXIS_BATCH, 4, contract.AXIS_PAST, 16]
    present = [contract.AXIS_BATCH, 4, contract.AXIS_TOTAL, 16]
    parts = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert axes_of(graph.input) == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "past_sequence_length + sequence_length"],
        **{f"past_key_values.{part}": past for part in parts},
        "num_logits_to_keep": [1],
    }
    assert axes_of(graph.output) == {
        "logits": ["batch_size", "sequence_length", 640],
        **{f"present.{part}": present for part in parts},
    }


def test_graph_is_made_of_few_operators_and_names_no_path(tiny_bundle: Bundle, graph: onnx.GraphProto) -> None:
    operators = {node.op_type for node in graph.node}
    assert operators <= {
        "Add", "Cast", "Gather", "Gelu", "GroupQueryAttention", "LayerNormalization", "MatMul", "Neg",
        "ReduceSum", "Shape", "Slice", "Sub",
    }  # fmt: skip
    assert sum(node.op_type == "GroupQueryAttention" for node in graph.node) == 2
    content = tiny_bundle.model_path.read_bytes()
    assert b"site-packages" not in content
    assert str(Path.home()).encode() not in content
    assert b".py" not in content


def test_graph_keeps_the_names_of_the_weights(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    model = onnx.load(tiny_bundle.model_path, load_external_data=False)
    external = {tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert external == {*load_file(tiny_checkpoint / "model.safetensors"), "rotary_cos", "rotary_sin"}


def test_graph_passes_the_checker_of_onnx(tiny_bundle: Bundle, feature_bundle: Bundle) -> None:
    for bundle in (tiny_bundle, feature_bundle):
        onnx.checker.check_model(str(bundle.model_path), full_check=True)


def test_features_graph_has_no_cache_and_no_head(feature_bundle: Bundle) -> None:
    graph = onnx.load(feature_bundle.model_path, load_external_data=False).graph
    assert axes_of(graph.input).keys() == {"input_ids", "attention_mask"}
    assert axes_of(graph.output) == {"last_hidden_state": ["batch_size", "sequence_length", 64]}
    assert not any(tensor.name.startswith("lm_head") for tensor in graph.initializer)


def test_same_checkpoint_gives_the_same_bytes(tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = export(tiny_checkpoint, tmp_path / "again")
    first, second = tiny_bundle.manifest.files, again.manifest.files
    differing = {name for name in first if first[name] != second[name]} - {"README.md"}
    assert differing == set()


def test_manifest_vouches_for_every_file_and_names_no_path(tiny_bundle: Bundle) -> None:
    files = {path.relative_to(tiny_bundle.path).as_posix() for path in tiny_bundle.path.rglob("*") if path.is_file()}
    assert files == {*tiny_bundle.manifest.files, "bundle.json"}
    assert {
        "config.json",
        "generation_config.json",
        "genai_config.json",
        "README.md",
        "tokenizer.json",
    } < files
    assert "/" not in tiny_bundle.manifest.source.name
    assert str(tiny_bundle.path.parent) not in (tiny_bundle.path / "bundle.json").read_text()


def test_configs_for_other_programs_agree_with_the_model(tiny_bundle: Bundle) -> None:
    model = tiny_bundle.manifest.model
    genai = json.loads((tiny_bundle.path / "genai_config.json").read_text())["model"]
    assert genai["type"] == "decoder"
    assert genai["decoder"]["filename"] == "onnx/model.onnx"
    assert (genai["decoder"]["head_size"], genai["decoder"]["num_hidden_layers"]) == (16, 2)
    config = json.loads((tiny_bundle.path / "config.json").read_text())
    assert config["architectures"] == ["CodeGenForCausalLM"]
    assert config["eos_token_id"] == model.eos_token_id


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_bin", [True, False])
def test_half_precision_checkpoint_with_old_faults_exports_and_verifies(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: torch.dtype, is_bin: bool
) -> None:
    folder = make_checkpoint(dtype=dtype)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for layer in range(2):
        mask = torch.tril(torch.ones(128, 128, dtype=torch.uint8)).view(1, 1, 128, 128)
        tensors[f"transformer.h.{layer}.attn.causal_mask"] = mask
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    path.unlink()
    if is_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, path)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 2, "bos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))

    bundle = export(folder, tmp_path / "out")
    report = verify_bundle(bundle, open_checkpoint(folder), num_steps=8)
    assert report.is_equal, report.first_failure
    assert bundle.manifest.source.weights_dtype == str(dtype).removeprefix("torch.")
    assert any("eos_token_id was 2" in sentence for sentence in bundle.manifest.source.repairs)


@pytest.mark.parametrize("task", contract.TASKS)
def test_bare_model_gives_features_but_no_text(checkpoint_copy: Path, tmp_path: Path, task: contract.Task) -> None:
    path = checkpoint_copy / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {
            name.removeprefix("transformer."): tensor
            for name, tensor in tensors.items()
            if not name.startswith("lm_head")
        },
        path,
    )
    if task == "text-generation":
        with pytest.raises(CheckpointError, match="lacks lm_head.*export it for feature-extraction"):
            export(checkpoint_copy, tmp_path / "out", task=task)
        return
    bundle = export(checkpoint_copy, tmp_path / "out", task=task)
    assert verify_bundle(bundle, open_checkpoint(checkpoint_copy)).is_equal


@pytest.mark.parametrize("task", contract.TASKS)
def test_tied_heads_and_other_shapes_verify(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, task: contract.Task
) -> None:
    # 80 features a head with 64 rotating is the 2B's shape; an inner size of its own is nobody's.
    shape = ModelShape(n_layer=1, n_embd=320, n_head=4, rotary_dim=64, vocab_size=640, n_positions=128)
    folder = make_checkpoint(shape, initializer_range=0.1)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    bundle = export(folder, tmp_path / "out", task=task)
    report = verify_bundle(bundle, open_checkpoint(folder), num_steps=4)
    assert report.is_equal, report.first_failure


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weight_that_is_not_finite_is_named_and_nothing_is_written(
    checkpoint_copy: Path, tmp_path: Path, value: float
) -> None:
    path = checkpoint_copy / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.1.mlp.fc_in.weight"][3, 5] = value
    save_file(tensors, path)
    with pytest.raises(NumericsError, match=r"transformer\.h\.1\.mlp\.fc_in\.weight"):
        export(checkpoint_copy, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint"]


def test_shape_that_the_operator_cannot_take_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    shape = ModelShape(n_layer=1, n_embd=96, n_head=4, rotary_dim=8, vocab_size=640, n_positions=64)
    with pytest.raises(UnsupportedModelError, match="multiples of 16.*got 24 and 8"):
        export(make_checkpoint(shape), tmp_path / "out")


def test_failed_proof_leaves_the_old_bundle(bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    before = (bundle_copy.path / "bundle.json").read_bytes()

    def fail(bundle: Bundle, checkpoint: object) -> dict[str, Any]:
        assert bundle.manifest.parity is None
        assert not (bundle.path / "bundle.json").exists()  # it is written last of all
        raise ParityError("different")

    with pytest.raises(ParityError):
        export_checkpoint(
            locate_checkpoint(str(tiny_checkpoint)),
            bundle_copy.path,
            ExportOptions(overwrite=True),
            prove=fail,
        )
    assert (bundle_copy.path / "bundle.json").read_bytes() == before
    assert [item.name for item in bundle_copy.path.parent.iterdir()] == [bundle_copy.path.name]


def test_verdict_of_the_proof_is_in_the_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_checkpoint(
        locate_checkpoint(str(tiny_checkpoint)), tmp_path / "out", prove=lambda *_: {"verdict": "equal"}
    )
    assert open_bundle(bundle.path).manifest.parity == {"verdict": "equal"}


def test_existing_bundle_is_kept_without_overwrite(bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidInputError, match="allow to overwrite"):
        export(tiny_checkpoint, bundle_copy.path)
    assert open_bundle(bundle_copy.path).manifest == bundle_copy.manifest


def test_disk_that_fills_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; it needs a process of its own."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from codegen_edge.errors import StorageError\n"
        "from codegen_edge.exporter import export_checkpoint, locate_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try:\n"
        "    export_checkpoint(locate_checkpoint(sys.argv[1]), sys.argv[2])\n"
        "except StorageError as exc:\n"
        "    sys.exit(str(exc))\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert hasattr(signal, "SIGXFSZ")
    arguments = [sys.executable, "-c", program, str(tiny_checkpoint), str(tmp_path / "out")]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "no room left" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="0.00 GB free"):
        export(tiny_checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_rotary_tables_are_those_of_transformers_to_the_last_bit(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    tables = rotary_tables(checkpoint.model)
    buffers = dict(load_reference_model(checkpoint).named_buffers())
    (own, *_) = [buffer for name, buffer in buffers.items() if name.endswith("embed_positions")]
    sin, cos = own.chunk(2, dim=1)
    assert torch.equal(tables["rotary_sin"], sin)
    assert torch.equal(tables["rotary_cos"], cos)


def test_a_transformers_that_cannot_be_traced_is_an_error_with_versions(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a release renames what its blocks hand to one another."""

    def forward(*_: Any, **__: Any) -> None:
        raise TypeError("attention() missing 1 required positional argument: 'layer_past'")

    monkeypatch.setattr("transformers.CodeGenModel.forward", forward)
    with pytest.raises(
        IncompatibleVersionError, match=r"transformers \d.*TypeError: attention.*Proved are transformers"
    ) as caught:
        export_checkpoint(locate_checkpoint(str(tiny_checkpoint)), tmp_path / "out")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
