"""Peak memory of an export by model size, against the bound of 1.2 GB + three times the largest tensor.

Each size is written and exported by processes of their own; what is reported is the exporter's VmHWM.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "export_memory.json"
BASE_BYTES = 1_200_000_000
LARGEST_TENSORS = 3

EXPORT = """
import sys
from pathlib import Path
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
bundle = export_checkpoint(locate_checkpoint(sys.argv[1]), sys.argv[2])
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024, bundle.size_bytes)
"""


def measure(size: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Write a checkpoint, export it without verification, and report the exporter's peak."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    script = Path(__file__).with_name("random_checkpoint.py")
    subprocess.run([sys.executable, str(script), size, str(checkpoint), "--dtype", dtype], check=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(checkpoint), str(bundle)], check=True, stdout=subprocess.PIPE, text=True
    )
    peak_rss_bytes, bundle_bytes = map(int, done.stdout.split())
    config = json.loads((checkpoint / "config.json").read_text())
    # The MLP's and the vocabulary's matrices, in float32 as the bundle stores them.
    largest_bytes = 4 * config["n_embd"] * max(config["vocab_size"], 4 * config["n_embd"])
    bound_bytes = BASE_BYTES + LARGEST_TENSORS * largest_bytes
    return {
        "size": size,
        "checkpoint_dtype": dtype,
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.iterdir()),
        "bundle_bytes": bundle_bytes,
        "largest_tensor_bytes": largest_bytes,
        "peak_rss_bytes": peak_rss_bytes,
        "bound_bytes": bound_bytes,
        "is_within_bound": peak_rss_bytes <= bound_bytes,
        "export_seconds": round(time.perf_counter() - started, 1),
    }


@click.command()
@click.option("--sizes", default="tiny,350M,2B", show_default=True, help="Comma-separated.")
@click.option("--dtype", default="float16", show_default=True, help="Of the stored weights, as on the hub.")
def main(sizes: str, dtype: str) -> None:
    """Measure each size and write benchmarks/results/export_memory.json; exit code 1 beyond the bound."""
    rows = []
    for size in sizes.split(","):
        with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
            rows.append(measure(size, dtype, Path(folder)))
        row = rows[-1]
        click.echo(
            f"{size}: peak {row['peak_rss_bytes'] / 1e9:.2f} GB, bound {row['bound_bytes'] / 1e9:.2f} GB, "
            f"bundle {row['bundle_bytes'] / 1e9:.2f} GB, {row['export_seconds']} s"
        )
    RESULT.write_text(json.dumps({"machine": describe_machine(), "exports": rows}, indent=2) + "\n")
    sys.exit(0 if all(row["is_within_bound"] for row in rows) else 1)


if __name__ == "__main__":
    main()
