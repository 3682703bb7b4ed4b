"""Shards in two worker processes, of a Dask cluster or of Ray where it is installed; the ledger on PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyloom.anygpt_model.errors import SettingsError
from anyloom.storage.store import open_store

pytest.importorskip("prefect_dask")
ITEMS = 24


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", pytest.param("ray", marks=pytest.mark.soak)])
@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_two_worker_processes_share_a_job(
    runner: str, tmp_path: Path, tiny_folder: Path, postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"prefect_{runner}")
    from anyloom.flows.convert import run_convert

    monkeypatch.setenv("ANYLOOM_DATABASE_URL", postgres_server)
    monkeypatch.setenv("ANYLOOM_BLOBS_URL", str(tmp_path / "blobs"))
    monkeypatch.setenv("ANYLOOM_TASK_RUNNER", runner)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(ITEMS)))
    out = tmp_path / "out"
    answer = run_convert(str(rows), to="text", out=out, model=str(tiny_folder), shard=3, max_tokens=8, quiet=True)
    assert (answer["done"], answer["failed"], answer["left"]) == (ITEMS, 0, 0), answer["reasons"]
    told = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len({row["turn"] for row in told}) == ITEMS
    with open_store(postgres_server) as store:
        job = store.jobs.job(f"convert {out}")
        workers = {(item.worker or "").split(":")[1] for item in store.jobs.rows(job)}
        assert all(store.turn(row["turn"]).id == row["turn"] for row in told)
    assert len(workers) == 2


@pytest.mark.usefixtures("flow_home")
def test_processes_need_a_database_that_they_can_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyloom.flows.convert import run_convert

    monkeypatch.setenv("ANYLOOM_TASK_RUNNER", "dask")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(SettingsError, match="PostgreSQL"):
        run_convert(str(tmp_path / "a.txt"), to="text", out=tmp_path / "out", quiet=True)
    monkeypatch.setenv("ANYLOOM_TASK_RUNNER", "a horse")
    with pytest.raises(SettingsError, match="ANYLOOM_TASK_RUNNER"):
        run_convert(str(tmp_path / "a.txt"), to="text", out=tmp_path / "out", quiet=True)
