"""optimum-onnx: transformers' loop on an ONNX Runtime session, of a model that optimum exported."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.huggingface import generate_with
from benchmarks.peers.workers.protocol import Generate, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open a folder with its graph; the quantized one has another file name."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM  # type: ignore[import-not-found]

    torch.set_num_threads(request["threads"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    file_name = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}[request["precision"]]
    return generate_with(
        ORTModelForCausalLM.from_pretrained(request["model"], file_name=file_name, session_options=options)
    )


if __name__ == "__main__":
    serve(open_model, ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch"))
