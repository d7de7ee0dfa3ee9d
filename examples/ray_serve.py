"""Serve a bundle with two replicas on Ray, and ask them for a completion.

Ray is an extra of its own: `pip install "ray[serve]"`. The bundle may be the one that
`examples/export_and_generate.py` writes:

    python examples/ray_serve.py my-bundle
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from codegen_edge.server.deployments.ray_serve import build_app

PROMPT = "def hello_world():\n    "
REPLICAS, THREADS = 2, 1  # a replica reserves a CPU for each thread


def main(bundle: str) -> None:
    """Start Ray on this machine, serve, print a completion, and stop.

    Args:
        bundle: a folder for text generation.
    """
    app = build_app([bundle], replicas=REPLICAS, threads=THREADS)

    import ray
    from ray import serve

    ray.init(num_cpus=REPLICAS * THREADS)  # or ray.init("auto"): a cluster that runs already
    try:
        serve.run(app)
        print(complete("http://127.0.0.1:8000", Path(bundle).resolve().name))
    finally:
        serve.shutdown()
        ray.shutdown()


def complete(url: str, model: str) -> str:
    """A prompt and its completion, by OpenAI's protocol.

    Args:
        url: of Ray's proxy.
        model: the name of the bundle's folder.
    """
    body = {"model": model, "prompt": PROMPT, "max_tokens": 32, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        text: str = json.load(response)["choices"][0]["text"]
    return PROMPT + text


if __name__ == "__main__":
    main(*sys.argv[1:])
