"""A worker's engine is opened as its machine's settings say."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyloom.anygpt_model.errors import SettingsError
from anyloom.flows.workplace import close_workplaces, workplace


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_workplaces()


def test_settings_of_the_machine_reach_the_engine(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYLOOM_LOW_MEMORY", "1")
    here = (str(llm_folder), "cpu", f"sqlite:///{tmp_path / 'a.db'}")
    place = workplace(*here)
    assert place.engine.low_memory
    assert workplace(*here) is place
    assert gc.get_freeze_count() > 0
    close_workplaces()
    assert gc.get_freeze_count() == 0


def test_a_quantization_that_does_not_exist_is_one_sentence(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYLOOM_QUANTIZE", "int3")
    with pytest.raises(SettingsError, match="'int3' came; use one of int8, int4"):
        workplace(str(llm_folder), "cpu", f"sqlite:///{tmp_path / 'a.db'}")
