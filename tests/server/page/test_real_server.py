"""The page against the server that ships it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import load_model
from tests.server.http.test_process import running

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser
PROMPT = "def add(a, b):\n    "


@pytest.fixture(scope="module")
def url(trained_bundle: Bundle) -> Iterator[str]:
    with running(trained_bundle) as (address, _):
        yield address


def test_page_completes_with_the_real_model(url: str, trained_bundle: Bundle, chromium: Chrome) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with load_model(trained_bundle.path, check="size") as model:
        expected = model.generate(PROMPT, max_new_tokens=16).text
    chromium.get(url)
    WebDriverWait(chromium, 10).until(lambda driver: "Loading" not in driver.find_element(By.ID, "model-line").text)
    for name, value in (("temperature", "0"), ("max_tokens", "16")):
        field = chromium.find_element(By.ID, name)
        field.clear()
        field.send_keys(value)
    editor = chromium.find_element(By.ID, "prompt")
    chromium.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", editor, PROMPT
    )
    editor.send_keys(Keys.CONTROL, Keys.ENTER)
    panes = chromium.find_element(By.ID, "panes")
    WebDriverWait(chromium, 30).until(lambda driver: "length" in panes.text or "stop" in panes.text)
    shown = str(panes.get_property("textContent"))
    assert "".join(expected.split()) in "".join(shown.split())
    log: Any = chromium.get_log  # has no types
    assert not [entry for entry in log("browser") if entry["level"] == "SEVERE"]
