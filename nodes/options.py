"""The options of a call -> the bounds and the sampling of its request. Refuses what no model could do; knows no
model."""

from __future__ import annotations

from collections.abc import Mapping

from ..anygpt_model import dialogue, modalities
from ..anygpt_model.errors import InputError, UnknownName
from ..anygpt_model.values import Bounds, Media, Modality, Sampling
from .base import BASE
from .ports import Keeper
from .state import Context


def bounds(options: Context) -> Bounds:
    """What the reply must and may hold. Raises UnknownName for an unknown modality, InputError for a limit below
    one."""
    default = Bounds()
    made = Bounds(
        to=None if options.to is None else modality(options.to),
        modalities=default.modalities if options.modalities is None else frozenset(map(modality, options.modalities)),
        max_tokens=default.max_tokens if options.max_tokens is None else options.max_tokens,
        max_seconds=default.max_seconds if options.max_seconds is None else options.max_seconds,
        max_segments=default.max_segments if options.max_segments is None else options.max_segments,
    )
    if made.max_tokens < 1 or made.max_seconds <= 0 or made.max_segments < 1:
        raise InputError("A limit of nothing came; max_tokens, max_seconds and max_segments take positive numbers.")
    return made


def modality(name: str) -> Modality:
    """The modality called `name`. Raises UnknownName."""
    return modalities.spec(name).modality


def template(options: Context) -> str | None:
    """The template that the call names, None for the model's own. Raises UnknownName."""
    if options.template not in (None, BASE):
        dialogue.chat_template(options.template)
    return options.template


def sampling(options: Context, defaults: Mapping[Modality, Sampling] | None = None) -> dict[Modality, Sampling]:
    """How each modality is drawn: the engine's defaults (None: the registry's), over them the call's settings, over
    those the modality's own."""
    for name in options.sampling:
        modality(name)
    known = defaults or {}
    return {kind: _sampling(kind, options, known.get(kind, modalities.spec(kind).sampling)) for kind in Modality}


def _sampling(kind: Modality, options: Context, default: Sampling) -> Sampling:
    common = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
    own = options.sampling.get(kind.value, {})
    known = set(Sampling.__dataclass_fields__)
    if strange := set(own) - known:
        raise UnknownName(
            f"There is no sampling setting named {sorted(strange)[0]!r}; use one of {', '.join(sorted(known))}."
        )
    chosen = {name: value for name, value in {**common, **own}.items() if value is not None}
    made = Sampling(
        temperature=float(chosen.get("temperature", default.temperature)),
        top_k=int(chosen.get("top_k", default.top_k)),
        top_p=float(chosen.get("top_p", default.top_p)),
        repetition_penalty=float(chosen.get("repetition_penalty", default.repetition_penalty)),
        beams=int(chosen.get("beams", default.beams)),
    )
    if made.temperature < 0 or made.top_k < 0 or not 0 < made.top_p <= 1 or made.repetition_penalty <= 0:
        raise InputError(
            "Sampling takes a temperature and a top_k of 0 or more, a top_p above 0 and up to 1, a penalty above 0."
        )
    if made.beams > 1 and kind != Modality.TEXT:
        raise InputError(f"A beam search came for {kind}; it serves text alone.")
    return made


def kept_voice(voice: str, keeper: Keeper) -> Media:
    """The recording that `voice` names: a kept medium by its hash, or a saved voice. Raises UnknownName."""
    return keeper.describe(voice) if voice.startswith("sha256:") else keeper.voice(voice)
