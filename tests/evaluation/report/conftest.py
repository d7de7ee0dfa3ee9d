"""The browser of the page's tests."""

from tests.server.page.conftest import chromium

__all__ = ["chromium"]
