"""A voice prompt: a held-out sentence is to be said as somebody speaks; whose voice it is, Resemblyzer tells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ...values import Modality
from .. import speech_data
from ..judges import voice
from ..judges.bounds import Score
from .direction import Case, Made, Measure, Prompt, RoundTrip, asked, samples
from .sounds import SpokenWorld


class PromptedVoice:
    """Each case has a prompt by one voice of training, and another voice to be told from; both read other sentences.

    Chance judges a reply by another case's prompt.
    """

    name = "text → speech, prompted voice"
    measures = (Measure("cosine to the prompt's voice less to another", voice.NAME),)

    def __init__(self, world: SpokenWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """Held-out sentences, the voices in turn."""
        names = speech_data.TRAIN_VOICES
        texts = [text for text in self._world.held_out() if speech_data.DEFAULT_VOICE in self._world.recordings[text]]
        read = {name: [text for text in texts if name in self._world.recordings[text]] for name in names}
        found = []
        for number, text in enumerate(texts[:limit]):
            own, other = names[number % len(names)], names[(number + 1) % len(names)]
            spoken = [read[name][(number + 7) % len(read[name])] for name in (own, other)]
            heard = self._world.sound(spoken[0], own)
            prompt = Prompt(Modality.SPEECH, asked(Modality.TEXT, Modality.SPEECH, text), voice=heard)
            truth = {"text": text, "voice": own, "own": spoken[0], "other": spoken[1], "another": other}
            found.append(Case(f"{text}|as {own}", prompt, truth))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """How much nearer the reply's voice is to the prompt's than to the other one."""
        own = self._voices.vectors([self._world.sound(case.truth["own"], case.truth["voice"]) for case in cases])
        other = self._voices.vectors([self._world.sound(case.truth["other"], case.truth["another"]) for case in cases])
        said = self._voices.vectors([samples(sound, self._world.rate, voice.SAMPLE_RATE) for sound in made])
        return [voice.nearer(said, own, other)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """Another recording by the prompt's voice."""
        found: list[Made] = []
        for case in cases:
            name = case.truth["voice"]
            read = [text for text in self._world.held_out() if name in self._world.recordings[text]]
            sound = self._world.sound(next(text for text in read if text != case.truth["own"]), name)
            found.append(through(Modality.SPEECH, sound) if through else sound)
        return found

    @cached_property
    def _voices(self) -> voice.Voices:
        return voice.Voices()
