"""The same things drawn by other hands: pictures that only the tokenizer's eye learns from.

A thing in four styles is little to recognise a fifth by, so icons of four more sets join, matched to the things by
their names. They have no caption and no style word, are never drawn, and show nothing that is held out as a whole. The
result is `work/image/hands.npz` (as `images.npz`) and `hands.json` (for each picture the row in `images.json` of its
thing). Knows no model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image_data import SIZE, VECTOR_STYLES, document, load, normal, on_white, opened, square

HANDS = (
    "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/fxemoji@1.2.2",
    "@iconify-json/streamline-emojis@1.2.4",
)
Pictures = NDArray[np.uint8]


def plain(name: str) -> str:
    """A name without what sets write differently: "Red Apple", "red-apple-2" -> "redapple"."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"(?<=[a-z])-\d$", "", name.lower()))


def things_by_name(rows: list[dict[str, Any]], downloads: Path) -> dict[str, str]:
    """Concept ids by the plain names that sets may give them: Unicode's, its label's, another set's."""
    named = {plain(name): normal(code) for code, name in chars(downloads).items()}
    labels = {plain(row["label"]): row["concept"] for row in rows}
    characters = {row["concept"] for row in rows if "-" not in row["concept"]}
    unicode = {plain(unicodedata.name(chr(int(each, 16)), each)): each for each in characters}
    return unicode | named | labels


def chars(downloads: Path) -> dict[str, str]:
    """Names by code points, as the first set of styles has them."""
    found: dict[str, str] = document(opened(VECTOR_STYLES["cartoon"], downloads), "chars.json")
    return found


def drawn(package: str, downloads: Path, wanted: dict[str, str]) -> list[tuple[str, bytes]]:
    """Concept ids and PNG bytes of the icons that have a wanted name."""
    import resvg_py

    icons = document(opened(package, downloads), "icons.json")
    made: list[tuple[str, bytes]] = []
    for name in dict.fromkeys([*icons["icons"], *icons.get("aliases", {})]):
        icon = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))
        if icon is None or plain(name) not in wanted:
            continue
        width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
        )
        made.append((wanted[plain(name)], bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))))
    return list(dict.fromkeys(made))


def build(work: Path) -> None:
    """Write `hands.npz` and `hands.json`; half a minute."""
    _, _, rows = load(work)
    first = {row["concept"]: row["row"] for row in reversed(rows) if row["split"] != "concept"}
    wanted = {name: thing for name, thing in things_by_name(rows, work / "downloads").items() if thing in first}
    found = [each for package in HANDS for each in drawn(package, work / "downloads", wanted)]
    rgba = np.stack([square(data) for _, data in found])
    folder = work / "image"
    np.savez_compressed(folder / "hands.npz", pictures=np.stack([on_white(x) for x in rgba]), alpha=rgba[..., 3])
    (folder / "hands.json").write_text(json.dumps([first[thing] for thing, _ in found]))


def load_hands(work: Path) -> tuple[Pictures, Pictures, NDArray[np.int64]]:
    """Pictures uint8 [M, 96, 96, 3], alpha uint8 [M, 96, 96], rows int64 [M] of their things; built if not there."""
    folder = work / "image"
    if not (folder / "hands.json").exists():
        build(work)
    with np.load(folder / "hands.npz") as data:
        return data["pictures"], data["alpha"], np.array(json.loads((folder / "hands.json").read_text()), np.int64)
