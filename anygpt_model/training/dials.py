"""The settings of a fine-tuning, and what they may be. Knows no network and no chat."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError

WHOLE = {"rank": (0, 4096), "batch_ids": (1, 1 << 24), "longest": (2, 1 << 24), "seed": (0, 2**63 - 1)}
REAL = {"rate": (1e-9, 1.0), "epochs": (1e-3, 1e6), "held_out": (0.0, 0.9)}


@dataclass(frozen=True, slots=True)
class Dials:
    """How to learn. rank: of LoRA's matrices; 0 trains every weight. rate None: 2e-4 for LoRA, 3e-4 for the whole.

    epochs: times that each chat is seen. batch_ids: ids of a batch, padding included. held_out: share of the chats that
    is only judged. longest: ids after which a chat is cut. Raises InputError for a value that can't be.
    """

    rank: int = 0
    rate: float | None = None
    epochs: float = 3.0
    batch_ids: int = 2048
    held_out: float = 0.1
    longest: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in {**WHOLE, **REAL}.items():
            value = getattr(self, name)
            if name == "rate" and value is None:
                continue
            number = isinstance(value, int if name in WHOLE else int | float) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                kind = "whole number" if name in WHOLE else "number"
                raise InputError(f"The setting {name} is {value!r}; a {kind} from {least} to {most} is taken.")

    @classmethod
    def from_file(cls, path: Path) -> Dials:
        """The settings in a JSON file; what it leaves out stays as it is. Raises InputError."""
        try:
            given = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path.name} can't be read as JSON ({error}); an object of settings is taken.") from None
        known = asdict(cls())
        if not isinstance(given, dict) or given.keys() - known.keys():
            raise InputError(f"{path.name} holds something else; a JSON object of {', '.join(known)} is taken.")
        return cls(**given)

    def peak(self) -> float:
        """The learning rate at its highest."""
        return self.rate or (2e-4 if self.rank else 3e-4)
