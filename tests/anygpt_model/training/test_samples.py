"""Samples of an evaluation, and the words of recordings that no training hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anyloom.anygpt_model.media import read_audio, read_image
from anyloom.anygpt_model.training import samples
from anyloom.anygpt_model.training.directions.direction import Case, Prompt
from anyloom.anygpt_model.training.real_recordings import _told
from anyloom.anygpt_model.values import Modality


def cases(to: Modality, count: int) -> list[Case]:
    return [Case(f"case {n}", Prompt(to, f"ask {n}")) for n in range(count)]


def test_made_pictures_stand_under_the_real_ones(tmp_path: Path) -> None:
    real = [np.full((8, 8, 3), 10 * n, np.uint8) for n in range(14)]
    made = [None, *(np.full((8, 8, 3), 10 * n + 5, np.uint8) for n in range(1, 14))]
    samples.write(tmp_path, "text → image", cases(Modality.IMAGE, 14), made, real, 0)
    drawn = read_image((tmp_path / "text-to-image.png").read_bytes())
    side = samples.SIDE
    assert drawn.shape == (4 * side, samples.ROW * side, 3)
    middles = drawn[side // 2 :: side, side // 2 :: side, 0].tolist()
    assert middles[0] == [10 * n for n in range(12)]
    assert middles[1] == [255, *(10 * n + 5 for n in range(1, 12))]
    assert middles[2] == [120, 130, *[255] * 10]
    assert (tmp_path / "text-to-image.txt").read_text().splitlines()[:2] == [
        "case 0\task 0\tnothing",
        "case 1\task 1\t8x8x3",
    ]


def test_sounds_are_files_and_texts_are_lines(tmp_path: Path) -> None:
    wave = np.sin(np.arange(800) / 9).astype(np.float32) / 2
    samples.write(tmp_path, "text → music", cases(Modality.MUSIC, 9), [wave] * 9, [None] * 9, 8000)
    assert len(list(tmp_path.glob("text-to-music-*.wav"))) == samples.SOUNDS
    heard, rate = read_audio((tmp_path / "text-to-music-1.wav").read_bytes())
    assert (rate, len(heard)) == (8000, 800)
    samples.write(tmp_path, "music → text", cases(Modality.TEXT, 1), ["a slow jig"], [None], 0)
    assert (tmp_path / "music-to-text.txt").read_text() == "case 0\task 0\ta slow jig\n"


def test_what_is_told_in_brackets_is_no_speech() -> None:
    lines = ["; Sounds", "", "beep: [a tone]", "hello: Hello.", "digits/1: one", "ascending: <tones>", "no colon"]
    assert dict(_told(lines)) == {"hello": "Hello.", "digits/1": "one"}
