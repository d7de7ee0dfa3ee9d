"""What is refused or said before a bundle is quantized: options without effect, the same folder twice, short texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.registry import SCHEMES

if TYPE_CHECKING:  # needs onnx-ir
    from codegen_edge.quantization import QuantizeOptions

EXPORT_METHODS = ("search", "round")  # GPTQ runs the float model, which is never there in one pass
USEFUL_TOKENS = 4_096  # below, gptq fits the text more than the model; docs/quantize.md has what was measured


def require_other_folder(bundle: str | Path | Bundle, out: str | Path) -> None:
    """Raise InvalidInputError where a bundle is to be written over the one that it is made of."""
    source = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    if os.path.realpath(source) == os.path.realpath(out):
        raise InvalidInputError(f"{out} is the bundle that is read; give another folder for the new one")


def check_effect(
    options: QuantizeOptions,
    *,
    method: str | None,
    calibration: Sequence[str],
    budget_kl: float | None,
    processor: str | None,
) -> None:
    """Raise InvalidInputError for what was given and would do nothing."""
    scheme = SCHEMES.find(options.scheme)
    with_methods = " or ".join(name for name in SCHEMES if SCHEMES.find(name).has_methods)
    if not scheme.has_blocks and options.is_symmetric is not None:
        raise InvalidInputError(f"{options.scheme} has no blocks and no zero points", hint="leave out --asymmetric")
    if not scheme.has_methods and method not in (None, "round"):  # which is what they do
        raise InvalidInputError(f"{options.scheme} only rounds; {with_methods} has methods", hint="leave out --method")
    if not scheme.has_methods and options.kept_at_8_bits is not None:
        raise InvalidInputError(f"{options.scheme} stores no matrix in 4 bits", hint="leave out --all-4-bit")
    if processor is not None and not scheme.depends_on_processor:
        raise InvalidInputError(f"{options.scheme} is the same for every processor", hint="leave out --for")
    if budget_kl is not None and options.kept_at_8_bits is not None:
        raise InvalidInputError("a budget chooses what is kept at 8 bits", hint="leave out --all-4-bit")
    # A budget measures the sensitivity of every matrix on that text.
    if calibration and budget_kl is None and not options.needs_calibration:
        named = f"{options.scheme} with method {options.method}" if scheme.has_methods else options.scheme
        raise InvalidInputError(f"{named} and a float KV cache read no text", hint="leave out --calibration")


def export_method(precision: str, method: str | None) -> str:
    """The method that an export takes; raise InvalidInputError where the one that is asked for does nothing there."""
    if method is None:
        return EXPORT_METHODS[0]
    if precision == contract.FULL_PRECISION or not SCHEMES.find(precision).has_methods:
        raise InvalidInputError(f"{precision} has no method to choose", hint="leave out --method")
    if method not in EXPORT_METHODS:
        raise InvalidInputError(
            f"an export takes method {' or '.join(EXPORT_METHODS)}, not {method}: export in fp32 and quantize that",
            hint=f"codegen-edge quantize BUNDLE OUT --scheme {precision} --method {method}",
        )
    return method


def warn_of_short_text(num_tokens: int, on_warning: Callable[[str], None]) -> None:
    """Say that a text is too short to calibrate with, and what that may cost."""
    if 0 < num_tokens < USEFUL_TOKENS:
        on_warning(
            f"the calibration text has {num_tokens:,} tokens, too few for gptq to be sure of: with the checkpoint that "
            "ships 64 tokens cost 2.5% of perplexity, 1,024 cost 1.2% and 32,768 cost 0.8%, where plain rounding "
            "costs 1.9%"
        )
