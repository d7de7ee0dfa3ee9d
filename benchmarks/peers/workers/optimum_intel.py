"""OpenVINO through optimum-intel: transformers' loop on a stateful OpenVINO model."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.huggingface import generate_with
from benchmarks.peers.workers.openvino_options import properties
from benchmarks.peers.workers.protocol import Generate, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open a folder that `optimum-cli export openvino` wrote."""
    from optimum.intel import OVModelForCausalLM  # type: ignore[import-not-found]

    ov_config = properties(request["precision"], request["threads"])
    return generate_with(OVModelForCausalLM.from_pretrained(request["model"], device="CPU", ov_config=ov_config))


if __name__ == "__main__":
    serve(open_model, ("optimum-intel", "optimum", "transformers", "openvino", "nncf", "torch"))
