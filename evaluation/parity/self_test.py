"""Whether the installed libraries can do what this package promises, tried on a model of one layer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from codegen_edge.dependencies import incompatible_as_error
from codegen_edge.errors import ParityError

_PROMPTS = ("a", "ab")  # without texts to train on, the tokenizer knows bytes
_STEPS = 2


def export_one_layer() -> None:
    """Export a random model of one layer and verify it; nothing stays on disk. Takes seconds, most of them torch's.

    Raises:
        IncompatibleVersionError: a library is of a version that cannot do it.
        RuntimeUnavailableError: onnxruntime, which computes the comparison, is missing.
        ParityError: the export computes something else.
    """
    with incompatible_as_error("importing", "transformers", "torch", "onnxscript", "onnx-ir", "onnx"):
        from codegen_edge.evaluation.parity.verify import verify_bundle
        from codegen_edge.exporter import export_checkpoint, locate_checkpoint, open_checkpoint
        from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint

    shape = ModelShape(n_layer=1, n_embd=64, n_head=4, rotary_dim=16, vocab_size=512, n_positions=32)
    with tempfile.TemporaryDirectory(prefix="codegen-edge-") as name:
        folder = Path(name) / "checkpoint"
        write_random_checkpoint(folder, shape)
        bundle = export_checkpoint(locate_checkpoint(str(folder)), Path(name) / "bundle")
        report = verify_bundle(bundle, open_checkpoint(folder), num_steps=_STEPS, prompts=_PROMPTS)
    if not report.is_equal:
        raise ParityError(f"a one-layer export is not equal to the reference: {report.first_failure}")
