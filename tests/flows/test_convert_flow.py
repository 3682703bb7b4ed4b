"""The flows once through with Prefect's harness and a complete tiny model."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.errors import InputError, SettingsError, StoreError, UnknownName
from anyloom.anygpt_model.media import write_png, write_wav

pytest.importorskip("prefect")
pytestmark = pytest.mark.slow


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two equal texts, a picture, a sound, and a picture that is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    (folder / "b.txt").write_text("hello")
    (folder / "c.png").write_bytes(write_png(np.full((32, 32, 3), 200, np.uint8)))
    tone = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.3
    (folder / "d.wav").write_bytes(write_wav(tone, 16_000))
    (folder / "e.png").write_text("no picture")
    return folder


@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_a_folder_is_converted_once_and_then_left_alone(mixed: Path, tmp_path: Path, tiny_folder: Path) -> None:
    from anyloom.flows.convert import run_convert

    def run(**more: Any) -> dict[str, Any]:
        return run_convert(str(mixed), to="image", out=tmp_path / "out", model=str(tiny_folder), quiet=True, **more)

    assert run(dry_run=True)["to_do"] == 5
    first = run(limit=2)
    assert (first["done"], first["failed"], first["left"]) == (2, 0, 3), first["reasons"]
    second = run()
    assert (second["done"], second["failed"], second["skipped"]) == (2, 1, 2), second["reasons"]
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done"] * 4 + ["failed"]
    hashes = [[hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in row["inputs"]] for row in rows]
    assert [row["input_hashes"] for row in rows] == hashes
    assert rows[0]["turn"] == rows[1]["turn"]
    assert "content is text" in rows[4]["error"]
    for row in rows[:4]:
        assert [made["modality"] for made in row["outputs"]].count("image") >= 1
        assert all((tmp_path / "out" / made["file"]).stat().st_size for made in row["outputs"])
    third = run()
    assert (third["done"], third["failed"], third["skipped"]) == (0, 0, 5)
    assert run(dry_run=True, retry_failed=True)["to_do"] == 1


@pytest.mark.usefixtures("flow_home")
def test_what_cannot_be_used_is_refused_before_anything_starts(mixed: Path, tmp_path: Path, tiny_folder: Path) -> None:
    from anyloom.flows.convert import run_convert

    out, model = tmp_path / "out", str(tiny_folder)
    with pytest.raises(UnknownName, match="smell"):
        run_convert(str(mixed), to="smell", out=out, model=model)
    with pytest.raises(UnknownName):
        run_convert(str(mixed), to="text", out=out, model="no-such-model")
    with pytest.raises(InputError, match="does not exist"):
        run_convert(str(tmp_path / "nothing"), to="text", out=out, model=model)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="can't be written"):
        run_convert(str(mixed), to="text", out=tmp_path / "file" / "out", model=model)
    assert not (tmp_path / "home" / "anyloom.db").exists()
    with pytest.raises(UnknownName, match="no voice named 'nobody'"):
        run_convert(str(mixed), to="speech", out=out, model=model, voice="nobody", dry_run=True)
    with pytest.raises(UnknownName, match="no voice named 'nobody'"):
        run_convert(str(mixed), to="speech", out=out, model=model, voice="nobody")
    (tmp_path / "home" / "anyloom.db").write_text("no database" * 1000)
    with pytest.raises(StoreError, match="is not an Anyloom store"):
        run_convert(str(mixed), to="text", out=out, model=model)


BAD = {
    "a picture that is text": ({"image": "text.png"}, "content is text"),
    "an empty picture": ({"image": "empty.png"}, "empty"),
    "a picture cut short": ({"image": "cut.png"}, ""),
    "a picture with a broken header": ({"image": "header.png"}, ""),
    "a picture far too large": ({"image": "huge.png"}, ""),
    "a picture that is not there": ({"image": "nowhere.png"}, "does not exist"),
    "a folder for a picture": ({"image": "folder.png"}, ""),
    "a sound that is text": ({"speech": "text.wav"}, ""),
    "an empty sound": ({"speech": "empty.wav"}, "empty"),
    "a sound of no samples": ({"speech": "silent.wav"}, ""),
    "a sound cut in its header": ({"speech": "cut.wav"}, ""),
    "a picture called a sound": ({"speech": "good.png"}, ""),
    "a sound called a picture": ({"image": "good.wav"}, ""),
    "a program": ({"media": "program.bin"}, ""),
    "an archive": ({"media": "archive.zip"}, ""),
    "a document": ({"media": "document.pdf"}, ""),
    "no text and no file": ({"note": "nothing"}, "empty"),
    "blanks for a text": ({"text": "   "}, "empty"),
    "an unknown voice": ({"text": "hello", "to": "speech", "voice": "nobody"}, "nobody"),
    "an unknown target": ({"text": "hello", "to": "smell"}, "smell"),
    "a text longer than the model takes": ({"text": "word " * 4000}, ""),
}


def bad_files(folder: Path) -> None:
    picture = write_png(np.full((32, 32, 3), 9, np.uint8))
    sound = write_wav(np.sin(np.arange(8_000) / 20).astype(np.float32), 16_000)
    huge = picture[:16] + (200_000).to_bytes(4, "big") * 2 + picture[24:]
    contents = {
        "text.png": b"no picture", "empty.png": b"", "cut.png": picture[: len(picture) // 2],
        "header.png": picture[:8] + b"\0" * 40, "huge.png": huge, "text.wav": b"no sound", "empty.wav": b"",
        "silent.wav": write_wav(np.zeros(0, np.float32), 16_000), "cut.wav": sound[:20], "good.png": picture,
        "good.wav": sound, "program.bin": b"\x7fELF" + b"\0" * 60, "archive.zip": b"PK\x03\x04" + b"\0" * 60,
        "document.pdf": b"%PDF-1.7\n",
    }  # fmt: skip
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()


@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_items_bad_in_twenty_ways_fail_each_with_its_reason(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from anyloom.flows.convert import TooManyFailed, convert
    from anyloom.flows.workplace import close_workplaces

    bad_files(tmp_path)
    good = [{"id": f"good {n}", "text": f"hello {n}"} for n in range(4)] + [{"id": "good p", "image": "good.png"}]
    rows = [*good[:2], *({"id": name, **cells} for name, (cells, _) in BAD.items()), *good[2:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"source": str(tmp_path / "rows.jsonl"), "to": "text", "model": str(tiny_folder), "max_tokens": 8}
    caplog.set_level(logging.INFO, logger="anyloom")
    try:
        state = convert(out=str(tmp_path / "out"), **given, return_state=True)
        assert (state.is_completed(), state.name) == (True, "CompletedWithFailures")
        strict = convert(out=str(tmp_path / "strict"), **given, max_failed_share=0.5, return_state=True)
        with pytest.raises(TooManyFailed, match=r"21 failed.*more than the 50%"):
            strict.result()
    finally:
        close_workplaces()
    told = {row["name"]: row for row in map(json.loads, (tmp_path / "out/manifest.jsonl").read_text().splitlines())}
    assert list(told) == [row["id"] for row in rows]
    assert {name for name, row in told.items() if row["status"] == "done"} == {row["id"] for row in good}
    for name, (_, said) in BAD.items():
        reason = told[name]["error"]
        assert said in reason, (name, reason)
        assert "\n" not in reason
        assert reason.endswith("."), (name, reason)
    page = logs_of(strict.state_details.flow_run_id)
    assert set(BAD) <= {line.partition(": ")[0] for line in page}
    assert page[-1].endswith("ended as Failed; start it again to go on where it stopped")


def logs_of(run: Any) -> list[str]:
    """What a flow run's page shows of its log."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    with get_client(sync_client=True) as client:
        found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200)
    return [entry.message for entry in sorted(found, key=lambda entry: entry.timestamp)]


