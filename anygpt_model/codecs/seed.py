"""SEED-2: a picture to 32 causal codes, and codes to the unCLIP image embedding they stand for.

ViT -> causal Q-Former -> vector quantiser -> four transformer blocks -> image embedding. Parameter names are those of
the published files, so their weights load as they are. Knows no picture file, no diffusion and no vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import load_tensors
from ..errors import CheckpointError, InputError
from .prototypes import Prototypes
from .qformer import QFormer
from .seed_config import SeedConfig
from .vit import Block, PlainAttention, VisionTransformer

log = logging.getLogger(__name__)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""What pixels in 0..1 are normalised by, per channel."""

TRAINING_ONLY = ("blocks.", "pos_embed", "Qformer.bert.embeddings.position_ids")
"""Names that the published file holds but no code path of inference reads (SeedConfig.training_parts builds them)."""


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32 whatever comes in; gives back the dtype that came."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)


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
