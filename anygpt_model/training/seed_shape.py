"""The sizes of the pocket's SEED tokenizer, how it starts, and which of its weights see and which tell.

The eye (pixels to vectors) and the hand (codes to embedding) share nothing but the teacher's codebook, so they are
trained side by side. Knows no picture and no loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..codecs.seed import SeedConfig, SeedTokenizer
from .image_teacher import CODE_DIM, FEATURES, Teaching

CONFIG = SeedConfig(
    img_size=24,
    patch_size=24,
    vit_embed_dim=256,
    vit_depth=2,
    vit_heads=4,
    mlp_ratio=4.0,
    hidden_size=128,
    qformer_layers=2,
    qformer_heads=4,
    qformer_intermediate=512,
    cross_attention_freq=1,
    codebook_size=1024,
    codebook_dim=CODE_DIM,
    decode_depth=3,
    decode_heads=4,
    image_down=(128, 128, 48),
    image_features_dim=FEATURES,
)
"""One patch is the whole picture: a few minutes teach no network to gather a thing from many patches, but what one
linear map of all pixels can tell is found in closed form."""
MATRIX_RATE, OTHER_RATE = 2e-3, 1e-3
Weights = list[nn.Parameter]


def fresh(teaching: Teaching) -> SeedTokenizer:
    """An untrained tokenizer with the teacher's codebook, which stays as it is.

    Where the network has zeros it gets random numbers, and queries that already look at different places: with torch's
    own start each query sees the mean of all patches, and training stays there for long. Larger starts in `image_down`,
    whose ReLUs have no biases, silenced it: its embedding became a constant.
    """
    model = SeedTokenizer(CONFIG)
    nn.init.normal_(model.query_tokens, std=0.5)
    nn.init.normal_(model.visual_encoder.pos_embed, std=0.5)
    nn.init.normal_(model.pos_embed_image, std=0.02)
    for layer in model.Qformer.bert.encoder.layer.children():
        looking: Any = layer.crossattention
        for part in (looking.self.query, looking.self.key):
            nn.init.normal_(part.weight, std=0.15)
        for part in (looking.self.value, looking.output.dense):
            nn.init.normal_(part.weight, std=0.09)
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(teaching.codebook).requires_grad_(False)
    return model


def eye_of(model: SeedTokenizer) -> list[Weights]:
    """What sees, behind the patch embedding, which is written down."""
    vit = model.visual_encoder
    parts = (vit.blocks, model.ln_vision, model.Qformer, model.encode_task_layer)
    return [*(list(part.parameters()) for part in parts), [model.query_tokens, vit.cls_token, vit.pos_embed]]


def hand_of(model: SeedTokenizer) -> list[Weights]:
    """What tells the embedding."""
    parts = (model.decode_task_layer, model.blocks_image, model.image_down, model.distill_image_proj)
    return [*(list(part.parameters()) for part in parts), [model.pos_embed_image]]


def optimizers(weights: Weights) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest, at their peak rates."""
    matrices = [weight for weight in weights if weight.ndim == 2]
    others = [weight for weight in weights if weight.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
