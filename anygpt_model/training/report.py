"""The evaluation's table: each score beside chance, the codec's round trip and the ceiling. Knows no judge."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from typing import Any

from .judges.bounds import Score

ORDER = (
    "text → image",
    "text → image, things never seen",
    "drawn, then “now make it …”",
    "image → text",
    "speech codec, all levels",
    "text → speech",
    "text → speech, prompted voice",
    "speech → text",
    "speech → text, voice never heard",
    "speech → text, neural voices never heard",
    "speech → text, real recordings",
    "text → music",
    "music → text",
    "spoken question → spoken answer",
)
"""Directions as the table lists them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. cases: a digest of the held-out ids. A score is None where it means nothing."""

    direction: str
    measure: str
    judge: str
    lower: bool
    n: int
    cases: str
    model: Score | None
    chance: Score | None
    round_trip: Score | None
    ceiling: Score | None

    @property
    def above_chance(self) -> bool | None:
        """Whether the model's 95 % bound lies wholly on the better side of chance's; None without a model."""
        if self.model is None or self.chance is None:
            return None
        return self.model.high < self.chance.low if self.lower else self.model.low > self.chance.high


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, whose they are, and where they were measured. fingerprint: of the language model, "" for none."""

    model: str
    fingerprint: str
    machine: str
    seconds: float
    rows: tuple[Row, ...]

    def joined(self, earlier: Report | None) -> Report:
        """This report with the rows of an `earlier` one of the same model that it hasn't measured itself."""
        if earlier is None or (earlier.model, earlier.fingerprint) != (self.model, self.fingerprint):
            return self
        mine = {row.direction for row in self.rows}
        kept = [row for row in earlier.rows if row.direction not in mine]
        rows = sorted((*kept, *self.rows), key=lambda row: ORDER.index(row.direction) if row.direction in ORDER else 99)
        return replace(self, seconds=earlier.seconds + self.seconds, rows=tuple(rows))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote."""
        document = json.loads(text)
        scores = ("model", "chance", "round_trip", "ceiling")
        rows = [
            Row(**{**row, **{name: None if row[name] is None else Score(**row[name]) for name in scores}})
            for row in document.pop("rows")
        ]
        return cls(**document, rows=tuple(rows))

    def to_json(self) -> str:
        """The report as JSON, one object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The table as a model card or a README shows it."""
        head = "| direction | measure (judge) | the model | chance | codec round trip | ceiling | n |"
        lines = [head, "|---|---|---|---|---|---|---|"]
        for row in self.rows:
            cells = [row.direction, f"{row.measure} ({row.judge})", *map(_told, (row.model, row.chance))]
            cells += [*map(_told, (row.round_trip, row.ceiling)), str(row.n)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", f"{self.model}; {self.machine}; {self.seconds:.0f} s."]) + "\n"


def _told(score: Score | None) -> str:
    return "–" if score is None else str(score)


def machine() -> str:
    """What this was measured on, in a few words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def table(report: Report) -> Any:
    """The report as a rich table; what is above chance is green, what isn't is red."""
    from rich.table import Table

    shown = Table(title=f"{report.model} ({report.seconds:.0f} s)", title_justify="left")
    for column in ("direction", "measure (judge)", "model", "chance", "codec round trip", "ceiling", "n"):
        shown.add_column(column, justify="left" if column.startswith(("direction", "measure")) else "right")
    for row in report.rows:
        colour = {True: "green", False: "red", None: "white"}[row.above_chance]
        scores = [_told(row.model), _told(row.chance), _told(row.round_trip), _told(row.ceiling)]
        shown.add_row(
            row.direction, f"{row.measure} ({row.judge})", f"[{colour}]{scores[0]}[/]", *scores[1:], str(row.n)
        )
    return shown
