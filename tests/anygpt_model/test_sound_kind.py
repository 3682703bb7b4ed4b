"""Speech is told from music, whatever the rate, the level and the pauses."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from anyloom.anygpt_model.media import resample
from anyloom.anygpt_model.sound_kind import SPEECH_SHARE, evenness, sound_kind, voiced_share
from anyloom.anygpt_model.values import Modality

SOUNDS = Path(__file__).parents[1] / "goldens" / "sounds"
RATE = 16_000


def golden(name: str) -> np.ndarray:
    """A held-out sentence of a synthetic voice, or a tune played by an instrument; both were made for this."""
    samples, rate = soundfile.read(SOUNDS / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


@pytest.mark.parametrize(("name", "kind"), [("sentence", Modality.SPEECH), ("accordion", Modality.MUSIC)])
@pytest.mark.parametrize("rate", [8_000, RATE, 44_100])
def test_kinds_at_any_rate(name: str, kind: Modality, rate: int) -> None:
    assert sound_kind(resample(golden(name), RATE, rate), rate) is kind


def test_a_short_sentence_in_a_long_silence_is_speech() -> None:
    assert sound_kind(np.pad(golden("sentence"), (4 * RATE, 4 * RATE)), RATE) is Modality.SPEECH


@pytest.mark.parametrize("silence", [0, 4 * RATE])
def test_reeds_that_pass_for_a_voice_are_music(silence: int) -> None:
    reeds = np.pad(golden("reeds"), (silence, silence))
    assert voiced_share(reeds) > 2 * SPEECH_SHARE
    assert sound_kind(reeds, RATE) is Modality.MUSIC


def test_a_sentence_over_noise_is_speech() -> None:
    sentence = golden("sentence")
    noise = np.random.default_rng(0).normal(0, 0.1 * sentence.std(), len(sentence)).astype(np.float32)
    assert sound_kind(sentence + noise, RATE) is Modality.SPEECH


@pytest.mark.parametrize("samples", [0, 1, 5000, RATE])
def test_silence_is_not_even(samples: int) -> None:
    assert evenness(np.zeros(samples, np.float32)) == 0.0


def test_a_quiet_sentence_is_speech() -> None:
    assert sound_kind(golden("sentence") * 0.02, RATE) is Modality.SPEECH


@pytest.mark.parametrize("samples", [0, 1, RATE])
def test_silence_of_any_length_has_no_voice(samples: int) -> None:
    assert voiced_share(np.zeros(samples, np.float32)) == 0.0


def test_noise_and_tones_are_no_speech() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    assert sound_kind(noise, RATE) is Modality.MUSIC
    assert sound_kind(0.3 * tone, RATE) is Modality.MUSIC


def test_the_answer_does_not_depend_on_what_was_heard_before() -> None:
    first = voiced_share(golden("sentence"))
    voiced_share(golden("accordion"))
    assert voiced_share(golden("sentence")) == first


def test_the_process_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        sound_kind(golden("sentence")[:2048], RATE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
