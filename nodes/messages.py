"""LangChain messages <-> parts: content blocks that refer to media by hash, and the turn id that a reply carries.

Messages say which turns, the store says which ids. Knows no bytes, no ids and no model.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata

from ..anygpt_model.values import Media, Modality, Part, Turn

Block = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """What was said and the reply to it; `reply` is None for the request that is still to be answered."""

    asked: list[BaseMessage] = field(default_factory=list)
    reply: AIMessage | None = None

    @property
    def turn(self) -> str | None:
        """The id of the turn that the reply says it came from."""
        return None if self.reply is None else turn_id(self.reply)


def exchanges(messages: Sequence[AnyMessage]) -> tuple[list[Exchange], list[BaseMessage]]:
    """The answered exchanges, and the messages after the last reply: the request."""
    answered: list[Exchange] = []
    asked: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            answered.append(Exchange(asked, message))
            asked = []
        else:
            asked.append(message)
    return answered, asked


def turn_id(message: AIMessage) -> str | None:
    """The turn that `message` was recorded as, or None for a foreign one."""
    for home in (message.response_metadata, message.additional_kwargs):
        ours = home.get("anyloom")
        if isinstance(ours, dict) and isinstance(ours.get("turn"), str):
            return cast(str, ours["turn"])
    return None


def blocks(message: BaseMessage) -> list[Block]:
    """The message's content in LangChain's v1 blocks; a URL that holds its own data is base64 like any other."""
    if type(message) is HumanMessage and isinstance(message.content, str):  # as nearly all are: no need to look closer
        return [{"type": "text", "text": message.content}] if message.content else []
    return [_inlined(cast(Block, block)) for block in message.content_blocks]


def _inlined(block: Block) -> Block:
    head, comma, data = str(block.get("url", "")).partition(";base64,")
    return {**block, "base64": data} if comma and head.startswith("data:") else block


def media_block(modality: Modality, media: Media) -> Block:
    """A block that refers to a kept medium: music and speech are `audio`, told apart by `extras`."""
    return {
        "type": "image" if modality is Modality.IMAGE else "audio",
        "file_id": media.hash,
        "mime_type": media.mime,
        "extras": {"anyloom": {"modality": modality.value, **_measures(media)}},
    }


def _measures(media: Media) -> dict[str, Any]:
    """What a reader may want to know before asking for the bytes; the rest is behind the hash."""
    known = {"size": media.size, "width": media.width, "height": media.height, "duration": media.duration}
    return {name: value for name, value in known.items() if value is not None}


def part_blocks(parts: Iterable[Part]) -> list[Block]:
    """The blocks of `parts`, in order. What a reply wrote down of the user's speech is not content; a medium that fills
    several spans is one block."""
    made: list[Block] = []
    for part in parts:
        if part.media is not None:
            block = media_block(part.modality, part.media)
            if part.generated or not made or made[-1] != block:
                made.append(block)
        elif part.text is not None and part.kind == "content":
            made.append({"type": "text", "text": part.text})
    return made


def _content(parts: Iterable[Part]) -> str | list[str | dict[str, Any]]:
    """A plain string where there is only one text, as most of the ecosystem expects; blocks otherwise."""
    made = part_blocks(parts)
    if not made:
        return ""
    if len(made) == 1 and made[0]["type"] == "text":
        return str(made[0]["text"])
    return list(made)


def request_message(turn: Turn) -> HumanMessage:
    """What the user said in `turn`."""
    return HumanMessage(content=_content(turn.request), id=f"{turn.id}-request")


def reply_metadata(turn: Turn) -> dict[str, Any]:
    """What a reply says of itself under "anyloom" in its response metadata."""
    transcript = " ".join(part.text or "" for part in turn.reply if part.kind == "transcript")
    return {
        "turn": turn.id,
        "conversation": turn.conversation,
        "seed": turn.generation.seed,
        "finish": turn.generation.finish,
        "dropped": turn.dropped,
        "modalities": sorted({part.modality.value for part in turn.reply}),
        **({"transcript": transcript} if transcript else {}),
    }


def usage(prompt: int, generated: int) -> UsageMetadata:
    """LangChain's count of ids in and out."""
    return UsageMetadata(input_tokens=prompt, output_tokens=generated, total_tokens=prompt + generated)


def reply_message(turn: Turn) -> AIMessage:
    """The reply of `turn`, carrying the turn's id."""
    finish = "length" if turn.generation.finish == "length" else "stop"
    return AIMessage(
        content=_content(turn.reply),
        id=f"{turn.id}-reply",
        response_metadata={"model_name": turn.model, "finish_reason": finish, "anyloom": reply_metadata(turn)},
        usage_metadata=usage(len(turn.prompt), len(turn.generation.ids)),
    )


def conversation_messages(turns: Iterable[Turn]) -> list[AnyMessage]:
    """A stored conversation as messages, oldest first."""
    said: list[AnyMessage] = []
    for turn in turns:
        said += [request_message(turn), reply_message(turn)]
    return said


def substance(made: Iterable[Block]) -> tuple[str, list[str]]:
    """What a reader sees of the blocks, to tell an edited message from the recorded one: the words, and the media's
    hashes."""
    shown = list(made)
    words = " ".join(str(block["text"]) for block in shown if block.get("type") == "text").split()
    return " ".join(words), [_media_hash(block) for block in shown if block.get("type") != "text"]


def _media_hash(block: Block) -> str:
    if isinstance(block.get("base64"), str):
        return "sha256:" + sha256(b64decode(block["base64"])).hexdigest()
    return str(block.get("file_id"))


def unchanged(exchange: Exchange, turn: Turn) -> bool:
    """Whether the messages of `exchange` still say what `turn` recorded."""
    asked = [block for message in exchange.asked for block in blocks(message)]
    replied = blocks(exchange.reply) if exchange.reply is not None else []
    return substance(asked) == substance(part_blocks(turn.request)) and substance(replied) == substance(
        part_blocks(turn.reply)
    )
