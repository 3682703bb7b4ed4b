"""The flows once through with Prefect's harness and a complete tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.errors import InputError, SettingsError, UnknownName
from anyloom.anygpt_model.media import write_png, write_wav

pytest.importorskip("prefect")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    import anyloom.flows  # settles what Prefect reads when it is imported  # noqa: F401

    with prefect_test_harness(server_startup_timeout=240):
        yield


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))


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


@pytest.mark.usefixtures("_server", "_home")
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
    assert rows[0]["turn"] == rows[1]["turn"]
    assert "content is text" in rows[4]["error"]
    for row in rows[:4]:
        assert [made["modality"] for made in row["outputs"]].count("image") >= 1
        assert all((tmp_path / "out" / made["file"]).stat().st_size for made in row["outputs"])
    third = run()
    assert (third["done"], third["failed"], third["skipped"]) == (0, 0, 5)
    assert run(dry_run=True, retry_failed=True)["to_do"] == 1


@pytest.mark.usefixtures("_home")
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
