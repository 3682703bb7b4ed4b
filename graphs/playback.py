"""The machinery of replay: a store that keeps nothing, language models that play stored ids, and a turn run once more.

A replay is the same graph over the same nodes; only what stands behind two protocols differs. Knows no report.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..anygpt_model.errors import UnknownName
from ..anygpt_model.grammar import Reader, to_part
from ..anygpt_model.values import Generation, Media, Modality, Request, Turn
from ..anygpt_model.vocabulary import Vocabulary
from ..nodes.messages import request_message
from ..nodes.ports import Codes, Keeper
from ..nodes.state import Context
from .conversation import build_graph
from .isolation import invoked

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..anygpt_model.language_model import LanguageModel, Trace
    from ..anygpt_model.scheduler import Cancelled, OnToken

FORKED_AT = "forked_at"
"""Option of a forked turn: so many of its ids were taken over from the turn that it was forked from."""


class Aside:
    """A store seen through glass: it reads what is kept, remembers what is made, and writes nothing."""

    def __init__(self, store: Keeper) -> None:
        self._store = store
        self.made: dict[str, tuple[bytes, Media]] = {}
        self.recorded: Turn | None = None

    def put(self, data: bytes, media: Media) -> Media:
        """Remember `data` until the replay is over."""
        self.made[media.hash] = data, media
        return media

    def get(self, hash: str) -> bytes:
        """What was made here, or is kept."""
        return self.made[hash][0] if hash in self.made else self._store.get(hash)

    def describe(self, hash: str) -> Media:
        """What was made here, or is kept."""
        return self.made[hash][1] if hash in self.made else self._store.describe(hash)

    def codes(self, media: str, fingerprint: str) -> Codes | None:
        """Only what a model generated: everything that was read is read again."""
        return self._store.codes(media, fingerprint) if fingerprint.startswith("generated:") else None

    def keep_codes(self, media: str, fingerprint: str, codes: Codes) -> None:
        """Nothing is remembered of a replay."""

    def decoded(self, codes: Codes, fingerprint: str, seed: int) -> Media | None:
        """None: a replay makes everything again."""
        return None

    def keep_decoded(self, codes: Codes, fingerprint: str, seed: int, media: str) -> None:
        """Nothing is remembered of a replay."""

    def record(self, turn: Turn) -> Turn:
        """Hold the turn, unwritten."""
        self.recorded = turn
        return turn

    def turn(self, id: str) -> Turn:
        """A stored turn."""
        return self._store.turn(id)

    def lineage(self, id: str) -> Sequence[Turn]:
        """A stored turn and its ancestors."""
        return self._store.lineage(id)

    def tip(self, conversation: str) -> Turn | None:
        """None: a replay continues from its turn's parent alone."""
        return None

    def voice(self, name: str) -> Media:
        """A saved voice."""
        return self._store.voice(name)


class Continued:
    """A language model that is given the first ids of its reply and makes the rest."""

    def __init__(self, model: LanguageModel, begun: Generation, prompt: Sequence[int] | None = None) -> None:
        """begun: what is taken over, possibly nothing. prompt: stands for the request's own, where that can't be
        made."""
        self._model = model
        self._begun = begun
        self._prompt = prompt

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """One generation a request: the ids taken over, then those made."""
        made = self._model.generate([self._asked(request) for request in requests], on_token, cancelled)
        return [joined(self._begun, rest) for rest in made]

    def _asked(self, request: Request) -> Request:
        prompt = tuple(self._prompt) if self._prompt is not None else request.prompt
        return continuation(replace(request, prompt=prompt), self._begun)


def continuation(request: Request, begun: Generation) -> Request:
    """The request for what follows `begun`."""
    left = max(1, request.bounds.max_tokens - len(begun.ids))
    bounds = replace(request.bounds, max_tokens=left) if begun.ids else request.bounds
    return replace(request, prompt=(*request.prompt, *begun.ids), bounds=bounds)


def joined(begun: Generation, rest: Generation) -> Generation:
    """The whole reply."""
    return Generation(
        begun.ids + rest.ids,
        begun.logprobs + rest.logprobs,
        begun.margins + rest.margins,
        rest.finish,
        rest.seed,
    )


