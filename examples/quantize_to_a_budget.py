"""Quantize to int4 with as few matrices at 8 bits as a budget of KL divergence allows.

The bundle may be the one that `examples/export_and_generate.py` writes. The budget is in nats per token:

    python examples/quantize_to_a_budget.py my-bundle my-int4-bundle 0.02
"""

from __future__ import annotations

import sys

import codegen_edge

MEASURE_TOKENS = 1024  # enough for an example; the default is 8,192, and the intervals become narrower with it


def main(bundle: str, out: str, budget_kl: str = "0.02") -> None:
    """Quantize, then print which matrices stayed at 8 bits, why, and the damage on held-out programs.

    Args:
        bundle: an fp32 bundle's folder.
        out: a new folder; nothing is written when the budget cannot be met.
        budget_kl: the largest mean divergence from the fp32 bundle, in nats.
    """
    quantized = codegen_edge.quantize(
        bundle,
        out,
        scheme="int4",
        method="round",  # the fastest; "gptq", the default, loses less
        budget_kl=float(budget_kl),
        measure_tokens=MEASURE_TOKENS,
        on_stage=lambda stage, done, total: print(stage, file=sys.stderr),
    )
    budget = quantized.report.budget
    assert budget is not None  # it is reported whenever a budget was given
    print(f"budget {budget['budget_kl']:g} nats, reached {budget['reached_kl']:.2g}")

    kl_by_name = {each["name"]: each["mean_kl"] for each in budget["sensitivities"]}
    print(f"{len(budget['kept_at_8_bits'])} of {len(kl_by_name)} matrices are kept at 8 bits:")
    for name in budget["kept_at_8_bits"]:
        print(f"  {name}: alone at 4 bits it costs {kl_by_name[name]:.1e} nats")

    before, after = codegen_edge.open_bundle(bundle), quantized.bundle
    print(f"{before.size_bytes / 1e6:.1f} MB -> {after.size_bytes / 1e6:.1f} MB")
    print(quantized.summary)


if __name__ == "__main__":
    main(*sys.argv[1:])
