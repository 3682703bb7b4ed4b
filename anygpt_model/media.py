"""Media bytes <-> arrays, with limits: the only place where bytes that came from outside are parsed.

What a file is, its bytes say, never its name. Size, pixels and seconds are checked from the header before anything is
decoded, and whatever a decoder thinks of a broken file becomes one MediaError. Knows no modality, no codec, no storage.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import MediaError
from .values import Media

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
SOUNDS = {"audio/wav": "WAV", "audio/flac": "FLAC", "audio/ogg": "OGG", "audio/mpeg": "MP3"}
TAKEN = "pictures (PNG, JPEG, WebP) and sounds (WAV, FLAC, OGG, MP3) are taken"

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before it is decoded: a file's bytes, a picture's pixels, a sound's seconds, channels, rate."""

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 64_000_000
    max_seconds: float = 600.0
    max_channels: int = 32
    min_rate: int = 4_000
    max_rate: int = 192_000


DEFAULT_LIMITS = Limits()


def sniff(data: bytes) -> str:
    """The media type that the first bytes tell: a key of PICTURES or SOUNDS. Raises MediaError for anything else."""
    if not data:
        raise MediaError(f"The file is empty; {TAKEN}.")
    for mime, found in (
        ("image/png", data.startswith(b"\x89PNG\r\n\x1a\n")),
        ("image/jpeg", data.startswith(b"\xff\xd8\xff")),
        ("image/webp", data.startswith(b"RIFF") and data[8:12] == b"WEBP"),
        ("audio/wav", data.startswith(b"RIFF") and data[8:12] == b"WAVE"),
        ("audio/flac", data.startswith(b"fLaC")),
        ("audio/ogg", data.startswith(b"OggS")),
        ("audio/mpeg", data.startswith(b"ID3") or _is_mp3_frame(data)),
    ):
        if found:
            return mime
    what = "text" if _is_text(data[:512]) else "of no known kind"
    raise MediaError(f"The file's content is {what}, whatever its name says; {TAKEN}.")


