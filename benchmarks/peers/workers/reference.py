"""What the right tokens are: transformers in float32, eager, and by how much each of its tokens won.

A step of it also says the margins: {"margins": [[LOGIT, ...], ...]}, the best logit less the second best.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Answer the job on stdin: {"model", "threads", "workloads": {NAME: {"prompts", "new_tokens"}}}."""
    import torch
    from transformers import AutoModelForCausalLM

    job: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    answer = {}
    for name, workload in job["workloads"].items():
        input_ids = torch.tensor(workload["prompts"])
        generated = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=workload["new_tokens"],
            return_dict_in_generate=True,
            output_logits=True,
        )
        best, second = torch.stack(generated.logits, dim=1).topk(2).values.unbind(dim=-1)  # each [B, T]
        answer[name] = {
            "token_ids": generated.sequences[:, input_ids.shape[1] :].tolist(),
            "margins": (best - second).tolist(),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
