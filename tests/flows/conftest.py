"""What the flows' tests share: one Prefect server, and a home of their own for each."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anyloom.flows  # settles what Prefect reads when it is imported  # noqa: F401


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of Prefect's test server; it takes ten seconds to start, so one serves them all.

    ANYLOOM_TEST_PREFECT_API_URL names one that runs already: the quick loop of whoever works on flows.
    """
    pytest.importorskip("prefect")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if address := os.environ.get("ANYLOOM_TEST_PREFECT_API_URL"):
        with temporary_settings({PREFECT_API_URL: address}):
            yield address
        return
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def flow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _storage() -> Any:
    path = Path(__file__).parents[1] / "storage" / "conftest.py"
    spec = importlib.util.spec_from_file_location("storage_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


postgres_server = _storage().postgres_server
