"""Text to picture and picture to text: held-out (thing, style) pairs, and things that training never saw."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...values import Modality
from .. import image_data
from ..judges import eye, meaning
from ..judges.bounds import Score, mean, share
from ..language_texts import RESTYLE
from .direction import Array, Case, Made, Measure, Prompt, RoundTrip, asked, frozen_order

GALLERY = 400
"""Things among which the right one is to be found."""
Row = dict[str, Any]


class PictureWorld:
    """The pictures, which of them are held out, and the frozen gallery of things; shared by both directions."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.pictures, _, rows = image_data.load(work)
        self.rows: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in rows:
            self.rows[row["concept"]][row["style"]] = row

    @cached_property
    def whole(self) -> list[str]:
        """Things that exist in every style, in frozen order."""
        return frozen_order([thing for thing, styles in self.rows.items() if len(styles) == len(image_data.STYLES)])

    def held_out(self, split: str) -> list[Row]:
        """The rows of one held-out split whose thing exists in every style, in frozen order."""
        known = set(self.whole)
        found = {f"{row['concept']}:{row['style']}": row for thing in known for row in self.rows[thing].values()}
        return [found[id] for id in frozen_order([id for id, row in found.items() if row["split"] == split])]

    def gallery(self, things: Iterable[str]) -> list[str]:
        """GALLERY things: these, filled up with others in frozen order."""
        return list(dict.fromkeys([*things, *self.whole]))[:GALLERY]

    def phrase(self, thing: str) -> str:
        """What a thing is called: "a red apple"."""
        return str(next(iter(self.rows[thing].values()))["phrase"])

    def picture(self, case: Case) -> Array:
        """The real picture of a case."""
        found: Array = self.pictures[self.rows[case.truth["thing"]][case.truth["style"]]["row"]]
        return found


OWN_MIDDLE = 20
"""Pictures from which on their own mean is used."""


def shown(made: Made) -> Array:
    """The picture that was made; white where none was."""
    if made is None or isinstance(made, str):
        return np.full((image_data.SIZE, image_data.SIZE, 3), 255, np.uint8)
    return made


def _places(ranks: Sequence[int], size: int) -> list[Score]:
    behind = [(size - 1 - int(rank)) / (size - 1) for rank in ranks]
    return [share([rank < 1 for rank in ranks]), share([rank < 5 for rank in ranks]), mean(behind)]


class TextToImage:
    """A picture made from a caption is looked up among the things of the gallery, each the mean of its other styles."""

    measures: tuple[Measure, ...] = (
        Measure("R@1 of 400", eye.NAME),
        Measure("R@5 of 400", eye.NAME),
        Measure("share of the 400 behind it", eye.NAME),
    )

    def __init__(self, world: PictureWorld, split: str = "pair") -> None:
        self._world, self._split = world, split
        self.name = "text → image" if split == "pair" else "text → image, things never seen"

    def cases(self, limit: int) -> list[Case]:
        """Captions that name the style."""
        return [
            Case(
                f"{row['concept']}:{row['style']}",
                Prompt(Modality.IMAGE, asked(Modality.TEXT, Modality.IMAGE, row["captions"][1])),
                {"thing": row["concept"], "style": row["style"]},
            )
            for row in self._world.held_out(self._split)[:limit]
        ]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """R@1, R@5, and how far in front the right one stands (a half by chance)."""
        things, styles = ([case.truth[key] for case in cases] for key in ("thing", "style"))
        return _places(self._ranks([shown(picture) for picture in made], things, styles), GALLERY)

    def _ranks(self, pictures: Sequence[Array], things: Sequence[str], styles: Sequence[str]) -> list[int]:
        """How many things of the gallery each picture resembles more than the one that it should show, in a style."""
        gallery = self._world.gallery(things)
        known, middles = self._gallery_features(gallery)
        seen = self._eye.features(pictures)
        # What is drawn differs from what is real in ways that all of it shares: its own middle takes them away.
        own = seen.mean(0) if len(seen) >= OWN_MIDDLE else None
        middle = np.stack([middles[style] if own is None else own for style in styles])
        galleries = [_mean_of_others(known, style) for style in styles]
        return eye.ranks(eye.directions(seen, middle), galleries, [gallery.index(thing) for thing in things])

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """The real pictures."""
        pictures = [self._world.picture(case) for case in cases]
        return [through(Modality.IMAGE, picture) if through else picture for picture in pictures]

    @cached_property
    def _eye(self) -> eye.Eye:
        return eye.Eye(self._world.work / "downloads")

    def _gallery_features(self, gallery: Sequence[str]) -> tuple[dict[str, eye.Features], dict[str, eye.Features]]:
        """Directions [things, d] and middles [d] of every style; looked at once, then kept beside the data."""
        name = hashlib.sha256(" ".join(gallery).encode()).hexdigest()[:12]
        kept = self._world.work / "judged" / f"gallery-{name}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            found = {style: self._eye.features(self._drawn(gallery, style)) for style in image_data.STYLES}
            np.savez(kept, **found)  # type: ignore[arg-type]
        with np.load(kept) as features:
            styles = {style: eye.directions(features[style]) for style in image_data.STYLES}
            return styles, {style: features[style].mean(0) for style in image_data.STYLES}

    def _drawn(self, gallery: Sequence[str], style: str) -> list[Array]:
        return [self._world.pictures[self._world.rows[thing][style]["row"]] for thing in gallery]


