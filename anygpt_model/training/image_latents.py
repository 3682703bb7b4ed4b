"""The pocket's AutoencoderKL, written down instead of trained: latents are the picture at half size, in three channels.

Every step of the stock network is made linear: residual branches are zero, and the normalisation before the last
convolution sees two constant channels so large that it divides by a constant. White is zero inside, so that the zero
padding of convolutions is white paper. Halving averages, doubling interpolates. Knows no picture file and no codes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

SIZE = 128
"""Pixels a side of the pictures that the pocket draws."""
CHANNELS = 8
LARGE = 1024.0
"""Of the two constant channels: +LARGE and -LARGE."""
LINEAR = 12.0
"""Where SiLU is its argument, to 1e-4 for arguments within 2 of this."""
CENTRE, SCALE = 0.6, 1.25
"""Latents have about mean 0 and deviation 1 after adding CENTRE and multiplying by SCALE."""
WHITE = SCALE * CENTRE
"""White as a scaled latent; a tone is 2 * SCALE times what it lacks in 0..1 darker."""


def autoencoder() -> AutoencoderKL:
    """Pictures [B, 3, SIZE, SIZE] in -1..1 to latents [B, 3, SIZE / 2, SIZE / 2] and back."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[CHANNELS] * 2,
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=1,
        sample_size=SIZE,
        scaling_factor=SCALE,
        mid_block_add_attention=False,
    ).requires_grad_(False)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            for parameter in module.parameters():
                parameter.zero_()
    enter(vae.encoder.conv_in, bias=-1.0)
    spread(vae.encoder.down_blocks[0].downsamplers[0].conv, torch.tensor([[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]]))
    leave(vae.encoder.conv_norm_out, vae.encoder.conv_out, bias=CENTRE)
    vae.quant_conv.weight[range(3), range(3), 0, 0] = 1.0
    vae.quant_conv.bias[3:] = -20.0
    vae.post_quant_conv.weight[range(3), range(3), 0, 0] = 1.0
    vae.post_quant_conv.bias.fill_(-CENTRE)
    enter(vae.decoder.conv_in, bias=0.0)
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4
    spread(vae.decoder.up_blocks[0].upsamplers[0].conv, tent[:, None] * tent)
    leave(vae.decoder.conv_norm_out, vae.decoder.conv_out, bias=1.0)
    return vae.eval()


def enter(conv: nn.Conv2d, bias: float) -> None:
    """Three channels in; out come they plus `bias`, their negatives (so that all sum to 0), and the two constants."""
    for i in range(3):
        conv.weight[i, i, 1, 1], conv.weight[i + 3, i, 1, 1] = 1.0, -1.0
    offset(conv)[:3], offset(conv)[3:6] = bias, -bias
    offset(conv)[6], offset(conv)[7] = LARGE, -LARGE


def offset(conv: nn.Conv2d) -> Tensor:
    """The biases of a convolution that has some."""
    assert conv.bias is not None
    return conv.bias


def spread(conv: nn.Conv2d, kernel: Tensor) -> None:
    """Every channel filtered by `kernel` [3, 3]; the constants made anew."""
    for i in range(6):
        conv.weight[i, i] = kernel
    offset(conv)[6], offset(conv)[7] = LARGE, -LARGE


def leave(norm: nn.GroupNorm, conv: nn.Conv2d, bias: float) -> None:
    """The first three channels plus `bias`, undoing the normalisation."""
    norm.weight.fill_(LARGE * (2 / CHANNELS) ** 0.5)
    norm.bias.fill_(LINEAR)
    conv.weight[range(3), range(3), 1, 1] = 1.0
    offset(conv)[:3] = bias - LINEAR


def halved(pictures: NDArray[np.uint8]) -> Tensor:
    """The scaled latents [N, 3, SIZE / 2, SIZE / 2] that pictures [N, H, W, 3] have at SIZE pixels a side."""
    return SCALE * (2 * at_half(pictures) - 2 + CENTRE)


def at_half(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures [N, H, W, C] as latents lie, in 0..1: [N, C, SIZE / 2, SIZE / 2]."""
    parts = []
    for part in np.array_split(pictures, max(1, len(pictures) // 256)):
        flat = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255
        parts.append(F.interpolate(flat, (SIZE // 2, SIZE // 2), mode="bicubic", antialias=True).clamp(0, 1))
    return torch.cat(parts)
