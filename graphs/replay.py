"""Replay that proves something: make a stored turn again from its ids, score it again, draw it again, fork it, compare
two.

    recorded    the stored ids through the decoders again; decoded pixels and samples are compared by hash
    verify      one forward pass over the stored ids; every sampling decision is redone
    regenerate  the language model draws again with the same seed
    fork        keep the first ids, change something, go on: another conversation begins
    diff        two turns side by side, modality by modality

Everything runs through the graph's own nodes and nothing is stored unless a fork or the caller asks. Knows no terminal.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from ..anygpt_model.errors import InputError
from ..anygpt_model.values import Generation, Turn
from ..nodes.ports import Keeper
from ..nodes.state import Context
from .comparison import MediumCheck, compare_media, difference
from .playback import FORKED_AT, context_of, rerun, segment_starts, taken_over, trace

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..anygpt_model.verification import Verification

Part = Literal["record", "weights", "sampler", "tokenizer", "decoder"]
Verdict = Literal["identical", "close", "different"]
DRIFT = 1e-3
"""Nats by which a log-probability may move between one pass and many steps in float32; more is another model."""


@dataclass(frozen=True)
class Finding:
    """One thing that changed. part: which; number: by how much or where; stored, now: fingerprints, where those
    differ."""

    part: Part
    detail: str
    number: float | None = None
    stored: str | None = None
    now: str | None = None


@dataclass(frozen=True)
class Report:
    """What a replay found. made: the turn as it came out now, where one did. seconds: of the replay."""

    turn: str
    mode: Literal["recorded", "verify", "regenerate"]
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    media: tuple[MediumCheck, ...] = ()
    verification: Verification | None = None
    made: Turn | None = None
    seconds: float = 0.0
    restored: tuple[str, ...] = ()
    """Hashes of evicted media that were made again and kept."""


def recorded(engine: Engine, store: Keeper, turn: str, *, restore: bool = False) -> Report:
    """Make the turn's media again from its ids. restore: keep those that came out identical, as after an eviction.

    Raises ReplayError where the prompt comes out differently, with the position; UnknownName for no such turn.
    """
    from ..anygpt_model.language_model import Recorded

    started = perf_counter()
    stored = store.turn(turn)
    again = rerun(engine, store, stored, Recorded([trace(stored)]))
    checks = compare_media(stored, again.turn, store, again.media)
    memory = changed_memory(engine, stored)
    findings = [*changed_parts(engine, stored), *_decoded(checks, memory)]
    kept = _restored(store, checks, again.media) if restore else ()
    same = all(check.identical for check in checks)
    verdict: Verdict = "different" if memory else "identical" if same else _nearness(checks)
    return Report(
        stored.id, "recorded", verdict, tuple(findings), checks, None, again.turn, perf_counter() - started, kept
    )


def verify(engine: Engine, store: Keeper, turn: str) -> Report:
    """Redo every sampling decision of the turn from one forward pass; nothing is decoded."""
    started = perf_counter()
    stored = store.turn(turn)
    verifying = engine.verifying([trace(stored)])
    with ThreadPoolExecutor(1) as beside:
        weights = beside.submit(changed_memory, engine, stored, "llm")  # read while the graph is built
        rerun(engine, store, stored, verifying, decode=False)
    [found] = verifying.reports
    altered, memory = _altered(store, stored), weights.result()
    drift = found.drift if altered else found.moved
    findings = [*altered, *changed_parts(engine, stored), *_moved(drift, memory)]
    findings += [*_decoded((), memory), *_redone(stored, found)]
    verdict: Verdict = "different"
    if not altered and not memory and drift <= DRIFT:
        verdict = "identical" if found.identical else "close" if found.near_tie else "different"
    return Report(stored.id, "verify", verdict, tuple(findings), (), found, None, perf_counter() - started)


def regenerate(engine: Engine, store: Keeper, turn: str, *, record: bool = False) -> Report:
    """Draw the turn again with the same seed and compare ids and media. record: store the new turn as well."""
    started = perf_counter()
    stored = store.turn(turn)
    again = rerun(engine, store, stored, engine.language_model)
    if again.turn is None:
        raise InputError("The run ended without a turn; replay it with a fresh engine.")
    checks = compare_media(stored, again.turn, store, again.media)
    memory = changed_memory(engine, stored, "llm")
    findings = [*changed_parts(engine, stored), *_moved(None, memory), *_decoded((), memory)]
    findings += _other_ids(stored.generation, again.turn.generation)
    same = not memory and stored.generation.ids == again.turn.generation.ids
    verdict: Verdict = "identical" if same and all(check.identical for check in checks) else "different"
    made = _keep(store, again.turn, again.media) if record else again.turn
    return Report(stored.id, "regenerate", verdict, tuple(findings), checks, None, made, perf_counter() - started)


def fork(
    engine: Engine,
    store: Keeper,
    turn: str,
    *,
    at: int | None = None,
    segment: int | None = None,
    record: bool = True,
    **changes: Any,
) -> Turn:
    """Keep the first ids of a turn, change something, and let the model go on; the new turn begins a conversation.

    at: how many ids are kept; segment: keep all ids before that part of the reply (0: none). changes: fields of
    Context. With another model (another engine) nothing can be kept. Raises InputError for a place that isn't there.
    """
    stored = store.turn(turn)
    kept = _cut(stored, engine, at, segment)
    begins = {"conversation": uuid4().hex, "run": uuid4().hex, "seed": changes.pop("seed", stored.generation.seed)}
    context: Context = replace(_changed(context_of(stored), changes), **begins)
    again = rerun(engine, store, stored, engine.language_model, context=context, begun=kept)
    if again.turn is None:
        raise InputError("The run ended without a turn; fork it with a fresh engine.")
    options = {**again.turn.options, "forked_from": stored.id, FORKED_AT: kept}
    made = replace(again.turn, options=options)
    return _keep(store, made, again.media) if record else made


def diff(store: Keeper, one: str, other: str) -> dict[str, Any]:
    """Two turns side by side: what was asked, how it was drawn, where the ids part, and each modality's difference."""
    return difference(store.turn(one), store.turn(other), store)


