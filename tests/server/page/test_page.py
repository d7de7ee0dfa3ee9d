"""The page in headless Chromium against a scripted server, and its files without either."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from codegen_edge.server.page import page_files
from tests.server.page.fake_server import FakeServer, Script, Token, plain

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

FIRST, SECOND = "codegen-fp32", "codegen-small"
MODELS = (
    {"id": FIRST, "max_model_len": 2048, "precision": "fp32"},
    {"id": SECOND, "max_model_len": 1024, "precision": "int8"},
)
PATIENCE_SECONDS = 10.0
SVG_NAMESPACE = b'xmlns="http://www.w3.org/2000/svg"'

# ---- Without a browser ----------------------------------------------------------------------------------------------


def test_every_file_has_its_media_type() -> None:
    assert {path: media_type for path, (_, media_type) in page_files().items()} == {
        "/": "text/html; charset=utf-8",
        "/page/app.js": "text/javascript; charset=utf-8",
        "/page/style.css": "text/css; charset=utf-8",
        "/favicon.svg": "image/svg+xml",
    }
    assert all(content for content, _ in page_files().values())


@pytest.mark.parametrize("path", page_files())
def test_nothing_comes_from_elsewhere(path: str) -> None:
    content = page_files()[path][0].replace(SVG_NAMESPACE, b"")
    assert not re.search(rb"https?://|[\"'(]//|@import|\bdata:[a-z]+/", content)


def test_the_document_has_no_inline_script_or_style() -> None:
    document = page_files()["/"][0].decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", document)


def test_the_script_writes_no_markup() -> None:
    script = page_files()["/page/app.js"][0].decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int) -> None:
    """WCAG 2.2, success criteria 1.4.3 (text, 4.5) and 1.4.11 (controls, 3)."""
    style = page_files()["/page/style.css"][0].decode()
    colours = {name: pair[scheme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)}

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(_luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    grounds = ("surface", "raised", "page")
    texts = ("text", "muted", "accent", "comment", "string", "keyword", "number", "defined", "name")
    pairs = [(text, ground) for text in texts for ground in grounds]
    pairs += [("text", f"p{level}") for level in range(1, 6)] + [("text", "selection")]
    pairs += [("on-accent", "accent"), ("on-accent", "accent-hover"), ("error", "error-surface"), ("error", "surface")]
    faint = {pair: round(contrast(*pair), 2) for pair in pairs if contrast(*pair) < 4.5}
    assert not faint
    assert min(contrast("field-line", ground) for ground in ("surface", "raised")) >= 3


# ---- With a browser -------------------------------------------------------------------------------------------------


class Page:
    """What a reader does with the page and sees of it."""

    def __init__(self, chrome: Chrome, server: FakeServer) -> None:
        self.chrome = chrome
        self.server = server

    def open(self) -> None:
        self.chrome.get(self.server.url)
        self.until(lambda: "Loading" not in self["#model-line"].text)

    def __getitem__(self, selector: str) -> WebElement:
        return self.chrome.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    def script(self, body: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(body, *arguments)

    def until(self, condition: Callable[[], Any]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.chrome, PATIENCE_SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is; a chord is one string."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            *held, last = key.split("+") if len(key) > 1 else [key]
            actions = ActionChains(self.chrome)
            for modifier in held:
                actions.key_down(getattr(Keys, modifier))
            actions.send_keys(getattr(Keys, last, last))
            for modifier in held:
                actions.key_up(getattr(Keys, modifier))
            actions.perform()

    def write(self, prompt: str) -> None:
        """Put a prompt into the editor as a paste would."""
        self.script("const p = document.getElementById('prompt'); p.focus(); p.select();")
        self.script("document.execCommand('insertText', false, arguments[0])", prompt)

    @property
    def prompt(self) -> str:
        return str(self["#prompt"].get_property("value"))

    def text(self, pane: int = 0) -> str:
        return str(self.all(".output")[pane].get_property("textContent"))

    def figure(self, name: str, pane: int = 0) -> str:
        return self.all(f"[data-figure={name}]")[pane].text

    @property
    def is_idle(self) -> bool:
        return self["#run"].get_attribute("aria-disabled") == "false"

    def run(self) -> None:
        self["#run"].click()
        self.until(lambda: self.is_idle)

    def log(self) -> list[str]:
        """The console since the last look: violations of the policy and errors of the script."""
        return [str(entry["message"]) for entry in self.chrome.get_log("browser")]  # type: ignore[no-untyped-call]


@pytest.fixture
def page(chromium: Chrome) -> Iterator[Page]:
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _screen(1280, 800))
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", _scheme("light"))
    with FakeServer(MODELS, {FIRST: plain("pass"), SECOND: plain("pass")}) as server:
        page = Page(chromium, server)
        page.open()
        yield page
        complaints = [line for line in page.log() if "Failed to load resource" not in line]
        chromium.get("about:blank")
    assert not complaints


def _screen(width: int, height: int, *, is_phone: bool = False) -> dict[str, Any]:
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}


def _scheme(name: str) -> dict[str, Any]:
    return {"features": [{"name": "prefers-color-scheme", "value": name}]}


@pytest.mark.browser
def test_the_header_names_the_model(page: Page) -> None:
    assert page["#model-line"].text == "codegen-fp32 · fp32 · 2,048 tokens of context"
    assert [option.text for option in page.all(".pane:first-child option")] == ["codegen-fp32", "codegen-small (int8)"]


@pytest.mark.browser
def test_the_editor_colours_python(page: Page) -> None:
    page.write('@cache\ndef area(r):  # of "r"\n    return r * 3.14 if r else """a\nb"""')
    pieces = [(span.get_attribute("class"), span.get_property("textContent")) for span in page.all("#highlight span")]
    assert pieces == [
        ("decorator", "@cache"),
        ("keyword", "def"),
        ("defined", "area"),
        ("comment", '# of "r"'),
        ("keyword", "return"),
        ("number", "3.14"),
        ("keyword", "if"),
        ("keyword", "else"),
        ("string", '"""a\nb"""'),
    ]
    assert page["#highlight"].get_property("textContent") == page.prompt + "\n"
    assert page["#gutter"].get_property("textContent") == "1\n2\n3\n4"


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "coloured"),
    [
        ("s = 'it\\'s' + x", ["'it\\'s'"]),
        ("rb'a' f\"b\" xf'c'", ["rb'a'", 'f"b"', "'c'"]),
        ('"open\nx', ['"open']),
        ('"""open\n\\', ['"""open\n\\']),
        ("'''a\"\"\"'''", ["'''a\"\"\"'''"]),
    ],
)
def test_strings_end_where_python_ends_them(page: Page, text: str, coloured: list[str]) -> None:
    page.write(text)
    assert [span.get_property("textContent") for span in page.all("#highlight .string")] == coloured


@pytest.mark.browser
def test_the_editor_indents(page: Page) -> None:
    page.write("def f():")
    page.keys("ENTER", "x", "ENTER", "BACKSPACE", "y", "TAB", "z")
    assert page.prompt == "def f():\n    x\ny   z"
    page.keys("CONTROL+a", "TAB")
    assert page.prompt == "    def f():\n        x\n    y   z"
    page.keys("SHIFT+TAB", "CONTROL+z")
    assert page.prompt == "    def f():\n        x\n    y   z"
    page.keys("END", "SHIFT+TAB")
    assert page.prompt == "    def f():\n        x\ny   z"


@pytest.mark.browser
def test_the_editor_follows_the_caret(page: Page) -> None:
    page.write("x" * 400 + "\n" + "\n" * 60)
    page.keys("y")
    editor = page[".editor"]
    assert page.script("return arguments[0].scrollTop + arguments[0].clientHeight", editor) > 1200
    page.keys("CONTROL+HOME", "END", "z")
    left, top = page.script("return [arguments[0].scrollLeft, arguments[0].scrollTop]", editor)
    assert left > 1500
    assert top < 20


@pytest.mark.browser
def test_text_arrives_in_pieces(page: Page) -> None:
    gates = {1: threading.Event(), 2: threading.Event()}
    page.server.scripts[FIRST] = plain("    return", " a", " + b", gates=gates, finish="stop")
    page.write("def add(a, b):\n")
    page["#run"].click()
    page.until(lambda: page.text() == "    return")
    assert page.figure("finish") == "running"
    assert page["#stop"].get_attribute("aria-disabled") == "false"
    gates[1].set()
    page.until(lambda: page.text() == "    return a")
    assert page[".output .keyword"].text == "return"
    gates[2].set()
    page.until(lambda: page.is_idle)
    assert page.text() == "    return a + b"
    assert (page.figure("finish"), page.figure("tokens")) == ("stop", "3 (prompt 7)")
    assert re.fullmatch(r"\d+(\.\d)? tokens/s", page.figure("speed"))
    assert re.fullmatch(r"\d+ ms", page.figure("first"))


@pytest.mark.browser
def test_a_request_carries_the_parameters(page: Page) -> None:
    values = {"max_tokens": "9", "temperature": "0.5", "top_p": "0.9", "seed": "3", "stop-strings": "\\n\\n\nclass \n"}
    for name, value in values.items():
        page[f"#{name}"].clear()
        page[f"#{name}"].send_keys(value)
    page.write("x = ")
    page.run()
    page["#temperature"].clear()
    page["#colour"].click()
    page.run()
    first, second = page.server.requests
    asked = {"model": FIRST, "prompt": "x = ", "stream": True, "stream_options": {"include_usage": True}}
    chosen = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["\n\n", "class "]}
    assert first == {**asked, **chosen}
    chosen.pop("temperature")
    assert second == {**asked, **chosen, "logprobs": 3}


@pytest.mark.browser
def test_a_wrong_parameter_is_refused_where_it_stands(page: Page) -> None:
    page["#max_tokens"].clear()
    page["#max_tokens"].send_keys("0")
    page.run()
    assert page["#error"].text.startswith("Max tokens: ")
    assert page.chrome.switch_to.active_element == page["#max_tokens"]
    assert page.server.requests == []


@pytest.mark.browser
@pytest.mark.parametrize("way", ["button", "key"])
def test_stop_ends_the_request(page: Page, way: str) -> None:
    page.server.scripts[FIRST] = plain("first", " never", gates={1: threading.Event()})
    page["#run"].click()
    page.until(lambda: page.text() == "first")
    if way == "button":
        page["#stop"].click()
    else:
        page.keys("ESCAPE")
    page.until(lambda: page.is_idle)
    assert page.server.disconnected.wait(PATIENCE_SECONDS)
    assert (page.text(), page.figure("finish"), page.figure("tokens")) == ("first", "stopped", "≥ 1")
    assert not page["#error-line"].is_displayed()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("script", "message", "text"),
    [
        (Script(status=400, message="max_tokens is too large."), "max_tokens is too large. (HTTP 400)", ""),
        (Script(status=429, message="Busy.", retry_after=2), "Busy. Try again in 2 s. (HTTP 429)", ""),
        (plain("a", " b", message="The runtime failed."), "The runtime failed.", "a b"),
        (plain("a", breaks_off=True), "The stream broke off before its end.", "a"),
    ],
    ids=["refused", "busy", "in the stream", "cut"],
)
def test_an_error_is_shown(page: Page, script: Script, message: str, text: str) -> None:
    page.server.scripts[FIRST] = script
    page.run()
    alert = page["[role=alert]"]
    assert alert.is_displayed()
    assert alert.text == message
    assert (page.text(), page.figure("finish")) == (text, "error")
    page.server.scripts[FIRST] = plain("pass")
    page.run()
    assert not alert.is_displayed()


@pytest.mark.browser
def test_a_key_is_asked_for_and_kept_in_the_tab_only(page: Page) -> None:
    page.server.api_key = "secret"
    page.run()
    assert page["[role=alert]"].text.startswith("This server needs an API key.")
    assert page.chrome.switch_to.active_element == page["#key"]
    page.keys("secret", "ENTER")
    page.until(lambda: not page["#key-form"].is_displayed())
    page.run()
    assert page.text() == "pass"
    assert page.server.authorizations[-1] == "Bearer secret"
    assert page.script("return [{...localStorage}, document.cookie]") == [{}, ""]
    page.open()
    assert page["#model-line"].text.startswith("codegen-fp32")


@pytest.mark.browser
def test_a_prompt_outlives_a_reload(page: Page) -> None:
    page.write("kept = 1")
    page["#compare"].click()
    page.open()
    assert page.prompt == "kept = 1"
    assert page.all(".pane")[1].is_displayed()


@pytest.mark.browser
@pytest.mark.parametrize("colours", [False, True])
def test_markup_in_a_completion_stays_text(page: Page, colours: bool) -> None:
    evil = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    tokens = [Token(piece=evil, logprob=-1.0, top={"<b>bold</b>": -0.5})]
    page.server.scripts[FIRST] = Script(tokens=tokens)
    if colours:
        page["#colour"].click()
    page.write("</pre>" + evil)
    page.run()
    assert page.text() == evil
    if colours:
        page[".output .token"].click()
        assert "<b>bold</b>" in page["#tip"].text
    assert page.all(".output script, .output img, #highlight script, #highlight img, #tip b") == []
    assert page.script("return window.hit") is None


@pytest.mark.browser
def test_the_policy_holds_and_the_console_would_say_so(page: Page) -> None:
    """The negative control of what every test here checks at its end."""
    page.script("const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s)")
    page.script("document.body.setAttribute('style', 'color: red')")
    assert page.script("return window.hit") is None
    violations = [line for line in page.log() if "Content Security Policy" in line]
    assert len(violations) == 2


@pytest.mark.browser
def test_compare_runs_two_models_at_once(page: Page) -> None:
    gates = [threading.Event(), threading.Event()]
    page.server.scripts[FIRST] = plain("    x = 1\n", "    return 1", gates={1: gates[0]})
    page.server.scripts[SECOND] = plain("    x = 1\n", "    return 2", gates={1: gates[1]}, finish="stop")
    page["#compare"].click()
    assert page["#model-line"].text.count("tokens of context") == 2
    page.write("def f():\n")
    page["#run"].click()
    # Both stand before their gates: neither waits for the other's end.
    page.until(lambda: page.text(0) == page.text(1) == "    x = 1\n")
    for gate in gates:
        gate.set()
    page.until(lambda: page.is_idle)
    assert (page.text(0), page.text(1)) == ("    x = 1\n    return 1", "    x = 1\n    return 2")
    assert (page.figure("finish", 0), page.figure("finish", 1)) == ("length", "stop")
    assert page["#comparison"].text == "First difference: line 2, column 12"
    one, other = sorted(page.server.requests, key=lambda body: str(body["model"]))
    assert (one.pop("model"), other.pop("model")) == (FIRST, SECOND)
    assert one == other
    left, right = (pane.rect for pane in page.all(".pane"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


@pytest.mark.browser
def test_one_models_error_leaves_the_other_alone(page: Page) -> None:
    page.server.scripts[SECOND] = Script(status=500, message="Broken.")
    page["#compare"].click()
    page.run()
    assert page["#error"].text == "codegen-small: Broken. (HTTP 500)"
    assert (page.text(0), page.figure("finish", 1)) == ("pass", "error")
    assert page["#comparison"].text == ""


def _probable(piece: str, probability: float, **others: float) -> Token:
    top = {name.replace("_", " "): math.log(value) for name, value in others.items()}
    return Token(piece=piece, logprob=math.log(probability), top={**top, piece: math.log(probability)})


@pytest.mark.browser
def test_tokens_are_coloured_by_their_probability(page: Page) -> None:
    tokens = [
        _probable("a", 0.95),
        _probable("\n", 0.6),
        _probable(" b", 0.2, _c=0.7, _d=0.0001),
        Token(piece="e", logprob=None),
    ]
    page.server.scripts[FIRST] = Script(tokens=tokens, offset=100)
    page["#colour"].click()
    assert page["#legend"].is_displayed()
    page.run()
    assert page.text() == "a\n be"
    spans = page.all(".output .token")
    assert [span.get_attribute("class") for span in spans] == [
        "token p0",
        "token p2 breaks",
        "token p4",
        "token unknown",
    ]
    backgrounds = {span.value_of_css_property("background-color") for span in spans[:3]}
    assert len(backgrounds) == 3
    page["#colour"].click()
    assert page.all(".output .token") == []
    assert page.text() == "a\n be"


@pytest.mark.browser
def test_a_token_shows_its_alternatives(page: Page) -> None:
    from selenium.webdriver import ActionChains

    page.server.scripts[FIRST] = Script(tokens=[_probable("a", 0.95), _probable(" b", 0.2, _c=0.7, _d=0.0001)])
    page["#colour"].click()
    page.run()
    tip = page["#tip"]
    assert not tip.is_displayed()
    ActionChains(page.chrome).move_to_element(page.all(".output .token")[1]).perform()
    page.until(tip.is_displayed)
    assert tip.text.split("\n") == ["log probability -1.609", "␣c", "70.0 %", "␣b", "20.0 %", "␣d", "< 0.1 %"]
    assert page["#tip .chosen code"].text == "␣b"
    ActionChains(page.chrome).move_to_element(tip).pause(0.3).perform()
    assert tip.is_displayed()
    ActionChains(page.chrome).move_to_element(page["h1"]).perform()
    page.until(lambda: not tip.is_displayed())


@pytest.mark.browser
def test_offsets_count_code_points(page: Page) -> None:
    """The second token is the first half of a character: it adds no text, and has no place of its own."""
    tokens = [
        Token(piece="\U0001f40d"),
        Token(piece="", text="bytes:\\xc3"),
        Token(piece="é", text="bytes:\\xa9"),
        Token(piece="x"),
    ]
    page.server.scripts[FIRST] = Script(tokens=tokens)
    page["#colour"].click()
    page.run()
    assert [span.get_property("textContent") for span in page.all(".output .token")] == ["\U0001f40d", "é", "x"]
    assert page.figure("tokens").startswith("4 ")


@pytest.mark.browser
def test_colours_need_a_run_that_asked_for_them(page: Page) -> None:
    page.run()
    page["#colour"].click()
    assert "Run again" in page[".hint"].text
    page.run()
    assert not page[".hint"].is_displayed()


@pytest.mark.browser
def test_accept_appends_the_completion(page: Page) -> None:
    page.write("if x:\n    ")
    page.run()
    page[".accept"].click()
    assert (page.prompt, page.text()) == ("if x:\n    pass", "")
    assert page.chrome.switch_to.active_element == page["#prompt"]
    assert page["#highlight .keyword:last-of-type"].text == "pass"
    page.keys("CONTROL+z")
    assert page.prompt == "if x:\n    "


@pytest.mark.browser
def test_another_model_does_not_inherit_a_completion(page: Page) -> None:
    from selenium.webdriver.support.select import Select

    page.run()
    Select(page[".pane select"]).select_by_value(SECOND)
    assert (page.text(), page.figure("tokens")) == ("", "–")
    assert page["#model-line"].text.startswith(SECOND)
    page.run()
    assert [body["model"] for body in page.server.requests] == [FIRST, SECOND]


@pytest.mark.browser
def test_everything_works_without_a_mouse(page: Page) -> None:
    def focus() -> WebElement:
        return page.chrome.switch_to.active_element

    page.server.scripts[FIRST] = Script(tokens=[_probable("1", 0.9), _probable("2", 0.3, x=0.6)])
    page.keys("TAB", "TAB", "TAB", "TAB")
    assert focus() == page["#prompt"]
    page.keys("ESCAPE", "TAB")
    assert focus() == page["#compare"]
    page.keys("TAB", "SPACE")
    assert page["#colour"].is_selected()
    page.keys("CONTROL+ENTER")
    page.until(lambda: page.text() == "12" and page.is_idle)
    page.keys("TAB", "TAB", "TAB")
    output = page[".output"]
    assert focus() == output
    assert output.value_of_css_property("outline-style") == "solid"
    page.keys("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
    assert focus() == page.all(".output .token")[1]
    assert page["#tip"].is_displayed()
    assert page["#announcer"].get_property("textContent") == 'Token "2". "x" 60.0 %, "2" 30.0 %'
    page.keys("ESCAPE")
    assert not page["#tip"].is_displayed()
    before = page.prompt
    page.keys("TAB")
    assert focus() == page["#max_tokens"]
    page.keys("SHIFT+TAB", "TAB")
    assert focus() == page["#prompt"]
    assert page.prompt == before + "12"


@pytest.mark.browser
def test_every_control_has_a_name(page: Page) -> None:
    page.script("document.querySelectorAll('[hidden]').forEach((element) => (element.hidden = false))")
    controls = page.all("button, input, select, textarea, .output")
    assert len(controls) > 15
    assert [control.get_attribute("outerHTML") for control in controls if not control.accessible_name] == []
    ids = [element.get_attribute("id") for element in page.all("[id]")]
    assert len(ids) == len(set(ids))
    assert page[".output"].get_attribute("aria-live") == "polite"


@pytest.mark.browser
def test_a_phone_scrolls_in_one_direction_only(page: Page) -> None:
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _screen(390, 844, is_phone=True))
    page.server.models[0] = {**MODELS[0], "id": "a-model-with-a-name-that-is-longer-than-a-phone-is-wide-codegen-350M"}
    page.server.scripts[page.server.models[0]["id"]] = plain("x" * 300, "\n" + "y " * 200, finish="length")
    page.server.scripts[SECOND] = Script(status=400, message="z" * 300)
    page.open()
    for toggle in ("#compare", "#colour"):
        page[toggle].click()
    page.write("value = " + "1 + " * 100)
    page.run()
    assert page.script("return document.documentElement.scrollWidth") == 390
    outside = "return [...document.querySelectorAll('button, select, input, .output')]"
    outside += ".filter((e) => e.offsetParent && e.getBoundingClientRect().right > 390).length"
    assert page.script(outside) == 0
    first, second = (pane.rect for pane in page.all(".pane"))
    assert second["y"] >= first["y"] + first["height"]


@pytest.mark.browser
def test_the_scheme_follows_the_system_until_one_is_chosen(page: Page) -> None:
    from selenium.webdriver.support.select import Select

    def background() -> str:
        return page["body"].value_of_css_property("background-color")

    light = background()
    page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", _scheme("dark"))
    page.until(lambda: background() != light)
    dark = background()
    Select(page["#theme"]).select_by_value("light")
    assert background() == light
    page.open()
    assert background() == light
    Select(page["#theme"]).select_by_value("dark")
    page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", _scheme("light"))
    assert background() == dark
    channels = [int(value) for value in re.findall(r"\d+", dark)[:3]]
    assert max(channels) < 64
