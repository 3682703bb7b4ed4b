"""A Llama with 8 or 4 bits a weight in its layers, through transformers' quantization settings.

transformers reads and quantizes the checkpoint; the forward pass, the caches and the decoding stay ours and call its
layers. Embedding, norms and output layer keep the engine's dtype. Activations are never quantized. The packages that
hold such weights are extras. Knows no token and no sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import safe_shapes, weight_files
from .errors import CheckpointError, SettingsError
from .linears import Linear
from .llama import Layer, Llama
from .llama_shape import LlamaShape


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One way to hold weights.

    block: weights of a row that share a scale, 1: all of them. settings: dtype of the activations -> transformers'
    quantization configuration.
    """

    package: str
    bits: int
    block: int
    settings: Callable[[torch.dtype], Any]


def _eight(dtype: torch.dtype) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def _four(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


QUANTIZERS = {"int8": Quantizer("torchao", 8, 1, _eight), "int4": Quantizer("bitsandbytes", 4, 64, _four)}
"""int8: a scale a row. int4: NF4, blocks of 64 weights that share a scale."""


def quantizer(name: str) -> Quantizer:
    """The quantizer called `name`. Raises SettingsError for an unknown one, and where its package is missing."""
    if name not in QUANTIZERS:
        raise SettingsError(f"The quantization {name!r} came; use one of {', '.join(QUANTIZERS)}, or none.")
    found = QUANTIZERS[name]
    if find_spec(found.package) is None:
        raise SettingsError(
            f"The quantization {name} needs the package {found.package}; get it by `pip install 'anyloom[quantized]'`."
        )
    return found


class Wrapped(Linear):
    """A quantized layer in the place of a plain product. x [rows, in] -> [rows, out]."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    @property
    def tensors(self) -> list[Tensor]:
        """The quantized weights and their scales."""
        return list(self._module.state_dict().values())

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self._module(x)
        return made


class Joined(Linear):
    """Queries, keys and values of three quantized layers side by side, their rows in the order that Llama turns."""

    def __init__(self, modules: list[torch.nn.Module], head_dim: int) -> None:
        self._modules, self._head_dim = modules, head_dim

    @property
    def tensors(self) -> list[Tensor]:
        """The quantized weights and their scales."""
        return [tensor for module in self._modules for tensor in module.state_dict().values()]

    def __call__(self, x: Tensor) -> Tensor:
        query, key, value = (module(x) for module in self._modules)
        return torch.cat([self._paired(query), self._paired(key), value], dim=-1)

    def _paired(self, x: Tensor) -> Tensor:
        """Put the two halves of each head that rotate together side by side, as Llama does with weights."""
        halves = x.view(len(x), -1, 2, self._head_dim // 2)
        return halves.transpose(2, 3).reshape(x.shape)


class QuantizedLlama(Llama):
    """Our forward pass over the layers of a quantized LlamaForCausalLM."""

    compilable = False

    def __init__(self, shape: LlamaShape, network: Any, device: torch.device, dtype: torch.dtype, bits: int) -> None:
        """network: transformers' LlamaForCausalLM, quantized, on `device`."""
        self._network, self._bits = network.model, bits
        tensors = {
            "model.embed_tokens.weight": network.model.embed_tokens.weight.detach(),
            "model.norm.weight": network.model.norm.weight.detach(),
            "lm_head.weight": network.lm_head.weight.detach(),
        }
        super().__init__(shape, tensors, device, dtype)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights that one step reads, scales left out."""
        shapes = self.shape.tensors()
        return (
            sum(math.prod(size) for name, size in shapes.items() if name.startswith("model.layers")) * self._bits // 8
        )

    def _layer(self, index: int) -> Layer:
        block = self._network.layers[index]
        attention, mlp = block.self_attn, block.mlp
        return Layer(
            attention_norm=block.input_layernorm.weight.detach().to(self.dtype),
            qkv=Joined([attention.q_proj, attention.k_proj, attention.v_proj], self.shape.head_dim),
            out=Wrapped(attention.o_proj),
            mlp_norm=block.post_attention_layernorm.weight.detach().to(self.dtype),
            gate=Wrapped(mlp.gate_proj),
            up=Wrapped(mlp.up_proj),
            down=Wrapped(mlp.down_proj),
        )


def open_quantized(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> QuantizedLlama:
    """The language model of `folder`, quantized while it is read.

    Raises SettingsError as `quantizer` does, CheckpointError for tensors that are missing or misshapen.
    """
    chosen = quantizer(name)
    shape = LlamaShape.from_folder(folder)
    _complete(folder, shape)
    if shape.hidden % chosen.block or shape.intermediate % chosen.block:
        raise SettingsError(
            f"The quantization {name} takes widths that are multiples of {chosen.block}, and this model's are "
            f"{shape.hidden} and {shape.intermediate}; use int8."
        )
    from transformers import LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the door shows what runs; bars of the library would write over it
    network = LlamaForCausalLM.from_pretrained(
        folder,
        quantization_config=chosen.settings(dtype),
        dtype=dtype,
        device_map={"": str(device)},
        use_safetensors=True,
        local_files_only=True,
    )
    return QuantizedLlama(shape, network.eval().requires_grad_(False), device, dtype, chosen.bits)


def _complete(folder: Path, shape: LlamaShape) -> None:
    """transformers fills what a file lacks with random numbers; here that is refused."""
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        found |= safe_shapes(file)[0]
    for name, wanted in shape.tensors().items():
        if name not in found:
            raise CheckpointError(f"The language model's weights have no tensor {name}; fetch the checkpoint again.")
        if found[name] != wanted:
            raise CheckpointError(
                f"The language model's tensor {name} has the shape {list(found[name])} where config.json asks for "
                f"{list(wanted)}; fetch the checkpoint again."
            )