def _changed(context: Context, changes: dict[str, Any]) -> Context:
    """The stored options with changes. A common setting changed now wins over the stored ones of each modality."""
    common = {name: changes[name] for name in ("temperature", "top_k", "top_p") if changes.get(name) is not None}
    sampling = {kind: {**own, **common} for kind, own in context.sampling.items()}
    own = {kind: {**sampling.get(kind, {}), **values} for kind, values in changes.pop("sampling", {}).items()}
    return replace(context, **{**changes, "sampling": {**sampling, **own}})


def changed_parts(engine: Engine, turn: Turn) -> list[Finding]:
    """The parts whose files are not those that made the turn."""
    names: dict[str, Part] = {"llm": "weights", "tokenizer": "tokenizer"}
    now = engine.fingerprints
    return [
        Finding(names.get(part, "decoder"), f"{part} has another fingerprint", None, before, now.get(part))
        for part, before in turn.fingerprints.items()
        if now.get(part) != before
    ]


def changed_memory(engine: Engine, turn: Turn, *parts: str) -> dict[str, tuple[str, ...]]:
    """Of these parts and the turn's codecs, the weights that are not in memory what was loaded; those without any are
    left out."""
    media = {part.modality.value for part in (*turn.request, *turn.reply) if part.media is not None}
    found = {part: engine.changed_weights(part) for part in (*parts, *sorted(media))}
    return {part: tensors for part, tensors in found.items() if tensors}


def _altered(store: Keeper, turn: Turn) -> list[Finding]:
    """Whether the stored content still has the hash that it was recorded with."""
    from ..storage.documents import chain, digest

    before = store.turn(turn.parent).hash if turn.parent is not None else None
    now = chain(digest(turn), before)
    if now == turn.hash:
        return []
    return [Finding("record", "the stored turn is not the one that was recorded", None, turn.hash, now)]


def _moved(drift: float | None, memory: dict[str, tuple[str, ...]]) -> list[Finding]:
    """What is said of the language model's weights: by those that changed in memory, else by the drift alone."""
    if "llm" in memory:
        what = f"{_named(memory['llm'])} changed in memory"
        if drift is None:
            return [Finding("weights", f"{what}, so many weights in all", len(memory["llm"]))]
        return [Finding("weights", f"{what}, log-probabilities moved at most by so many nats", drift)]
    if drift is not None and drift > DRIFT:
        return [Finding("weights", "log-probabilities moved, at most by so many nats", drift)]
    return []


