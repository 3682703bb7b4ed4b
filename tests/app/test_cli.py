"""The command line over a scripted model: one answer on stdout, remarks on stderr, one sentence for each bad input."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.media import read_image, write_png, write_wav
from anyloom.app.cli import COMMANDS, run
from anyloom.graphs.settings import settings

Run = Callable[..., tuple[int, str, str]]
SOUND = write_wav(np.sin(np.arange(8000) / 20).astype(np.float32) * 0.3, 16000)


@pytest.fixture
def anyloom(engine: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> Run:
    """Run a command in this process, in a home of its own: (exit code, stdout, stderr)."""
    from anyloom.anygpt_model import engine as home_of_engines

    (tmp_path / "model").mkdir()
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANYLOOM_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("ANYLOOM_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(home_of_engines, "load_engine", lambda *_, **__: engine)

    def call(*args: Any) -> tuple[int, str, str]:
        code = run([str(arg) for arg in args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def files(tmp_path: Path) -> list[Path]:
    """Kept media; `owner` is the folder's own mark."""
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "blobs" in str(path)]
    return [path for path in kept if path.name != "owner"]


def test_say_prints_one_object_and_writes_the_medium(anyloom: Run, tmp_path: Path) -> None:
    code, out, _ = anyloom("say", "draw", "--to", "image", "--seed", 3, "--json")
    assert code == 0
    answer = json.loads(out)
    [path] = [Path(part["file"]) for part in answer["reply"] if part["modality"] == "image"][:1]
    assert path.name == f"turn-{answer['turn'][:8]}-1.png"
    assert read_image(path.read_bytes()).ndim == 3
    assert answer["seed"] == 3


def test_a_conversation_is_listed_shown_evicted_and_replayed(anyloom: Run, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(SOUND)
    say = ["say", "--conversation", "c", "--json"]
    first = json.loads(anyloom(*say, "draw", "--to", "image")[1])
    second = json.loads(anyloom(*say, "what", "--speech", tmp_path / "a.wav")[1])
    listed = json.loads(anyloom("traces", "list", "--json")[1])["turns"]
    assert [turn["id"] for turn in listed] == [second["turn"], first["turn"]]
    assert listed[0]["parent"] == first["turn"]
    code, shown, _ = anyloom("traces", "show", second["turn"][:8])
    assert code == 0
    assert "audio/wav" in shown
    assert "fingerprints" in shown
    assert json.loads(anyloom("traces", "show", first["turn"], "--json")[1])["id"] == first["turn"]
    assert json.loads(anyloom("traces", "evict", "--json")[1])["evicted"]
    code, told, _ = anyloom("traces", "replay", first["turn"], "--restore")
    assert (code, told.split(":")[0]) == (0, "identical")
    assert "made again and kept" in told
    made = json.loads(anyloom("traces", "fork", first["turn"], "--segment", 1, "--seed", 9, "--json")[1])
    assert made["kept"] > 0
    code, told, _ = anyloom("traces", "diff", first["turn"], made["turn"])
    assert code == 1
    assert "seed" in told
    assert anyloom("traces", "show", first["turn"], "--html", tmp_path / "turn.html")[0] == 0
    assert "data:image/png" in (tmp_path / "turn.html").read_text()


def test_a_voice_is_saved_used_and_erased(anyloom: Run, tmp_path: Path, engine: Any) -> None:
    (tmp_path / "ann.wav").write_bytes(write_wav(np.full(48000, 0.2, np.float32), 16000))
    (tmp_path / "short.wav").write_bytes(SOUND)
    assert anyloom("voices", "save", "ann", tmp_path / "short.wav", "--consent", "Ann agreed")[0] == 2
    assert anyloom("voices", "save", "sha256:ann", tmp_path / "ann.wav", "--consent", "Ann agreed")[0] == 2
    assert anyloom("voices", "save", "ann", tmp_path / "ann.wav", "--consent", "Ann agreed")[0] == 0
    assert json.loads(anyloom("voices", "list", "--json")[1])["voices"][0]["consent"] == "Ann agreed"
    ask = ["say", "hello", "--to", "speech", "--seed", 1, "--json"]
    hashes = {
        next(part["hash"] for part in json.loads(anyloom(*ask, *voice)[1])["reply"] if "hash" in part)
        for voice in ((), ("--voice", "ann"), ("--voice", tmp_path / "ann.wav"))
    }
    assert len(hashes) == 2
    assert anyloom("voices", "remove", "ann")[0] == 0
    assert anyloom(*ask, "--voice", "ann")[0] == 2


def test_a_store_is_exported_imported_pruned_and_erased(anyloom: Run, tmp_path: Path, monkeypatch: Any) -> None:
    turn = json.loads(anyloom("say", "hello", "--json")[1])["turn"]
    assert anyloom("traces", "export", tmp_path / "a.zip")[0] == 0
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "elsewhere"))
    assert json.loads(anyloom("traces", "import", tmp_path / "a.zip", "--json")[1])["turns"] == 1
    assert json.loads(anyloom("traces", "show", turn, "--json")[1])["id"] == turn
    assert json.loads(anyloom("traces", "prune", "--older-than", "1d", "--json")[1])["turns"] == []
    assert json.loads(anyloom("traces", "delete", turn, "--json")[1])["erased"] == [turn]
    assert anyloom("traces", "show", turn)[0] == 2
    assert anyloom("doctor")[0] == 0


