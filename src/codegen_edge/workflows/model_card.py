"""The model card of a bundle that goes to the hub: its own, and what its reports say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.model_config import read_json_object
from codegen_edge.errors import BundleError
from codegen_edge.evaluation.quality.intervals import shown_interval

CARD_FILE = "README.md"
_REPORT_FILE = "quantization_report.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_USE = "\n## Use\n"


def model_card(bundle: Bundle, repo_id: str) -> str:
    """The card: that of the export, with results before its section on use.

    Args:
        bundle: what is uploaded.
        repo_id: where it can be had.
    """
    own = bundle.read(CARD_FILE).decode()
    source = bundle.manifest.source.name
    if _HUB_ID.fullmatch(source):
        own = own.replace("\npipeline_tag:", f"\nbase_model: {source}\npipeline_tag:", 1)
    results = ["", "## Results", "", *_parity_lines(bundle.manifest.parity), *_damage_lines(bundle)]
    head, use, tail = own.partition(_USE)
    tail = tail.replace("THIS_FOLDER", repo_id.rpartition("/")[2])
    fetch = f"\n    hf download {repo_id} --local-dir {repo_id.rpartition('/')[2]}"
    return head + "\n".join(results) + "\n" + use + fetch + tail


def _parity_lines(parity: Mapping[str, Any] | None) -> list[str]:
    if parity is None or not parity.get("comparisons"):
        return ["Not verified against the checkpoint."]
    rows = [
        f"| {each['scenario']} | {each['positions']} | {each['max_abs_error']:.1e} | {each['limit']:.1e} "
        f"| {each['top1_agreement']:.2%} |"
        for each in parity["comparisons"]
    ]
    return [
        f"Compared with the checkpoint, runtime {parity['runtime']}: {parity['verdict']}.",
        "",
        "| fed as | positions | max \\|Δlogit\\| | limit | top-1 |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _damage_lines(bundle: Bundle) -> list[str]:
    """What quantizing cost; nothing for a float bundle."""
    if _REPORT_FILE not in bundle.manifest.files:
        return []
    report = read_json_object(bundle.at(_REPORT_FILE), BundleError)
    damage = report.get("damage")
    if damage is None:
        return ["", f"Quantized with {report['scheme']}; what that costs was not measured."]
    rows = {
        "perplexity": f"{damage['perplexity_loss']:+.2%}{_shown(damage, 'perplexity_loss_interval', '+.2%')}",
        "KL divergence": f"{damage['mean_kl']:.1e}{_shown(damage, 'mean_kl_interval', '.1e')}",
        "top-1 agreement": f"{damage['top1_agreement']:.1%}{_shown(damage, 'top1_interval', '.1%')}",
    }
    return [
        "",
        f"Quantized with {report['scheme']}; against the float model over {damage['num_tokens']:,} tokens of "
        f"{damage['num_documents']} held-out programs, in brackets the 95% interval over programs:",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]


def _shown(damage: Mapping[str, Any], name: str, form: str) -> str:
    interval = damage.get(name)
    return "" if interval is None else shown_interval(interval, form)