@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_media_become_shards_of_codes(mixed: Path, tmp_path: Path, tiny_folder: Path) -> None:
    from safetensors.numpy import load_file

    from anyloom.flows.tokenize import run_tokenize

    (mixed / "f.png").write_bytes((mixed / "c.png").read_bytes())
    out, options = tmp_path / "codes", {"model": str(tiny_folder), "quiet": True}
    assert run_tokenize(str(mixed), out=out, dry_run=True, **options)["to_do"] == 6
    first = run_tokenize(str(mixed), out=out, limit=3, **options)
    second = run_tokenize(str(mixed), out=out, **options)
    assert (first["done"] + second["done"], first["failed"] + second["failed"]) == (3, 3), second["reasons"]
    assert "no medium" in second["reasons"]["a.txt"]
    lines = [json.loads(line) for line in (out / "codes.jsonl").read_text().splitlines()]
    assert [(line["name"], line["modality"], line["row"]) for line in lines] == [
        ("c.png", "image", 0), ("f.png", "image", 1), ("d.wav", lines[2]["modality"], 0),
    ]  # fmt: skip
    shard = load_file(out / lines[0]["file"])
    begin, middle, end = shard["offsets"]
    assert middle - begin == lines[0]["frames"]
    assert np.array_equal(shard["codes"][begin:middle], shard["codes"][middle:end])


