"""The 6B and 16B shapes in int4 on this machine: python -m benchmarks.large.

Random weights, written shard by shard and removed after the export, since 16B in float16 takes 32 GB of disk. The
export is a process of its own, whose peak memory is reported; then `codegen-edge bench` measures the bundle. Scales are
rounded, not searched: that changes no speed, and saves an hour of processor time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.workflows.benchmarking import bench

RESULT = Path(__file__).parent / "results" / "large.json"
REPOSITORY = Path(__file__).resolve().parent.parent
PROMPT_TOKENS, NEW_TOKENS = 16, 16
EXPORT = """
import sys
from pathlib import Path
from codegen_edge.workflows import export
export(sys.argv[1], sys.argv[2], precision="int4", method="round", verify=False)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def exported(size: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint, export it to `folder`/bundle, remove the checkpoint; the export's time and memory."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    script = Path(__file__).with_name("random_checkpoint.py")
    subprocess.run([sys.executable, str(script), size, str(checkpoint), "--dtype", "float16"], check=True)
    checkpoint_bytes = sum(path.stat().st_size for path in checkpoint.iterdir())
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(checkpoint), str(bundle)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    shutil.rmtree(checkpoint)
    config = json.loads((bundle / "config.json").read_text())
    return {
        "checkpoint_bytes": checkpoint_bytes,
        "export_seconds": round(seconds, 1),
        "export_peak_rss_bytes": int(done.stdout),
        "largest_tensor_bytes": 4 * config["n_embd"] * max(config["vocab_size"], 4 * config["n_embd"]),
    }


def measured(bundle: Path, rounds: int) -> dict[str, Any]:
    """What `codegen-edge bench` says of the bundle."""
    settings = SpeedSettings(prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS, rounds=rounds)
    (figures,) = bench(bundle, settings).to_dict()["bundles"]
    wanted = ("file_bytes", "load_s", "cold_start_s", "peak_rss_bytes", "first_token_s", "decode_tokens_per_second")
    return {name: figures[name] for name in wanted} | {"roofline": figures["roofline"]}


@click.command()
@click.option("--sizes", default="6B,16B", show_default=True, help="Comma-separated.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=REPOSITORY, help="On a disk with 45 GB free.")
@click.option("--keep", is_flag=True, help="Leave the bundles in FOLDER, and measure those that are there.")
def main(sizes: str, rounds: int, folder: Path, keep: bool) -> None:
    """Measure each size and write benchmarks/results/large.json."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"sizes": {}}
    for size in sizes.split(","):
        kept = folder / f".large-{size}"
        if not (kept / "exported.json").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            (kept / "exported.json").write_text(json.dumps(exported(size, kept)))
        row = json.loads((kept / "exported.json").read_text())
        click.echo(f"{size}: exported in {row['export_seconds']} s, {row['export_peak_rss_bytes'] / 1e9:.2f} GB")
        if rounds:
            result["sizes"][size] = row | measured(kept / "bundle", rounds)
            result["machine"] = describe_machine()
            RESULT.write_text(json.dumps(result, indent=2) + "\n")
        if not keep:
            shutil.rmtree(kept)


if __name__ == "__main__":
    main()
