"""Speaking, listening, answering aloud: held-out sentences and questions, judged by Whisper's transcript."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...values import Modality
from .. import real_recordings, sentences, speech_data
from ..judges import whisper
from ..judges.bounds import Score
from ..judges.words import same_words, told, word_errors
from .direction import Case, Made, Measure, Prompt, RoundTrip, asked, frozen_order, samples

Sound = NDArray[np.float32]
LONGEST_S = 6.0
"""Seconds of a recording."""


class SpokenWorld:
    """What was read aloud so far, by text and voice, and one ear for all; shared by the three directions."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.rate = speech_data.SAMPLE_RATE
        self.recordings: dict[str, dict[str, NDArray[np.int16]]] = {}
        for reading, sound in speech_data.read_shards(work):
            self.recordings.setdefault(reading.text, {})[reading.voice] = sound

    @cached_property
    def ear(self) -> whisper.Ear:
        """Whisper base; what it heard once is kept beside the data."""
        import torch

        memory = self.work / "judged/whisper.json"
        return whisper.Ear(self.work / "downloads", torch.get_num_threads(), memory)

    def held_out(self) -> list[str]:
        """The held-out texts that were read aloud, in frozen order."""
        texts = [utterance.text for utterance in sentences.utterances() if utterance.split == "test"]
        return frozen_order([text for text in texts if text in self.recordings])

    def voice(self, text: str, voices: Sequence[str] = speech_data.TRAIN_VOICES) -> str:
        """Which of `voices` reads `text`. KeyError if none does."""
        reading = [name for name in voices if name in self.recordings[text]]
        if not reading:
            raise KeyError(text)
        return frozen_order([f"{name}|{text}" for name in reading])[0].partition("|")[0]

    def read_by(self, voices: Sequence[str] = speech_data.TRAIN_VOICES) -> list[str]:
        """The held-out texts that one of `voices` has read."""
        return [text for text in self.held_out() if not self.recordings[text].keys().isdisjoint(voices)]

    def sound(self, text: str, voice: str) -> Sound:
        """float32 [samples] of a recording."""
        return self.recordings[text][voice].astype(np.float32) / np.float32(32768)

    def heard(self, sounds: Sequence[Made]) -> list[str]:
        """What the ear hears in made sounds."""
        return self.ear.transcripts([samples(sound, self.rate, whisper.SAMPLE_RATE) for sound in sounds])


