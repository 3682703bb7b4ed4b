"""One turn as one self-contained page: pictures, players and waveforms, token strips, the nodes' times, the fork tree.

Everything that was said is escaped; nothing is fetched. Knows no model: a turn, kept bytes and names in, HTML out.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..anygpt_model.errors import StoreError
from ..anygpt_model.media import read_audio
from ..anygpt_model.values import Modality, Part, Turn
from .views import measures

COLOURS = {"text": "#4a6fa5", "image": "#a5489a", "speech": "#2b8a8a", "music": "#b5852a", "": "#999"}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.3rem}h2{font-size:1rem;margin-top:2rem;border-bottom:1px solid #ddd}
.part{margin:.5rem 0;padding:.5rem .8rem;border-left:4px solid #ccc}.dim{color:#777;font-size:.85em}
img{max-width:20rem;image-rendering:pixelated}audio{display:block;margin:.3rem 0}
.ids{line-height:0}.ids i{display:inline-block;width:7px;height:18px;margin:1px 0 0 1px}
table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top;overflow-wrap:anywhere}
.bar{display:inline-block;height:.8em;background:#4a6fa5}ul{list-style:none;padding-left:1.2rem}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}
"""
Get = Callable[[str], bytes]


def turn_page(turn: Turn, get: Get, strings: Sequence[str], tree: Sequence[tuple[int, str, str]]) -> str:
    """The page. get: a medium's bytes by hash. strings: what to call each generated id (by position), or none.

    tree: (depth, turn id, words) of the turns around this one.
    """
    sections = [
        f"<h1>turn {escape(turn.id)}</h1><p class=dim>{escape(turn.created)} · {escape(turn.model)} · "
        f"seed {turn.generation.seed} · {escape(turn.hash)}</p>",
        "<h2>user</h2>" + "".join(_part(part, get) for part in turn.request),
        "<h2>assistant</h2>" + "".join(_part(part, get) for part in turn.reply),
        f"<h2>tokens</h2><p class=dim>prompt {len(turn.prompt)} ids, reply {len(turn.generation.ids)} ids, finished by "
        f"{turn.generation.finish}</p>" + _strip(turn, strings),
        "<h2>nodes</h2>" + _timeline(turn),
        "<h2>fork tree</h2>" + _tree(tree, turn.id),
        "<h2>made with</h2>" + _facts(turn),
    ]
    head = f"<meta charset=utf-8><title>turn {escape(turn.id[:8])}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(sections)}</body></html>"


def _part(part: Part, get: Get) -> str:
    colour = COLOURS[part.modality.value]
    if part.media is None:
        heard = "<span class=dim>heard: </span>" if part.kind == "transcript" else ""
        inside = heard + escape(part.text or "")
    else:
        inside = _medium(part, get) + f"<div class=dim>{escape(measures(part.media))} · {escape(part.media.hash)}</div>"
    return f'<div class=part style="border-color:{colour}">{inside}</div>'


def _medium(part: Part, get: Get) -> str:
    """A picture, or a player under its waveform; a sentence for a medium that was evicted."""
    if part.media is None:
        return ""
    try:
        data = get(part.media.hash)
    except StoreError:
        return "<em>The medium was evicted; a replay makes it again from its ids.</em>"
    source = f"data:{part.media.mime};base64,{b64encode(data).decode('ascii')}"
    if part.modality is Modality.IMAGE:
        return f'<img alt="{part.modality.value}" src="{source}">'
    samples, _ = read_audio(data)
    return _waveform(samples, COLOURS[part.modality.value]) + f'<audio controls src="{source}"></audio>'


def _waveform(samples: NDArray[np.float32], colour: str, columns: int = 400) -> str:
    """The loudest sample of each column, mirrored, as one SVG path."""
    edges = np.linspace(0, len(samples), columns + 1).astype(int)
    peaks = [float(np.abs(samples[start:stop]).max(initial=0.0)) for start, stop in pairwise(edges)]
    loudest = max(peaks, default=0.0) or 1.0
    lines = "".join(
        f"M{x} {30 - 28 * peak / loudest:.1f}V{30 + 28 * peak / loudest:.1f}" for x, peak in enumerate(peaks)
    )
    return f'<svg class=wave width="{columns}" height="60"><path d="{lines}" stroke="{colour}"/></svg>'


def _strip(turn: Turn, strings: Sequence[str]) -> str:
    """A cell an id, in the colour of its modality, fainter the less probable; its numbers on hover."""
    kinds = _kinds(turn)
    cells = []
    scores = zip(turn.generation.ids, turn.generation.logprobs, turn.generation.margins, strict=False)
    for position, (token, logprob, margin) in enumerate(scores):
        name = f" {strings[position]}" if position < len(strings) else ""
        title = f"{position}: id {token}{name}, log-probability {logprob:.3f}, margin {margin:.3g}"
        colour, faint = COLOURS[kinds.get(position, "")], 0.25 + 0.75 * float(np.exp(max(logprob, -20.0) / 4))
        cells.append(f'<i style="background:{colour};opacity:{faint:.2f}" title="{escape(title, quote=True)}"></i>')
    return f"<div class=ids>{''.join(cells)}</div>"


def _kinds(turn: Turn) -> dict[int, str]:
    """Position in the reply -> modality, by finding the spans in their order; markers are left out."""
    found: dict[int, str] = {}
    ids, start = turn.generation.ids, 0
    for part in turn.reply:
        span = part.span.ids if part.span is not None else ()
        places = range(start, len(ids) - len(span) + 1)
        begin = next((at for at in places if ids[at : at + len(span)] == span), None) if span else None
        if begin is not None:
            found |= dict.fromkeys(range(begin, begin + len(span)), part.modality.value)
            start = begin + len(span)
    return found


def _timeline(turn: Turn) -> str:
    longest = max(turn.timings.values(), default=0.0) or 1.0
    rows = (
        f"<tr><td>{escape(name)}<td>{spent:.3f} s<td>"
        f"<span class=bar style='width:{20 * spent / longest:.2f}rem'></span>"
        for name, spent in turn.timings.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _tree(tree: Iterable[tuple[int, str, str]], here: str) -> str:
    lines = []
    for depth, id, words in tree:
        name = f"<b>{escape(id[:8])}</b>" if id == here else escape(id[:8])
        lines.append(f'<li style="margin-left:{1.5 * depth}rem">{name} <span class=dim>{escape(words)}</span>')
    return f"<ul>{''.join(lines)}</ul>"


def _facts(turn: Turn) -> str:
    sampling = {f"sampling {kind.value}": str(settings) for kind, settings in turn.sampling.items()}
    facts = {**turn.options, **sampling, **turn.fingerprints, **turn.versions}
    rows = (f"<tr><td>{escape(str(name))}<td class=dim>{escape(str(value))}" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"
