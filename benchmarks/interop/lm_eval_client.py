"""lm-eval's `local-completions` on a server of ours: log-likelihoods of continuations; see `benchmarks.lm_eval`.

stdin: {"url": of /v1/completions, "model": name, "tokenizer": folder, "pairs": [[context, continuation], ...]}.
The last line on stdout: {"versions": {...}, "results": [[log-likelihood, is greedy], ...]}.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI


def main() -> None:
    job = json.load(sys.stdin)
    model = LocalCompletionsAPI(
        base_url=job["url"],
        model=job["model"],
        tokenizer=job["tokenizer"],
        tokenizer_backend="huggingface",
        tokenized_requests=True,
        num_concurrent=1,
        batch_size=4,
        max_length=512,
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=number)
        for number, pair in enumerate(job["pairs"])
    ]
    results = [[float(each[0]), bool(each[1])] for each in model.loglikelihood(requests)]
    print(json.dumps({"versions": {"lm-eval": version("lm-eval")}, "results": results}))


if __name__ == "__main__":
    main()
