"""Published ways to sample from CodeGen, as fields of GenerationParams.

The values are the defaults of the programs that salesforce/CodeGen (https://github.com/salesforce/CodeGen) released
with the models; docs/generate.md names the source of each one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.params import GenerationParams

# `truncate`, the same in sample.py and mtpb_sample.py, on the new text alone: it is cut before its second line that
# starts with `print`, then before its second one that starts with `def`, then at the earliest match of these.
PAPER_TRUNCATION: Mapping[str, Any] = MappingProxyType(
    {
        "single_block": True,
        "truncate_before": ("^#", r"<\|endoftext\|>", "^'''", '^"""', "\n\n\n"),
    }
)

_PAPER = {"temperature": 0.2, "top_p": 0.95, **PAPER_TRUNCATION}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # codegen1/jaxformer/hf/sample.py: --t, --p, --max-length (of the new text), --rng-seed
        "codegen-paper": MappingProxyType({**_PAPER, "max_new_tokens": 128, "seed": 42}),
        # codegen1/benchmark/mtpb_sample.py: --t, --p, --seed (set again for every problem); max_gen_length is the
        # problem's own, and this where it has none
        "codegen-paper-mtpb": MappingProxyType({**_PAPER, "max_new_tokens": 256, "seed": 16}),
    }
)

_CHOOSES_AMONG_SAMPLES = ("top_k", "top_p", "min_p", "typical_p")


def preset_fields(name: str, explicit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields of a preset with what a caller gave explicitly, which goes before.

    Args:
        name: a key of PRESETS.
        explicit: fields of GenerationParams. With a temperature of 0 the preset's filters of samples do not apply.

    Raises:
        InvalidInputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InvalidInputError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    explicit = explicit or {}
    fields = dict(PRESETS[name])
    if explicit.get("temperature") == 0:
        fields = {field: value for field, value in fields.items() if field not in _CHOOSES_AMONG_SAMPLES}
    return fields | dict(explicit)


def preset_params(name: str, **explicit: Any) -> GenerationParams:
    """A preset as GenerationParams; fields that are given by keyword go before it.

    Raises:
        InvalidInputError: there is no such preset, or a value is out of range.
    """
    return GenerationParams(**preset_fields(name, explicit))
