"""The form of a verdict in `bundle.json`: whoever shows it need not look again."""

from __future__ import annotations

from typing import Any

_NUMBER = (int, float)
_VERDICT: dict[str, Any] = {"verdict": str, "runtime": str, "comparisons": list, "reference": dict, "step_noise": dict}
_COMPARISON: dict[str, Any] = {
    "scenario": str,
    "positions": int,
    "max_abs_error": _NUMBER,
    "limit": _NUMBER,
    "top1_agreement": _NUMBER,
}


def checked_verdict(verdict: Any) -> dict[str, Any] | None:
    """A verdict as it is, or None where there is none; raise ValueError where it has another form.

    Fields that are not known here are left alone: a later version may write more.
    """
    if verdict is None:
        return None
    _check("parity", verdict, _VERDICT)
    for number, comparison in enumerate(verdict.get("comparisons", ())):
        _check(f"comparison {number} of parity", comparison, _COMPARISON)
        missing = next((name for name in _COMPARISON if name not in comparison), None)
        if missing is not None:
            raise ValueError(f"comparison {number} of parity has no {missing}")
    for name, noise in verdict.get("step_noise", {}).items():
        if noise is not None and (not isinstance(noise, _NUMBER) or isinstance(noise, bool)):
            raise ValueError(f"step_noise of parity has {noise!r:.80} as {name!r:.80}")
    checked: dict[str, Any] = verdict
    return checked


def _check(what: str, fields: Any, form: dict[str, Any]) -> None:
    if not isinstance(fields, dict):
        raise ValueError(f"{what} must be an object, got {type(fields).__name__}")
    for name, kinds in form.items():
        value = fields.get(name)
        if name in fields and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"{what} has {value!r:.80} as its {name}")
