"""The sizes of a Llama checkpoint, as its config.json states them. Knows no tensor's values and no forward pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes of config.json that matter here."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    eps: float
    theta: float
    tied: bool

    @classmethod
    def from_folder(cls, folder: Path) -> LlamaShape:
        """Read FOLDER/config.json. Raises CheckpointError for a missing file or a network that isn't a plain Llama."""
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; a language model's folder needs its config.json.")
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        plain = config.get("model_type") == "llama" and kind == "default"
        if not plain or config.get("attention_bias") or config.get("mlp_bias"):
            raise CheckpointError(
                f"{path} describes a {config.get('model_type')} with {kind} positions; "
                "AnyGPT's language model is a Llama with default positions and no biases."
            )
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            positions=config.get("max_position_embeddings", 2048),
            eps=config.get("rms_norm_eps", 1e-6),
            theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint, by its published name, with its shape."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, h)}
        for layer in range(self.layers):
            shapes |= {
                f"model.layers.{layer}.self_attn.q_proj.weight": (q, h),
                f"model.layers.{layer}.self_attn.k_proj.weight": (kv, h),
                f"model.layers.{layer}.self_attn.v_proj.weight": (kv, h),
                f"model.layers.{layer}.self_attn.o_proj.weight": (h, q),
                f"model.layers.{layer}.mlp.gate_proj.weight": (self.intermediate, h),
                f"model.layers.{layer}.mlp.up_proj.weight": (self.intermediate, h),
                f"model.layers.{layer}.mlp.down_proj.weight": (h, self.intermediate),
                f"model.layers.{layer}.input_layernorm.weight": (h,),
                f"model.layers.{layer}.post_attention_layernorm.weight": (h,),
            }
        shapes["model.norm.weight"] = (h,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, h)
        return shapes