@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_other_places_are_converted_from_and_to_by_url_with_columns_of_their_own(tiny_folder: Path) -> None:
    import fsspec

    from anyloom.flows.convert import run_convert

    files = fsspec.filesystem("memory")
    files.pipe_file("/far/in/rows.csv", b"question,shelf\nhello,1\nbye,2\n")

    def run(**more: Any) -> dict[str, Any]:
        common: dict[str, Any] = {"to": "text", "out": "memory://far/out", "model": str(tiny_folder), "max_tokens": 8}
        columns = {"text": "question"}
        return run_convert("memory://far/in/rows.csv", columns=columns, quiet=True, **common, **more)

    assert run()["done"] == 2
    rows = [json.loads(line) for line in files.cat_file("/far/out/manifest.jsonl").splitlines()]
    assert [(row["input_text"], row["metadata"]) for row in rows] == [
        ("hello", {"shelf": "1"}),
        ("bye", {"shelf": "2"}),
    ]
    # One changes, one is new: what is stale is done again, what is new waits.
    files.pipe_file("/far/in/rows.csv", b"question,shelf\nhello again,1\nbye,2\nand more,3\n")
    assert run(only_stale=True, dry_run=True)["to_do"] == 1
    told = run(only_stale=True)
    assert (told["done"], told["found"], told["left"]) == (1, 3, 0)
    assert run(stop_after=0.0)["left"] == 1
    assert run(item_timeout=0.001)["reasons"] == {
        "row 000003": "It took more than 0.001 s; allow an item more, or ask for less."
    }
    assert run(retry_failed=True)["done"] == 1


@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_stored_turns_are_replayed_from_the_command_line(
    mixed: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anyloom.app.cli import run
    from anyloom.flows.convert import run_convert

    told = run_convert(str(mixed), to="text", out=tmp_path / "out", model=str(tiny_folder), max_tokens=8, quiet=True)
    capsys.readouterr()
    assert run(["flows", "reverify", "--model", str(tiny_folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    # Two equal inputs are one turn.
    assert (answer["turns"], answer["verdicts"], answer["drifted"]) == (told["done"] - 1, {"identical": 3}, [])
    assert run(["flows", "reverify", "--model", str(tiny_folder), "--limit", "2"]) == 0
    assert "2 turns replayed: 2 identical." in capsys.readouterr().out


@pytest.mark.parametrize(("allowed", "code"), [("0.4", 1), ("0.5", 0)])
def test_drifted_turns_are_told_and_end_with_code_1(
    allowed: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anyloom.app.cli import run
    from anyloom.flows import reverify

    changed = [{"turn": "t1", "verdict": "different", "changed": "sampling", "detail": "id 3 is another"}]
    answer = {"turns": 2, "verdicts": {"different": 1, "identical": 1}, "drifted": changed}
    monkeypatch.setattr(reverify, "run_reverify", lambda mode, **options: answer)
    assert run(["flows", "reverify", "--max-drifted-share", allowed]) == code
    assert "t1 is different: id 3 is another" in capsys.readouterr().out


@pytest.mark.usefixtures("flow_home")
def test_a_replay_that_cannot_be_is_one_sentence(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anyloom.app.cli import run

    assert run(["flows", "reverify", "--mode", "guess"]) == 2
    assert "There is no mode named 'guess'; use one of verify, recorded." in capsys.readouterr().err
    assert run(["flows", "reverify", "--model", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "anyloom.db").write_text("no database" * 1000)
    assert run(["flows", "reverify", "--model", str(tiny_folder)]) == 2
    assert "is not an Anyloom store" in capsys.readouterr().err
