"""The web page of `codegen-edge serve`: an editor, completions as they arrive, and the probability of every token."""

from __future__ import annotations

from importlib.resources import files

# By URL path: the file's name and its media type. The page asks for nothing else but /v1/.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page: URL path -> (content, media type)."""
    folder = files(__name__)
    return {path: (folder.joinpath(name).read_bytes(), media_type) for path, (name, media_type) in _FILES.items()}
