from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.bundle import Bundle, Manifest, open_bundle
from codegen_edge.errors import BundleError, IntegrityError


def edit_manifest(bundle: Bundle, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.path / "bundle.json"
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))


def test_manifest_survives_a_round_trip(tiny_bundle: Bundle) -> None:
    assert Manifest.from_dict(json.loads(tiny_bundle.manifest.to_json())) == tiny_bundle.manifest


def test_exported_bundle_opens_with_every_hash_checked(tiny_bundle: Bundle) -> None:
    assert open_bundle(tiny_bundle.path, check="full").manifest == tiny_bundle.manifest


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json", "config.json"])
def test_flipped_bit_is_refused_by_name(bundle_copy: Bundle, name: str) -> None:
    path = bundle_copy.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=path.name):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize("check", ["full", "size"])
def test_truncated_file_is_refused(bundle_copy: Bundle, check: Any) -> None:
    path = bundle_copy.path / "onnx/model.onnx_data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="truncated"):
        open_bundle(bundle_copy.path, check=check)


def test_missing_file_is_refused(bundle_copy: Bundle) -> None:
    (bundle_copy.path / "onnx/model.onnx_data").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "onnx/../../secret", "a\nb", "..\\secret"])
def test_manifest_that_points_outside_is_refused(bundle_copy: Bundle, name: str) -> None:
    def add(fields: dict[str, Any]) -> None:
        fields["files"][name] = {"size_bytes": 1, "sha256": "0" * 64}

    edit_manifest(bundle_copy, add)
    with pytest.raises(IntegrityError, match="outside the bundle"):
        open_bundle(bundle_copy.path)


def test_newer_format_asks_for_an_upgrade(bundle_copy: Bundle) -> None:
    edit_manifest(bundle_copy, lambda fields: fields.update(format_version=99))
    with pytest.raises(BundleError, match="upgrade"):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize("field", ["task", "model", "files", "source", "tools", "precision"])
@pytest.mark.parametrize("value", [None, 1, "not known!"])
def test_malformed_field_is_refused(bundle_copy: Bundle, field: str, value: object) -> None:
    edit_manifest(bundle_copy, lambda fields: fields.update({field: value}))
    with pytest.raises(BundleError):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize(
    "record", [{"size_bytes": "two\nlines"}, {"size_bytes": True}, {"size_bytes": -1}, {"sha256": None}]
)
def test_record_of_a_file_that_is_none_is_refused_in_one_line(bundle_copy: Bundle, record: dict[str, Any]) -> None:
    edit_manifest(bundle_copy, lambda fields: fields["files"]["config.json"].update(record))
    with pytest.raises(BundleError, match="malformed") as refused:
        open_bundle(bundle_copy.path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["model", "source", "files"])
def test_unknown_name_in_a_field_is_refused_in_one_line(bundle_copy: Bundle, field: str) -> None:
    def add(fields: dict[str, Any]) -> None:
        record = fields[field] if field != "files" else fields[field]["config.json"]
        record["two\nlines"] = 1

    edit_manifest(bundle_copy, add)
    with pytest.raises(BundleError, match="malformed") as refused:
        open_bundle(bundle_copy.path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "[" * 100_000])
def test_manifest_that_is_no_json_object_is_refused(bundle_copy: Bundle, content: str) -> None:
    (bundle_copy.path / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        open_bundle(bundle_copy.path)


def test_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="not a folder"):
        open_bundle(tmp_path / "none")


def test_verdict_is_recorded_and_read_again(bundle_copy: Bundle) -> None:
    bundle_copy.record_parity({"verdict": "equal"})
    assert open_bundle(bundle_copy.path).manifest.parity == {"verdict": "equal"}


def test_verdict_of_a_bundle_that_was_replaced_is_not_recorded(bundle_copy: Bundle) -> None:
    edit_manifest(bundle_copy, lambda fields: fields["files"]["README.md"].update(sha256="0" * 64))
    with pytest.raises(BundleError, match="replaced meanwhile"):
        bundle_copy.record_parity({"verdict": "equal"})


def test_file_beside_the_graph_that_was_not_exported_is_refused(bundle_copy: Bundle) -> None:
    (bundle_copy.path / "onnx" / "other.onnx_data").touch()
    with pytest.raises(IntegrityError, match=r"other\.onnx_data"):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize(("name", "value"), [("num_layers", 2.0), ("vocab_size", "640"), ("num_heads", True)])
def test_model_without_integers_is_refused(bundle_copy: Bundle, name: str, value: object) -> None:
    edit_manifest(bundle_copy, lambda fields: fields["model"].update({name: value}))
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle_copy.path)


def test_wrong_task_is_named(feature_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="feature-extraction"):
        feature_bundle.require_task("text-generation")


COMPARISON = {"scenario": "prefill", "positions": 3, "max_abs_error": 1e-6, "limit": 1e-4, "top1_agreement": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"parity": 7},
        {"parity": "equal"},
        {"parity": {"comparisons": {}}},
        {"parity": {"comparisons": [7]}},
        {"parity": {"comparisons": [{**COMPARISON, "limit": "small"}]}},
        {"parity": {"comparisons": [{**COMPARISON, "positions": True}]}},
        {"parity": {"comparisons": [{name: value for name, value in COMPARISON.items() if name != "limit"}]}},
        {"parity": {"verdict": ["equal"]}},
        {"parity": {"reference": "checkpoint"}},
        {"parity": {"step_noise": {"ragged": "none"}}},
        {"tools": {"torch": 2}},
        {"built_of": {}},
        {"source": {"name": {}, "revision": None, "sha256": "0", "weights_dtype": "float32"}},
        {"source": {"name": "a", "revision": 7, "sha256": "0", "weights_dtype": "float32"}},
        {"source": {"name": "a", "revision": None, "sha256": "0", "weights_dtype": "float32", "repairs": [{}]}},
    ],
)
def test_field_of_another_type_is_refused(bundle_copy: Bundle, change: dict[str, Any]) -> None:
    edit_manifest(bundle_copy, lambda fields: fields.update(change))
    with pytest.raises(BundleError, match=r"bundle\.json is malformed"):
        open_bundle(bundle_copy.path)


def test_verdict_with_more_than_is_known_is_kept(bundle_copy: Bundle) -> None:
    verdict = {"verdict": "equal", "runtime": "cpu", "comparisons": [{**COMPARISON, "later": 1}], "more": [None]}
    edit_manifest(bundle_copy, lambda fields: fields.update(parity=verdict))
    assert open_bundle(bundle_copy.path).manifest.parity == verdict


@pytest.mark.parametrize("content", [b'{"a": 1, "a": 2}', b'{"name": "\\ud800"}', b"[" * 100_000])
def test_manifest_that_two_readers_take_differently_is_refused(bundle_copy: Bundle, content: bytes) -> None:
    (bundle_copy.path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read as JSON"):
        open_bundle(bundle_copy.path)
