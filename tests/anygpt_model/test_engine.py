"""The engine opens what is asked for, when it is asked for, and says what it can't."""

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.codecs.protocol import Codec
from anyloom.anygpt_model.devices import chosen_dtype
from anyloom.anygpt_model.engine import context_length, frame_rates, load_engine
from anyloom.anygpt_model.errors import AnyloomError, SettingsError, UnknownName
from anyloom.anygpt_model.values import Bounds, Modality, Request


def test_a_checkpoint_without_the_marks_of_chat_is_a_base_model(base_llm_folder: Path) -> None:
    with load_engine(base_llm_folder, device="cpu") as engine:
        assert engine.template == "base"


def test_what_an_engine_says_of_itself(llm_engine: Any, llm_folder: Path) -> None:
    assert llm_engine.name == llm_folder.name
    assert llm_engine.template == "MMGPT"
    assert llm_engine.context_length == 1024
    assert llm_engine.versions["torch"]
    assert set(llm_engine.fingerprints) >= {"llm", "tokenizer"}
    assert llm_engine.grammar.frame_rates == {Modality.SPEECH: 50.0, Modality.MUSIC: 50.0}


def test_a_copy_with_another_language_model_says_the_same_of_itself(llm_folder: Path) -> None:
    with load_engine(llm_folder, device="cpu") as engine:
        replayed = copy.copy(engine)
        replayed.language_model = object()  # type: ignore[assignment]
        assert replayed.versions == engine.versions


def test_only_what_is_wanted_opens(llm_folder: Path) -> None:
    with load_engine(llm_folder, device="cpu", modalities=["text", "speech"]) as engine:
        with pytest.raises(UnknownName, match="no codec for 'image'; it was opened with: speech"):
            engine.codec(Modality.IMAGE)
        with pytest.raises(UnknownName):
            engine.codec("text")
        with pytest.raises(UnknownName):
            engine.codec("smell")


def test_one_modality_may_be_named_alone(llm_folder: Path) -> None:
    with load_engine(llm_folder, device="cpu", modalities="text") as engine:
        assert engine.modalities == {Modality.TEXT}


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "abacus"},
        {"device": "cuda:99"},
        {"device": "meta"},
        {"dtype": "int3"},
        {"slots": 0},
        {"queue": 0},
        {"queue": 2.5},
        {"prefix_bytes": -1},
    ],
)
def test_settings_that_cannot_be_used_are_said(llm_folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        load_engine(llm_folder, **wrong)


def test_numbers_are_chosen_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_dtype(None, cpu) == torch.float32
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert chosen_dtype(None, gpu) == expected
    assert chosen_dtype("float32", gpu) == torch.float32


def test_an_unknown_modality_is_named(llm_folder: Path) -> None:
    with pytest.raises(UnknownName, match="smell"):
        load_engine(llm_folder, modalities=["smell"])


def test_the_context_is_the_larger_of_the_two_that_are_stated(tmp_path: Path) -> None:
    assert context_length(tmp_path, 2048) == 2048
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 4096}')
    assert context_length(tmp_path, 2048) == 4096
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert context_length(tmp_path, 2048) == 2048


def test_frame_rates_are_read_from_configurations(tmp_path: Path) -> None:
    (tmp_path / "encodec").mkdir()
    (tmp_path / "encodec" / "config.json").write_text(
        '{"model_type": "frame_codec", "sample_rate": 24000, "hop": 240, "stack": 4}'
    )
    assert frame_rates(tmp_path) == {Modality.MUSIC: 25.0}


def test_half_precision_runs_and_is_not_called_exact(llm_folder: Path) -> None:
    with load_engine(llm_folder, device="cpu", dtype="bfloat16") as engine:
        assert not engine.language_model.llama.exact
        made = engine.generate([Request((1, 30), 1, Bounds(Modality.IMAGE, max_tokens=60))])[0]
        assert made.ids[-1] in engine.vocabulary.stop_ids


@pytest.mark.slow
def test_every_direction_of_a_whole_folder(tiny_engine: Any) -> None:
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 32_000).astype(np.float32)
    given = {Modality.IMAGE: np.zeros((40, 30, 3), np.uint8), Modality.SPEECH: noise, Modality.MUSIC: noise}
    for modality, array in given.items():
        codec = tiny_engine.codec(modality)
        assert isinstance(codec, Codec)
        assert codec.frame_rate == tiny_engine.grammar.frame_rates.get(modality, 0.0)
        span = tiny_engine.vocabulary.to_span(modality, codec.encode(array))
        table = tiny_engine.vocabulary.range(modality)
        prompt = (1, table.opening, *span.ids[:400], table.closing)
        made = tiny_engine.generate([Request(prompt, 3, Bounds(modality, max_tokens=250, max_seconds=0.5))])[0]
        start = made.ids.index(table.opening) + 1
        ids = made.ids[start : made.ids.index(table.closing)]
        assert codec.decode(tiny_engine.vocabulary.to_codes(type(span)(modality, ids)), seed=1).size


@pytest.mark.slow
def test_a_codec_opens_once_whoever_asks(tiny_engine: Any) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(tiny_engine.codec("speech"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(codec) for codec in found}) == 1


def test_a_closed_engine_opens_no_codec(llm_folder: Path) -> None:
    engine = load_engine(llm_folder, device="cpu")
    engine.close()
    engine.close()
    with pytest.raises(AnyloomError, match="closed"):
        engine.codec(Modality.SPEECH)
