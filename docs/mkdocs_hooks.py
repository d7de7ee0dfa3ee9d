"""For `make docs`: README.md becomes the site's first page, and what is not on the site is not linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)")
_LINK_OUT_OF_DOCS = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md as if it lay in docs/."""
    from mkdocs.structure.files import File

    readme = (Path(config.config_file_path).parent / "README.md").read_text(encoding="utf-8")
    content = _RELATIVE_LINK.sub("](../", readme).replace("](../docs/", "](")
    files.append(File.generated(config, "index.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave of a link to a file outside docs/ its text."""
    return _LINK_OUT_OF_DOCS.sub(r"\1", markdown)