def probe(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Media:
    """What a file is, decoded once: hashes, type, size, and width and height, or duration and rate.

    Raises MediaError as read_image and read_audio do.
    """
    mime, file_hash = sniff(data), _sha256(data)
    if mime in PICTURES:
        pixels = read_image(data, limits)
        height, width = pixels.shape[:2]
        return Media(file_hash, image_hash(pixels), mime, len(data), width=width, height=height)
    samples, rate = read_audio(data, limits)
    content = audio_hash(samples, rate)
    return Media(file_hash, content, mime, len(data), duration=len(samples) / rate, sample_rate=rate)


def read_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Pixels:
    """uint8 [height, width, 3] RGB: turned as its EXIF says, transparency laid on white; an animation's first frame.

    Raises MediaError for what is no whole PNG, JPEG or WebP, or is larger than `limits`.
    """
    mime = _admitted(data, limits, PICTURES, "picture")
    with _broken(f"The {PICTURES[mime]} picture"):
        from PIL import Image, ImageOps

        try:
            picture = Image.open(BytesIO(data), formats=(PICTURES[mime],))
        except Image.DecompressionBombError:
            raise MediaError(f"The picture is far too large; at most {limits.max_pixels:,} pixels are taken.") from None
        _check_pixels(picture.size, limits)
        return _rgb(ImageOps.exif_transpose(picture))


def read_audio(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Samples, int]:
    """float32 [samples] in -1..1, channels averaged, and the sample rate that the file has.

    Raises MediaError for what is no whole WAV, FLAC, OGG or MP3, holds no samples or not-a-number samples, or is longer
    than `limits`.
    """
    mime = _admitted(data, limits, SOUNDS, "sound")
    if mime == "audio/wav":
        _check_wav(data)
    with _broken(f"The {SOUNDS[mime]} sound"):
        import soundfile

        with soundfile.SoundFile(BytesIO(data)) as sound:
            rate = int(sound.samplerate)
            _check_sound(sound.frames, rate, sound.channels, limits)
            return _mono(sound, rate, limits), rate


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """`samples` at `rate` brought to `target` samples a second.

    The filter grows with the reduced ratio of the rates, so odd ones are taken as the nearest ratio with a denominator
    up to 1,000 (a detune of under a thousandth; all usual rates are exact).
    """
    if rate == target:
        return samples
    import torch
    from torchaudio.functional import resample as filtered

    ratio = Fraction(target, rate).limit_denominator(1000)
    made = filtered(torch.from_numpy(np.ascontiguousarray(samples)), ratio.denominator, ratio.numerator)
    return np.asarray(made.numpy(), np.float32)


def write_png(pixels: Pixels) -> bytes:
    """A PNG of uint8 [height, width, 3]; the same pixels give the same bytes."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), "RGB").save(out, "PNG", compress_level=6)
    return out.getvalue()


def write_wav(samples: Samples, rate: int) -> bytes:
    """A 16-bit mono WAV of float32 [samples] in -1..1; the same samples give the same bytes."""
    body = _pcm16(samples).tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return header + struct.pack("<4sI", b"data", len(body)) + body


def image_hash(pixels: Pixels) -> str:
    """ "sha256:…" over height, width and pixels: two encodings of the same picture compare equal."""
    return _sha256(struct.pack("<II", *pixels.shape[:2]) + np.ascontiguousarray(pixels).tobytes())


def audio_hash(samples: Samples, rate: int) -> str:
    """ "sha256:…" over the rate and the samples as 16-bit PCM."""
    return _sha256(struct.pack("<I", rate) + _pcm16(samples).tobytes())


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _pcm16(samples: Samples) -> NDArray[np.int16]:
    """Reading divides by 32,768, so this multiplies by it: what was read is written as it was."""
    return np.clip(np.round(np.asarray(samples, np.float64) * 32768), -32768, 32767).astype("<i2")


def _is_mp3_frame(data: bytes) -> bool:
    """A frame of MPEG audio layer III: sync, a version and a bit rate that exist."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return False
    return data[1] & 0x18 != 0x08 and data[1] & 0x06 == 0x02 and data[2] & 0xF0 not in (0x00, 0xF0)


def _is_text(start: bytes) -> bool:
    return b"\0" not in start and not np.frombuffer(start, np.uint8).max(initial=0) > 0xF4


def _admitted(data: bytes, limits: Limits, kinds: dict[str, str], wanted: str) -> str:
    """The media type, if the file is one of `kinds` and not too large."""
    if len(data) > limits.max_bytes:
        raise MediaError(f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are taken.")
    mime = sniff(data)
    if mime not in kinds:
        raise MediaError(f"A file of type {mime} came where a {wanted} is wanted; give {', '.join(kinds.values())}.")
    return mime


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Whatever a decoder raises over hostile bytes (its own errors, and many of Python's) becomes one MediaError."""
    try:
        yield
    except MediaError:
        raise
    except Exception as broken:
        reason = " ".join(str(broken).split()).rstrip(".")[:120] or type(broken).__name__
        if " object at 0x" in reason:  # Pillow names what it was given by its place in memory
            reason = "nothing can be read from it"
        raise MediaError(f"{what} is broken or cut short ({reason}); export it again.") from broken


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if not 0 < width * height <= limits.max_pixels:
        raise MediaError(
            f"The picture has {width:,} x {height:,} pixels; between 1 and {limits.max_pixels:,} in all are taken."
        )


def _rgb(picture: Image) -> Pixels:
    """uint8 [height, width, 3] of a picture of any mode."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits of grey, which PIL's own conversion would clip at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        picture = Image.alpha_composite(white, over)
    return np.array(picture.convert("RGB"), np.uint8)


def _check_wav(data: bytes) -> None:
    """A WAV's header against the bytes that are there: decoders read what there is and say nothing."""
    at, fields = 12, None
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"fmt " and size >= 16 and at + 24 <= len(data):
            fields = struct.unpack_from("<HHIIHH", data, at + 8)
        if name == b"data":
            return _check_wav_data(size, len(data) - at - 8, fields)
        at += 8 + size + size % 2
    raise MediaError("The WAV sound has no samples: its header names no data; export it again.")


def _check_wav_data(size: int, there: int, fields: tuple[Any, ...] | None) -> None:
    if size == 0:
        raise MediaError("The WAV sound has no samples; give a recording that has some.")
    if size > there:
        raise MediaError(f"The WAV sound's header claims {size:,} bytes of samples, but {there:,} are there.")
    if fields is None:
        raise MediaError("The WAV sound's header doesn't say what its samples are; export it again.")
    _, channels, rate, byte_rate, block, bits = fields
    if not (channels and rate and block) or byte_rate != rate * block or block * 8 < channels * bits:
        raise MediaError(
            f"The WAV sound's header contradicts itself ({channels} channels, {rate:,} Hz, {bits} bits, {block} bytes "
            f"a frame, {byte_rate:,} a second); export it again."
        )


def _check_sound(frames: int, rate: int, channels: int, limits: Limits) -> None:
    if not limits.min_rate <= rate <= limits.max_rate:
        raise MediaError(f"The sound has {rate:,} samples a second; {limits.min_rate:,}-{limits.max_rate:,} are taken.")
    if channels > limits.max_channels:
        raise MediaError(f"The sound has {channels} channels; at most {limits.max_channels} are taken.")
    if frames > limits.max_seconds * rate:
        raise MediaError(f"The sound lasts {frames / rate:,.0f} seconds; at most {limits.max_seconds:,.0f} are taken.")
    if frames <= 0:
        raise MediaError("The sound has no samples; give a recording that has some.")


def _mono(sound: Any, rate: int, limits: Limits) -> Samples:
    """Reads second by second: a header that promises too much can't make us reserve it, nor go on past the limit."""
    pieces: list[Samples] = []
    for block in sound.blocks(blocksize=rate, dtype="float32", always_2d=True):
        if len(pieces) > limits.max_seconds:
            raise MediaError(f"The sound goes on after {limits.max_seconds:,.0f} seconds, which is all that is taken.")
        pieces.append(block.mean(axis=1, dtype=np.float32))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if not len(samples):
        raise MediaError("The sound has no samples; give a recording that has some.")
    if not np.isfinite(samples).all():
        raise MediaError("The sound has samples that are no numbers (NaN or infinite); export it again.")
    return np.clip(samples, -1, 1)