def beginning(generation: Generation, count: int) -> Generation:
    """The first `count` ids."""
    return Generation(
        generation.ids[:count], generation.logprobs[:count], generation.margins[:count], "cancelled", generation.seed
    )


def taken_over(turn: Turn) -> int:
    """How many of the turn's ids a fork took over."""
    return int(turn.options.get(FORKED_AT) or 0)


def trace(turn: Turn) -> Trace:
    """What the turn's language model was asked and what it made, ids taken over counted to the prompt."""
    count = taken_over(turn)
    made = turn.generation
    rest = Generation(made.ids[count:], made.logprobs[count:], made.margins[count:], made.finish, made.seed)
    request = Request(turn.prompt, made.seed, turn.bounds, turn.sampling)
    return continuation(request, beginning(made, count)), rest


def context_of(turn: Turn) -> Context:
    """The options that made `turn`."""
    bounds = turn.bounds
    voice, template, instruction = (turn.options.get(name) for name in ("voice", "template", "instruction"))
    return Context(
        to=None if bounds.to is None else bounds.to.value,
        modalities=tuple(sorted(kind.value for kind in bounds.modalities)),
        seed=turn.generation.seed,
        sampling={kind.value: asdict(sampling) for kind, sampling in turn.sampling.items()},
        voice=None if voice is None else str(voice),
        max_tokens=bounds.max_tokens,
        max_seconds=bounds.max_seconds,
        max_segments=bounds.max_segments,
        conversation=turn.conversation,
        parent=turn.parent,
        template=None if template is None else str(template),
        instruction=None if instruction is None else str(instruction),
    )


def whole_history(store: Keeper, turn: Turn) -> bool:
    """Whether the prompt can be made again: no exchange came from elsewhere and no ancestor was erased."""
    if turn.options.get("foreign"):
        return False
    expected = turn.parent
    if expected is None:
        return True
    try:
        for ancestor in reversed(store.lineage(expected)):
            if ancestor.id != expected:
                return False
            expected = ancestor.parent
    except UnknownName:
        return False
    return expected is None


@dataclass(frozen=True)
class Rerun:
    """A turn run once more. turn: what it became, None where the run stopped after `generate`. media: made bytes by
    hash."""

    turn: Turn | None
    media: dict[str, bytes]
    prompt_redone: bool


def rerun(
    engine: Engine,
    store: Keeper,
    turn: Turn,
    model: LanguageModel,
    *,
    context: Context | None = None,
    begun: int | None = None,
    decode: bool = True,
) -> Rerun:
    """Run the turn's request through the graph with `model` behind it; nothing is stored.

    begun: how many of the turn's ids are taken over; None: as many as the turn itself took over. decode: False stops
    after the language model.
    """
    aside = Aside(store)
    redone = whole_history(store, turn)
    count = taken_over(turn) if begun is None else begun
    player = Continued(model, beginning(turn.generation, count), None if redone else turn.prompt)
    graph = build_graph(with_language_model(engine, player), aside, checkpointer=False)
    options = {} if decode else {"interrupt_after": ["generate"]}
    invoked(graph, [request_message(turn)], context or context_of(turn), **options)
    return Rerun(aside.recorded, {name: data for name, (data, _) in aside.made.items()}, redone)


def with_language_model(engine: Engine, model: LanguageModel) -> Engine:
    """The same open engine, another language model behind it."""
    view: Any = copy.copy(engine)
    view.language_model = model
    return cast("Engine", view)


def segment_starts(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """For each part of a reply, how many ids come before it (its opening marker is its own)."""
    reader = Reader(vocabulary)
    starts: list[int] = []
    begin = 0
    for position, token in enumerate(ids):
        done = reader.push(token)
        if done is None:
            continue
        if to_part(done, vocabulary) is not None:
            starts.append(begin)
        # A text ends where the next marker is read; that marker opens the next part, unless it closed a transcript.
        marker_is_next = done.modality is Modality.TEXT and done.kind == "content"
        begin = position if marker_is_next else position + 1
    rest = reader.finish()
    return [*starts, begin] if rest is not None and to_part(rest, vocabulary) is not None else starts
