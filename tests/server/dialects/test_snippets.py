"""Code of other files as comments."""

from __future__ import annotations

import pytest

from codegen_edge.server.dialects.snippets import Snippet, as_comments, comment_marker


@pytest.mark.parametrize(
    ("name", "marker"), [("a.py", "#"), ("b/c.rs", "//"), ("d.TS", "//"), ("e", "#"), ("f.sql", "--"), ("g.vim", '"')]
)
def test_files_are_commented_out_as_their_names_say(name: str, marker: str) -> None:
    snippet = Snippet(filename=name, text="one\n\n  two\n")
    assert as_comments([snippet]) == f"{marker} Path: {name}\n{marker} one\n{marker}\n{marker}   two\n\n"


def test_language_goes_before_the_name() -> None:
    assert as_comments([Snippet(filename="a.py", text="x")], "rust") == "// Path: a.py\n// x\n\n"
    assert comment_marker("TypeScript") == "//"


def test_name_stays_in_its_line() -> None:
    assert as_comments([Snippet(filename="a\nimport os", text="")]) == "# Path: a import os\n\n"
    assert as_comments([]) == ""
    assert as_comments([Snippet(filename="", text="x")]) == "# x\n\n"
