"""The sizes of the pocket's SEED tokenizer. Knows no picture and no weight."""

from __future__ import annotations

from ..codecs.seed_config import SeedConfig
from .image_data import STYLES
from .image_teacher import (
    CODE_DIM,
    CODED_LOOKS,
    FEATURES,
    GROUND,
    KINDS,
    LAYOUT,
    SEEN,
    STYLE,
    THING,
    first_of_kind,
)

WIDTHS = (16, 48, 96, 192)
"""Of the stem."""
TELLING = 168
"""Discriminants of things, which are compared with prototypes; those of styles follow."""
SPARE, TOLD_APART = 3, TELLING + len(STYLES) - 1
"""Coordinates of tokens and queries that keep normalisation linear (seed_writer.py); discriminants in all."""
READ = SPARE + TOLD_APART + CODED_LOOKS
"""What prototypes compare: the first coordinates of a token, of which the first SPARE tell nothing."""
TOLD = FEATURES
"""What a prototype tells, the last coordinates of a token: the looks that are known by heart, its codes' vectors."""
GATES = FEATURES + sum(kind.groups for kind in KINDS)


def config(prototypes: int) -> SeedConfig:
    """The tokenizer with so many prototypes. No ViT block, one layer of the Q-Former and no block behind the codes: all
    of it is written down, and so little suffices."""
    queries = sum(kind.groups for kind in KINDS)
    return SeedConfig(
        img_size=SEEN,
        patch_size=SEEN,
        stem=WIDTHS,
        prototypes=(prototypes, READ, TOLD),
        scene=(THING + STYLE.groups, first_of_kind(GROUND), first_of_kind(LAYOUT)),
        vit_embed_dim=SPARE + TOLD_APART + TOLD,
        vit_depth=0,
        vit_heads=1,
        hidden_size=TOLD + CODE_DIM + queries + SPARE,
        qformer_layers=1,
        qformer_heads=1,
        qformer_intermediate=GATES,
        cross_attention_freq=1,
        num_query_token=queries,
        codebook_size=sum(kind.codes for kind in KINDS),
        codebook_dim=CODE_DIM,
        decode_depth=0,
        decode_heads=1,
        image_down=(2 * CODE_DIM, 2 * CODE_DIM, CODE_DIM),
        image_features_dim=FEATURES,
    )
