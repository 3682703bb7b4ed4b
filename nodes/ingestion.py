"""ingest: bytes from outside -> a kept medium with its modality. The only way in for media, wherever they come from.

Knows no message and no id.
"""

from __future__ import annotations

from ..anygpt_model.errors import MediaError
from ..anygpt_model.media import Limits, probe, read_audio
from ..anygpt_model.values import Media, Modality, Part
from .ports import Blobs


def examine(data: bytes, limits: Limits, said: Modality | None = None) -> tuple[Modality, Media]:
    """What `data` is, nothing kept. said: the caller's word, which wins over the detector of speech and music.

    Raises MediaError for what is no picture or sound, too large, broken, or not what the caller says.
    """
    media = probe(data, limits)
    picture = media.mime.startswith("image/")
    if said is Modality.TEXT or (said is not None and picture != (said is Modality.IMAGE)):
        kind = "picture" if picture else "sound"
        raise MediaError(f"A {kind} ({media.mime}) came where {said} was said; name it as what it is.")
    if picture:
        return Modality.IMAGE, media
    return said or sound_modality(data, limits), media


def ingest(data: bytes, blobs: Blobs, limits: Limits, said: Modality | None = None) -> Part:
    """Keep `data`; the part that refers to it. Raises as `examine` does."""
    modality, media = examine(data, limits, said)
    return Part(modality, media=blobs.put(data, media))


def known_modality(media: Media, blobs: Blobs, limits: Limits) -> Modality:
    """The modality of a kept medium that nobody named."""
    if media.mime.startswith("image/"):
        return Modality.IMAGE
    return sound_modality(blobs.get(media.hash), limits)


def sound_modality(data: bytes, limits: Limits) -> Modality:
    """Speech or music, by a detector of voices."""
    from ..anygpt_model.sound_kind import sound_kind

    return sound_kind(*read_audio(data, limits))
