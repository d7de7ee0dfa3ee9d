"""Drive the server with GuideLLM, a load driver that nobody here wrote: python -m benchmarks.guidellm --program PATH.

GuideLLM lives in an environment of its own (`pip install guidellm`); PATH is its command there. What counts is that
every request completes and that both sides count the same tokens; its times include a busy client on the same cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.serve import start_server

RESULT = Path(__file__).parent / "results" / "guidellm.json"
REQUESTS, PROMPT_TOKENS, NEW_TOKENS = 24, 64, 16
PROFILES = ("kind=synchronous", "kind=concurrent,streams=4", "kind=poisson,rate=4")


def drive(program: Path, url: str, bundle: Path, profile: str, report: Path) -> dict[str, Any]:
    """One run; what it counted."""
    subprocess.run(
        [
            *(str(program), "run", "--disable-console", "--profile", profile),
            *("--backend", f"kind=openai_http,target={url},request_format=/v1/completions"),
            *("--constraint", f"kind=max_requests,count={REQUESTS}"),
            *("--tokenizer", f"kind=hf_auto,model={bundle}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={NEW_TOKENS}"),
            *("--output", f"kind=json,path={report}"),
        ],
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    assert totals["errored"] == 0, totals
    return {
        "completed": totals["successful"],
        "errors": totals["errored"],
        "prompt_tokens": metrics["prompt_token_count"]["successful"]["mean"],
        "new_tokens": metrics["output_token_count"]["successful"]["mean"],
        "ttft_ms": metrics["time_to_first_token_ms"]["successful"]["median"],
    }


@click.command()
@click.option("--program", type=click.Path(path_type=Path, exists=True), required=True, help="The command guidellm.")
def main(program: Path) -> None:
    """Run every profile against one server of the trained checkpoint in int8, and write the result."""
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    with tempfile.TemporaryDirectory(prefix="codegen-edge-guidellm-") as name:
        folder = Path(name)
        plain = codegen_edge.export("codegen-5M-mono", folder / "fp32", verify=False).bundle
        bundle = codegen_edge.quantize(plain, folder / "int8", scheme="int8", method="round", measure_tokens=0).bundle
        with start_server(bundle.path) as (url, _):
            runs = {
                profile: drive(program, url, bundle.path, profile, folder / f"{place}.json")
                for place, profile in enumerate(PROFILES)
            }
    for profile, found in runs.items():
        click.echo(f"{profile}: {json.dumps(found)}")
    result = {"machine": describe_machine(), "guidellm": version, "asked": [PROMPT_TOKENS, NEW_TOKENS], "runs": runs}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
