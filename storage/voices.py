"""Named voices: a recording and, in words, the consent of whoever speaks in it. Knows no codec."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from ..anygpt_model.errors import InputError, UnknownName
from ..anygpt_model.values import Media
from .database import Database
from .media import MediaShelf
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
            connection.execute(delete(VoiceRow).where(VoiceRow.name == name))
            values = {"name": name, "media": kept.hash, "consent": consent, "created": now()}
            connection.execute(insert(VoiceRow), values)
            connection.execute(update(MediaRow).where(MediaRow.hash == kept.hash).values(refs=MediaRow.refs + 1))
            if before is not None:
                connection.execute(update(MediaRow).where(MediaRow.hash == before).values(refs=MediaRow.refs - 1))
        return kept

    def remove(self, name: str, untouched_since: float) -> None:
        """Erase a voice; its recording too, unless something else refers to it. Raises UnknownName."""
        recording = self.voice(name)
        with self._database.writing() as connection:
            if connection.execute(delete(VoiceRow).where(VoiceRow.name == name)).rowcount:
                connection.execute(
                    update(MediaRow).where(MediaRow.hash == recording.hash).values(refs=MediaRow.refs - 1)
                )
        self._media.sweep([recording.hash], untouched_since)

    def all(self) -> list[Voice]:
        """Every saved voice, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(VoiceRow.__table__).order_by(VoiceRow.name)).all()
        return [Voice(row.name, self._media.describe(row.media), row.consent, row.created) for row in rows]
