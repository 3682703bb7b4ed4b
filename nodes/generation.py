"""generate: format the conversation, let the language model answer, stream what it makes.

When the context is full the oldest whole turns are left out; how many, the turn says. History comes from the store as
raw ids; only foreign messages are encoded afresh. Knows no codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime

from ..anygpt_model import dialogue
from ..anygpt_model.dialogue import Message
from ..anygpt_model.errors import ContextFull, UnknownName
from ..anygpt_model.values import Bounds, Generation, Modality, Part, Request, Span
from ..anygpt_model.vocabulary import INSTRUCTION, Vocabulary
from .base import BASE, base_bounds, base_prompt
from .options import bounds, sampling, template
from .packing import pack, pack_ids
from .ports import Keeper
from .state import Context, Event, Role, State, of_exchange, part_value

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine

RESERVE = 192
"""Ids kept free for a reply while the history has turns to leave out: a sentence, a picture and a short sound."""


def generate(
    state: State,
    config: RunnableConfig,
    runtime: Runtime[Context],
    *,
    engine: Engine,
    keeper: Keeper,
    cancelled: Callable[[], bool] | None = None,
) -> Any:
    """The prompt's ids and what the language model made of them."""
    request, dropped = asked(state, runtime.context or Context(), engine, keeper)
    stream = None if unheard(runtime.stream_writer) else TokenStream(engine.vocabulary, runtime.stream_writer)
    [generation] = engine.language_model.generate([request], stream, cancelled)
    return answered(request, dropped, generation)


def asked(state: State, options: Context, engine: Engine, keeper: Keeper) -> tuple[Request, int]:
    """What the language model is asked, and how many of the oldest exchanges were left out."""
    wanted = bounds_here(options, engine)
    prompt, dropped = prompt_ids(conversation(state, keeper, engine.vocabulary), options, wanted, engine)
    return Request(tuple(prompt), state["seed"], wanted, sampling(options, engine.sampling)), dropped


def answered(request: Request, dropped: int, generation: Generation) -> dict[str, Any]:
    """What the node writes down of the model's answer."""
    return {"prompt": pack_ids(request.prompt), "dropped": dropped, "generation": pack(generation)}


def bounds_here(options: Context, engine: Engine) -> Bounds:
    """The call's bounds, within what the engine was opened with. Raises UnknownName for a wish that is outside."""
    wanted = bounds(options)
    if style(options, engine) == BASE:
        wanted = base_bounds(wanted)
    if wanted.to is not None and wanted.to not in engine.modalities:
        known = ", ".join(sorted(engine.modalities))
        raise UnknownName(f"This engine was opened without {wanted.to}; ask for one of {known}.")
    allowed = wanted.modalities & engine.modalities
    if wanted.to is None and not allowed:
        asked_for, known = (", ".join(sorted(some)) for some in (wanted.modalities, engine.modalities))
        raise UnknownName(f"This engine was opened without {asked_for}; ask for one of {known}.")
    return wanted if allowed == wanted.modalities else replace(wanted, modalities=allowed)


def style(options: Context, engine: Engine) -> str:
    """How the prompt is written: the call's template, else the model's own. Raises UnknownName."""
    return template(options) or engine.template


def conversation(state: State, keeper: Keeper, vocabulary: Vocabulary) -> list[list[Message]]:
    """The exchanges as the dialogue takes them, oldest first; the last one is the request alone."""
    answered = [_exchange(state, number, turn, keeper, vocabulary) for number, turn in enumerate(state["history"])]
    return [*answered, [Message("user", request_parts(state, len(answered), "user"))]]


def _exchange(state: State, number: int, turn: str, keeper: Keeper, vocabulary: Vocabulary) -> list[Message]:
    if turn:
        stored = keeper.turn(turn)
        lead = dialogue.lead(vocabulary) if is_forced(stored.bounds) else []
        return [Message("user", stored.request), Message("assistant", ids=(*lead, *stored.generation.ids))]
    said, replied = request_parts(state, number, "user"), request_parts(state, number, "assistant")
    return [Message("user", said), Message("assistant", replied)]


def request_parts(state: State, exchange: int, role: Role) -> tuple[Part, ...]:
    """The parts of one side of an exchange, each with its span; a sound of several spans is as many parts."""
    spans = {item["position"]: item["spans"] for item in state["tokenized"]}
    parts: list[Part] = []
    for part in of_exchange(state["parts"], exchange, role):
        value = part_value(part)
        for ids in spans.get(part["position"], []):
            parts.append(Part(value.modality, media=value.media, span=Span(value.modality, tuple(ids))))
        if value.media is None:
            parts.append(value)
    return tuple(parts)


def is_forced(wanted: Bounds) -> bool:
    """Whether a reply may hold one medium and nothing else: AnyGPT's forced modalities."""
    allowed = wanted.modalities | ({wanted.to} if wanted.to is not None else set())
    return len(allowed) == 1 and Modality.TEXT not in allowed


def prompt_ids(
    exchanges: Sequence[list[Message]], options: Context, wanted: Bounds, engine: Engine
) -> tuple[list[int], int]:
    """The prompt, and how many of the oldest exchanges were left out for it to fit.

    The blank before a forced medium stands at the prompt's end; its opening marker is then the one legal id.
    Raises ContextFull where the request alone doesn't fit.
    """
    chosen, vocabulary = style(options, engine), engine.vocabulary
    lead = dialogue.lead(vocabulary) if is_forced(wanted) else []
    if chosen == BASE:
        [request] = exchanges[-1]
        prompt = base_prompt(request.parts, wanted.to or Modality.TEXT, options.instruction, vocabulary)
        return [*prompt, *lead], len(exchanges) - 1
    for dropped in range(len(exchanges)):
        messages = [message for exchange in exchanges[dropped:] for message in exchange]
        ids = [*dialogue.format(messages, vocabulary, chosen), *lead]
        if len(ids) + RESERVE <= engine.context_length:
            return ids, dropped
    if len(ids) < engine.context_length:
        return ids, dropped
    raise ContextFull(
        f"The request has {len(ids)} ids and the model takes {engine.context_length}; send a shorter text or sound."
    )


def unheard(write: Callable[[Any], None]) -> bool:
    """Whether `write` is an empty function, which LangGraph hands over where nobody streams: waking up for each id then
    costs the model time and serves no one."""
    code = getattr(write, "__code__", None)
    return code is not None and code.co_code == _nothing.__code__.co_code


def _nothing(event: Any) -> None:
    pass


class TokenStream:
    """Called with each id as it is made: writes its modality, what it adds to the text, and whether that is a
    transcript."""

    def __init__(self, vocabulary: Vocabulary, write: Callable[[Any], None]) -> None:
        self._vocabulary = vocabulary
        self._write = write
        self._text = vocabulary.stream()
        self._count = 0
        self._kind = "content"

    def __call__(self, request: int, token: int) -> None:
        """Take the next id of request number `request` (there is one)."""
        self._count += 1
        modality = self._vocabulary.modality(token)
        text = self._text.feed(token) if modality is Modality.TEXT else self._pause(token)
        event = Event(event="token", modality=modality.value if modality else "", count=self._count, text=text)
        self._write({**event, "kind": self._kind} if text else event)
        if modality is None:
            self._kind = "transcript" if self._vocabulary.string(token) == INSTRUCTION else "content"

    def _pause(self, token: int) -> str:
        """Text ends at a marker or a code; the next one starts anew."""
        left = self._text.finish()
        if self._vocabulary.modality(token) is None:
            self._text = self._vocabulary.stream()
        return left
