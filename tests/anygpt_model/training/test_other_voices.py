"""Voices that are only listened to: who reads what, labels laid beside another reading, other rooms and microphones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyloom.anygpt_model.training import other_voices, speech_data, speech_trainer
from anyloom.anygpt_model.training.speech_data import DEFAULT_VOICE, FRAME, Reading


def test_no_voice_reads_for_training_what_is_held_out_and_none_is_on_both_sides() -> None:
    plan = other_voices.plan()
    flite = {(reading.text, reading.voice): reading.split for reading in speech_data.plan()}
    assert len({(reading.text, reading.voice) for reading in plan}) == len(plan)
    assert all(flite[reading.text, DEFAULT_VOICE] == reading.split for reading in plan)
    trained, tested = ({r.voice for r in plan if r.split == split} for split in ("train", "test"))
    assert tested == set(other_voices.TEST_VOICES)
    assert not trained & tested
    assert len(trained) == len(other_voices.ESPEAK) + len(other_voices.KOKORO)


def test_labels_follow_what_sounds_alike() -> None:
    rng = np.random.default_rng(0)
    sounds = rng.normal(size=(5, 12)).astype(np.float16)
    theirs, ours = np.repeat(np.arange(5), (2, 3, 1, 4, 2)), np.repeat(np.arange(5), (4, 1, 3, 2, 5))
    labels = np.array([10, 20, 30, 40, 50], np.uint8)
    found = other_voices.aligned(labels[theirs], sounds[theirs], sounds[ours])
    assert found.tolist() == labels[ours].tolist()


def test_the_cheapest_way_through_is_taken() -> None:
    cost = np.ones((3, 4), np.float32)
    cost[[0, 1, 1, 2], [0, 1, 2, 3]] = 0
    assert other_voices.warped(cost) == [(2, 3), (1, 2), (1, 1), (0, 0)]


def test_readings_are_written_with_the_labels_of_the_default_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = next(reading for reading in other_voices.plan() if reading.split == "train")
    own = np.sin(np.arange(6 * FRAME) * 0.1).astype(np.float32) * 0.5
    labels = np.array([1, 2, 3, 4, 5, 6], np.uint8)
    shards = tmp_path / "speech" / "audio"
    speech_data.write_shard(shards / "0.npz", [Reading(text.text, DEFAULT_VOICE, "train", "caption")], [(own, labels)])

    class Speaker:
        def __init__(self, *given: object) -> None: ...

        def say(self, text: str, voice: str) -> np.ndarray:
            said.append((text, voice))
            return own

        def features(self, waves: list[np.ndarray]) -> list[np.ndarray]:
            return [np.eye(len(wave) // FRAME, 40).astype(np.float16) for wave in waves]

    said: list[tuple[str, str]] = []
    for name in ("Espeak", "Kokoro", "Teacher"):
        monkeypatch.setattr(other_voices, name, Speaker)
    monkeypatch.setattr(other_voices, "plan", lambda: [text])
    other_voices.synthesise(tmp_path)
    other_voices.synthesise(tmp_path)
    assert said == [(text.text, text.voice.partition(":")[2])]
    reading, samples, told = speech_data.read_labelled(tmp_path)[-1]
    assert reading == text
    assert len(samples) == len(told) * FRAME
    assert told[: len(labels)].tolist() == labels.tolist()


def test_a_changed_sound_keeps_its_length_and_bounds_and_some_stay_as_they_are() -> None:
    wave = np.sin(np.arange(50 * FRAME) * 0.3).astype(np.float32) * 0.9
    rng = np.random.default_rng(0)
    made = [speech_trainer.changed(wave, rng) for _ in range(40)]
    assert all(each.shape == wave.shape and each.dtype == np.float32 and np.abs(each).max() <= 1 for each in made)
    same = sum(np.array_equal(each, wave) for each in made)
    assert 8 < same < 32


def test_the_voice_that_is_spoken_with_is_heard_most() -> None:
    readings = [
        (Reading(str(number), voice, "train", "caption"), np.zeros(0, np.int16), np.zeros(0, np.uint8))
        for voice in (DEFAULT_VOICE, "rms")
        for number in range(2000)
    ]
    kept = [reading.voice for reading, _, _ in speech_trainer.balanced(readings)]
    assert kept.count(DEFAULT_VOICE) == speech_trainer.READINGS[DEFAULT_VOICE]
    assert kept.count("rms") == speech_trainer.FEWER_READINGS
