"""Reads folk tunes in ABC notation: title, dance type, metre, key and the melody of the first section.

A reader for the collections that the recipe uses (O'Neill, Ryan, Aird), not for all of ABC: one voice, grace notes and
ornaments left out, a chord is its highest note. Knows no instrument, no tempo and no sound.
"""

from __future__ import annotations

import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SHARPS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F": -1, "F#": 6, "C#": 7, "Bb": -2, "Eb": -3, "Ab": -4}
_MODES = {"maj": ("major", 0), "mix": ("mixolydian", -1), "dor": ("dorian", -2), "m": ("minor", -3)}
_KEY = re.compile(r"([A-G][#b]?)\s*([A-Za-z]*)")
_ACCIDENTALS = {"": None, "=": 0, "^": 1, "^^": 2, "_": -1, "__": -2}

# The dance types that captions name. Rarer words stand for the nearest of them; the order matters: first match wins.
_KINDS = (
    ("slip", "slip jig"), ("jig", "jig"), ("slide", "jig"), ("reel", "reel"), ("hornpipe", "hornpipe"),
    ("clog", "hornpipe"), ("strathspey", "strathspey"), ("fling", "strathspey"), ("waltz", "waltz"), ("march", "march"),
    ("quick step", "march"), ("polka", "polka"), ("minuet", "minuet"),
)  # fmt: skip

