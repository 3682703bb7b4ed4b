"""A Llama written for training on a CPU: logits only where the loss counts and of the ids that compete there.

Parameter names and numbers are transformers' (a test compares them), so a trained state loads there as it is.
Generation never uses this class. Knows no data and no tokenizer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .language_choices import Choices


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama; the names are LlamaConfig's."""

    vocab_size: int
    hidden_size: int = 320
    intermediate_size: int = 864
    num_hidden_layers: int = 8
    num_attention_heads: int = 5
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def config(self) -> Any:
        """The LlamaConfig of these sizes: tied embeddings, no grouped heads, the published special ids."""
        from transformers import LlamaConfig

        sizes = asdict(self)
        theta = sizes.pop("rope_theta")
        return LlamaConfig(
            **sizes,
            num_key_value_heads=self.num_attention_heads,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )


class Norm(nn.Module):
    """Root-mean-square normalisation. Its weight is multiplied into the matrix that follows: cheaper than into x."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] without the weight."""
        power = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1]
        return x * torch.rsqrt(power + self.epsilon).to(x.dtype)

    def into(self, *matrices: Tensor) -> Tensor:
        """The matrices [out, width] under one another, each column times the norm's weight."""
        return torch.cat(matrices) * self.weight


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, norm: Norm, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x [batch, time, width]; cos, sin [time, head]; mask [time, time], -inf where a position may not look."""
        batch, time, width = x.shape
        scaled = self.q_proj.weight * (width // self.heads) ** -0.5
        joined = norm.into(scaled, self.k_proj.weight, self.v_proj.weight).to(x.dtype)
        q, k, v = functional.linear(norm(x), joined).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.matmul(rotated(q, cos, sin), rotated(k, cos, sin).transpose(-1, -2)) + mask
        mixed = torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).reshape(batch, time, width)
        return functional.linear(mixed, self.o_proj.weight.to(x.dtype))


class FeedForward(nn.Module):
    """Llama's gated feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, norm: Norm) -> Tensor:
        """x [batch, time, width]."""
        joined = norm.into(self.gate_proj.weight, self.up_proj.weight).to(x.dtype)
        gate, up = functional.linear(norm(x), joined).chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, self.down_proj.weight.to(x.dtype))


class Layer(nn.Module):
    """One block: attention and feed-forward, each behind its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """x [batch, time, width]."""
        x = x + self._dropped(self.self_attn(x, self.input_layernorm, cos, sin, mask), dropout)
        return x + self._dropped(self.mlp(x, self.post_attention_layernorm), dropout)

    def _dropped(self, x: Tensor, dropout: float) -> Tensor:
        """Dropout of whole channels of a row: random numbers cost more than a layer's sums here."""
        if not self.training or dropout <= 0:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= dropout
        return x * (kept / (1 - dropout)).to(x.dtype)


class Body(nn.Module):
    """Embedding, layers and the last norm: what transformers calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)


class TrainingLlama(nn.Module):
    """The network in training; `dtype` is that of its activations, its weights are float32."""

    def __init__(self, shape: Shape, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape, self.dropout, self.dtype = shape, dropout, dtype
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.num_hidden_layers) ** 0.5 if deep else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, time] -> hidden states [batch, time, width] before the last norm's weight."""
        time = ids.shape[1]
        cos, sin = rotary(time, self.shape.hidden_size // self.shape.num_attention_heads, self.shape.rope_theta)
        cos, sin = cos.to(ids.device, self.dtype), sin.to(ids.device, self.dtype)
        mask = torch.full((time, time), float("-inf"), device=ids.device, dtype=self.dtype).triu(1)
        x = functional.embedding(ids, self.model.embed_tokens.weight).to(self.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask, self.dropout)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def losses(self, ids: Tensor, targets: Tensor, choices: Choices | None = None) -> Tensor:
        """Cross-entropy [n] at the n places of `targets` [batch, time] that are not negative.

        choices: which ids compete where; the losses then come kind by kind, else row by row and over all ids.
        """
        chosen = targets >= 0
        thought, wanted = self(ids)[chosen], targets[chosen]
        head = self.model.norm.into(self.model.embed_tokens.weight).to(self.dtype)
        if choices is None:
            return functional.cross_entropy(functional.linear(thought, head).float(), wanted, reduction="none")
        kinds, places = (torch.from_numpy(each).to(ids.device)[wanted] for each in (choices.kind_of, choices.places))
        found = []
        for kind in sorted(set(kinds.tolist())):
            here = kinds == kind
            rows = head[torch.from_numpy(choices.groups[kind]).to(ids.device)]
            logits = functional.linear(thought[here], rows).float()
            found.append(functional.cross_entropy(logits, places[here], reduction="none"))
        return torch.cat(found)


def rotary(time: int, head: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [time, head] of Llama's rotary positions."""
    rates = theta ** -(torch.arange(0, head, 2).float() / head)
    angles = torch.outer(torch.arange(time).float(), rates).repeat(1, 2)
    sign = torch.ones(head)
    sign[: head // 2] = -1
    return angles.cos(), angles.sin() * sign


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., time, head] turned by its position: the halves of a head are the two coordinates."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([second, first], -1) * sin
