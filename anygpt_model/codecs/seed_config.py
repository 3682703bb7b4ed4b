"""The sizes of a SEED-2 tokenizer, as its folder's config.json tells them. Knows no network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SeedConfig:
    """The numbers of a SEED-2 tokenizer; the defaults are the published ones.

    stem: widths of the convolutions before the patches, which then lie on their output (stem.py). prototypes: how many
    known things a picture is compared with, and how many numbers they read and tell (prototypes.py). scene: the place
    of the code for the ground, after which those for the layout and for the second thing stand, and the first code for
    grounds and the first for layouts (gaze.py). The published tokenizer has none of these.
    training_parts: whether to build also what only the original training used.
    """

    img_size: int = 224
    patch_size: int = 14
    vit_embed_dim: int = 1408
    vit_depth: int = 39
    vit_heads: int = 16
    mlp_ratio: float = 4.3637
    hidden_size: int = 768
    qformer_layers: int = 12
    qformer_heads: int = 12
    qformer_intermediate: int = 3072
    cross_attention_freq: int = 2
    max_positions: int = 512
    num_query_token: int = 32
    codebook_size: int = 8192
    codebook_dim: int = 32
    decode_depth: int = 4
    decode_heads: int = 12
    image_down: tuple[int, int, int] = (256, 128, 32)
    image_features_dim: int = 1024
    stem: tuple[int, ...] = ()
    prototypes: tuple[int, ...] = ()
    scene: tuple[int, ...] = ()
    training_parts: bool = False

    @classmethod
    def from_file(cls, path: Path) -> SeedConfig:
        """The configuration in a JSON file; unknown names are left out, missing ones take the published number."""
        given = json.loads(path.read_text("utf-8"))
        names = {field.name for field in fields(cls)}
        chosen = {name: value for name, value in given.items() if name in names}
        tupled: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()
        }
        return cls(**tupled)

    def to_file(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")
