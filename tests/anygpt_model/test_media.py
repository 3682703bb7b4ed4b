"""Media are read by content and within limits; whatever is broken is refused in one sentence."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anyloom.anygpt_model.errors import MediaError
from anyloom.anygpt_model.media import (
    Limits,
    audio_hash,
    image_hash,
    probe,
    read_audio,
    read_image,
    resample,
    sniff,
    write_png,
    write_wav,
)

RATE = 16_000


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, 255 - across], -1).astype(np.uint8)


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def image_file(kind: str, image: Image.Image | None = None, **how: Any) -> bytes:
    out = BytesIO()
    (image or Image.fromarray(picture())).save(out, kind, **how)
    return out.getvalue()


def sound_file(kind: str, samples: np.ndarray | None = None, rate: int = RATE, **how: Any) -> bytes:
    out = BytesIO()
    soundfile.write(out, tone() if samples is None else samples, rate, format=kind, **how)
    return out.getvalue()


IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
SOUNDS = {"audio/wav": "WAV", "audio/flac": "FLAC", "audio/ogg": "OGG", "audio/mpeg": "MP3"}


@pytest.mark.parametrize(("mime", "kind"), IMAGES.items())
def test_pictures_of_every_type(mime: str, kind: str) -> None:
    data = image_file(kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = read_image(data)
    assert sniff(data) == mime
    assert (pixels.shape, pixels.dtype) == ((24, 40, 3), np.uint8)
    assert np.abs(pixels.astype(int) - picture()).mean() < (4 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize(("mime", "kind"), SOUNDS.items())
def test_sounds_of_every_type(mime: str, kind: str) -> None:
    data = sound_file(kind)
    samples, rate = read_audio(data)
    assert sniff(data) == mime
    assert (rate, samples.dtype, samples.ndim) == (RATE, np.float32, 1)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.354, abs=0.03)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(image_file("PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(picture(), -1))


def test_transparency_is_laid_on_white() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 20, 30, 255)
    pixels = read_image(image_file("PNG", Image.fromarray(clear)))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert read_image(image_file("PNG", Image.fromarray(picture()).convert(mode))).shape == (24, 40, 3)


def test_palette_with_a_transparent_colour_is_laid_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putdata([0, 1])
    assert read_image(image_file("PNG", palette, transparency=0)).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = read_image(image_file("PNG", Image.fromarray(grey)))
    assert np.array_equal(pixels[..., 0], grey >> 8)


def test_cmyk_jpeg() -> None:
    assert read_image(image_file("JPEG", Image.fromarray(picture()).convert("CMYK"))).shape == (24, 40, 3)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = image_file("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(data)[0, 0].tolist() == [255, 0, 0]


def test_channels_are_averaged() -> None:
    left = tone()
    samples, _ = read_audio(sound_file("WAV", np.stack([left, np.zeros_like(left)], 1), subtype="FLOAT"))
    assert np.allclose(samples, left / 2, atol=1e-6)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels are one short row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def lying_flac(seconds: int) -> bytes:
    """A FLAC whose STREAMINFO claims more samples than it has."""
    data = bytearray(sound_file("FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    data[18:26] = ((packed >> 36 << 36) | (seconds * RATE)).to_bytes(8, "big")
    return bytes(data)


def wav(samples: bytes = b"\0\1" * 800, **fields: int) -> bytes:
    f = {"format": 1, "channels": 1, "rate": RATE, "block": 2, "bits": 16, "size": len(samples)} | fields
    byte_rate = f.get("byte_rate", f["rate"] * f["block"])
    format_ = struct.pack("<HHIIHH", f["format"], f["channels"], f["rate"], byte_rate, f["block"], f["bits"])
    body = b"WAVEfmt " + struct.pack("<I", 16) + format_ + b"data" + struct.pack("<I", f["size"]) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_plain_wav_made_by_hand_is_taken() -> None:
    assert len(read_audio(wav())[0]) == 800


NAN = np.array([0.0, np.nan, 0.5] * 100, np.float32)
REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "is empty"),
    ("text", lambda: b"I am a text that is named .png, and no picture.", "content is text"),
    ("unknown", lambda: b"\0\1\2\3" * 20, "no known kind"),
    ("gif", lambda: image_file("GIF"), "are taken"),
    ("cut jpeg", lambda: image_file("JPEG")[:-200], "broken or cut short"),
    ("cut png", lambda: image_file("PNG")[:-60], "broken or cut short"),
    ("png of nothing", lambda: image_file("PNG")[:8] + b"xx", "cut short (nothing can be read from it)"),
    ("30,000 x 30,000", lambda: huge_png(30_000, 30_000), "pixels are taken"),
    ("9,000 x 9,000", lambda: huge_png(9_000, 9_000), "9,000 x 9,000 pixels"),
    ("no samples", lambda: wav(b""), "no samples"),
    ("only a header", lambda: wav()[:30], "no samples"),
    ("claims too much", lambda: wav(size=90_000), "claims 90,000 bytes of samples, but 1,600 are there"),
    ("claims all there is", lambda: wav(size=0xFFFFFFFF), "claims"),
    ("cut wav", lambda: sound_file("WAV")[:-100], "claims"),
    ("rate 0", lambda: wav(rate=0), "contradicts itself"),
    ("channels 0", lambda: wav(channels=0, block=2), "contradicts itself"),
    ("block 0", lambda: wav(block=0), "contradicts itself"),
    ("byte rate", lambda: wav(byte_rate=7), "contradicts itself"),
    ("unknown format", lambda: wav(format=0x1234), "broken or cut short"),
    ("rate 100", lambda: wav(rate=100), "100 samples a second"),
    ("an hour", lambda: sound_file("FLAC", np.zeros(3600 * 4000, np.int16), 4000), "3,600 seconds; at most 600"),
    ("claims an hour", lambda: lying_flac(3600), "3,600 seconds; at most 600"),
    ("NaN", lambda: sound_file("WAV", NAN, subtype="FLOAT"), "no numbers"),
    ("64 channels", lambda: sound_file("WAV", np.zeros((100, 64), np.float32)), "64 channels"),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_in_one_sentence(data: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(MediaError) as refused:
        probe(data())
    message = str(refused.value)
    assert reason in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "0x7" not in message


def test_too_many_bytes() -> None:
    with pytest.raises(MediaError, match="at most 100 are taken"):
        probe(image_file("PNG"), Limits(max_bytes=100))


def test_a_sound_is_no_picture() -> None:
    with pytest.raises(MediaError, match="audio/wav came where a picture is wanted"):
        read_image(wav())
    with pytest.raises(MediaError, match="image/png came where a sound is wanted"):
        read_audio(image_file("PNG"))


def test_written_pictures_read_back_and_repeat() -> None:
    data = write_png(picture())
    assert data == write_png(picture().copy())
    assert np.array_equal(read_image(data), picture())


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
@settings(deadline=None, max_examples=30)
def test_written_sounds_read_back_bit_for_bit(values: list[int]) -> None:
    samples = np.array(values, np.float32) / 32768
    data = write_wav(samples, 24_000)
    read, rate = read_audio(data)
    assert rate == 24_000
    assert np.array_equal(read, samples)
    assert write_wav(read, rate) == data


def test_loud_samples_are_clipped_not_wrapped() -> None:
    read, _ = read_audio(write_wav(np.array([2.0, -2.0], np.float32), RATE))
    assert read.tolist() == pytest.approx([1.0, -1.0], abs=1e-4)


def test_content_hash_sees_the_picture_not_the_encoding() -> None:
    png, webp = probe(image_file("PNG")), probe(image_file("WEBP", lossless=True))
    assert png.content == webp.content == image_hash(picture())
    assert png.hash != webp.hash
    assert (png.width, png.height, png.mime) == (40, 24, "image/png")
    assert image_hash(picture()) != image_hash(picture().reshape(40, 24, 3))


def test_content_hash_sees_the_sound_not_the_encoding() -> None:
    wave, flac = (probe(sound_file(kind, (tone() * 32767).astype(np.int16))) for kind in ("WAV", "FLAC"))
    assert wave.content == flac.content
    assert (wave.duration, wave.sample_rate) == (0.5, RATE)
    assert audio_hash(tone(), RATE) != audio_hash(tone(), RATE + 1)


@pytest.mark.parametrize(("rate", "target"), [(44_100, 16_000), (8_000, 24_000), (48_000, 32_000), (44_099, 16_000)])
def test_resampling_keeps_pitch_and_length(rate: int, target: int) -> None:
    made = resample(tone(1.0, rate), rate, target)
    assert made.dtype == np.float32
    assert abs(len(made) - target) <= target // 1000 + 1
    peak = np.argmax(np.abs(np.fft.rfft(made))) * target / len(made)
    assert peak == pytest.approx(440, abs=2)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    samples = tone()
    assert resample(samples, RATE, RATE) is samples


FILES = [
    *(image_file(kind) for kind in IMAGES.values()),
    image_file("PNG", Image.fromarray(picture()).convert("P")),
    *(sound_file(kind, tone(0.1)) for kind in SOUNDS.values()),
]


@given(st.data())
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_cut_or_damaged_files_are_read_or_refused(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(FILES))
    kept = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 6))):
        if kept:
            # The headers are where a lie does harm: half of the damage goes there.
            at = data.draw(st.integers(0, min(len(kept), 64) - 1) | st.integers(0, len(kept) - 1))
            kept[at] = data.draw(st.integers(0, 255))
    try:
        described = probe(bytes(kept), Limits(max_pixels=1_000_000, max_seconds=20))
    except MediaError:
        return
    assert described.size == len(kept)
