"""Named voices: a recording and, in words, the consent of whoever speaks in it. Knows no codec."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from ..anygpt_model.errors import InputError, UnknownName
from ..anygpt_model.values import Media
from .database import Database
from .media import MediaShelf, describe
from .rows import now
from .tables import MediaRow, VoiceRow


@dataclass(frozen=True, slots=True)
class Voice:
    """A saved voice. consent: who agreed to what, as the user wrote it down. created: ISO 8601, UTC."""

    name: str
    media: Media
    consent: str
    created: str


class VoiceTable:
    """The voices of one store."""

    def __init__(self, database: Database, media: MediaShelf) -> None:
        self._database = database
        self._media = media

    def voice(self, name: str) -> Media:
        """The recording of a saved voice. Raises UnknownName."""
        with self._database.reading() as connection:
            found = connection.scalar(select(VoiceRow.media).where(VoiceRow.name == name))
            known = connection.scalars(select(VoiceRow.name).order_by(VoiceRow.name).limit(10)).all()
        if found is None:
            saved = f"those saved begin with {', '.join(known)}" if known else "none is saved yet"
            raise UnknownName(f"There is no voice named {name!r}; {saved}.")
        return self._media.describe(found)

    def save(self, name: str, data: bytes, media: Media, consent: str) -> Media:
        """Save a recording under `name`, in place of an earlier one. Raises InputError without a consent note."""
        if not name.strip() or not consent.strip():
            raise InputError("A voice takes a name and a note of the speaker's consent; give both.")
        kept = self._media.put(data, media)
        with self._database.writing() as connection:
            before = connection.scalar(select(VoiceRow.media).where(VoiceRow.name == name))
            if before is not None:
                connection.execute(delete(VoiceRow).where(VoiceRow.name == name))
                _count(connection, before, -1)
            _insert(connection, name, kept.hash, consent, now())
        return kept

    def link(self, name: str, media: str, consent: str, created: str) -> bool:
        """Save a kept medium as a voice, as an import does; False if there is a voice of that name."""
        with self._database.writing() as connection:
            if connection.scalar(select(VoiceRow.name).where(VoiceRow.name == name)) is not None:
                return False
            _insert(connection, name, media, consent, created)
            return True

    def remove(self, name: str, untouched_since: float) -> None:
        """Erase a voice; its recording too, unless something else refers to it. Raises UnknownName."""
        recording = self.voice(name)
        with self._database.writing() as connection:
            if connection.execute(delete(VoiceRow).where(VoiceRow.name == name)).rowcount:
                _count(connection, recording.hash, -1)
        self._media.sweep([recording.hash], untouched_since)

    def all(self) -> list[Voice]:
        """Every saved voice, by name."""
        with self._database.reading() as connection:
            return saved(connection)


def saved(connection: Connection) -> list[Voice]:
    """Every saved voice, by name."""
    rows = connection.execute(select(VoiceRow.__table__)).all()
    voices = [Voice(row.name, describe(connection, row.media), row.consent, row.created) for row in rows]
    return sorted(voices, key=lambda voice: voice.name)


def _insert(connection: Connection, name: str, media: str, consent: str, created: str) -> None:
    values = {"name": name, "media": media, "consent": consent, "created": created}
    connection.execute(insert(VoiceRow), values)
    _count(connection, media, 1)


def _count(connection: Connection, media: str, more: int) -> None:
    connection.execute(update(MediaRow).where(MediaRow.hash == media).values(refs=MediaRow.refs + more))
