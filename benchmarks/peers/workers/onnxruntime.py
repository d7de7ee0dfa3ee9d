"""Plain onnxruntime on our bundle: the floor of what a loop around its graph can cost.

One buffer per layer is bound as past and as present (IOBinding), and only the last position's logits are computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open the graph of a bundle."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    graph = str(Path(request["model"]) / "onnx" / "model.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    pasts = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]

    def value(array: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        batch, capacity = len(prompts), len(prompts[0]) + new_tokens
        buffers = {
            each.name: value(np.zeros((batch, each.shape[1], capacity, each.shape[3]), np.float32)) for each in pasts
        }
        ids, chosen, length = np.array(prompts, dtype=np.int64), [], 0
        for _ in range(new_tokens):
            length += ids.shape[1]
            binding = session.io_binding()
            binding.bind_ortvalue_input("input_ids", value(ids))
            binding.bind_ortvalue_input("attention_mask", value(np.ones((batch, length), np.int64)))
            binding.bind_ortvalue_input("num_logits_to_keep", value(np.ones(1, np.int64)))
            for name, buffer in buffers.items():
                binding.bind_ortvalue_input(name, buffer)
                binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
            binding.bind_output("logits")
            session.run_with_iobinding(binding)
            ids = binding.get_outputs()[-1].numpy()[:, -1].argmax(axis=-1)[:, None]
            clock.tick()
            chosen.append(ids[:, 0].tolist())
        return [list(row) for row in zip(*chosen, strict=True)]

    return generate


if __name__ == "__main__":
    serve(open_model, ("onnxruntime",))
