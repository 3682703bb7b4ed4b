"""EnCodec beside transformers' own model: other ratios, widths, layers and codebooks than those of the golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from anyloom.anygpt_model.codecs.encodec import Encodec

SIZES: list[dict[str, Any]] = [
    {"upsampling_ratios": [5, 4, 2], "num_filters": 4, "hidden_size": 12, "codebook_size": 32},
    {"upsampling_ratios": [8, 5, 4, 4], "num_lstm_layers": 1, "num_residual_layers": 2, "codebook_size": 64},
    {"upsampling_ratios": [4, 3], "num_filters": 6, "kernel_size": 5, "last_kernel_size": 3, "residual_kernel_size": 5},
    {"upsampling_ratios": [8, 4], "dilation_growth_rate": 3, "num_residual_layers": 3, "compress": 1},
    {"upsampling_ratios": [5, 2], "use_conv_shortcut": True, "use_causal_conv": True, "sampling_rate": 24_000},
]
LEVELS = 4


def transformers_model(sizes: dict[str, Any], seed: int) -> EncodecModel:
    """Random weights, with four levels in its lowest bandwidth."""
    torch.manual_seed(seed)
    usual = {"sampling_rate": 32_000, "num_filters": 4, "hidden_size": 16, "use_causal_conv": False, "normalize": False,
             "use_conv_shortcut": False, "codebook_size": 1024}  # fmt: skip
    settings = {**usual, **sizes}
    settings["codebook_dim"] = settings["hidden_size"]
    rate = EncodecConfig(**settings).frame_rate
    bits = (settings["codebook_size"] - 1).bit_length()
    # The model stores as many levels as ten bits a code would allow in the last bandwidth.
    settings["target_bandwidths"] = [(LEVELS + 0.01) * bits * rate / 1000, (LEVELS + 0.01) * 10 * rate / 1000]
    model = EncodecModel(EncodecConfig(**settings)).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith((".embed", "original0", "bias")):
            tensor.copy_(tensor.abs() + torch.randn_like(tensor) * 0.2)
    return model


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [3])
def test_codes_and_samples_of_other_shapes(sizes: dict[str, Any], seed: int, tmp_path: Path) -> None:
    theirs = transformers_model(sizes, seed)
    theirs.save_pretrained(tmp_path)
    ours = Encodec.from_folder(tmp_path)
    assert ours.config.num_codebooks == LEVELS
    frame = ours.config.frame_size
    for length in (frame * 7, frame * 9 + 3):
        wave = torch.randn(2, length) * 0.3
        with torch.inference_mode():
            wanted = theirs.encode(wave[:, None], bandwidth=theirs.config.target_bandwidths[0]).audio_codes[0]
            codes = ours.encode(wave)
            sound = theirs.decode(wanted[None], [None]).audio_values[:, 0]
        assert codes.shape[1] == LEVELS
        assert torch.equal(codes, wanted)
        torch.testing.assert_close(ours.decode(codes), sound, rtol=0, atol=1e-6)