class TextToSpeech:
    """A held-out sentence is to be spoken; Whisper writes down what it hears."""

    name = "text → speech"
    measures = (Measure("word errors", whisper.NAME, lower=True), Measure("whole sentences", whisper.NAME))

    def __init__(self, world: SpokenWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """Held-out sentences."""
        found = []
        for text in self._world.read_by()[:limit]:
            prompt = Prompt(Modality.SPEECH, asked(Modality.TEXT, Modality.SPEECH, text))
            found.append(Case(text, prompt, {"text": text, "voice": speech_data.DEFAULT_VOICE}))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Word error rate, and the share of sentences heard without error."""
        expected, heard = [case.truth["text"] for case in cases], self._world.heard(made)
        return [word_errors(expected, heard), same_words(expected, heard)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """The recordings."""
        return _recordings(self._world, cases, through)


class CodecAlone(TextToSpeech):
    """A held-out recording through the codec's eight levels, none guessed: what speaking could reach at best."""

    name = "speech codec, all levels"

    def cases(self, limit: int) -> list[Case]:
        """Held-out sentences by the voice that replies are spoken in."""
        voice, found = speech_data.DEFAULT_VOICE, []
        for text in self._world.read_by((voice,))[:limit]:
            sound = self._world.sound(text, voice)
            prompt = Prompt(Modality.SPEECH, media=sound, modality=Modality.SPEECH, codec_alone=True)
            found.append(Case(f"{text}|codec", prompt, {"text": text, "voice": voice}))
        return found


class SpeechToText:
    """A held-out sentence is played; the model writes it down. The ceiling is what Whisper writes of the same sound."""

    def __init__(self, world: SpokenWorld, voices: Sequence[str] = speech_data.TRAIN_VOICES, whose: str = "") -> None:
        """voices: who reads. whose: what the table calls them."""
        self._world, self._voices = world, voices
        self.name = ", ".join(filter(None, ("speech → text", whose)))
        self.measures = (
            Measure("word errors", "edit distance", lower=True),
            Measure("whole sentences", "edit distance"),
        )

    def cases(self, limit: int) -> list[Case]:
        """Held-out sentences, read by one of the voices."""
        found = []
        for text in self._world.read_by(self._voices)[:limit]:
            voice = self._world.voice(text, self._voices)
            ask = asked(Modality.SPEECH, Modality.TEXT)
            prompt = Prompt(Modality.TEXT, ask, self._world.sound(text, voice), Modality.SPEECH)
            found.append(Case(f"{text}|{voice}", prompt, {"text": text, "voice": voice}))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Word error rate, and the share of sentences written without error."""
        expected = [case.truth["text"] for case in cases]
        written = [text if isinstance(text, str) else "" for text in made]
        return [word_errors(expected, written), same_words(expected, written)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """Whisper's transcripts."""
        return list(self._world.heard(_recordings(self._world, cases, through)))


class RealRecordings(SpeechToText):
    """What a person said on a telephone exchange is to be written down, in words that training never had."""

    def __init__(self, world: SpokenWorld) -> None:
        super().__init__(world, whose="real recordings")

    def cases(self, limit: int) -> list[Case]:
        """Recordings of at least three words and at most LONGEST_S."""
        texts, files = real_recordings.spoken(self._world.work), real_recordings.files(self._world.work)
        names = [name for name, text in texts.items() if name in files and len(text.split()) >= 3]
        found: list[Case] = []
        for name in frozen_order(names):
            if len(found) == limit:
                break
            sound = real_recordings.sound(files[name])
            if len(sound) <= LONGEST_S * real_recordings.SAMPLE_RATE:
                heard = samples(sound, real_recordings.SAMPLE_RATE, self._world.rate)
                prompt = Prompt(Modality.TEXT, asked(Modality.SPEECH, Modality.TEXT), heard, Modality.SPEECH)
                found.append(Case(f"recording {name}", prompt, {"text": texts[name]}))
        return found

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """Whisper's transcripts."""
        sounds = [case.prompt.media for case in cases]
        return list(
            self._world.heard([through(Modality.SPEECH, s) if through and s is not None else s for s in sounds])
        )


class SpokenAnswer:
    """A held-out question is asked aloud; the spoken answer is heard by Whisper and compared with the right answer."""

    name = "spoken question → spoken answer"
    measures = (
        Measure("word errors", whisper.NAME, lower=True),
        Measure("whole answers", whisper.NAME),
        Measure("what was asked is told", whisper.NAME),
    )

    def __init__(self, world: SpokenWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """Held-out questions that were read aloud and whose answer was, too."""
        recorded = set(self._world.read_by())
        pairs = {q: a for q, a, _ in sentences.test_pairs() if q in recorded and a in self._world.recordings}
        found = []
        for question in frozen_order(list(pairs))[:limit]:
            voice, answer = self._world.voice(question), pairs[question]
            sound = self._world.sound(question, voice)
            prompt = Prompt(Modality.SPEECH, media=sound, modality=Modality.SPEECH)
            truth = {"text": answer, "voice": speech_data.DEFAULT_VOICE, "question": question}
            found.append(Case(f"{question}|{voice}", prompt, truth))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Word error rate against the right answer; the shares of answers right word for word, and of those that hold
        every word that the question has not."""
        expected, heard = [case.truth["text"] for case in cases], self._world.heard(made)
        questions = [case.truth["question"] for case in cases]
        return [word_errors(expected, heard), same_words(expected, heard), told(questions, expected, heard)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """Recordings of the right answers."""
        return _recordings(self._world, cases, through)


def _recordings(world: SpokenWorld, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
    sounds = [world.sound(case.truth["text"], case.truth["voice"]) for case in cases]
    return [through(Modality.SPEECH, sound) if through else sound for sound in sounds]
