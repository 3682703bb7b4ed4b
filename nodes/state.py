"""What travels between nodes: the state of a run, the options of a call, the events of its stream. Strings, numbers,
references.

Every value survives a checkpoint and JSON: ids are lists of integers, media are hashes with their measures. Bytes and
arrays never enter the state; they live in the blob store and inside one node. Knows no model and no store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from ..anygpt_model.values import Media, Modality, Part, Span

Role = Literal["user", "assistant"]


class PartState(TypedDict):
    """A part on its way. `position` orders the parts of a run; `exchange` and `role` say where in the conversation
    it stands."""

    position: int
    exchange: int
    role: Role
    modality: str
    text: NotRequired[str]
    media: NotRequired[dict[str, Any]]
    ids: NotRequired[list[int]]
    transcript: NotRequired[bool]
    generated: NotRequired[bool]
    seed: NotRequired[int]
    options: NotRequired[dict[str, Any]]
    """State.options, for a node that is handed a part alone."""


class Tokenized(TypedDict):
    """The spans of one medium, in their order (a long sound has several), by the position of its part."""

    position: int
    spans: list[list[int]]


class Made(TypedDict):
    """The medium of one generated span, by the position of its part."""

    position: int
    media: dict[str, Any]
    seed: int


class GenerationState(TypedDict):
    """A values.Generation; `scores` are float32 pairs (log-probability, margin), base64, which a checkpoint holds
    without loss and JSON can carry."""

    ids: list[int]
    scores: str
    finish: str


def by_position(left: list[Any], right: list[Any]) -> list[Any]:
    """Merge what parallel nodes return, ordered by position; a retried node replaces its earlier result."""
    merged = {item["position"]: item for item in [*left, *right]}
    return [merged[position] for position in sorted(merged)]


def add_timings(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
    """Add seconds by node: the parallel runs of one node sum up."""
    return left | {name: left.get(name, 0.0) + seconds for name, seconds in right.items()}


class Conversation(TypedDict):
    """What callers hand in and get back: LangGraph's MessagesState."""

    messages: Annotated[list[AnyMessage], add_messages]


class State(Conversation):
    """All channels of a run. `detect` resets every one of them except the messages, `record` empties the large ones."""

    run: str
    """Drawn once a run and kept through a resume: a run records one turn."""
    conversation: str
    seed: int
    options: dict[str, Any]
    """The call's options that are not the usual ones: a run that is resumed goes on with those it began with."""
    history: list[str]
    """Turn ids of the exchanges so far; "" where the messages hold no known turn and are encoded afresh."""
    parts: list[PartState]
    """The request and every foreign exchange, by position."""
    tokenized: Annotated[list[Tokenized], by_position]
    prompt: str
    """Ids, packed (packing.py)."""
    dropped: int
    generation: GenerationState
    reply: list[PartState]
    made: Annotated[list[Made], by_position]
    timings: Annotated[dict[str, float], add_timings]
    turn: str
    """The id of the recorded turn."""


class Event(TypedDict, total=False):
    """What `stream_mode="custom"` carries. Which keys are there depends on `event`.

    "progress": node, modality, position. "token": modality ("" for a marker), count (ids so far), text (what it
    adds), kind ("transcript" for what the model wrote down of the user's speech).
    "segment": modality, position, and text or media (hash, mime, size, duration …). "turn": turn, conversation.
    """

    event: Literal["progress", "token", "segment", "turn"]
    node: str
    modality: str
    position: int
    count: int
    text: str
    kind: str
    media: dict[str, Any]
    turn: str
    conversation: str


@dataclass(frozen=True)
class Context:
    """The options of one call; all serialisable.

    to: a modality that the reply must hold; modalities: those that it may use (None: all; one medium alone is
    forced). seed: None draws one.
    temperature, top_k, top_p: for every modality; sampling: per modality, e.g. {"music": {"top_k": 50}}; the registry's
    defaults fill the rest. voice: a saved voice's name or the hash of a kept recording. conversation: continue from its
    newest turn where the messages hold no reply yet. parent: continue from this turn. run: record under this key, at
    most once. template: how the prompt is written ("MMGPT", "AnyGPT", "base"), None for the model's own. instruction:
    what a base model is told to do with its input, None for the direction's default.
    """

    to: str | None = None
    modalities: tuple[str, ...] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    sampling: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    voice: str | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_segments: int | None = None
    conversation: str | None = None
    parent: str | None = None
    run: str | None = None
    template: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        """One modality may come as its bare name, several as any collection; what is neither is refused later."""
        given: Any = self.modalities
        if isinstance(given, Collection):
            several = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, "modalities", several)


USUAL = asdict(Context())


def options_state(options: Context) -> dict[str, Any]:
    """`options` as they travel, the usual ones left out."""
    given = {name: value for name, usual in USUAL.items() if (value := getattr(options, name)) != usual}
    if options.modalities is not None:
        given["modalities"] = list(options.modalities)
    if options.sampling:
        given["sampling"] = {kind: dict(settings) for kind, settings in options.sampling.items()}
    return given


def options_value(state: Mapping[str, Any]) -> Context:
    """The options that `options_state` packed."""
    return Context(**state)


def media_state(media: Media) -> dict[str, Any]:
    """A medium's reference and measures, what is unknown left out."""
    return {name: value for name, value in asdict(media).items() if value is not None}


def part_state(part: Part, position: int, exchange: int, role: Role) -> PartState:
    """`part` as it travels."""
    state = PartState(position=position, exchange=exchange, role=role, modality=part.modality.value)
    if part.text is not None:
        state["text"] = part.text
    if part.media is not None:
        state["media"] = media_state(part.media)
    if part.span is not None:
        state["ids"] = list(part.span.ids)
    if part.kind == "transcript":
        state["transcript"] = True
    if part.generated:
        state["generated"] = True
    if part.seed is not None:
        state["seed"] = part.seed
    return state


def part_value(state: PartState) -> Part:
    """The part that `part_state` packed."""
    modality = Modality(state["modality"])
    return Part(
        modality,
        text=state.get("text"),
        media=Media(**state["media"]) if "media" in state else None,
        span=Span(modality, tuple(state["ids"])) if "ids" in state else None,
        kind="transcript" if state.get("transcript") else "content",
        generated=state.get("generated", False),
        seed=state.get("seed"),
    )


def of_exchange(parts: Iterable[PartState], exchange: int, role: Role) -> list[PartState]:
    """The parts of one side of one exchange, in their order."""
    return [part for part in parts if part["exchange"] == exchange and part["role"] == role]
