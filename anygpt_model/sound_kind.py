"""Is a sound speech or music? A detector of voices (silero-vad, from its package, offline) looks at each 32 ms.

Of the chunks that sound at all, the share that hold a voice decides: pauses and silence at the ends don't count. But
reeds sound like a voice to the detector: what goes on as evenly as no talker does, is music. What is no speech is
called music, for a sound has to be one of the two. Knows no file and no codec.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .media import resample
from .values import Modality

SAMPLE_RATE = 16_000
CHUNK = 512
LONGEST_S = 30.0
"""Only so much of the beginning is listened to: what a sound is shows early, and an hour would take a minute."""
VOICED = 0.5
"""Probability from which a chunk counts as voice, as the detector's authors have it."""
SPEECH_SHARE = 0.25
"""Between what was measured: music stays below but for reeds, speech above (docs/agents.md has the numbers)."""
SOUNDING = 0.01
"""Of the loudest chunk's level: below it (-40 dB) a chunk is a pause."""
EVEN = 0.65
"""Evenness from which a voice is an instrument's: talkers stay below 0.60, reeds that pass for one above 0.70."""
WINDOW, HOP, APART = 1024, 256, 4
"""Samples of a spectrum and between two; spectra so many apart (64 ms) are compared: a note lasts, a vowel glides."""
BINS = slice(4, 257)
"""62 to 4000 Hz."""
LOUD = 0.03
"""Of the loudest spectrum's level: quieter ones (-30 dB) are compared with none."""
SHORTEST_S = 0.5
"""Less tells nothing of evenness."""

_listening = Lock()

Samples = NDArray[np.float32]


def sound_kind(samples: Samples, rate: int) -> Modality:
    """Modality.SPEECH or Modality.MUSIC of float32 [samples] at `rate`; the same sound always gets the same answer."""
    heard = resample(np.asarray(samples[: round(LONGEST_S * rate)], np.float32), rate, SAMPLE_RATE)
    speech = voiced_share(heard) >= SPEECH_SHARE and evenness(heard) < EVEN
    return Modality.SPEECH if speech else Modality.MUSIC


def voiced_share(heard: Samples) -> float:
    """Of float32 [samples] at SAMPLE_RATE: the share 0..1 of the sounding chunks that hold a voice; 0 for silence."""
    heard = np.pad(heard, (0, -len(heard) % CHUNK))
    levels = np.sqrt(np.mean(heard.reshape(-1, CHUNK).astype(np.float64) ** 2, axis=1))
    sounding = levels > SOUNDING * levels.max(initial=0.0)
    if not sounding.any():
        return 0.0
    return float(np.mean(_voice_probabilities(heard)[sounding] > VOICED))


def evenness(heard: Samples) -> float:
    """How like its spectra 64 ms apart are, at most 1, less twice the share of quiet moments; 0 for what is too short.

    heard: float32 [samples] at SAMPLE_RATE.
    """
    if len(heard) < SHORTEST_S * SAMPLE_RATE:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(heard, WINDOW)[::HOP] * np.hanning(WINDOW).astype(np.float32)
    spectra = np.abs(np.fft.rfft(frames, axis=1))[:, BINS]
    levels = np.sqrt((spectra**2).sum(axis=1))
    sounding = levels > LOUD * levels.max()
    both = sounding[:-APART] & sounding[APART:]
    if not both.any():
        return 0.0
    shapes = np.log(spectra / spectra.max() + 1e-3)
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.sqrt((shapes**2).sum(axis=1, keepdims=True)) + 1e-9
    likeness = np.median((shapes[:-APART] * shapes[APART:]).sum(axis=1)[both])
    first, last = np.flatnonzero(sounding)[[0, -1]]
    within = levels[first : last + 1]
    return float(likeness - 2 * np.mean(within < within.mean() / 2))


def _voice_probabilities(heard: Samples) -> NDArray[np.float32]:
    """float32 [chunks] of samples at SAMPLE_RATE in whole chunks."""
    import torch

    with _listening, torch.inference_mode():  # the network carries state from chunk to chunk
        detector = _detector()
        detector.reset_states()
        found: NDArray[np.float32] = detector.audio_forward(torch.from_numpy(heard)[None], SAMPLE_RATE)[0].numpy()
    return found


@cache
def _detector() -> Any:
    """The network, from the package's file: importing the package itself sets the whole process to one thread."""
    from importlib.util import find_spec

    import torch

    package = find_spec("silero_vad")
    file = Path(package.origin).parent / "data/silero_vad.jit" if package and package.origin else None
    if file is None or not file.exists():
        raise CheckpointError("Telling speech from music needs the package silero-vad; install it or say which it is.")
    load: Any = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, the form in which the detector is shipped
        return load(str(file), map_location="cpu").eval()