class Restyled(TextToImage):
    """A second turn that only refers to the first: a thing is drawn in one style, then asked for in another."""

    measures = (*TextToImage.measures, Measure("style of 4", eye.NAME))

    def __init__(self, world: PictureWorld) -> None:
        super().__init__(world)
        self.name = "drawn, then “now make it …”"

    def cases(self, limit: int) -> list[Case]:
        """Held-out pairs; the first turn asks for a style that training saw."""
        found = []
        for row in self._world.held_out("pair")[:limit]:
            styles = self._world.rows[row["concept"]].values()
            seen = next(other for other in styles if other["split"] == "train")
            first = Prompt(Modality.IMAGE, asked(Modality.TEXT, Modality.IMAGE, seen["captions"][1]))
            prompt = Prompt(Modality.IMAGE, RESTYLE[0].format(style=row["style"]), earlier=first)
            truth = {"thing": row["concept"], "style": row["style"]}
            found.append(Case(f"{row['concept']}:{row['style']} again", prompt, truth))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """As a picture asked for at once; and whether its style's mean picture is the nearest of the four."""
        _, middles = self._gallery_features(self._world.gallery(case.truth["thing"] for case in cases))
        names = list(middles)
        known = eye.directions(np.stack([middles[name] for name in names]))
        seen = [picture for picture in made if picture is not None and not isinstance(picture, str)]
        likest = (eye.directions(self._eye.features(seen)) @ known.T).argmax(1) if seen else []
        nearest = iter([names[number] for number in likest])
        right = [
            picture is not None and not isinstance(picture, str) and next(nearest) == case.truth["style"]
            for picture, case in zip(made, cases, strict=True)
        ]
        return [*super().judge(made, cases), share(right)]


class ImageToText:
    """What the model says of a picture is compared in meaning with the names of the gallery's things."""

    name = "image → text"
    measures = (
        Measure("R@1 of 400", meaning.NAME),
        Measure("R@5 of 400", meaning.NAME),
        Measure("share of the 400 behind it", meaning.NAME),
    )

    def __init__(self, world: PictureWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """Real pictures of held-out (thing, style) pairs."""
        ask = asked(Modality.IMAGE, Modality.TEXT)
        return [
            Case(
                f"{row['concept']}:{row['style']}",
                Prompt(Modality.TEXT, ask, self._world.pictures[row["row"]], Modality.IMAGE),
                {"thing": row["concept"], "style": row["style"]},
            )
            for row in self._world.held_out("pair")[:limit]
        ]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """R@1, R@5, and how far in front the right one stands (a half by chance)."""
        gallery = self._world.gallery(case.truth["thing"] for case in cases)
        truth = [gallery.index(case.truth["thing"]) for case in cases]
        said = [text if isinstance(text, str) else "" for text in made]
        found = self._reader.ranks(said, [self._world.phrase(thing) for thing in gallery], truth)
        return _places(found, len(gallery))

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made] | None:
        """The true captions, in other words than the labels; a text has no codec."""
        if through:
            return None
        return [self._world.rows[case.truth["thing"]][case.truth["style"]]["captions"][2] for case in cases]

    @cached_property
    def _reader(self) -> meaning.Reader:
        return meaning.Reader(self._world.work / "downloads")


def _mean_of_others(styles: dict[str, eye.Features], style: str) -> eye.Features:
    """Each thing as the mean of how it looks in all styles but one."""
    mixed = np.sum([directions for name, directions in styles.items() if name != style], axis=0)
    unit: eye.Features = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit
