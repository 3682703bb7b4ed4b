"""Fetching from a stand-in of the hub on this machine: what is told, checked, locked, converted and not done twice."""

import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from anyloom.anygpt_model.errors import CheckpointError, SettingsError, UnknownName
from anyloom.anygpt_model.hub import SOURCES, Lock, Source, fetch

COMMIT = "c0ffee" + "0" * 34


def pickled(**tensors: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


class Hub:
    """Repositories in memory: {repo: {path: bytes}}; `asked` lists the downloads."""

    def __init__(self) -> None:
        weights = save({"weight": torch.arange(6.0)})
        self.files = {"org/llm": {"config.json": b'{"a": 1}', "model.safetensors": weights, "README.md": b"no"}}
        self.plain = {"/eva.safetensors": save({"vit": torch.ones(3)})}
        self.lies: set[str] = set()
        self.asked: list[str] = []
        self.ranges: list[str] = []

    def info(self, repo: str) -> dict[str, Any]:
        siblings = []
        for path, data in self.files[repo].items():
            digest = hashlib.sha256(b"other" if path in self.lies else data).hexdigest()
            lfs = {"sha256": digest, "size": len(data), "pointerSize": 100}
            siblings.append({"rfilename": path, "size": len(data), "blobId": digest[:40], "lfs": lfs})
        return {"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False, "downloads": 0}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/"):
                repo = "/".join(path.split("/")[3:5])
                self.send(json.dumps(made.info(repo)).encode(), body, {"Content-Type": "application/json"})
            elif path in made.plain:
                made.asked += [path] if body else []
                self.send(made.plain[path], body, {})
            else:
                owner, name, _, _, file = path.strip("/").split("/", 4)
                made.asked += [file] if body else []
                data = made.files[f"{owner}/{name}"][file]
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.send(data, body, {"ETag": etag, "X-Repo-Commit": COMMIT})

        def send(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
            start = 0
            if wanted := self.headers.get("Range"):
                made.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            for name, value in {**headers, "Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[start:])

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    monkeypatch.setenv("HF_ENDPOINT", made.url)  # type: ignore[attr-defined]
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield made
    server.shutdown()
    server.server_close()


def sources(hub: Hub) -> dict[str, tuple[Source, ...]]:
    [plain] = hub.plain
    return {
        "tiny": (
            Source("llm", "Apache-2.0", "org/llm", ("*.json", "*.bin", "*.safetensors")),
            Source("seed", "BSD-3-Clause", url=f"{hub.url}{plain}"),  # type: ignore[attr-defined]
        )
    }


def test_what_comes_is_told_locked_and_converted(hub: Hub) -> None:
    del hub.files["org/llm"]["model.safetensors"]
    hub.files["org/llm"]["pytorch_model.bin"] = pickled(weight=torch.arange(6.0))
    hub.plain = {"/eva.pth": pickled(vit=torch.ones(3))}
    told: list[str] = []
    folder = fetch("tiny", tell=told.append, sources=sources(hub))
    assert "Apache-2.0" in told[0]
    assert "in all" in told[2]
    assert torch.equal(load_file(folder / "llm" / "model.safetensors")["weight"], torch.arange(6.0))
    assert torch.equal(load_file(folder / "seed" / "eva.safetensors")["vit"], torch.ones(3))
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "config.json", "eva.safetensors", "fetched.json", "model.safetensors"]  # fmt: skip
    lock = Lock.read(folder)
    assert lock.revisions == {"org/llm": COMMIT}
    assert lock.files["llm/pytorch_model.bin"] == hashlib.sha256(hub.files["org/llm"]["pytorch_model.bin"]).hexdigest()


def test_nothing_is_fetched_twice_even_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("tiny", sources=sources(hub))
    count = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("tiny", sources=sources(hub)) == folder
    assert len(hub.asked) == count


def test_a_broken_fetch_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / "models" / "tiny" / "seed" / "eva.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.plain["/eva.safetensors"][:50])
    folder = fetch("tiny", sources=sources(hub))
    assert "bytes=50-" in hub.ranges
    assert load_file(folder / "seed" / "eva.safetensors")["vit"].sum() == 3


def test_a_wrong_hash_is_refused(hub: Hub) -> None:
    hub.lies.add("config.json")
    with pytest.raises(CheckpointError, match=r"llm/config\.json came with the hash"):
        fetch("tiny", sources=sources(hub))


def test_declining_downloads_nothing(hub: Hub) -> None:
    with pytest.raises(SettingsError, match="declined"):
        fetch("tiny", agree=lambda plan: plan.size < 10, sources=sources(hub))
    assert hub.asked == []


def test_offline_and_unknown_names_are_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="use one of anygpt-chat, anygpt-base"):
        fetch("anygpt-huge")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE is set"):
        fetch("tiny", sources=sources(hub))


def test_every_published_part_has_a_source_and_a_licence() -> None:
    for parts in SOURCES.values():
        assert {source.part for source in parts} == {
            "llm", "seed", "unclip", "speechtokenizer", "soundstorm", "encodec"}  # fmt: skip
        assert all(source.licence for source in parts)
