"""The report as one HTML page that loads nothing: style, script and data stand inside, the policy allows no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import quote

from codegen_edge.evaluation.report.comparison import Comparison
from codegen_edge.evaluation.report.comparison_section import comparison_section
from codegen_edge.evaluation.report.grid import grid_section, viewer_section
from codegen_edge.evaluation.report.markup import Markup, element
from codegen_edge.evaluation.report.payload import payload
from codegen_edge.evaluation.report.results import Run
from codegen_edge.evaluation.report.sections import kinds_section, runs_section, scores_section, settings_section

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">'
    '<rect width="32" height="32" rx="6" fill="#1f5fbf"/>'
    '<path d="M12.5 9 6 16l6.5 7" fill="none" stroke="#fff" stroke-width="3"/>'
    '<path d="M17 23h9" fill="none" stroke="#fff" stroke-width="3"/>'
    '<path d="M18 9v8" fill="none" stroke="#9cc3ff" stroke-width="3"/></svg>'
)
_SECTIONS = {
    "runs": "Runs",
    "scores": "Scores",
    "comparisons": "Comparisons",
    "kinds": "Failures",
    "grid": "Problems",
    "completions": "Completions",
    "settings": "Settings",
}


def page(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """The document."""
    data = payload(runs)
    style, script = (
        files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js")
    )
    body = element(
        "main",
        runs_section(runs),
        scores_section(runs),
        comparison_section(comparisons, runs),
        kinds_section(runs),
        grid_section(runs),
        viewer_section(data.longest_text),
        settings_section(runs),
    )
    head = element(
        *("head", element("meta", charset="utf-8"), _policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", "codegen-edge: evaluation report"),
        element("link", rel="icon", href=f"data:image/svg+xml,{quote(_ICON)}"),
        element("style", Markup(style)),
    )
    tip = element("div", "", id="tip", class_="tip", role="tooltip", hidden=True)
    scripts = (
        element("script", data.json, id="data", type="application/json"),
        element("script", Markup(script)),
    )
    document = element("html", head, element("body", _top(runs), body, tip, *scripts), lang="en")
    return f"<!doctype html>\n{document}\n"


def _top(runs: Sequence[Run]) -> Markup:
    tasks = ", ".join(dict.fromkeys(run.task for run in runs))
    links = [element("a", name, href=f"#{key}") for key, name in _SECTIONS.items()]
    options = [element("option", name, value=name.lower()) for name in ("System", "Light", "Dark")]
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    return element(
        "header",
        Markup(_ICON),
        element("h1", "Evaluation report"),
        element("p", f"{tasks} · {count}", class_="model-line"),
        element("label", "Theme ", element("select", *options, id="theme"), class_="inline script-only"),
        element("nav", *links, aria_label="Parts of the report"),
        class_="top",
    )


def _policy(style: str, script: str) -> Markup:
    """Only this style and this script, by their digests; nothing is loaded, sent or framed."""
    rules = (
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return element("meta", content="; ".join(rules), **{"http-equiv": "Content-Security-Policy"})


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
