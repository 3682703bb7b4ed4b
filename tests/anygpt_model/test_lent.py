"""Codecs that rest on the CPU: on the device for a call, off it afterwards, never two at once; only what is wanted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import anyloom.anygpt_model.engine as engine_module
from anyloom.anygpt_model.codecs.image import ImageCodec
from anyloom.anygpt_model.codecs.lent import Lent
from anyloom.anygpt_model.codecs.music import MusicCodec
from anyloom.anygpt_model.codecs.protocol import Codec
from anyloom.anygpt_model.codecs.speech import SpeechCodec
from anyloom.anygpt_model.engine import Engine, load_engine
from anyloom.anygpt_model.errors import UnknownName
from anyloom.anygpt_model.values import Modality


class Double:
    """A codec that writes down where it is moved and where it works."""

    cardinality, num_codebooks, frame_rate, sample_rate = 16, 1, 50.0, 16_000

    def __init__(self, log: list[str], name: str = "") -> None:
        self.log, self.name, self.place = log, name, "cpu"

    def to(self, device: str) -> None:
        self.place = device
        self.log.append(f"{self.name}to {device}")

    def encode(self, array: Any) -> Any:
        self.log.append(f"{self.name}encode on {self.place}")
        return np.zeros((1, 2), np.int64)

    def decode(self, codes: Any, *, seed: int = 0, voice: Any = None) -> Any:
        self.log.append(f"{self.name}decode on {self.place}")
        if codes.size == 0:
            raise ValueError("no codes")
        return np.zeros(4, np.float32)


def test_each_call_goes_to_the_device_and_back() -> None:
    log: list[str] = []
    codec = Lent(Double(log), "meta", threading.Lock())
    assert isinstance(codec, Codec)
    assert (codec.cardinality, codec.num_codebooks, codec.frame_rate, codec.sample_rate) == (16, 1, 50.0, 16_000)
    codec.encode(np.zeros(4, np.float32))
    codec.decode(np.zeros((1, 2), np.int64), seed=1)
    assert log == ["to meta", "encode on meta", "to cpu", "to meta", "decode on meta", "to cpu"]


def test_a_failed_call_leaves_the_device_too() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="no codes"):
        Lent(Double(log), "meta", threading.Lock()).decode(np.zeros((1, 0), np.int64))
    assert log[-1] == "to cpu"


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine takes "meta", which holds no numbers and which every machine has, for a second device."""
    monkeypatch.setattr(engine_module, "chosen_device", torch.device)


@pytest.mark.usefixtures("any_device")
def test_no_two_codecs_of_an_engine_are_on_the_device_at_once(llm_folder: Path, monkeypatch: Any) -> None:
    log: list[str] = []
    monkeypatch.setattr(Engine, "_opened", lambda _, kind, device: Double(log, f"{kind} "))
    with load_engine(llm_folder, device="meta", low_memory=True) as engine:
        codecs = [engine.codec(kind) for kind in (Modality.SPEECH, Modality.MUSIC, Modality.IMAGE)]
        assert not log
        calls = [threading.Thread(target=codec.encode, args=(np.zeros(4),)) for codec in codecs for _ in range(20)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert len(log) == 180
    for there, work, back in zip(log[::3], log[1::3], log[2::3], strict=True):
        name = there.split()[0]
        assert [there, work, back] == [f"{name} to meta", f"{name} encode on meta", f"{name} to cpu"]


@pytest.mark.usefixtures("any_device")
def test_with_memory_enough_codecs_stay_on_the_device(llm_folder: Path, monkeypatch: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Engine, "_opened", lambda _, kind, device: opened.append(device) or Double([]))
    for low, device in ((False, "meta"), (True, "meta"), (True, "cpu")):
        with load_engine(llm_folder, device=device, low_memory=low) as engine:
            assert isinstance(engine.codec("speech"), Lent) == (low and device == "meta")
    assert opened == ["meta", "cpu", "cpu"]


def weights(codec: Any) -> Iterator[torch.Tensor]:
    """Every tensor that a codec holds."""
    for held in vars(codec).values():
        if isinstance(held, torch.nn.Module):
            yield from held.state_dict().values()
        elif isinstance(held, torch.Tensor):
            yield held
        elif hasattr(held, "pipeline"):
            for part in held.pipeline.components.values():
                yield from part.state_dict().values() if isinstance(part, torch.nn.Module) else ()


@pytest.mark.slow
def test_moving_a_codec_moves_all_of_it(tiny_folder: Path) -> None:
    for codec in (
        SpeechCodec.from_folder(tiny_folder),
        MusicCodec.from_folder(tiny_folder / "encodec"),
        ImageCodec.from_folder(tiny_folder),
    ):
        assert {tensor.device.type for tensor in weights(codec)} == {"cpu"}
        codec.to("meta")
        assert {tensor.device.type for tensor in weights(codec)} == {"meta"}


@pytest.mark.slow
def test_a_codec_works_after_it_was_moved(tiny_folder: Path) -> None:
    sound = np.random.default_rng(1).uniform(-0.2, 0.2, 8000).astype(np.float32)
    plain = SpeechCodec.from_folder(tiny_folder)
    lent = Lent(SpeechCodec.from_folder(tiny_folder), "cpu", threading.Lock())
    codes = plain.encode(sound)
    assert np.array_equal(lent.encode(sound), codes)
    assert np.array_equal(lent.decode(codes, seed=4), plain.decode(codes, seed=4))


@pytest.mark.slow
def test_text_and_speech_need_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("llm", "speechtokenizer", "soundstorm"):
        shutil.copytree(tiny_folder / name, tmp_path / "small" / name)
    with load_engine(tmp_path / "small", device="cpu", modalities=("text", "speech")) as engine:
        codes = engine.codec("speech").encode(np.zeros(3200, np.float32))
        assert engine.codec("speech").decode(codes).shape == (3200,)
        assert set(engine._codecs) == {Modality.SPEECH}
        assert set(engine.fingerprints) == {"llm", "tokenizer", "speech"}
        with pytest.raises(UnknownName, match="opened with: speech"):
            engine.codec("image")
