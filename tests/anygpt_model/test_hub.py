"""Fetching from a stand-in of the hub on this machine: what is told, checked, locked, converted and not done twice."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from anyloom.anygpt_model.errors import CheckpointError, SettingsError, UnknownName
from anyloom.anygpt_model.hub import SOURCES, Lock, Source, fetch
from anyloom.app.cli import run

COMMIT = "c0ffee" + "0" * 34


def pickled(**tensors: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


class Hub:
    """Repositories in memory: {repo: {path: bytes}}; `asked` lists the downloads, `revisions` what was looked up.

    lies: files whose stated hash is wrong. cut: files whose connection breaks after so many bytes, the next time only.
    """

    def __init__(self) -> None:
        weights = save({"weight": torch.arange(6.0)})
        self.files = {"org/llm": {"config.json": b'{"a": 1}', "model.safetensors": weights, "README.md": b"no"}}
        self.plain = {"/eva.safetensors": save({"vit": torch.ones(3)})}
        self.lies: set[str] = set()
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.revisions: list[str] = []
        self.commit = COMMIT
        self.cut: dict[str, int] = {}

    def info(self, repo: str, revision: str) -> dict[str, Any]:
        siblings = []
        for path, data in self.files[repo].items():
            digest = hashlib.sha256(b"other" if path in self.lies else data).hexdigest()
            lfs = {"sha256": digest, "size": len(data), "pointerSize": 100}
            siblings.append({"rfilename": path, "size": len(data), "blobId": digest[:40], "lfs": lfs})
        return {
            "id": repo,
            "sha": revision or self.commit,
            "siblings": siblings,
            "tags": [],
            "private": False,
            "downloads": 0,
        }


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
                made.revisions.append("/".join(path.split("/")[6:]))
                self.send(
                    json.dumps(made.info(repo, made.revisions[-1])).encode(), body, {"Content-Type": "application/json"}
                )
            elif path in made.plain:
                made.asked += [path] if body else []
                self.send(made.plain[path], body, {})
            else:
                owner, name, _, revision, file = path.strip("/").split("/", 4)
                made.revisions.append(revision)
                made.asked += [file] if body else []
                data = made.files[f"{owner}/{name}"][file]
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                cut = made.cut.pop(file, None) if body else None
                self.send(data, body, {"ETag": etag, "X-Repo-Commit": made.commit}, cut)

        def send(self, data: bytes, body: bool, headers: dict[str, str], cut: int | None = None) -> None:
            start = 0
            if wanted := self.headers.get("Range"):
                made.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            for name, value in {**headers, "Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[start:][:cut])
            if cut is not None:
                self.close_connection = True

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


def test_a_broken_file_of_the_hub_goes_on_where_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    weights = save({"weight": torch.arange(200_000.0)})
    hub.files["org/llm"]["model.safetensors"] = weights
    hub.cut["model.safetensors"] = 300_000
    folder = fetch("tiny", sources=sources(hub))
    assert any(int(asked.removeprefix("bytes=").split("-")[0]) > 0 for asked in hub.ranges)
    assert (folder / "llm" / "model.safetensors").read_bytes() == weights


def test_a_fetch_that_goes_on_takes_the_commit_that_it_began_with(hub: Hub) -> None:
    hub.lies.add("model.safetensors")
    with pytest.raises(CheckpointError):
        fetch("tiny", sources=sources(hub))
    hub.lies.clear()
    hub.commit = "f" * 40
    hub.revisions.clear()
    folder = fetch("tiny", sources=sources(hub))
    assert set(hub.revisions) == {COMMIT}
    assert Lock.read(folder).revisions == {"org/llm": COMMIT}


def test_a_hub_that_does_not_answer_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    table = sources(hub)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"can't be reached .* look at HF_ENDPOINT"):
        fetch("tiny", sources=table)
    plain = {"tiny": (Source("seed", "BSD", url="http://127.0.0.1:9/eva.pth"),)}
    with pytest.raises(SettingsError, match="can't be reached"):
        fetch("tiny", sources=plain)


CACHED = """
import sys
from pathlib import Path
from huggingface_hub import hf_hub_download
from anyloom.anygpt_model.hub import Source, fetch
if sys.argv[1] == "fill":
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("org/llm", name)
else:
    files = ("*.json", "*.safetensors")
    parts = (Source("llm", "x", "org/llm", files), Source("seed", "x", url="http://nowhere.invalid/eva.safetensors"))
    print(fetch("tiny", sources={"tiny": parts}))
"""


@pytest.mark.slow
def test_without_a_network_the_cache_under_hf_home_serves(hub: Hub, tmp_path: Path) -> None:
    """A machine that was never online: a cache brought along, the one file that no hub has put into its place."""
    named = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "ANYLOOM_HOME": str(tmp_path / "ours")}

    def process(what: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CACHED, what]
        return subprocess.run(command, env={**named, **environment}, capture_output=True, text=True, check=False)

    assert process("fill").returncode == 0
    count = len(hub.asked)
    put = tmp_path / "ours" / "models" / "tiny" / "seed" / "eva.safetensors"
    refused = process("use", HF_HUB_OFFLINE="1")
    assert f"put the file into {put.parent}" in refused.stderr
    put.parent.mkdir(parents=True)
    put.write_bytes(hub.plain["/eva.safetensors"])
    done = process("use", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert load_file(folder / "llm" / "model.safetensors")["weight"].tolist() == list(range(6))
    assert Lock.read(folder).revisions == {"org/llm": COMMIT}
    assert Lock.read(folder).files["seed/eva.safetensors"] == hashlib.sha256(put.read_bytes()).hexdigest()
    assert len(hub.asked) == count


def test_the_command_tells_sizes_and_licences_then_asks(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anyloom.anygpt_model.hub.SOURCES", {"anygpt-chat": sources(hub)["tiny"]})
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(["models", "fetch", "anygpt-chat"]) == 2
    told = capsys.readouterr().err
    assert [word in told for word in ("Apache-2.0", "BSD-3-Clause", "in all", "MB", "declined")] == [True] * 5
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["models", "fetch", "anygpt-chat", "--json"]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert hub.asked == []
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["models", "fetch", "anygpt-chat"]) == 0
    assert sorted(hub.asked) == ["/eva.safetensors", "config.json", "model.safetensors"]
    assert run(["models", "fetch", "anygpt-chat", "--yes", "--json"]) == 0
    assert len(hub.asked) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["model"] == "anygpt-chat"
    assert run(["models", "fetch", "anygpt-huge"]) == 2


def test_a_malicious_pickle_is_refused_after_it_came(hub: Hub, tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    stream = io.BytesIO()
    torch.save({"weight": Malice()}, stream)
    hub.plain = {"/eva.pth": stream.getvalue()}
    with pytest.raises(CheckpointError, match=r"eva\.pth was refused, and nothing in it was run"):
        fetch("tiny", sources=sources(hub))
    assert not (tmp_path / "it-ran").exists()
    assert not Lock.read(tmp_path / "models" / "tiny").complete


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
