"""The report in real headless Chromium: nothing missing, no error, no request, readable at every width."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from seal.report import page as report

pytestmark = pytest.mark.e2e

SCREENSHOTS = os.environ.get("SEAL_SCREENSHOTS")
"""A folder to keep pictures of the pages in."""

CONTRAST = """
(() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!c.startsWith("color") && parse(c)[3] === 1) return parse(c);
    }
    return [255, 255, 255, 1];
  };
  const poor = [];
  const texts = "p, td, th, dt, dd, summary, h2, h3, strong, small, .sign, .chip, .gold, .try, .level";
  for (const e of document.querySelectorAll(texts.replace(/(^|, )/g, "$1main ") + ", footer")) {
    if (!e.getClientRects().length || !e.textContent.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const name = `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 30)}`;
    if (ratio < 4.5) poor.push(`${name} ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""


def _count(selector: str, condition: str) -> str:
    """Script: how many elements `e` meet the condition."""
    return f"[...document.querySelectorAll(`{selector}`)].filter((e) => {condition}).length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(made_up: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    size: dict[str, int] = {"rounds": 3, "tasks": 4, "edits": 4, "repeats": 3, "held_out": 4}
    made_up.MadeUpRun(folder / "good", **size)
    made_up.MadeUpRun(folder / "other", seed=5, **size)
    made_up.MadeUpRun(folder / "hostile", hostile=True, finished=False)
    made_up.MadeUpRun(folder / "arc", rounds=0, held_out=0, finished=False)
    made_up.few_shot_round(folder / "arc")
    rows = [[0.3, 0.2, 0.25], [0.6, 0.0, 0.0], [0.4, 0.7, 0.0], [0.3, 0.5, 0.8]]
    (folder / "good" / "continual.json").write_text(json.dumps({"mean_over_sequences": rows}))
    made = {}
    for name in ("good", "hostile", "arc"):
        made[name] = report.write_html([report.run_view(folder / name)], folder / f"{name}.html")
    views = [report.run_view(folder / name, most_tasks=0) for name in ("good", "other")]
    made["comparison"] = report.write_html(views, folder / "comparison.html")
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["good", "hostile", "arc", "comparison"])
def test_a_page_is_readable_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    browser.open(pages[name], width, scheme)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    time.sleep(0.1)
    assert browser.run("document.documentElement.scrollWidth") <= width
    cut = browser.run(
        _count(".scroll, nav .wrap", "e.scrollWidth > e.clientWidth + 1 && !e.closest('.answers')")
    )
    assert width < 1600 or name != "good" or cut == 0
    assert browser.run(_count("nav .wrap", "e.scrollWidth > e.clientWidth + 1")) == 0
    assert browser.run(CONTRAST) == []
    assert browser.run(_count("main p, td, dd, pre", "parseFloat(getComputedStyle(e).fontSize) < 11.5")) == 0
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(244, 246, 247)"
    assert dark == (scheme == "dark")
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        browser.picture(Path(SCREENSHOTS) / f"{name}-{width}-{scheme}.png")
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert browser.named("Runtime.exceptionThrown") == []
    assert browser.named("Runtime.consoleAPICalled") == []
    assert [e["entry"]["text"] for e in browser.named("Log.entryAdded")] == []


def test_every_section_is_shown_and_every_picture_described(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["good"], 1600, "light")
    shown = browser.run(
        "[...document.querySelectorAll('section')].filter(s => s.offsetHeight > 60).map(s => s.id)"
    )
    assert shown == ["findings", "training", "held-out", "continual", "tasks", "run"]
    assert browser.run(_count("svg:not([aria-hidden]), img", "!e.getAttribute('aria-label') && !e.alt")) == 0
    assert browser.run("document.querySelectorAll('svg.chart').length") >= 9
    nameless = "!e.getAttribute('aria-label') && !e.textContent.trim()"
    assert browser.run(_count("input, select, button", nameless)) == 0
    anchors = (
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )
    assert browser.run(anchors) is True


def test_hostile_text_does_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"], 1600, "light")
    time.sleep(0.2)
    assert browser.run("typeof window.owned") == "undefined"
    assert browser.run("document.title") == "hostile · seal"
    assert browser.run("document.scripts.length") == 1
    assert browser.run("document.images.length") == 0
    seen = browser.run("document.querySelector('.candidate pre').textContent")
    assert '<script>window.owned=1;document.title="owned"</script>' in seen
    assert "{{ 7*7 }}" in seen
    assert "\\x1b[31mred" in seen


def test_tasks_can_be_sifted_and_the_theme_changed(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["good"], 1600, "light")
    count = "document.querySelectorAll('details.task:not([hidden])').length"
    assert browser.run(count) == 3 * 4 + 4
    field = "(() => {{ const f = document.getElementById('{}'); f.value = '{}';"
    sift = field + " f.dispatchEvent(new Event('input')); }})()"
    browser.run(sift.format("place", "round 2"))
    assert browser.run(count) == 4
    browser.run(sift.format("search", "kestrel"))
    assert browser.run(count) == 1
    assert browser.run("document.getElementById('count').textContent") == "1 of 16"
    browser.run("document.getElementById('all').click()")
    assert browser.run("document.querySelectorAll('details.task[open]').length") == 1
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.querySelector('.theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != before
    assert browser.run("document.querySelector('.theme').textContent") == "Light"
