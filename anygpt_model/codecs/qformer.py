"""SEED-2's causal Q-Former: BERT's layers over query vectors, which read a picture in some of them.

Parameter names are those of the published files. Knows neither pixels nor codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .seed_config import SeedConfig
from .vit import attention


class BertSelf(nn.Module):
    """BERT's query, key and value projections; keys and values may come from another width."""

    def __init__(self, dim: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source, dim)
        self.value = nn.Linear(source, dim)

    def forward(self, x: Tensor, source: Tensor, causal: bool) -> Tensor:
        return attention(self.query(x), self.key(source), self.value(source), self.heads, causal)


class BertOutput(nn.Module):
    """Dense, residual, LayerNorm (post-norm, as BERT)."""

    def __init__(self, inner: int, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)  # type: ignore[no-any-return]


class BertAttention(nn.Module):
    """Attention of the queries [B, Q, D] to `source` [B, S, W] (themselves, causally, if none is given)."""

    def __init__(self, dim: int, source: int, heads: int) -> None:
        super().__init__()
        self.self = BertSelf(dim, source, heads)
        self.output = BertOutput(dim, dim)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        seen = self.self(x, x if source is None else source, causal=source is None)
        return self.output(seen, x)  # type: ignore[no-any-return]


class BertIntermediate(nn.Module):
    """Dense and exact GELU."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class QFormerLayer(nn.Module):
    """Causal self-attention of the queries, cross-attention to the picture in some layers, feed-forward."""

    def __init__(self, config: SeedConfig, crosses: bool) -> None:
        super().__init__()
        dim, heads = config.hidden_size, config.qformer_heads
        self.attention = BertAttention(dim, dim, heads)
        self.crossattention = BertAttention(dim, config.vit_embed_dim, heads) if crosses else None
        self.intermediate_query = BertIntermediate(dim, config.qformer_intermediate)
        self.output_query = BertOutput(config.qformer_intermediate, dim)

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        x = self.attention(x)
        if self.crossattention is not None:
            x = self.crossattention(x, picture)
        return self.output_query(self.intermediate_query(x), x)  # type: ignore[no-any-return]


class QFormerEncoder(nn.Module):
    """The stack of layers, under its published name."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        crosses = [i % config.cross_attention_freq == 0 for i in range(config.qformer_layers)]
        self.layer = nn.ModuleList(QFormerLayer(config, cross) for cross in crosses)


class QFormerEmbeddings(nn.Module):
    """What is left of BERT's embeddings: a LayerNorm (and an unused table of positions in the published file)."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        if config.training_parts:
            self.register_buffer("position_ids", torch.arange(config.max_positions)[None])


class QFormerBert(nn.Module):
    """Queries [B, Q, D] and picture [B, T, W] -> [B, Q, D]; query i sees queries up to i."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.embeddings = QFormerEmbeddings(config)
        self.encoder = QFormerEncoder(config)

    def forward(self, queries: Tensor, picture: Tensor) -> Tensor:
        x: Tensor = self.embeddings.LayerNorm(queries)
        for layer in self.encoder.layer:
            x = layer(x, picture)
        return x


class QFormer(nn.Module):
    """Holds the network under its published name."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.bert = QFormerBert(config)
