from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from codegen_edge import ort_session
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.features import FeatureExtractor
from tests.fuzz.children import in_child


def test_unknown_runtime_lists_the_known_ones(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="no runtime 'gpu'; there are: cpu"):
        open_runtime("gpu", tiny_bundle)


def test_missing_onnxruntime_names_the_extra(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install .*\[cpu\]"):
        open_runtime("cpu", tiny_bundle)


def test_another_provider_than_asked_for_is_refused(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # onnxruntime gives its CPU provider for any that it lacks; the check must see that it was another one.
    monkeypatch.setattr(ort_session, "PROVIDER", "XnnpackExecutionProvider")
    with pytest.warns(UserWarning, match="XnnpackExecutionProvider"), pytest.raises(RuntimeUnavailableError):
        open_runtime("cpu", tiny_bundle)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"<html>404</html>"])
def test_graph_that_onnxruntime_refuses_is_an_error_of_ours(bundle_copy: Bundle, content: bytes) -> None:
    bundle_copy.model_path.write_bytes(content)
    with pytest.raises(BundleError, match="onnxruntime .* refuses"):
        open_runtime("cpu", bundle_copy)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_layers": 3}, r"past_key_values\.2\.key"),
        ({"vocab_size": 700}, "logits"),
        ({"num_heads": 8, "head_dim": 8, "rotary_dim": 8}, r"past_key_values\.0\.key"),
    ],
)
def test_manifest_of_another_graph_is_refused(bundle_copy: Bundle, change: dict[str, int], name: str) -> None:
    manifest = replace(bundle_copy.manifest, model=replace(bundle_copy.manifest.model, **change))
    with pytest.raises(BundleError, match=f"{name} differs"):
        open_runtime("cpu", Bundle(bundle_copy.path, manifest))


def test_features_bundle_is_no_text_runtime(feature_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="needs a bundle for text-generation"):
        open_runtime("cpu", feature_bundle)


def test_features_are_refused_in_a_fork(feature_bundle: Bundle) -> None:
    extractor = FeatureExtractor(feature_bundle, threads=2)
    assert len(extractor.extract([[1, 2]])) == 1
    ended = in_child(lambda: str(extractor.extract([[1, 2]])), seconds=60)
    assert (ended.outcome, "of which this one is a fork" in ended.words) == ("error", True), ended


@pytest.mark.parametrize("threads", [0, -1, 10**6, 10**12])
def test_bad_thread_count_is_refused(tiny_bundle: Bundle, threads: int) -> None:
    with pytest.raises(InvalidInputError, match="threads"):
        open_runtime("cpu", tiny_bundle, threads=threads)
