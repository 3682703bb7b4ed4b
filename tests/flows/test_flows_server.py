"""Prefect's server as the flows use it: configured or temporary, awaited, shared, started again; none is started."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyloom.anygpt_model.errors import SettingsError

pytest.importorskip("prefect")


def test_a_temporary_server_is_not_waited_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from anyloom.flows import server

    with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults=[PREFECT_API_URL]):
        server.check_server()
        monkeypatch.setattr(server.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
        with pytest.raises(SettingsError, match="has 1 MB left on its disk, Prefect needs 16"):
            server.check_server()
        monkeypatch.undo()
        tmp_path.rmdir()
        with pytest.raises(SettingsError, match="can't be used"):
            server.check_server()


def test_only_a_server_that_was_set_up_hears_a_heartbeat() -> None:
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from anyloom.flows.server import no_heartbeat

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}), no_heartbeat():
        assert get_current_settings().flows.heartbeat_frequency
    with temporary_settings(restore_defaults=[PREFECT_API_URL]), no_heartbeat():
        assert get_current_settings().flows.heartbeat_frequency is None


def test_a_run_here_and_now_has_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from anyloom.flows.convert import TooManyFailed, begun

    monkeypatch.setattr("anyloom.flows.convert.start_server", lambda: None)
    beats: list[Any] = []
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        begun(lambda: beats.append(get_current_settings().flows.heartbeat_frequency), {}, True, (), TooManyFailed)
    assert beats == [None]


class TemporaryServer:
    """Prefect's, as far as we know it."""

    def __init__(self, code: int | None) -> None:
        self.running, self.port, self.starts = True, 8123, 0
        self.api_url = "http://127.0.0.1:8123/api"
        self.server_process = SimpleNamespace(poll=lambda: code)

    def start(self) -> None:
        assert not self.running
        self.running, self.starts = True, self.starts + 1
        self.held = signal.pthread_sigmask(signal.SIG_BLOCK, set())


def temporary(monkeypatch: pytest.MonkeyPatch, code: int | None) -> TemporaryServer:
    server = TemporaryServer(code)
    module = SimpleNamespace(SubprocessASGIServer=lambda: server)
    monkeypatch.setitem(sys.modules, "prefect.server.api.server", module)  # type: ignore[arg-type]
    return server


def test_a_temporary_server_that_ended_is_started_again_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyloom.flows.server import revive_server

    alive = temporary(monkeypatch, None)
    revive_server()
    assert alive.starts == 0
    dead = temporary(monkeypatch, -9)
    revive_server()
    assert (dead.starts, dead.port, dead.held) == (1, 8123, {signal.SIGINT})
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    monkeypatch.delitem(sys.modules, "prefect.server.api.server")
    revive_server()


def test_worker_processes_share_a_temporary_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from anyloom.flows.server import shared_server, start_server

    server = temporary(monkeypatch, None)
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        with shared_server():
            assert PREFECT_API_URL.value() == server.api_url
        server.running = False
        with shared_server():
            assert not PREFECT_API_URL.value()
        start_server()
    assert server.starts == 1
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        start_server()
        with shared_server():
            assert PREFECT_API_URL.value() == "http://127.0.0.1:1/api"
    assert server.starts == 1
