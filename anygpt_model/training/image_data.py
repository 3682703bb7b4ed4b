"""The pictures of the pocket's world: about 1,580 things in four styles, with captions, opened from public packages.

The result is two files under `work/image`: `images.npz` (`pictures` uint8 [N, 96, 96, 3] on white, `alpha` uint8
[N, 96, 96]) and `images.json`, whose rows stand in the same order. What is held out is a pure function of the ids
(their sha256), so it never changes: 5 % of the concepts ("concept") and 5 % of the (concept, style) pairs ("pair").
Knows no model.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .downloads import npm_package

log = logging.getLogger(__name__)

SIZE = 96
Split = Literal["train", "pair", "concept"]

LABELS = "emojibase-data@17.0.0"
VECTOR_STYLES = {
    "cartoon": "@iconify-json/noto@1.2.9",
    "flat": "@iconify-json/twemoji@1.2.5",
    "simple": "@iconify-json/fluent-emoji-flat@1.2.6",
}
RASTER_STYLES = {"3D": "@lobehub/fluent-emoji-3d@1.1.0"}
STYLES = (*VECTOR_STYLES, *RASTER_STYLES)
"""The style words of captions; the order is frozen (trainers number styles by it)."""

LEFT_OUT_GROUPS = {"component", "flags"}
MASS = {
    *("rice", "bread", "broccoli", "garlic", "spaghetti", "sushi", "butter", "bacon", "popcorn", "salt", "honey"),
    *("milk", "sake", "fire", "fog", "snow", "coral", "wood", "soap", "money", "music", "information", "tennis"),
    *("badminton", "bowling", "hockey", "cricket", "lacrosse", "softball", "volleyball", "camping", "curling"),
}


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing. id: its code points in lower-case hex; phrase: its label as a noun phrase ("a red apple")."""

    id: str
    label: str
    phrase: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


def opened(package: str, downloads: Path) -> Path:
    """The folder of an unpacked npm package, given as name@version."""
    name, version = package.rsplit("@", 1)
    return npm_package(name, version, downloads)


def document(package: Path, name: str) -> Any:
    """A JSON document of a package."""
    return json.loads((package / name).read_text("utf-8"))


def normal(hexcode: str) -> str:
    """Code points without variation selectors: packages disagree about those."""
    return hexcode.lower().replace("-fe0f", "")


def concepts(downloads: Path) -> list[Concept]:
    """All concepts, in Unicode's order. Left out: flags, skin tones, mirrored people, families by their members."""
    package = opened(LABELS, downloads)
    names = document(package, "meta/groups.json")
    rows = [row for row in document(package, "en/data.json") if "group" in row]
    rows = [row for row in rows if names["groups"][str(row["group"])] not in LEFT_OUT_GROUPS]
    return [
        Concept(
            id=normal(row["hexcode"]),
            label=row["label"],
            phrase=phrase(row["label"]),
            tags=tuple(row.get("tags", ())),
            group=names["groups"][str(row["group"])],
            subgroup=names["subgroups"][str(row["subgroup"])],
        )
        for row in sorted(rows, key=lambda row: int(row["order"]))
        if not re.search("facing right|^(family|kiss|couple with heart): ", row["label"])
    ]


def phrase(label: str) -> str:
    """A label as an English noun phrase: "red apple" -> "a red apple", "man: red hair" -> "a man with red hair"."""
    head, _, rest = label.partition(": ")
    if rest:
        if head == "keycap":
            return f"the keycap {rest}"
        label = f"bald {head}" if rest == "bald" else f"{head} with {'a ' if rest == 'beard' else ''}{rest}"
    label = label.replace("“", "").replace("”", "").replace("’", "'")
    return f"{article(label)} {label}".strip()


