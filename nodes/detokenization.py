"""detokenize: one generated span -> a kept medium. Pictures become PNG, sounds 16-bit WAV.

The decoder's seed is a pure function of the run's seed and the segment's place, so that the same ids make the same
bytes again. What was made of the same codes before is taken from the memo. Knows nothing of messages or prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime

from ..anygpt_model.codecs.protocol import Array, Codes
from ..anygpt_model.errors import StoreError
from ..anygpt_model.media import Limits, probe, write_png, write_wav
from ..anygpt_model.values import Media, Modality, Span
from .options import kept_voice
from .ports import Keeper
from .state import Context, Event, Made, PartState, media_state
from .tokenization import made_by, read_sound

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine


def detokenizer(modality: Modality, engine: Engine, keeper: Keeper, limits: Limits) -> Callable[..., Any]:
    """The node that makes the medium of one segment of `modality`, handed to it by Send."""

    def node(state: PartState, config: RunnableConfig, runtime: Runtime[Context]) -> Any:
        place = {"modality": modality.value, "position": state["position"]}
        runtime.stream_writer(Event(event="progress", node=f"detokenize_{modality.value}", **place))  # type: ignore[typeddict-item]
        voice = (runtime.context or Context()).voice if modality is Modality.SPEECH else None
        span = Span(modality, tuple(state["ids"]))
        media = media_state(detokenize(span, state["seed"], voice, engine, keeper, limits))
        runtime.stream_writer(Event(event="segment", media=media, **place))  # type: ignore[typeddict-item]
        return {"made": [Made(position=state["position"], media=media, seed=state["seed"])]}

    return node


def detokenize(span: Span, seed: int, voice: str | None, engine: Engine, keeper: Keeper, limits: Limits) -> Media:
    """The kept medium of `span`. voice: whose speaker is imitated, the name of a saved voice or the hash of a
    recording."""
    codes = engine.vocabulary.to_codes(span)
    recording = None if voice is None else kept_voice(voice, keeper).hash
    decoder = decoded_by(engine, span.modality, recording)
    known = kept_before(codes, decoder, seed, keeper)
    data = known or decode(codes, span.modality, seed, recording, engine, keeper, limits)
    media = keeper.put(data, probe(data))
    # Whoever hands the medium back means these ids: a generated medium is never tokenized.
    keeper.keep_codes(media.hash, made_by(engine.fingerprints[span.modality.value]), codes)
    if known is None:
        keeper.keep_decoded(codes, decoder, seed, media.hash)
    return media


def decode(
    codes: Codes, modality: Modality, seed: int, recording: str | None, engine: Engine, keeper: Keeper, limits: Limits
) -> bytes:
    """The bytes of the medium of `codes`. recording: the hash of a voice's."""
    codec = engine.codec(modality)
    prompt = None if recording is None else read_sound(keeper.get(recording), codec.sample_rate, limits)
    return write(codec.decode(codes, seed=seed, voice=prompt), modality, codec.sample_rate)


def kept_before(codes: Codes, decoder: str, seed: int, keeper: Keeper) -> bytes | None:
    """The bytes that the decoder made of these codes before; None where it didn't, or they are gone."""
    media = keeper.decoded(codes, decoder, seed)
    try:
        return None if media is None else keeper.get(media.hash)
    except StoreError:
        return None


def decoded_by(engine: Engine, modality: Modality, recording: str | None) -> str:
    """The memo's key of a decoder: all that decides its bytes but codes and seed."""
    parts = [engine.fingerprints[modality.value], recording or "", *(f"{k}={v}" for k, v in engine.versions.items())]
    return f"decoder:sha256:{hashlib.sha256('|'.join(parts).encode()).hexdigest()}"


def write(array: Array, modality: Modality, rate: int) -> bytes:
    """The bytes of a picture (PNG) or a sound (WAV)."""
    if modality is Modality.IMAGE:
        return write_png(np.asarray(array, dtype=np.uint8))
    return write_wav(np.asarray(array, dtype=np.float32), rate)


def decoder_seed(seed: int, segment: int) -> int:
    """The seed of segment number `segment` of a reply drawn with `seed`: 31 bits, so that every generator takes it."""
    return (seed + segment * 0x9E3779B1) & 0x7FFFFFFF
