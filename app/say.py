"""`anyloom say`: one turn. The reply's text is written as it is made, its media into a folder. Knows no model's
insides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from ..anygpt_model.errors import InputError
from ..anygpt_model.values import Modality
from .console import Screen
from .files import media_name, read_file, writable_folder, write_file
from .opening import opened_engine, opened_store

if TYPE_CHECKING:
    from ..anygpt_model.values import Turn
    from ..storage.store import Store

FILES = click.Path(path_type=Path)


@dataclass(frozen=True)
class Input:
    """A file's bytes and what the caller says they are."""

    data: bytes
    modality: Modality | None


def asking(command: Any) -> Any:
    """The options that `say` and `chat` share."""
    options = (
        click.option("--to", metavar="MODALITY", help="What the reply must hold: text, image, speech or music."),
        click.option("--out", type=FILES, help="Folder for the reply's media [default: out]."),
        click.option("--voice", metavar="WAV|NAME", help="Whose voice speaks: a recording, or a saved voice."),
        click.option("--seed", type=int, help="The same seed makes the same reply."),
        click.option("--max-seconds", type=float, help="The longest sound that is made."),
        click.option("--max-tokens", type=int, help="The longest reply, in tokens of all modalities."),
        click.option("--temperature", type=float, help="How freely the reply is drawn; 0 is not at all."),
        click.option("--max-segments", type=int, help="The most pictures, and the most sounds of a kind."),
        click.option("--beams", type=int, help="Wordings searched at once, for a transcript: --to text only."),
        click.option("--conversation", metavar="ID", help="Continue the conversation of that name, or begin it."),
        click.option("--model", metavar="NAME|FOLDER", help="A model's name or its folder [default: pocket]."),
        click.option("--only", is_flag=True, help="The reply is one --to MODALITY and nothing else."),
        click.option("--template", metavar="NAME", help="MMGPT, AnyGPT or base [default: the model's own]."),
        click.option("--instruction", help="What a base model does with its input [default: by direction]."),
        click.option("--quantize", metavar="BITS", help="int8 or int4 weights (pip install 'anyloom[quantized]')."),
        click.option("--low-memory", is_flag=True, help="Keep codecs off the GPU while they are idle."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("text", nargs=-1)
@click.option("--image", type=FILES, multiple=True, help="A picture (PNG, JPEG, WebP); may be repeated.")
@click.option("--speech", type=FILES, multiple=True, help="Recorded speech (WAV, FLAC, OGG, MP3); may be repeated.")
@click.option("--music", type=FILES, multiple=True, help="Recorded music; may be repeated.")
@click.option("--audio", type=FILES, multiple=True, help="A sound; whether it is speech or music is detected.")
@asking
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the reply.")
def say(
    text: tuple[str, ...], as_json: bool, to: str | None, out: Path | None, model: str | None, **given: Any
) -> None:
    """One turn: TEXT, pictures and sounds in, any modality out.

    \b
    anyloom say "draw a red apple" --to image --out out/
    anyloom say "What is this?" --image cat.png
    anyloom say --speech question.wav --to speech
    """
    screen = Screen(quiet=as_json)
    folder = writable_folder(out_folder(out))
    words = " ".join(text).strip()
    inputs = read_inputs(given.pop("image"), given.pop("speech"), given.pop("music"), given.pop("audio"))
    if not words and not inputs:
        raise InputError("The request is empty; give a text, --image, --speech, --music or --audio.")
    with opened_store() as store:
        from .turns import Asker

        asker = Asker(store, screen, to, given)
        asker.check(model)
        engine = opened_engine(screen, model, given["quantize"], given["low_memory"])
        try:
            started = perf_counter()
            turn = asker.ask(engine, words, inputs)
            answer = written(turn, store, folder, screen)
            screen.remark(f"turn {turn.id[:8]} · seed {turn.generation.seed} · {perf_counter() - started:.1f} s")
        finally:
            engine.close()
    if as_json:
        screen.json(answer)


def out_folder(out: Path | None) -> Path:
    """Where media are written: the option, or the setting."""
    from ..graphs.settings import settings

    return out if out is not None else settings().out


def read_inputs(
    image: tuple[Path, ...], speech: tuple[Path, ...], music: tuple[Path, ...], audio: tuple[Path, ...]
) -> list[Input]:
    """The files of a request, read and examined, nothing kept. Raises MediaError."""
    named: list[tuple[Path, Modality | None]] = [
        *((path, Modality.IMAGE) for path in image),
        *((path, Modality.SPEECH) for path in speech),
        *((path, Modality.MUSIC) for path in music),
        *((path, None) for path in audio),
    ]
    if not named:
        return []
    from ..anygpt_model.media import Limits
    from ..nodes.ingestion import examine

    limits = Limits()
    inputs = [Input(read_file(path, limits.max_bytes), modality) for path, modality in named]
    for item in inputs:
        examine(item.data, limits, item.modality or Modality.SPEECH)
    return inputs


def written(turn: Turn, store: Store, folder: Path, screen: Screen) -> dict[str, Any]:
    """Write the reply's media into `folder` and say where; the turn as `--json` prints it."""
    parts: list[dict[str, Any]] = []
    for part in turn.reply:
        shown: dict[str, Any] = {"modality": part.modality.value, "kind": part.kind}
        if part.media is not None:
            number = 1 + sum("file" in earlier for earlier in parts)
            path = write_file(folder / media_name(turn.id, number, part.media.mime), store.get(part.media.hash))
            screen.line(f"[{part.modality.value}] {path}")
            shown |= {"file": str(path), "hash": part.media.hash, "content": part.media.content}
        else:
            shown["text"] = part.text
        parts.append(shown)
    return {
        "turn": turn.id,
        "conversation": turn.conversation,
        "text": " ".join(part.text for part in turn.reply if part.text and part.kind == "content"),
        "reply": parts,
        "seed": turn.generation.seed,
        "finish": turn.generation.finish,
        "model": turn.model,
        "tokens": len(turn.generation.ids),
        "seconds": round(sum(turn.timings.values()), 3),
    }