def article(label: str) -> str:
    """ "a", "an" or nothing (plurals, masses, proper names), by rules that fit these labels."""
    head = re.split(r" (?:with|on|of|in|and|without|over|behind|showing|from) ", label)[0]
    last = head.split()[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    proper = len(label.split()) == 1 and label.istitle()
    people = label.startswith(("men ", "women ", "people "))
    if plural or proper or people or last in MASS:
        return ""
    sounds_vowel = re.match(r"[aeioAEIO]|u(?!ni)|U[^N]|SOS|NG|hour", label) and not re.match(r"one\b|once", label)
    return "an" if sounds_vowel else "a"


def captions(thing: str, style: str) -> tuple[str, ...]:
    """Ways to say a picture. thing: a concept's phrase; style: one of STYLES. The first doesn't name the style."""
    base = re.sub(r"^(a|an|the) ", "", thing)
    the = "" if base == thing else "a "
    return (
        thing,
        f"a {style} picture of {thing}",
        f"{thing} in {style} style",
        f"{the}{style} {base}",
        f"{base}, {style}",
    )


def share(key: str) -> float:
    """A number in 0..1 that depends on nothing but the key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def split(concept: str, style: str) -> Split:
    """Where a picture belongs; frozen for ever, since judges rely on it."""
    if share(f"concept:{concept}") < 0.05:
        return "concept"
    return "pair" if share(f"pair:{concept}:{style}") < 0.05 else "train"


def vectors(package: str, downloads: Path) -> dict[str, bytes]:
    """PNG bytes by concept id, drawn from an icon set's SVG."""
    import resvg_py

    folder = opened(package, downloads)
    icons, names = document(folder, "icons.json"), document(folder, "chars.json")
    drawn: dict[str, bytes] = {}
    for code, name in names.items():
        alias = icons.get("aliases", {}).get(name, {})
        icon = icons["icons"].get(alias.get("parent", name))
        if icon is None or re.search("1f3f[b-f]", code):
            continue
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        flip = f' transform="translate({width} 0) scale(-1 1)"' if alias.get("hFlip") else ""
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{SIZE}" height="{SIZE}"><g{flip}>{icon["body"]}</g></svg>'
        )
        drawn[normal(code)] = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return drawn


def rasters(package: str, downloads: Path) -> dict[str, bytes]:
    """Picture bytes by concept id, as a package ships them."""
    files = (opened(package, downloads) / "assets").iterdir()
    return {normal(file.stem): file.read_bytes() for file in files}


def square(data: bytes) -> NDArray[np.uint8]:
    """RGBA [SIZE, SIZE, 4] of a picture."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGBa")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGBA"))


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of RGBA over white."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def pictures(things: list[Concept], downloads: Path) -> Iterator[tuple[Concept, str, bytes]]:
    """Every picture that exists of every thing: concept, style, encoded bytes."""
    sets = {style: vectors(package, downloads) for style, package in VECTOR_STYLES.items()}
    sets |= {style: rasters(package, downloads) for style, package in RASTER_STYLES.items()}
    for thing in things:
        for style in STYLES:
            if (data := sets[style].get(thing.id)) is not None:
                yield thing, style, data


def build(work: Path) -> Path:
    """Write `work/image/images.npz` and `images.json`; packages are cached in `work/downloads`. Returns the folder."""
    folder = work / "image"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    images: list[NDArray[np.uint8]] = []
    for thing, style, data in pictures(concepts(work / "downloads"), work / "downloads"):
        images.append(square(data))
        said = captions(thing.phrase, style)
        rows.append(
            {"row": len(rows), "concept": thing.id, **{k: v for k, v in asdict(thing).items() if k != "id"}}
            | {"style": style, "caption": said[1], "captions": said, "split": split(thing.id, style)}
        )
    rgba = np.stack(images)
    np.savez_compressed(folder / "images.npz", pictures=np.stack([on_white(x) for x in rgba]), alpha=rgba[..., 3])
    (folder / "images.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0))
    log.info("%d pictures of %d concepts", len(rows), len({row["concept"] for row in rows}))
    return folder


def load(work: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    """Pictures uint8 [N, 96, 96, 3], alpha uint8 [N, 96, 96] and their rows; built first if they are not there."""
    folder = work / "image"
    if not (folder / "images.json").exists():
        build(work)
    with np.load(folder / "images.npz") as data:
        return data["pictures"], data["alpha"], json.loads((folder / "images.json").read_text())


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Stage "data" of the recipe; takes about a minute whatever `minutes` says, needs no device and draws nothing."""
    build(work)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    build(Path(".train"))