def _named(tensors: tuple[str, ...]) -> str:
    return tensors[0] if len(tensors) == 1 else f"{tensors[0]} and {len(tensors) - 1} more"


def _redone(turn: Turn, found: Verification) -> list[Finding]:
    """What the redone decisions say."""
    findings = []
    if found.illegal is not None:
        place = found.illegal + taken_over(turn)
        findings.append(Finding("tokenizer", "the grammar refuses the stored id at this position", place))
    if found.divergence is not None:
        place = found.divergence + taken_over(turn)
        margin = found.margins[found.divergence]
        detail = f"id {found.drawn} would be drawn for {found.expected} at this position (margin {margin:.3g})"
        findings.append(Finding("sampler", detail, place))
    return findings


def _decoded(checks: tuple[MediumCheck, ...], memory: dict[str, tuple[str, ...]]) -> list[Finding]:
    """What is said of the codecs: by the media that came out differently, else by weights changed in memory."""
    findings, told = [], {"llm"}
    for check in checks:
        if not check.identical:
            told.add(check.modality)
            tensors = memory.get(check.modality)
            why = f": {_named(tensors)} changed in memory" if tensors else ""
            number = check.distance if check.distance is not None or not tensors else len(tensors)
            detail = f"{check.modality} {check.position} came out differently{why}"
            findings.append(Finding("decoder", detail, number))
    left = {part: tensors for part, tensors in memory.items() if part not in told}
    return findings + [
        Finding("decoder", f"{part}: {_named(tensors)} changed in memory, so many weights in all", len(tensors))
        for part, tensors in left.items()
    ]


def _other_ids(before: Generation, after: Generation) -> list[Finding]:
    if before.ids == after.ids:
        return []
    shared = zip(before.ids, after.ids, strict=False)
    place = next((at for at, (one, other) in enumerate(shared) if one != other), min(len(before.ids), len(after.ids)))
    margin = f" (stored margin {before.margins[place]:.3g})" if place < len(before.margins) else ""
    return [Finding("sampler", f"the ids part at this position{margin}", place)]


def _nearness(checks: tuple[MediumCheck, ...]) -> Verdict:
    """Close where every difference is at most one step of eight bits."""
    return "close" if all(check.distance is not None and check.distance <= 1 / 255 for check in checks) else "different"


def _restored(store: Keeper, checks: tuple[MediumCheck, ...], media: dict[str, bytes]) -> tuple[str, ...]:
    """Keep again what came out as it was; returns the hashes of those whose bytes were missing."""
    kept = []
    for check in checks:
        if check.identical and check.made is not None and check.made.hash == check.stored.hash and not check.present:
            store.put(media[check.made.hash], check.made)
            kept.append(check.made.hash)
    return tuple(kept)


def _keep(store: Keeper, turn: Turn, media: dict[str, bytes]) -> Turn:
    """Store a replay's turn under an id of its own, its media first."""
    for part in turn.reply:
        if part.media is not None and part.media.hash in media:
            store.put(media[part.media.hash], part.media)
    name = uuid4().hex
    return store.record(replace(turn, id=name, run=name))


def _cut(turn: Turn, engine: Engine, at: int | None, segment: int | None) -> int:
    """How many ids a fork keeps."""
    ids = turn.generation.ids
    if at is not None and segment is not None:
        raise InputError("Both a token and a segment came; fork at one of them.")
    kept = at if at is not None else 0
    if segment is not None:
        kept = _segment_start(turn, engine, segment)
    if not 0 <= kept < len(ids):
        raise InputError(f"The reply has {len(ids)} ids; fork at 0 to {len(ids) - 1}, not at {kept}.")
    if kept and engine.fingerprints.get("tokenizer") != turn.fingerprints.get("tokenizer"):
        raise InputError("Another model reads other ids; fork at 0 to let it answer from the start.")
    return kept


def _segment_start(turn: Turn, engine: Engine, segment: int) -> int:
    starts = segment_starts(turn.generation.ids, engine.vocabulary)
    if not 0 <= segment < len(starts):
        raise InputError(f"The reply has {len(starts)} segments; fork at 0 to {len(starts) - 1}, not at {segment}.")
    return starts[segment]
