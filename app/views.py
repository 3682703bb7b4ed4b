"""How turns are shown in a terminal: lists, one whole turn, a replay's report. Colours tell modalities apart.

Knows no store and no model: values in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from ..anygpt_model.values import Media, Part, Turn
from .console import COLOURS

if TYPE_CHECKING:
    from rich.console import Console

    from ..storage.listing import ConversationSummary, TurnSummary


def show_turns(console: Console, turns: Sequence[TurnSummary]) -> None:
    """A line a turn, newest first."""
    names = ("turn", "when", "asked", "answered", "in", "out", "tokens")
    table = Table(
        *(Column(name, no_wrap=name not in ("asked", "answered")) for name in names), box=None, pad_edge=False
    )
    table.header_style = "dim"
    for turn in turns:
        if turn.erased:
            table.add_row(
                turn.id[:8], turn.created[5:16].replace("T", " "), Text(f"erased {turn.erased[:10]}", style="dim")
            )
            continue
        kinds = (", ".join(kinds) for kinds in (turn.modalities_in, turn.modalities_out))
        table.add_row(
            turn.id[:8],
            turn.created[5:16].replace("T", " "),
            _said(turn.asked),
            _said(turn.answered),
            *kinds,
            str(turn.tokens),
        )
    console.print(table)


def show_conversations(console: Console, conversations: Sequence[ConversationSummary]) -> None:
    """A line a conversation, the last used first."""
    table = Table("conversation", "turns", "newest", "begins", box=None, header_style="dim")
    for one in conversations:
        table.add_row(Text(one.id), str(one.turns), (one.tip or "")[:8], _said(one.opening))
    console.print(table)


def in_order(timings: Mapping[str, float]) -> list[tuple[str, float]]:
    """Nodes and their seconds, as a run goes through them."""
    stages = ("detect", "tokenize", "generate", "route", "detokenize", "record")
    places = {stage: place for place, stage in enumerate(stages)}
    return sorted(timings.items(), key=lambda node: (places.get(node[0].partition("_")[0], len(stages)), node[0]))


def _said(text: str) -> Text:
    """On one line, cut where the terminal is narrow."""
    return Text(_short(text), no_wrap=True, overflow="ellipsis")


def show_turn(console: Console, turn: Turn, children: Iterable[str] = ()) -> None:
    """One turn: what was said, what the model saw and made, how, and with what."""
    console.print(Text(f"turn {turn.id}", style="bold"))
    console.print(_facts(turn, list(children)))
    console.print(Text("\nuser", style="bold green"))
    for part in turn.request:
        console.print(_part(part))
    console.print(Text("assistant", style="bold blue"))
    for part in turn.reply:
        console.print(_part(part))
    console.print(Text("\ntokens", style="bold"))
    console.print(_spans(turn))
    console.print(_numbers(turn))


def _facts(turn: Turn, children: list[str]) -> Table:
    table = _grid()
    table.add_row("conversation", Text(turn.conversation))
    table.add_row("parent", turn.parent or "none: the first turn")
    if children:
        table.add_row("children", ", ".join(child[:8] for child in children))
    table.add_row("made", f"{turn.created} by {turn.model}")
    table.add_row("hash", turn.hash)
    return table


def _part(part: Part) -> Text:
    line = Text("  ")
    if part.media is not None:
        line.append(f"[{part.modality.value}] ", style=COLOURS[part.modality.value])
        line.append(f"{measures(part.media)}  {part.media.hash}", style="dim")
    else:
        if part.kind == "transcript":
            line.append("(heard) ", style="dim")
        line.append(part.text or "")
    return line


def measures(media: Media) -> str:
    """A medium's type and size in words."""
    measure = f"{media.duration:.2f} s" if media.duration is not None else f"{media.width} x {media.height}"
    return f"{media.mime}, {measure}, {media.size:,} bytes"


def _spans(turn: Turn) -> Text:
    """The reply's spans as blocks of colour, a block for about eight ids, each with its count."""
    line = Text("  ")
    line.append(f"prompt {len(turn.prompt)}  ", style="dim")
    for part in turn.reply:
        if part.span is None:
            continue
        style = COLOURS[part.modality.value]
        line.append("▇" * max(1, len(part.span.ids) // 8), style=style)
        line.append(f" {part.modality.value} {len(part.span.ids)}  ", style=style)
    return line


def _numbers(turn: Turn) -> Table:
    made = turn.generation
    table = _grid()
    table.add_row("generated", f"{len(made.ids)} ids, finished by {made.finish}")
    if made.logprobs:
        mean = sum(made.logprobs) / len(made.logprobs)
        table.add_row("log-probability", f"{mean:.3f} nats an id, least margin {min(made.margins):.4g}")
    table.add_row("seed", str(made.seed))
    if turn.dropped:
        table.add_row("left out", f"{turn.dropped} oldest turns, for the context was full")
    for kind in sorted({part.modality for part in turn.reply}):
        if kind in turn.sampling:
            table.add_row(f"sampling {kind.value}", _pairs(asdict(turn.sampling[kind])))
    if turn.options:
        table.add_row("options", _pairs(turn.options))
    table.add_row("seconds", ", ".join(f"{name} {spent:.3f}" for name, spent in in_order(turn.timings)))
    table.add_row("fingerprints", _pairs({name: print_[:19] for name, print_ in turn.fingerprints.items()}))
    table.add_row("versions", _pairs(turn.versions))
    return table


def _grid() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _short(text: str, length: int = 32) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
