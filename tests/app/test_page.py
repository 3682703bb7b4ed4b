"""The page of a turn: whole in itself, what was said escaped, evicted media told."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from anyloom.anygpt_model.errors import StoreError
from anyloom.anygpt_model.media import probe, write_png, write_wav
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Part, Sampling, Span, Turn
from anyloom.app.page import turn_page
from anyloom.app.views import in_order

PNG = write_png(np.zeros((4, 4, 3), np.uint8))
WAV = write_wav(np.sin(np.arange(800) / 5).astype(np.float32), 16000)
KEPT = {probe(data).hash: data for data in (PNG, WAV)}
TURN = Turn(
    id="a" * 32, conversation="c", parent=None, run="r",
    request=(Part(Modality.TEXT, text="<script>alert(1)</script>"), Part(Modality.SPEECH, media=probe(WAV))),
    reply=(
        Part(Modality.TEXT, text="hi & bye", span=Span(Modality.TEXT, (5, 6)), generated=True),
        Part(Modality.IMAGE, media=probe(PNG), span=Span(Modality.IMAGE, (20, 21)), generated=True),
    ),
    prompt=(1, 2, 3), generation=Generation((5, 6, 30, 20, 21, 31, 2), (-0.1,) * 7, (1.0,) * 7, "end", 9),
    bounds=Bounds(), sampling={Modality.TEXT: Sampling()}, model="pocket", fingerprints={"llm": "sha256:x"},
    versions={"torch": "2"}, timings={"generate": 1.0, "record": 0.1}, options={}, created="2026-01-01T00:00:00+00:00",
)  # fmt: skip


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def page(turn: Turn) -> Tags:
    def get(name: str) -> bytes:
        if name not in KEPT:
            raise StoreError("gone")
        return KEPT[name]

    tags = Tags()
    html = turn_page(turn, get, ["hi", "bye"], [(0, turn.id, "<b>asked"), (1, "b" * 32, "again")])
    tags.feed(html)
    assert "<b>asked" not in html
    return tags


def test_the_page_is_whole_in_itself_and_runs_nothing() -> None:
    tags = page(TURN).seen
    assert "script" not in {tag for tag, _ in tags}
    sources = [attributes["src"] or "" for _, attributes in tags if "src" in attributes]
    assert len(sources) == 2
    assert all(source.startswith("data:") for source in sources)


def test_every_id_is_a_cell_with_its_numbers() -> None:
    cells = [attributes for tag, attributes in page(TURN).seen if tag == "i"]
    assert len(cells) == 7
    assert "log-probability -0.100" in (cells[0]["data-said"] or "")
    assert len({cells[n]["style"] for n in (0, 2, 3)}) == 3


def test_an_evicted_medium_is_told() -> None:
    gone = replace(probe(PNG), hash="sha256:none")
    reply = (TURN.reply[0], replace(TURN.reply[1], media=gone))
    assert "img" not in {tag for tag, _ in page(replace(TURN, reply=reply)).seen}


def test_nodes_come_in_the_order_of_a_run() -> None:
    names = ["detokenize_image", "detect", "record", "own", "generate", "route", "tokenize_speech", "tokenize_image"]
    found = [name for name, _ in in_order(dict.fromkeys(names, 1.0))]
    assert found == [
        "detect", "tokenize_image", "tokenize_speech", "generate", "route", "detokenize_image", "record", "own",
    ]  # fmt: skip
