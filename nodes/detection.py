"""detect: name the modality of each part from its content, take in its bytes, draw the seed, and find the turns so far.

The caller's word wins over the detector's. After this node a run holds references only: a message that came with bytes,
or with a URL where those are on, is replaced by one that refers to the kept medium. Knows no ids.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import AnyMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from ..anygpt_model.errors import InputError, MediaError, UnknownName
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Modality, Part
from .ingestion import ingest, known_modality
from .messages import Block, Exchange, blocks, exchanges, media_block, unchanged
from .options import bounds, check_kinds, check_voice, sampling, template
from .ports import Fetch, Keeper
from .state import Context, PartState, Role, State, options_state, part_state

MAX_PARTS = 32
"""Parts of one message; more are refused before any is opened."""


def detect(
    state: State,
    config: RunnableConfig,
    runtime: Runtime[Context],
    *,
    keeper: Keeper,
    limits: Limits,
    fetch: Fetch | None = None,
) -> Any:
    """The update that starts a run: every channel reset, the request's parts named, bytes kept and left behind.

    fetch: where the bytes of URLs come from; None refuses them.
    """
    options = runtime.context or Context()
    check_options(options, keeper)
    reader = _Reader(keeper, limits, fetch)
    answered, asked = exchanges([reader.fetched(message) for message in state["messages"]])
    history, found = _history(answered, options, keeper)
    for number, exchange in found:
        reader.read(exchange.asked, number, "user")
        reader.read([exchange.reply] if exchange.reply is not None else [], number, "assistant")
    reader.read(asked, len(history), "user")
    if not any(part["exchange"] == len(history) for part in reader.parts):
        raise InputError("The request is empty; give it a text, a picture or a sound.")
    return {
        "messages": reader.rewritten,
        "run": options.run or uuid4().hex,
        "conversation": _conversation(options, config, history, keeper),
        "seed": secrets.randbits(31) if options.seed is None else options.seed,
        "options": options_state(options),
        "history": history,
        "parts": reader.parts,
        "tokenized": Overwrite([]),
        "made": Overwrite([]),
        "timings": Overwrite({}),
        "reply": [],
        "turn": "",
    }


def check_options(options: Context, keeper: Keeper) -> None:
    """Refuse what can be refused before anything is kept. Raises UnknownName, InputError."""
    check_kinds(options)
    bounds(options)
    sampling(options)
    template(options)
    if not _whole(options.seed):
        raise InputError(f"The seed {options.seed!r} came; a whole number is taken.")
    if options.voice is not None:
        check_voice(options.voice, keeper)


def _whole(number: object) -> bool:
    return number is None or isinstance(number, int)


def _history(
    answered: Sequence[Exchange], options: Context, keeper: Keeper
) -> tuple[list[str], list[tuple[int, Exchange]]]:
    """Turn ids by exchange ("" for a foreign or edited one), and the foreign exchanges with their numbers."""
    if not answered:
        return [turn.id for turn in _continued(options, keeper)], []
    history = [_known(exchange, keeper) for exchange in answered]
    return history, [(number, answered[number]) for number, turn in enumerate(history) if not turn]


def _continued(options: Context, keeper: Keeper) -> Sequence[Any]:
    """The turns to continue from where the messages hold no reply: the named parent's, or the conversation's newest."""
    if options.parent is not None:
        return keeper.lineage(keeper.turn(options.parent).id)
    tip = keeper.tip(options.conversation) if options.conversation else None
    return keeper.lineage(tip.id) if tip is not None else []


def _known(exchange: Exchange, keeper: Keeper) -> str:
    if exchange.turn is None:
        return ""
    try:
        turn = keeper.turn(exchange.turn)
    except UnknownName:
        return ""
    return turn.id if unchanged(exchange, turn) else ""


def _conversation(options: Context, config: RunnableConfig, history: Sequence[str], keeper: Keeper) -> str:
    """The caller's conversation, else that of the parent turn, else the thread, else a new one."""
    if options.conversation:
        return options.conversation
    thread = config.get("configurable", {}).get("thread_id")
    if thread:
        return str(thread)
    if history and history[-1]:
        return keeper.turn(history[-1]).conversation
    return uuid4().hex


