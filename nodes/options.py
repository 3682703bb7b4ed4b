"""The options of a call -> the bounds and the sampling of its request. Refuses what no model could do; knows no
model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from ..anygpt_model import dialogue, modalities
from ..anygpt_model.errors import InputError, MediaError, UnknownName
from ..anygpt_model.values import Bounds, Media, Modality, Sampling
from .base import BASE
from .ports import Keeper
from .state import Context

USUAL = Bounds()
DEFAULTS = {kind: modalities.spec(kind).sampling for kind in Modality}
WORDS = ("to", "voice", "conversation", "parent", "run", "template", "instruction")
"""Options that are texts."""
SHORTEST_VOICE = 1.0
"""Seconds of speech below which no speaker can be imitated."""
COMMON = ("temperature", "top_k", "top_p")
"""Settings of a call that every modality takes over."""
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "beams": int,
}
"""The fields of Sampling and what makes each of a caller's number."""


def check_kinds(options: Context) -> None:
    """Raises InputError for an option of another kind than its field: callers come from outside, from JSON too."""
    for name in WORDS:
        value: Any = getattr(options, name)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} {value!r} came; a text is taken, or none.")
    several: Any = options.modalities
    if several is not None and (not isinstance(several, tuple) or not several):
        raise InputError(f"modalities {several!r} came; a list of one or more is taken, or none for all.")
    settings: Any = options.sampling
    if not isinstance(settings, Mapping) or not all(isinstance(one, Mapping) for one in settings.values()):
        raise InputError(f'sampling {settings!r} came; settings by modality are taken, as {{"text": {{"top_k": 50}}}}.')


def bounds(options: Context) -> Bounds:
    """What the reply must and may hold. Raises UnknownName for an unknown modality, InputError for a limit below
    one."""
    return Bounds(
        to=None if options.to is None else modality(options.to),
        modalities=USUAL.modalities if options.modalities is None else frozenset(map(modality, options.modalities)),
        max_tokens=_limit("max_tokens", options.max_tokens, USUAL.max_tokens, int),
        max_seconds=_limit("max_seconds", options.max_seconds, USUAL.max_seconds, int | float),
        max_segments=_limit("max_segments", options.max_segments, USUAL.max_segments, int),
    )


def _limit(name: str, value: Any, usual: Any, kind: Any) -> Any:
    if value is None:
        return usual
    if not isinstance(value, kind) or not 0 < value < inf:
        number = "whole number" if kind is int else "number"
        raise InputError(f"{name} {value!r} came; a {number} above 0 is taken, or none for the usual limit.")
    return value


def modality(name: str) -> Modality:
    """The modality called `name`. Raises UnknownName."""
    return modalities.spec(name).modality


def template(options: Context) -> str | None:
    """The template that the call names, None for the model's own. Raises UnknownName."""
    if options.template is not None and options.template != BASE:
        dialogue.chat_template(options.template)
    return options.template


def sampling(options: Context, defaults: Mapping[Modality, Sampling] | None = None) -> dict[Modality, Sampling]:
    """How each modality is drawn: the engine's defaults (None: the registry's), over them the call's settings, over
    those the modality's own."""
    for name in options.sampling:
        modality(name)
    known = defaults or {}
    common = {name: value for name in COMMON if (value := getattr(options, name)) is not None}
    if not common and not options.sampling:
        return {kind: known.get(kind) or default for kind, default in DEFAULTS.items()}
    return {
        kind: _sampling(kind, {**common, **options.sampling.get(kind, {})}, known.get(kind) or default)
        for kind, default in DEFAULTS.items()
    }


def _sampling(kind: Modality, settings: Mapping[str, float | None], default: Sampling) -> Sampling:
    """`default` with `settings` over it; those that are None say nothing."""
    if not settings:
        return default
    if strange := settings.keys() - SETTINGS:
        raise UnknownName(
            f"There is no sampling setting named {sorted(strange)[0]!r}; use one of {', '.join(sorted(SETTINGS))}."
        )
    try:
        chosen = {name: SETTINGS[name](value) for name, value in settings.items() if value is not None}
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"Sampling settings {dict(settings)} came; each takes a number.") from None
    made = replace(default, **chosen)
    sane = 0 <= made.temperature < inf and made.top_k >= 0 and 0 < made.top_p <= 1 and 0 < made.repetition_penalty < inf
    if not sane:
        raise InputError(
            "Sampling takes a temperature and a top_k of 0 or more, a top_p above 0 and up to 1, a penalty above 0."
        )
    if made.beams < 1:
        raise InputError(f"A beam search of {made.beams} came; it takes 1 (none) or more wordings.")
    if made.beams > 1 and kind != Modality.TEXT:
        raise InputError(f"A beam search came for {kind}; it serves text alone.")
    return made


def check_voice(voice: str, keeper: Keeper) -> None:
    """Raises UnknownName where there is none, MediaError for what no speaker can be imitated by."""
    recording = kept_voice(voice, keeper)
    if recording.duration is None:
        raise MediaError(f"A {recording.mime} came as the voice; give a recording of speech, 3 s are best.")
    check_length(recording.duration)


def check_length(seconds: float) -> None:
    """Raises MediaError for a recording that is too short to be a voice."""
    if seconds < SHORTEST_VOICE:
        raise MediaError(
            f"A recording of {seconds:.2f} s came as a voice; {SHORTEST_VOICE:.0f} s or more are taken, 3 s are best."
        )


def kept_voice(voice: str, keeper: Keeper) -> Media:
    """The recording that `voice` names: a kept medium by its hash, or a saved voice. Raises UnknownName."""
    return keeper.describe(voice) if voice.startswith("sha256:") else keeper.voice(voice)
