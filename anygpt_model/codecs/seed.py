"""SEED-2: a picture to 32 causal codes, and codes to the unCLIP image embedding they stand for.

ViT -> causal Q-Former -> vector quantiser -> four transformer blocks -> image embedding. Parameter names are those of
the published files, so their weights load as they are. Knows no picture file, no diffusion and no vocabulary.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import load_tensors
from ..errors import CheckpointError, InputError
from .prototypes import Prototypes
from .stem import Stem

log = logging.getLogger(__name__)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""What pixels in 0..1 are normalised by, per channel."""

TRAINING_ONLY = ("blocks.", "pos_embed", "Qformer.bert.embeddings.position_ids")
"""Names that the published file holds but no code path of inference reads."""


@dataclass(frozen=True, slots=True)
class SeedConfig:
    """The numbers of a SEED-2 tokenizer; the defaults are the published ones.

    stem: widths of the convolutions before the patches, which then lie on their output (stem.py); prototypes: how many
    known things a picture is compared with, and how many numbers they read and tell (prototypes.py). The published
    tokenizer has neither.
    training_parts: whether to build also what only the original training used (names above).
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


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Softmax attention over `heads` heads: q [B, T, D], k and v [B, S, D] -> [B, T, D]."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class EvaAttention(nn.Module):
    """EVA's self-attention: biases for queries and values, none for keys. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.heads))  # type: ignore[no-any-return]


class PlainAttention(nn.Module):
    """Self-attention with one bias for queries, keys and values. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.heads))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block around the given attention. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, attn: nn.Module, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Pixels [B, 3, S, S] -> patches [B, (S / patch)^2, D], row by row; a stem comes first if there is one."""

    def __init__(self, patch: int, dim: int, stem: Stem | None = None) -> None:
        super().__init__()
        self.stem = stem
        side, channels = (patch, 3) if stem is None else stem.seen(patch)
        self.proj = nn.Conv2d(channels, dim, side, stride=side)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels if self.stem is None else self.stem(pixels)
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """EVA-CLIP's ViT without its last block and final norm: pixels [B, 3, S, S] -> [B, 1 + patches, D]."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        dim, patches = config.vit_embed_dim, (config.img_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.patch_embed = PatchEmbed(config.patch_size, dim, Stem(config.stem) if config.stem else None)
        inner = int(dim * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(dim, EvaAttention(dim, config.vit_heads), inner) for _ in range(config.vit_depth)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32 whatever comes in; gives back the dtype that came."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)


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


class Codebook(nn.Module):
    """Nearest neighbour by squared Euclidean distance, without normalisation."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dim)

    def forward(self, z: Tensor) -> Tensor:
        """z [B, Q, C] -> ids int64 [B, Q]"""
        table = self.embedding.weight
        distance = z.square().sum(-1, keepdim=True) + table.square().sum(-1) - 2 * z @ table.T
        return distance.argmin(-1)


class SeedTokenizer(nn.Module):
    """Pixels to codes and codes to image embeddings."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.config = config
        dim, queries, code = config.hidden_size, config.num_query_token, config.codebook_dim
        self.visual_encoder = VisionTransformer(config)
        self.ln_vision = Float32LayerNorm(config.vit_embed_dim)
        self.prototypes = Prototypes(*config.prototypes) if config.prototypes else None
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, dim))
        self.Qformer = QFormer(config)
        self.encode_task_layer = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, code))
        self.quantize = Codebook(config.codebook_size, code)
        self.decode_task_layer = nn.Sequential(nn.Linear(code, code), nn.Tanh(), nn.Linear(code, dim))
        self.pos_embed_image = nn.Parameter(torch.zeros(1, queries, dim))
        self.blocks_image = self._stack()
        if config.training_parts:
            self.pos_embed = nn.Parameter(torch.zeros(1, queries, dim))
            self.blocks = self._stack()
        wide, middle, narrow = config.image_down
        self.image_down = nn.Sequential(
            nn.Linear(dim, wide, bias=False),
            nn.ReLU(),
            nn.Linear(wide, middle, bias=False),
            nn.ReLU(),
            nn.Linear(middle, narrow, bias=False),
        )
        self.distill_image_proj = nn.Linear(queries * narrow, config.image_features_dim)

    def _stack(self) -> nn.ModuleList:
        dim, heads = self.config.hidden_size, self.config.decode_heads
        return nn.ModuleList(Block(dim, PlainAttention(dim, heads), 4 * dim) for _ in range(self.config.decode_depth))

    def query(self, pixels: Tensor) -> Tensor:
        """The causal queries after reading the picture: normalised pixels [B, 3, S, S] -> [B, Q, D]."""
        picture = self.ln_vision(self.visual_encoder(pixels))
        if self.prototypes is not None:
            recalled = self.prototypes(self.visual_encoder.patch_embed(pixels))
            picture = torch.cat([picture, recalled], dim=1)
        return self.Qformer.bert(self.query_tokens.expand(len(pixels), -1, -1), picture)  # type: ignore[no-any-return]

    def project(self, pixels: Tensor) -> Tensor:
        """What is quantised: normalised pixels [B, 3, S, S] -> z [B, Q, C]."""
        return self.encode_task_layer(self.query(pixels))  # type: ignore[no-any-return]

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] -> codes int64 [B, Q]."""
        return self.quantize(self.project(pixels))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, Q] -> image embeddings [B, image_features_dim]; Q must be the number of queries."""
        if codes.shape[-1] != self.config.num_query_token:
            raise InputError(
                f"{codes.shape[-1]} codes came for a picture, exactly {self.config.num_query_token} are taken; "
                "pass the codes of one whole picture."
            )
        return self.embed(self.quantize.embedding(codes))

    def embed(self, vectors: Tensor) -> Tensor:
        """Codebook vectors [B, Q, C] -> image embeddings [B, image_features_dim]."""
        x = self.decode_task_layer(vectors) + self.pos_embed_image
        for block in self.blocks_image:
            x = block(x)
        return self.distill_image_proj(self.image_down(x).flatten(1))  # type: ignore[no-any-return]


def load_seed(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> SeedTokenizer:
    """The tokenizer in `folder`: seed_quantizer.safetensors, eva_vit_g.safetensors, config.json if it isn't full size.

    Raises CheckpointError if a file or tensor is missing or has another shape. Tensors beyond the network are logged.
    """
    config_file = folder / "config.json"
    config = SeedConfig.from_file(config_file) if config_file.exists() else SeedConfig()
    with torch.device("meta"):
        model = SeedTokenizer(config)
    found = load_tensors(folder / "seed_quantizer.safetensors") | {
        f"visual_encoder.{name}": tensor for name, tensor in load_tensors(folder / "eva_vit_g.safetensors").items()
    }
    state = _fitting(model, found, folder)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    return model.to(device).eval().requires_grad_(False)


def _fitting(model: nn.Module, found: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors of `found` that the model has, checked for completeness and shape."""
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors ({missing[0]} …); fetch the weights again.")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            came, taken = list(found[name].shape), list(tensor.shape)
            raise CheckpointError(
                f"{name} in {folder} has shape {came}, {taken} is taken; check config.json beside it."
            )
    extra = [name for name in found if name not in wanted and not name.startswith(TRAINING_ONLY)]
    if extra:
        log.info(
            "%d tensors in %s belong to no part of the network and are left out: %s …", len(extra), folder, extra[0]
        )
    return {name: found[name] for name in wanted}
