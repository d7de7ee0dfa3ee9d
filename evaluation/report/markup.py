"""HTML and SVG as values: text is escaped unless it is Markup already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from codegen_edge.evaluation.report.json_fields import cleaned

Attribute = str | int | float | bool | None

_VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """An element that is well-formed as HTML and as XML.

    Args:
        name: of the element.
        children: Markup as it is, any other text escaped.
        attributes: `class_` is class, `aria_label` is aria-label; None and False are left out, True has no value.
    """
    start = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        assert not children
        return Markup(f"<{name}{start}/>")
    return Markup(f"<{name}{start}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Several pieces, one after the other; what is no Markup is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(cleaned(part)) for part in parts))


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f' {name}=""'
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(cleaned(text))}"'


def svg(width: int, height: int, title: str, description: str, *children: str, class_: str, key: str) -> Markup:
    """A drawing with a name and a description for those who do not see it.

    Args:
        width, height: of its own coordinates, which are CSS pixels where there is room.
        title: its name.
        description: one or more sentences.
        children: its elements.
        class_: for the style sheet.
        key: makes the ids of title and description unique in the page.
    """
    named = (
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
    )
    return element(
        "svg",
        *named,
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_=class_,
    )


def small_svg(*children: str) -> Markup:
    """A drawing of 16 by 16 pixels beside a text that says the same."""
    return element("svg", *children, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true", class_="sample")
