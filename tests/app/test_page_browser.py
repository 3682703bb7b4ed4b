"""The page of a turn in a real browser: pictures load, sounds are read, a token says its numbers, nothing is fetched.

Takes Playwright and a Chromium: its own (`playwright install chromium`), or one on the PATH (`apt install chromium`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.media import probe, write_png, write_wav
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Part, Sampling, Span, Turn
from anyloom.app.page import turn_page

pytestmark = pytest.mark.slow
PATIENCE = 200_000
"""Milliseconds: a busy machine takes a while to start a browser."""
INSTALLED = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; the tests are left out, and say so, where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="NO BROWSER TEST: run pip install playwright and playwright install chromium"
    )
    with playwright.sync_playwright() as driver:
        known = (found for name in INSTALLED if (found := shutil.which(name)))
        path = next((own for own in [driver.chromium.executable_path] if Path(own).exists()), next(known, None))
        if path is None:
            pytest.skip("NO BROWSER TEST: no Chromium is installed; run playwright install chromium")
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        yield opened
        opened.close()


def whole_turn() -> tuple[Turn, dict[str, bytes]]:
    """A turn with text, a picture and two sounds in it, and their bytes; one more picture has been evicted."""
    picture = write_png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    speech, music = (write_wav(np.sin(np.arange(8000) / pace).astype(np.float32), 16_000) for pace in (5, 9))
    gone = replace(probe(picture), hash="sha256:" + "0" * 64)
    reply = (
        Part(Modality.TEXT, text="hi & <b>bye</b>", span=Span(Modality.TEXT, (5, 6)), generated=True),
        Part(Modality.IMAGE, media=probe(picture), span=Span(Modality.IMAGE, (20, 21)), generated=True),
        Part(Modality.MUSIC, media=probe(music), span=Span(Modality.MUSIC, (40, 41)), generated=True),
        Part(Modality.IMAGE, media=gone, generated=True),
    )
    ids = (5, 6, 30, 20, 21, 31, 32, 40, 41, 33, 2)
    made = Generation(ids, tuple(-0.25 * n for n in range(len(ids))), (1.0,) * len(ids), "end", 9)
    turn = Turn(
        id="a" * 32, conversation="c", parent=None, run="r",
        request=(Part(Modality.TEXT, text="<script>alert(1)</script>"), Part(Modality.SPEECH, media=probe(speech))),
        reply=reply, prompt=(1, 2, 3), generation=made, bounds=Bounds(), sampling={Modality.TEXT: Sampling()},
        model="pocket", fingerprints={"llm": "sha256:x"}, versions={"torch": "2"},
        timings={"generate": 1.0, "record": 0.1}, options={}, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return turn, {probe(data).hash: data for data in (picture, speech, music)}


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The turn's page, opened from a file; what the browser complained of and asked for is in `.complaints`."""
    from anyloom.anygpt_model.errors import StoreError

    turn, kept = whole_turn()

    def get(name: str) -> bytes:
        if name not in kept:
            raise StoreError("evicted")
        return kept[name]

    file = tmp_path_factory.mktemp("page") / "turn.html"
    file.write_text(turn_page(turn, get, ["hi"], [(0, turn.id, "asked"), (1, "b" * 32, "forked")]), encoding="utf-8")
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.complaints = []
    opened.on("console", lambda said: opened.complaints.append(said.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("dialog", lambda asked: opened.complaints.append(asked.message) or asked.dismiss())
    elsewhere = [file.as_uri(), "data:"]
    opened.on(
        "request", lambda sent: sent.url.startswith(tuple(elsewhere)) or opened.complaints.append(f"asks {sent.url}")
    )
    opened.goto(file.as_uri())
    yield opened
    opened.close()


def test_pictures_load_and_sounds_can_be_played(page: Any) -> None:
    pictures = page.locator("img")
    assert pictures.count() == 1
    assert pictures.evaluate("one => one.complete && [one.naturalWidth, one.naturalHeight]") == [4, 4]
    players = page.locator("audio")
    assert players.count() == 2
    for number in range(2):
        page.wait_for_function(f"document.querySelectorAll('audio')[{number}].readyState > 0")
        assert players.nth(number).evaluate("one => [one.error, one.controls]") == [None, True]
        assert players.nth(number).evaluate("one => one.duration") == pytest.approx(0.5, abs=0.01)
    assert page.locator("svg.wave path").count() == 2
    assert page.get_by_text("was evicted").count() == 1


def test_pointing_at_a_token_says_its_log_probability(page: Any) -> None:
    cells = page.locator(".ids i")
    assert cells.count() == 11
    said = "one => getComputedStyle(one, '::after').content"
    assert cells.nth(4).evaluate(said) == "none"
    cells.nth(4).hover()
    assert "log-probability -1.000" in cells.nth(4).evaluate(said)
    colours = cells.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len({colours[0], colours[3], colours[7], colours[2]}) == 4
    assert colours[0] == colours[1]


def test_nothing_runs_is_fetched_or_complained_of(page: Any) -> None:
    page.wait_for_timeout(300)
    assert page.complaints == []
    assert page.get_by_text("<script>alert(1)</script>").count() == 1
    assert page.locator("section").count() == 6
    wide = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(wide), f"the page is wider than a window of {width} pixels"
