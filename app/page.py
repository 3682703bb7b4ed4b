"""One turn as one self-contained page: pictures, players and waveforms, token strips, the nodes' times, the fork tree.

Everything that was said is escaped; nothing is fetched. Knows no model: a turn, kept bytes and names in, HTML out.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..anygpt_model.errors import StoreError
from ..anygpt_model.media import read_audio
from ..anygpt_model.values import Modality, Part, Turn
from .views import in_order, measures

COLOURS = {"text": "#4a7ebb", "image": "#b0519f", "speech": "#2f9696", "music": "#c08a2e", "": "#8a8f98"}
STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--dim:#69707a;--line:#dfe3e8;--sheet:#fff;--desk:#f4f5f7}
@media(prefers-color-scheme:dark){:root{--ink:#e3e6ea;--dim:#98a0aa;--line:#33383f;--sheet:#1d2024;--desk:#131517}}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:2rem 1rem 6rem;color:var(--ink);
background:var(--desk)}
header,section{background:var(--sheet);border:1px solid var(--line);border-radius:10px;padding:.9rem 1.2rem;
margin-bottom:1rem}
h1{font-size:1.15rem;margin:0;overflow-wrap:anywhere}
h2{font-size:.75rem;letter-spacing:.06em;text-transform:uppercase;color:var(--dim);margin:0 0 .5rem}
p{margin:.2rem 0}
.dim{color:var(--dim);font-size:.85em;overflow-wrap:anywhere}
.part{margin:.6rem 0;padding:.2rem 0 .2rem .9rem;border-left:4px solid var(--line);white-space:pre-wrap}
.part>*{white-space:normal}
img{display:block;max-width:min(24rem,100%);min-width:8rem;image-rendering:pixelated;border-radius:6px}
audio{display:block;width:min(30rem,100%);margin:.4rem 0}
svg.wave{display:block;max-width:100%}
.ids{line-height:0;margin-top:.5rem}
.ids i{display:inline-block;width:8px;height:20px;margin:0 1px 2px 0;border-radius:2px}
.ids i:hover{outline:2px solid var(--ink);opacity:1!important}
.ids i:hover::after{content:attr(data-said);position:fixed;left:50%;bottom:1rem;transform:translateX(-50%);
background:var(--ink);color:var(--sheet);font:14px/1.4 ui-monospace,monospace;padding:.5rem .9rem;border-radius:8px;
max-width:92vw;z-index:9;white-space:pre-wrap}
.key{display:inline-block;margin-right:1rem}.key b{display:inline-block;width:.8em;height:.8em;border-radius:2px;
margin-right:.35em}
table{border-collapse:collapse;width:100%}
td{padding:.15rem 1rem .15rem 0;vertical-align:top;overflow-wrap:anywhere}td:first-child{white-space:nowrap}
td.bar{width:60%}td.bar span{display:block;height:.7em;margin-top:.45em;border-radius:2px;background:#4a7ebb}
ul{list-style:none;margin:0;padding:0}li{border-left:2px solid var(--line);padding-left:.6rem}
"""
Get = Callable[[str], bytes]


def turn_page(turn: Turn, get: Get, strings: Sequence[str], tree: Sequence[tuple[int, str, str]]) -> str:
    """The page. get: a medium's bytes by hash. strings: what to call each generated id (by position), or none.

    tree: (depth, turn id, words) of the turns around this one.
    """
    made = turn.generation
    counts = f"prompt {len(turn.prompt)} ids, reply {len(made.ids)} ids, finished by {made.finish}, seed {made.seed}"
    sections = {
        "user": "".join(_part(part, get) for part in turn.request),
        "assistant": "".join(_part(part, get) for part in turn.reply),
        "tokens": f"<p>{counts}</p>{_key(turn)}{_strip(turn, strings)}",
        "nodes": _timeline(turn),
        "fork tree": _tree(tree, turn.id),
        "made with": _facts(turn),
    }
    body = "".join(f"<section><h2>{name}</h2>{inside}</section>" for name, inside in sections.items())
    top = f"<p class=dim>{escape(turn.created)} · {escape(turn.model)}<br>{escape(turn.hash)}</p>"
    head = f"<meta charset=utf-8><title>turn {escape(turn.id[:8])}</title><style>{STYLE}</style>"
    return (
        f"<!doctype html><html lang=en><head>{head}<meta name=viewport content='width=device-width'></head>"
        f"<body><header><h1>turn {escape(turn.id)}</h1>{top}</header>{body}</body></html>"
    )


def _key(turn: Turn) -> str:
    """What each colour means, with how many ids have it."""
    counts = Counter(_kinds(turn).values())
    counts[""] = len(turn.generation.ids) - counts.total()
    return (
        "<p class=dim>"
        + "".join(
            f"<span class=key><b style='background:{COLOURS[kind]}'></b>{kind or 'markers'} {count}</span>"
            for kind, count in counts.items()
            if count
        )
        + "the fainter, the less probable; point at one for its numbers</p>"
    )


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
    size = f'width="{columns}" height="60" viewBox="0 0 {columns} 60"'
    return f'<svg class=wave {size} role=img aria-label=waveform><path d="{lines}" stroke="{colour}"/></svg>'


def _strip(turn: Turn, strings: Sequence[str]) -> str:
    """A cell an id, in the colour of its modality, fainter the less probable; its numbers on hover."""
    kinds = _kinds(turn)
    cells = []
    scores = zip(turn.generation.ids, turn.generation.logprobs, turn.generation.margins, strict=False)
    for position, (token, logprob, margin) in enumerate(scores):
        name = f" {strings[position]}" if position < len(strings) else ""
        said = f"{position}: id {token}{name}, log-probability {logprob:z.3f}, margin {margin:.3g}"
        colour, faint = COLOURS[kinds.get(position, "")], 0.25 + 0.75 * float(np.exp(max(logprob, -20.0) / 4))
        cells.append(f'<i style="background:{colour};opacity:{faint:.2f}" data-said="{escape(said, quote=True)}"></i>')
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
        f"<tr><td>{escape(name)}<td>{spent:.3f} s<td class=bar><span style='width:{100 * spent / longest:.1f}%'></span>"
        for name, spent in in_order(turn.timings)
    )
    return f"<table>{''.join(rows)}</table>"


def _tree(tree: Iterable[tuple[int, str, str]], here: str) -> str:
    lines = []
    for depth, id, words in tree:
        name = f"<b>{escape(id[:8])}</b>" if id == here else escape(id[:8])
        lines.append(f'<li style="margin-left:{1.5 * depth}rem">{name} <span class=dim>{escape(words)}</span>')
    return f"<ul>{''.join(lines)}</ul>"


def _facts(turn: Turn) -> str:
    sampling = {
        f"sampling {kind.value}": ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
        for kind, settings in turn.sampling.items()
    }
    prints = {f"fingerprint {name}": value for name, value in turn.fingerprints.items()}
    facts = {**turn.options, **sampling, **prints, **turn.versions}
    rows = (f"<tr><td>{escape(str(name))}<td class=dim>{escape(str(value))}" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"
