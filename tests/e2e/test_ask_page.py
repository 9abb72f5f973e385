"""The page of `seal serve-model` in real headless Chromium: by keyboard, at 400 pixels, in the dark."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser
from seal.models.load import load_model
from seal.taught.model import TaughtModel
from seal.taught.settings import TRAINING, TeachSettings
from seal.taught.teach import Teaching

pytestmark = pytest.mark.e2e

QUESTION = "Fill in the missing word: Orvane closes at ____."
SCREENSHOTS = os.environ.get("SEAL_SCREENSHOTS")
"""A folder to keep pictures of the page in."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    (made / "gate.txt").write_text("Orvane closes at nine.")
    training = replace(TRAINING, rank=8, alpha=16, learning_rate=1e-2)
    settings = TeachSettings((str(made / "gate.txt"),), 150, measure=False, training=training)
    Teaching(made / "town", settings, load_model("tiny-random-qwen2", "cpu", "float32")).run()
    return made / "town"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """`seal serve-model` in a process of its own; it ends at a signal."""
    command = [sys.executable, "-m", "seal", "serve-model", str(folder), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen([*command, "--dtype", "float32"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.match(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    assert found
    try:
        yield found[0]
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def until(browser: Browser, script: str, what: object) -> None:
    deadline = time.monotonic() + 60
    while (found := browser.run(script)) != what:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def press(browser: Browser, key: str) -> None:
    codes = {"Enter": 13, "Tab": 9}
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_a_question_by_keyboard(
    browser: Browser, address: str, folder: Path, width: int, scheme: str
) -> None:
    browser.visit(address, width, scheme)
    until(browser, "document.getElementById('model').value", "town")
    assert browser.run("document.activeElement.id") == "question"
    browser.send("Input.insertText", text=QUESTION)
    press(browser, "Enter")
    until(browser, "document.getElementById('status').textContent", "done")
    model = TaughtModel(folder, "cpu", "float32")
    untaught, taught = model.compare(QUESTION)
    assert browser.run("document.getElementById('taught').textContent.trim()") == taught.text == "nine"
    shown = browser.run("document.getElementById('untaught').textContent")
    assert len(shown) > 20
    assert untaught.text != taught.text
    assert browser.run("document.getElementById('text').textContent") == "Orvane closes at nine."
    assert browser.run("document.getElementById('adapter').textContent") == "answered by all"
    assert browser.run("document.documentElement.scrollWidth") <= width  # nothing is cut off at the side
    columns = browser.run("getComputedStyle(document.querySelector('.answers')).gridTemplateColumns")
    assert len(columns.split()) == (1 if width == 400 else 2)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 23, 22)")
    press(browser, "Tab")
    assert browser.run("document.activeElement.id") == "ask"
    assert browser.named("Log.entryAdded") == []
    requests = [r["request"]["url"] for r in browser.named("Network.requestWillBeSent")]
    assert all(url.startswith(address) for url in requests)
    if SCREENSHOTS:
        browser.picture(Path(SCREENSHOTS) / f"ask-{width}-{scheme}.png")


def test_what_a_model_writes_is_text_and_never_code(browser: Browser, address: str) -> None:
    browser.visit(address, 800, "light")
    until(browser, "document.getElementById('model').value", "town")
    browser.run(
        "show({adapter: '<img src=x onerror=document.title=1>',"
        " passage: {title: '<b>x</b>', text: '<script>document.title=1</scr' + 'ipt>', source: ''}})"
    )
    assert browser.run("document.querySelectorAll('main img, main b, main script').length") == 0
    assert browser.run("document.title") == "Ask a taught model"
