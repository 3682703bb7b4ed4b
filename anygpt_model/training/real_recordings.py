"""Telephone prompts that a person recorded, and their words: real speech, which no training hears.

Debian's asterisk-core-sounds-en (the words) and -g722 (the sounds, at 16 kHz), CC-BY-SA-3.0. Knows no model.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .downloads import debian_package

VERSION = "1.6.1-1"
VOICE = "en_US_f_Allison"
SAMPLE_RATE = 16_000


def files(work: Path) -> dict[str, Path]:
    """Every recording by its name ("digits/1"), in the order of names; what is only silence is left out."""
    folder = debian_package("asterisk-core-sounds-en-g722", VERSION, work / "downloads")
    found = sorted(folder.rglob("*.g722"))
    named = {file.with_suffix("").as_posix().partition(f"{VOICE}/")[2]: file for file in found}
    return {name: file for name, file in named.items() if not name.startswith("silence/")}


def sound(file: Path) -> NDArray[np.float32]:
    """float32 [samples] of a recording."""
    import av

    with av.open(str(file), format="g722") as opened:
        frames = [np.ravel(frame.to_ndarray()) for frame in opened.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / np.float32(32768)


def spoken(work: Path) -> dict[str, str]:
    """What is said in each recording, by name; noises and tones, which are told in brackets, are left out."""
    folder = debian_package("asterisk-core-sounds-en", VERSION, work / "downloads")
    lines = gzip.decompress(next(folder.rglob("core-sounds-en.txt.gz")).read_bytes()).decode("utf-8").splitlines()
    return dict(_told(lines))


def _told(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, text = line.partition(": ")
        if colon and not line.startswith(";") and not set(text) & set("[(<"):
            yield name.strip(), text.strip()
