"""Weights of 8 and 4 bits: our forward pass over transformers' quantized layers, and what is said where it can't be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model import quantization
from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.errors import CheckpointError, SettingsError
from anyloom.anygpt_model.quantization import QUANTIZERS, open_quantized, quantizer
from anyloom.anygpt_model.values import Bounds, Modality, Request

installed = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(known.package) is None, reason=known.package))
    for name, known in QUANTIZERS.items()
]


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory, build_llm: Any) -> Path:
    """A language model of widths that blocks of 64 fit, with grouped keys."""
    made: Path = build_llm(tmp_path_factory.mktemp("wide") / "m", hidden_size=128, num_attention_heads=4, head_dim=32,
                       num_key_value_heads=2, intermediate_size=192)  # fmt: skip
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", installed)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_forward_equals_that_of_transformers(name: str, dtype: torch.dtype, wide_folder: Path) -> None:
    import transformers

    llama = open_quantized(name, wide_folder / "llm", torch.device("cpu"), dtype)
    reference = transformers.LlamaForCausalLM.from_pretrained(
        wide_folder / "llm", quantization_config=QUANTIZERS[name].settings(dtype), dtype=dtype, device_map="cpu"
    )
    ids = np.arange(3, 40)
    with torch.inference_mode():
        wanted = reference.model(torch.from_numpy(ids)[None]).last_hidden_state[0].float()
    llama.reserve(64)
    ours = llama.prefill(ids, llama.new_prefix(64)).float()
    # Four bits are multiplied more coarsely than in float32 on a CPU; a misplaced layer would be off by about one.
    assert float((ours - wanted).abs().max()) < (1e-4 if (name, dtype) == ("int8", torch.float32) else 0.15)
    assert llama.parameter_bytes * 8 == QUANTIZERS[name].bits * sum(
        size[0] * (size[1] if len(size) > 1 else 1)
        for key, size in llama.shape.tensors().items()
        if key.startswith("model.layers")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", installed)
def test_an_engine_answers_and_says_so(name: str, wide_folder: Path) -> None:
    with load_engine(wide_folder, device="cpu", quantize=name) as engine:
        request = Request((1, 30, 40), 1, Bounds(Modality.IMAGE, max_tokens=60))
        [made] = engine.generate([request])
        assert made.ids[-1] in engine.vocabulary.stop_ids
        assert engine.versions["machine"].endswith(name)
        assert engine.versions[QUANTIZERS[name].package]


@pytest.mark.slow
def test_four_bits_take_blocks_of_64(llm_folder: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes")
    with pytest.raises(SettingsError, match="multiples of 64, and this model's are 32 and 64"):
        load_engine(llm_folder, device="cpu", quantize="int4")


def test_unknown_and_missing_quantizers_are_said(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="int8, int4"):
        load_engine(llm_folder, quantize="int3")
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"needs the package torchao.*pip install 'anyloom\[quantized\]'"):
        load_engine(llm_folder, quantize="int8")


def test_missing_and_misshapen_tensors_are_named(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda _: True)
    state = load_file(llm_folder / "llm" / "model.safetensors")
    (tmp_path / "config.json").write_bytes((llm_folder / "llm" / "config.json").read_bytes())
    name = "model.layers.1.mlp.up_proj.weight"
    for tensor, said in ((None, f"no tensor {name}"), (torch.zeros(2, 2), r"the shape \[2, 2\] where")):
        changed = {key: value for key, value in state.items() if key != name} | (
            {} if tensor is None else {name: tensor}
        )
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=said):
            open_quantized("int8", tmp_path, torch.device("cpu"), torch.float32)
    assert quantizer("int8").bits == 8
