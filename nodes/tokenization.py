"""tokenize: one kept medium -> the spans that the model reads. A medium is tokenized once in its life; the memo keeps
codes.

Knows nothing of messages or prompts; the bytes it reads stay inside the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from numpy.typing import NDArray

from ..anygpt_model import modalities
from ..anygpt_model.codecs.protocol import Array, Codec, Codes
from ..anygpt_model.media import Limits, read_audio, read_image, resample
from ..anygpt_model.values import Modality, Span
from .ports import Keeper
from .state import Context, Event, PartState, Tokenized

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine


def tokenizer(modality: Modality, engine: Engine, keeper: Keeper, limits: Limits) -> Callable[..., Any]:
    """The node that tokenizes one part of `modality`, handed to it by Send."""

    def node(state: PartState, config: RunnableConfig, runtime: Runtime[Context]) -> Any:
        name = f"tokenize_{modality.value}"
        runtime.stream_writer(Event(event="progress", node=name, modality=modality.value, position=state["position"]))
        spans = tokenize(modality, state["media"]["hash"], engine, keeper, limits)
        placed = Tokenized(position=state["position"], spans=[list(span.ids) for span in spans])
        return {"tokenized": [placed]}

    return node


def tokenize(modality: Modality, media: str, engine: Engine, keeper: Keeper, limits: Limits) -> list[Span]:
    """The spans of the kept medium `media` (its hash): one, or several of at most `span_seconds` for a long sound.

    Raises MediaError for bytes that can't be read, StoreError for a medium that is missing.
    """
    codec = engine.codec(modality)
    fingerprint = engine.fingerprints[modality.value]
    codes = keeper.codes(media, made_by(fingerprint))
    codes = keeper.codes(media, fingerprint) if codes is None else codes
    if codes is None:
        codes = encode(keeper.get(media), modality, codec, limits)
        keeper.keep_codes(media, fingerprint, codes)
    return [engine.vocabulary.to_span(modality, piece) for piece in pieces(codes, modality, codec)]


def made_by(fingerprint: str) -> str:
    """The memo's key of what this model generated: those codes are where the medium came from, not a reading of it."""
    return f"generated:{fingerprint}"


def encode(data: bytes, modality: Modality, codec: Codec, limits: Limits) -> Codes:
    """The codes [codebooks, frames] of a file's bytes."""
    return codec.encode(_array(data, modality, codec, limits))


def _array(data: bytes, modality: Modality, codec: Codec, limits: Limits) -> Array:
    if modality is Modality.IMAGE:
        return read_image(data, limits)
    return read_sound(data, codec.sample_rate, limits)


def read_sound(data: bytes, rate: int, limits: Limits) -> NDArray[np.float32]:
    """float32 [samples] mono at `rate`."""
    samples, given = read_audio(data, limits)
    return resample(samples, given, rate)


def pieces(codes: Codes, modality: Modality, codec: Codec) -> list[Codes]:
    """`codes` cut along its frames into what one span holds."""
    seconds = modalities.spec(modality).span_seconds
    if seconds is None or not codec.frame_rate:
        return [codes]
    frames = int(seconds * codec.frame_rate)
    return [codes[:, start : start + frames] for start in range(0, codes.shape[1], frames)]
