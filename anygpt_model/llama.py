"""Llama's forward pass for generation, lean enough for small models on a CPU: static caches, few operations a layer.

A step on a CPU is one call of machine code where a compiler is there (compiled.py), else it runs operation by
operation. In float32 a row's result does not depend on how many rows are computed beside it, bit for bit: compiled by
its order of sums; else products are taken against transposed weights, with as many rows at a time as were found to take
the same kernel on this machine, and attention over lengths padded to a multiple of 16. `Llama.exact` says whether any
number of rows did. Equals transformers' LlamaForCausalLM to float32 rounding. Knows no token, no sampling, no queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .caches import PAD, Prefix, Slots
from .compiled import CompiledStep, build, fits, open_step
from .errors import CheckpointError
from .legal_ids import Legal
from .linears import Linear, column_blocks, rows_that_agree
from .llama_shape import LlamaShape

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
PREFILL_CHUNK = 256
_NARROW = 8
"""Columns that a gathered part of the output layer has at least: a single one would take another kernel."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, ready for use."""

    attention_norm: Tensor
    qkv: Linear
    out: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


class Llama:
    """A Llama's weights and its forward passes. Not thread-safe: one thread at a time computes with it."""

    compilable: ClassVar[bool] = True
    """Whether the layers hold plain weights, as the compiled step needs them."""

    def __init__(
        self, shape: LlamaShape, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self.device = device
        self.dtype = dtype
        library = build(dtype) if self.compilable and fits(shape, device, dtype) else None
        self.compiled: CompiledStep | None = None
        self.transposed = device.type == "cpu" and dtype == torch.float32 and library is None
        self._tensors = tensors
        self.embedding = self._take("model.embed_tokens.weight")
        self.layers = [self._layer(index) for index in range(shape.layers)]
        self.norm = self._take("model.norm.weight")
        head = self.embedding if shape.tied else self._take("lm_head.weight")
        self.head = head.t().contiguous() if self.transposed else head
        self._tensors = {}
        self._parts: dict[Legal, list[Tensor]] = {}
        if library is not None:
            self.compiled = open_step(shape, library, self.embedding, self.norm, self.head, self.layers)
        self.reserve(64)
        first = self.layers[0]
        products = [(first.qkv, shape.hidden), (first.up, shape.hidden), (first.down, shape.intermediate)]
        found = rows_that_agree(products) if self.transposed else 1
        self.rows = found or 1
        self.exact = dtype == torch.float32 and (self.transposed or library is not None) and found is not None

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights that one step reads: everything but the embedding and the output layer."""
        shapes = self.shape.tensors()
        body = sum(math.prod(size) for name, size in shapes.items() if name.startswith("model.layers"))
        return body * self.embedding.element_size()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Every weight that the forward pass reads, by its place here."""
        found = {"embedding": self.embedding, "norm": self.norm, "head": self.head}
        for index, layer in enumerate(self.layers):
            stem = f"layers.{index}."
            found |= {stem + "attention_norm": layer.attention_norm, stem + "mlp_norm": layer.mlp_norm}
            for name in ("qkv", "out", "gate", "up", "down"):
                tensors = getattr(layer, name).tensors
                found |= {f"{stem}{name}" + (f".{at}" if at else ""): tensor for at, tensor in enumerate(tensors)}
        if self.head is self.embedding:
            del found["head"]
        return found

    def reserve(self, positions: int) -> None:
        """Prepare rotary positions up to `positions`, so that no later call needs to."""
        self._rotations = _rotations(self.shape, positions + 1).to(self.device)
        if self.compiled is not None:
            self.compiled.turn_by(self._rotations)

    def new_prefix(self, positions: int) -> Prefix:
        """An empty cache for one sequence of up to `positions` ids."""
        s = self.shape
        size = (s.layers, 2, s.kv_heads, positions, s.head_dim)
        return Prefix(torch.empty(size, dtype=self.dtype, device=self.device))

    @torch.inference_mode()
    def prefill(self, ids: NDArray[np.int64], prefix: Prefix) -> Tensor:
        """Append `ids` [n] to `prefix`; the last hidden states [n, hidden] of the new ids, normed."""
        start, count = prefix.length, len(ids)
        total = start + count
        self._reach(total)
        if self.compiled is not None:
            states = self.compiled.prefill(ids.tolist(), prefix)
            prefix.length = total
            return states
        mask = None
        if start and count > 1:
            mask = torch.ones(count, total, dtype=torch.bool, device=self.device).tril(start)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = prefix.data[layer, 0, :, :total], prefix.data[layer, 1, :, :total]
            keys[:, start:] = k[:count].transpose(0, 1)
            values[:, start:] = v[:count].transpose(0, 1)
            causal = mask is None and count > 1
            query = q[:count].transpose(0, 1)
            found = self._attention(query[None], keys[None], values[None], mask, causal)
            return found[0].transpose(0, 1).reshape(count, -1)

        hidden = self._forward(torch.from_numpy(ids), torch.arange(start, total), attend)
        prefix.length = total
        return hidden

    @torch.inference_mode()
    def step(self, ids: list[int], lengths: list[int], slots: Slots) -> Tensor:
        """One id [b] for each of the first slots, which hold `lengths` [b] ids so far -> hidden states [b, hidden]."""
        self._reach(max(lengths) + 1)
        if self.compiled is not None:
            return self.compiled.decode(ids, lengths, slots)
        count = len(ids)
        positions = torch.tensor(lengths, device=self.device)
        padded = -(-(max(lengths) + 1) // PAD) * PAD
        open_keys = torch.arange(padded, device=self.device) <= positions[:, None]
        mask = torch.zeros(count, 1, 1, padded, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~open_keys[:, None, None], -math.inf)
        rows = torch.arange(count, device=self.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = slots.keys[layer], slots.values[layer]
            if count == 1:
                keys[0, :, lengths[0]] = k[0]
                values[0, :, lengths[0]] = v[0]
            else:
                keys[rows, :, positions] = k[:count]
                values[rows, :, positions] = v[:count]
            query = q[:count, :, None]
            found = self._attention(query, keys[:count, :, :padded], values[:count, :, :padded], mask, False)
            return found.reshape(count, -1)

        return self._forward(torch.tensor(ids), positions, attend)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, legal: Legal) -> NDArray[np.float32]:
        """hidden [rows, hidden] -> the logits of the legal ids [rows, legal.size], in legal.ids() order."""
        if self.compiled is not None:
            runs = [(start, stop - start) for start, stop in legal.slices] + [(token, 1) for token in legal.singles]
            scores: NDArray[np.float32] = self.compiled.logits(hidden, runs).numpy()
            return scores
        count = len(hidden)
        x = self._filled(hidden)
        parts = self._parts.get(legal)
        if parts is None:
            parts = self._parts[legal] = self._columns(legal)
        found = [x @ part for part in parts] if self.transposed else [F.linear(x, part) for part in parts]
        joined = torch.cat(found, dim=-1)[:count, : legal.size] if len(found) > 1 else found[0][:count, : legal.size]
        array: NDArray[np.float32] = joined.float().cpu().numpy()
        return array

    @torch.inference_mode()
    def whole(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden] -> the whole vocabulary's logits [rows, vocabulary] in float32, the caller's own."""
        return (hidden @ self.head if self.transposed else F.linear(hidden, self.head)).float()

    def _columns(self, legal: Legal) -> list[Tensor]:
        """The parts of the output layer that `legal` needs: views of its slices, then its singles, padded."""
        if len(self._parts) > 1024:
            self._parts.clear()
        axis = 1 if self.transposed else 0
        parts = []
        for start, stop in legal.slices:
            for first, last in column_blocks(start, stop, self.shape.hidden) if self.transposed else [(start, stop)]:
                parts.append(self.head.narrow(axis, first, last - first))
        if legal.singles:
            singles = [*legal.singles, *legal.singles[:1] * (_NARROW - len(legal.singles))]
            parts.append(self.head.index_select(axis, torch.tensor(singles, device=self.device)))
        return parts

    def _forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """ids [n], positions [n] -> hidden states [n, hidden] after the last norm."""
        count = len(ids)
        x = F.embedding(ids.to(self.device), self.embedding)
        x = self._filled(x)
        turns = self._rotations[F.pad(positions, (0, len(x) - count))][:, None]
        s = self.shape
        split = s.heads + s.kv_heads
        for index, layer in enumerate(self.layers):
            normed = F.rms_norm(x, (s.hidden,), layer.attention_norm, s.eps)
            qkv = layer.qkv(normed).view(len(x), -1, s.head_dim)
            turned = _turn(qkv[:, :split], turns)
            found = attend(index, turned[:, : s.heads], turned[:, s.heads :], qkv[:, split:])
            x = x + layer.out(self._filled(found))
            normed = F.rms_norm(x, (s.hidden,), layer.mlp_norm, s.eps)
            x = x + layer.down(F.silu(layer.gate(normed)) * layer.up(normed))
        return F.rms_norm(x, (s.hidden,), self.norm, s.eps)[:count]

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        grouped = self.shape.kv_heads != self.shape.heads
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)

    def _reach(self, positions: int) -> None:
        if positions > len(self._rotations):
            self.reserve(2 * positions)

    def _take(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise CheckpointError(f"The language model's weights have no tensor {name}; fetch the checkpoint again.")
        found, wanted = self._tensors[name], self.shape.tensors()[name]
        if tuple(found.shape) != wanted:
            raise CheckpointError(
                f"The language model's tensor {name} has the shape {list(found.shape)} where config.json asks for "
                f"{list(wanted)}; fetch the checkpoint again."
            )
        return found.to(self.device, self.dtype)

    def _layer(self, index: int) -> Layer:
        stem = f"model.layers.{index}."
        q, k, v = (self._take(f"{stem}self_attn.{name}_proj.weight") for name in "qkv")

        def linear(weight: Tensor) -> Linear:
            return Linear(weight, self.transposed)

        return Layer(
            attention_norm=self._take(f"{stem}input_layernorm.weight"),
            qkv=linear(torch.cat([_paired(q, self.shape.head_dim), _paired(k, self.shape.head_dim), v])),
            out=linear(self._take(f"{stem}self_attn.o_proj.weight")),
            mlp_norm=self._take(f"{stem}post_attention_layernorm.weight"),
            gate=linear(self._take(f"{stem}mlp.gate_proj.weight")),
            up=linear(self._take(f"{stem}mlp.up_proj.weight")),
            down=linear(self._take(f"{stem}mlp.down_proj.weight")),
        )

    def _filled(self, x: Tensor) -> Tensor:
        """x [n, width] with rows of zeros up to a multiple of `rows`."""
        missing = -len(x) % self.rows
        return F.pad(x, (0, 0, 0, missing)) if missing else x


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder each head's rows so that the two halves that rotate together lie side by side, as complex numbers do."""
    heads = weight.view(-1, 2, head_dim // 2, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def _rotations(shape: LlamaShape, positions: int) -> Tensor:
    """Unit complex numbers [positions, head_dim / 2] of rotary positions."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    angles = torch.arange(positions).float()[:, None] * (1.0 / shape.theta**exponents)
    return torch.polar(torch.ones_like(angles), angles)


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate x [n, heads, head_dim] by turns [n, 1, head_dim / 2]."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