def test_chat_goes_on_over_mistakes(anyloom: Run, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(write_png(np.zeros((8, 8, 3), np.uint8)))
    lines = iter(
        ["/to image", f"/image {tmp_path / 'p.png'}", "draw", "/to smell", "/nope", "/to text", "hello", "/quit"]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    code, out, err = anyloom("chat")
    assert code == 0
    assert "[image]" in out
    assert "smell" in err
    assert "/nope" in err
    turns = json.loads(anyloom("traces", "list", "--json")[1])["turns"]
    assert turns[0]["parent"] == turns[1]["id"]


def header_png(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    return b"\x89PNG\r\n\x1a\n" + chunk


def jpeg(tmp_path: Path) -> bytes:
    from io import BytesIO

    from PIL import Image

    made = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(made, "JPEG")
    return made.getvalue()


BAD: dict[str, tuple[list[str], Callable[[Path], bytes | None]]] = {
    "missing": (["--image", "x.png"], lambda _: None),
    "empty": (["--image", "x.png"], lambda _: b""),
    "text as png": (["--image", "x.png"], lambda _: b"no picture at all"),
    "truncated jpeg": (["--image", "x.jpg"], lambda path: jpeg(path)[:700]),
    "no samples": (["--speech", "x.wav"], lambda _: write_wav(np.zeros(0, np.float32), 16000)),
    "lying header": (["--speech", "x.wav"], lambda _: SOUND[:40] + struct.pack("<I", 10**9) + SOUND[44:]),
    "huge picture": (["--image", "x.png"], lambda _: header_png(30_000, 30_000)),
    "hour of audio": (["--music", "x.wav"], lambda _: write_wav(np.zeros(4000 * 3600, np.float32), 4000)),
    "picture as sound": (["--speech", "x.png"], lambda _: write_png(np.zeros((8, 8, 3), np.uint8))),
    "nothing": ([], lambda _: None),
    "unknown modality": (["hello", "--to", "smell"], lambda _: None),
    "unknown model": (["hello", "--model", "nobody"], lambda _: None),
    "unknown voice": (["hello", "--voice", "nobody"], lambda _: None),
    "no wording at all": (["hello", "--to", "text", "--beams", "0"], lambda _: None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_code_2(case: str, anyloom: Run, tmp_path: Path, monkeypatch: Any) -> None:
    args, data = BAD[case]
    monkeypatch.chdir(tmp_path)
    content = data(tmp_path)
    if content is not None:
        (tmp_path / args[1]).write_bytes(content)
    code, out, err = anyloom("say", *args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.strip()[-1] in ".;)"
    assert files(tmp_path) == []
    assert json.loads(anyloom("traces", "list", "--json")[1])["turns"] == []


def test_an_unusable_database_or_folder_is_refused(anyloom: Run, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = anyloom("say", "hello", "--out", tmp_path / "file" / "out")
    assert (code, err.count("\n")) == (2, 1)
    for url in ("oracle://x", str(tmp_path / "file" / "a.db"), str(tmp_path / "file")):
        monkeypatch.setenv("ANYLOOM_DATABASE_URL", url)
        code, _, err = anyloom("say", "hello")
        assert (code, err.count("\n")) == (2, 1), err


def test_an_empty_setting_is_as_good_as_unset(monkeypatch: Any) -> None:
    for name in ("MODEL", "URLS", "DEVICE", "LOW_MEMORY", "DATABASE_URL", "VOICE", "OUT"):
        monkeypatch.setenv(f"ANYLOOM_{name}", "")
    chosen = settings()
    assert (chosen.model, chosen.urls, chosen.device, chosen.low_memory) == ("pocket", False, None, False)
    assert (chosen.database_url, chosen.voice, chosen.out) == (None, None, Path("out"))


def test_the_unforeseen_is_one_sentence_with_a_hint(anyloom: Run, monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("lightning\nstruck")

    monkeypatch.setattr("anyloom.app.say.writable_folder", broken)
    code, _, err = anyloom("say", "hello")
    assert (code, err.count("\n")) == (1, 1)
    assert "--debug" in err


def test_help_names_every_command_and_imports_no_model() -> None:
    heavy = "import sys; from anyloom.app.cli import run; run(['--help']); assert 'torch' not in sys.modules; "
    heavy += "assert 'langgraph' not in sys.modules and 'sqlalchemy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Any) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out