_TOKEN = re.compile(
    r"""(?P<skip>"[^"]*"|\{[^}]*\}|![^!]*!|%.*$|`)
      | (?P<ending>(?<=[|\[])\s*[12](?![\d:]))
      | (?P<repeat>:\||::|:\s*$)
      | (?P<field>\[[A-Zmr]:[^\]]*\])
      | (?P<bar>\|)
      | \((?P<tuplet>[2-9])(?::\d*){0,2}
      | (?P<broken>[<>]+)
      | (?P<tie>-)
      | (?P<chord>\[)(?=[\^_=A-Ga-gTuv.~]) | (?P<unchord>\])(?P<stretch>\d*(?:/\d*)*)
      | (?P<accidental>\^\^|\^|__|_|=)?(?P<note>[A-Ga-gzxZ])(?P<octave>[,']*)(?P<length>\d*(?:/\d*)*)
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Note:
    """One note: onset and duration in quarter notes, pitch as a MIDI number."""

    onset: float
    duration: float
    pitch: int


@dataclass(frozen=True, slots=True)
class Tune:
    """One tune. kind: a dance type ("reel", "waltz", "air" …). beat: quarter notes in a beat. pickup: quarter notes
    before the first bar line (0 where the tune starts on the bar). length: in quarter notes."""

    id: str
    title: str
    kind: str
    metre: str
    key: str
    beat: float
    pickup: float
    length: float
    notes: tuple[Note, ...]


def read_tunes(text: str, book: str) -> Iterator[Tune]:
    """Every tune of one ABC file that has a melody; `book` goes into the ids. Tunes that can't be read are left out."""
    if "=3D" in text or "=20\n" in text:  # mailed once, and never unpacked
        text = quopri.decodestring(text.encode()).decode("utf-8", "replace")
    for block in re.split(r"(?m)^(?=X:)", text)[1:]:
        tune = _read_tune(block, book)
        if tune is not None:
            yield tune


def _read_tune(block: str, book: str) -> Tune | None:
    header, _, body = _split(block)
    key_text = header.get("K", "")
    metre = _metre(header.get("M", ""))
    if not metre or not _KEY.match(key_text):
        return None
    key, signature = read_key(key_text)
    melody = _Melody(signature, _unit(header.get("L", ""), metre))
    melody.read(body)
    if len(melody.notes) < 12:
        return None
    title = header.get("T", "").split("--")[0].strip()
    kind = _kind(header, metre)
    beat = _beat(metre, melody.notes)
    name = f"{book}/{header.get('X', '').strip()}"
    return Tune(name, title, kind, metre, key, beat, max(0.0, melody.pickup), melody.time, tuple(melody.notes))


def _split(block: str) -> tuple[dict[str, str], str, str]:
    """The header's first value of each field, the key line, and the body after it."""
    found = re.search(r"(?m)^K:.*$", block)
    head, body = (block[: found.end()], block[found.end() :]) if found else (block, "")
    header: dict[str, str] = {}
    for letter, value in re.findall(r"(?m)^([A-Z]):(.*)$", head):
        header.setdefault(letter, value.split("%")[0].strip())
    return header, header.get("K", ""), body


def _metre(text: str) -> str:
    text = {"C": "4/4", "C|": "4/4"}.get(text, text)
    return text if text in ("2/4", "3/4", "4/4", "6/8", "9/8", "12/8", "3/8") else ""


def _unit(text: str, metre: str) -> float:
    """The length of a bare note letter, in quarter notes."""
    if not re.fullmatch(r"1/\d+", text):
        text = "1/16" if metre == "2/4" else "1/8"
    return 4 / int(text[2:])


def _kind(header: dict[str, str], metre: str) -> str:
    """The dance type: what the collection says, else what the metre makes of it, else an air (the books' own word)."""
    said = f"{header.get('R', '')} {header.get('T', '')}".lower()
    for word, kind in _KINDS:
        if re.search(rf"\b{word}", said) or (word == "slip" and "slipjig" in said):
            return kind
    return {"3/4": "waltz", "3/8": "waltz", "6/8": "jig", "9/8": "slip jig"}.get(metre, "air")


def _beat(metre: str, notes: list[Note]) -> float:
    """Quarter notes in a beat: three eighths where the metre is compound, else two notes of the common length."""
    if metre in ("6/8", "9/8", "12/8"):
        return 1.5
    if metre == "3/8":
        return 0.5
    return 0.5 if median(note.duration for note in notes) < 0.375 else 1.0


def read_key(text: str) -> tuple[str, dict[str, int]]:
    """The key's name ("E minor") and the accidental of each letter that it alters."""
    found = _KEY.match(text)
    if not found:
        return "C major", {}
    tonic, mode = found.groups()
    word, shift = next((value for start, value in _MODES.items() if mode.lower().startswith(start)), ("major", 0))
    sharps = _SHARPS.get(tonic, 0) + shift
    letters = "FCGDAEB"[:sharps] if sharps > 0 else "BEADGCF"[:-sharps]
    spoken = tonic.replace("#", " sharp").replace("b", " flat")
    return f"{spoken} {word}", dict.fromkeys(letters, 1 if sharps > 0 else -1)


@dataclass
class _Melody:
    """Walks the body up to its first repeat mark, collecting notes. Times are in quarter notes."""

    signature: dict[str, int]
    unit: float
    notes: list[Note] = field(default_factory=list)
    time: float = 0.0
    pickup: float = -1.0
    bar: dict[str, int] = field(default_factory=dict)
    triplet: tuple[int, float] = (0, 1.0)
    broken: float = 1.0
    tied: bool = False
    chord: bool = False
    last: float = 0.0

    def read(self, body: str) -> None:
        lines = [line for line in body.splitlines() if not re.match(r"[A-Za-z]:(?![|:])|%", line)]
        for match in _TOKEN.finditer("\n".join(lines)):
            if (match["repeat"] and self.time >= 8) or (match["ending"] or "").strip() == "2":
                return
            self._take(match)

    def _take(self, match: re.Match[str]) -> None:
        if match["note"]:
            self._note(match)
        elif match["bar"]:
            self.bar = {}
            self.pickup = self.time if self.pickup < 0 else self.pickup
        elif match["tuplet"]:
            count = int(match["tuplet"])
            self.triplet = (count, {2: 1.5, 3: 2 / 3, 4: 0.75}.get(count, 2 / count))
        elif match["broken"] and self.notes:
            self._break(match["broken"])
        elif match["tie"]:
            self.tied = True
        elif match["field"] and match["field"].startswith("[K:"):
            self.signature = read_key(match["field"][3:])[1]
        elif match["chord"] or match["unchord"]:
            self._bracket(bool(match["chord"]), _length(match["stretch"] or ""))

    def _note(self, match: re.Match[str]) -> None:
        duration = self.unit * _length(match["length"]) * self.broken
        self.broken = 1.0
        if self.triplet[0]:
            duration *= self.triplet[1]
            self.triplet = (self.triplet[0] - 1, self.triplet[1])
        if match["note"] not in "zxZ":
            self._sound(self._pitch(match), duration)
        self.last = duration
        if not self.chord:
            self.time += duration

    def _sound(self, pitch: int, duration: float) -> None:
        before = self.notes[-1] if self.notes else None
        if before and self.tied and before.pitch == pitch:
            self.notes[-1] = Note(before.onset, before.duration + duration, pitch)
        elif before and self.chord and before.onset == self.time:
            self.notes[-1] = Note(self.time, duration, max(before.pitch, pitch))
        else:
            self.notes.append(Note(self.time, duration, pitch))
        self.tied = False

    def _bracket(self, opening: bool, stretch: float) -> None:
        """Where a chord opens or closes; "[EG]2" stretches what its notes said."""
        if self.chord and not opening and self.notes:
            chord = self.notes[-1]
            self.notes[-1] = Note(chord.onset, chord.duration * stretch, chord.pitch)
            self.last *= stretch
            self.time += self.last
        self.chord = opening

    def _break(self, marks: str) -> None:
        """a>b dots the first and halves the second; a<b the other way round."""
        short = 0.5 ** len(marks)
        first, second = (2 - short, short) if marks[0] == ">" else (short, 2 - short)
        before = self.notes[-1]
        added = self.last * (first - 1)
        self.notes[-1] = Note(before.onset, before.duration + added, before.pitch)
        self.time += added
        self.broken = second

    def _pitch(self, match: re.Match[str]) -> int:
        letter = match["note"].upper()
        accidental = _ACCIDENTALS[match["accidental"] or ""]
        name = match["note"] + match["octave"]
        if accidental is not None:
            self.bar[name] = accidental
        altered = self.bar.get(name, self.signature.get(letter, 0))
        octave = (72 if match["note"].islower() else 60) + 12 * (name.count("'") - name.count(","))
        return octave + _STEPS[letter] + altered


def _length(text: str) -> float:
    """A length suffix as a factor: "3" 3, "/" 1/2, "//" 1/4, "3/2" 1.5."""
    whole, *parts = text.split("/")
    value = float(whole or 1)
    for part in parts:
        value /= float(part or 2) or 2.0
    return value