class _Reader:
    """Collects parts in their order over several messages, and the messages that had to be rewritten."""

    def __init__(self, keeper: Keeper, limits: Limits, fetch: Fetch | None) -> None:
        self.parts: list[PartState] = []
        self.rewritten: list[AnyMessage] = []
        self._keeper = keeper
        self._limits = limits
        self._fetch = fetch

    def fetched(self, message: AnyMessage) -> AnyMessage:
        """`message` with what its URLs hold kept and referred to: what a URL holds may change, what was said may not.

        Raises InputError where URLs are off, MediaError for one that can't be had.
        """
        content = blocks(message)
        if not any("url" in block and "base64" not in block for block in content):
            return message
        if self._fetch is None:
            raise InputError(
                "A content block with a URL came, and URLs are off; give the bytes as base64 or a kept medium by its "
                "hash, or open the graph with urls=True."
            )
        _check_count(content)
        local = message.model_copy(update={"content": [self._local(block) for block in content]})
        self.rewritten.append(local)
        return local

    def _local(self, block: Block) -> Block:
        if self._fetch is None or "url" not in block or "base64" in block:
            return block
        data = self._fetch(str(block["url"]), self._limits.max_bytes)
        part = ingest(data, self._keeper, self._limits, _said_modality(block))
        return block if part.media is None else media_block(part.modality, part.media)

    def read(self, messages: Sequence[BaseMessage], exchange: int, role: Role) -> None:
        """Add the parts of `messages`, all of one side of one exchange."""
        for message in messages:
            content = blocks(message)
            _check_count(content)
            parts = [part for block in content if (part := self._part(block)) is not None]
            for part in parts:
                self.parts.append(part_state(part, len(self.parts), exchange, role))
            if any("base64" in block for block in content):
                self.rewritten.append(_by_reference(message, parts))

    def _part(self, block: Block) -> Part | None:
        """The part that `block` is; None for an empty text and for what is no content (reasoning, tool calls)."""
        kind = block.get("type")
        if kind == "text":
            text = str(block.get("text", ""))
            return Part(Modality.TEXT, text=text) if text.strip() else None
        if kind in ("image", "audio", "file"):
            return self._medium(block)
        if kind in ("reasoning", "tool_call", "invalid_tool_call", "server_tool_call", "server_tool_result"):
            return None
        raise InputError(f"A content block of type {kind!r} came; text, image and audio blocks are taken.")

    def _medium(self, block: Block) -> Part:
        said = _said_modality(block)
        if isinstance(block.get("base64"), str):
            return ingest(_bytes(block["base64"]), self._keeper, self._limits, said)
        if isinstance(block.get("file_id"), str):
            media = self._keeper.describe(block["file_id"])
            return Part(said or known_modality(media, self._keeper, self._limits), media=media)
        raise InputError("A media block without content came; give the bytes as base64, or a kept medium by its hash.")


def _check_count(content: Sequence[Block]) -> None:
    if len(content) > MAX_PARTS:
        raise InputError(f"A message of {len(content)} parts came; at most {MAX_PARTS} are taken.")


def _said_modality(block: Block) -> Modality | None:
    """What the caller calls the medium, under extras.anyloom.modality; other extras are other readers'."""
    extras = block.get("extras")
    ours = extras.get("anyloom") if isinstance(extras, dict) else None
    if ours is not None and not isinstance(ours, dict):
        raise InputError(f'The extras anyloom={ours!r} came; {{"anyloom": {{"modality": "music"}}}} is taken.')
    said = (ours or {}).get("modality")
    if said is None:
        return None
    try:
        return Modality(said)
    except ValueError:
        raise UnknownName(f"There is no modality named {said!r}; use one of image, speech, music.") from None


def _bytes(base64: str) -> bytes:
    try:
        return b64decode(base64, validate=True)
    except binascii.Error:
        raise MediaError("A media block whose base64 is broken came; encode the file's bytes again.") from None


def _by_reference(message: BaseMessage, parts: Sequence[Part]) -> AnyMessage:
    """`message` with its bytes replaced by references; the same id, so that it takes the message's place."""
    content = [
        media_block(part.modality, part.media) if part.media is not None else {"type": "text", "text": part.text or ""}
        for part in parts
    ]
    return message.model_copy(update={"content": content})  # type: ignore[return-value]
