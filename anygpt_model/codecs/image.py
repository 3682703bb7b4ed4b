"""The picture codec: SEED's codes in, unCLIP's picture out, behind the protocol of all codecs.

A picture is squeezed to the tokenizer's square whatever its shape, as the original does. The pocket's is taken apart
first, if it shows a scene (gaze.py). Knows no image file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .gaze import look
from .protocol import Array, Codes
from .seed import MEAN, STD, SeedTokenizer, load_seed
from .unclip import ImageSynthesis


class ImageCodec:
    """Pictures to [1, 32] codes and back. Decoding draws anew: it shows the same thing, not the same pixels."""

    num_codebooks = 1
    frame_rate = 0.0
    sample_rate = 0

    def __init__(self, tokenizer: SeedTokenizer, synthesis: ImageSynthesis) -> None:
        self.tokenizer, self.synthesis = tokenizer, synthesis

    @classmethod
    def from_folder(
        cls, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> ImageCodec:
        """The codec of a model folder (`seed/` and `unclip/`); raises CheckpointError if one is missing or damaged."""
        tokenizer = load_seed(folder / "seed", device, dtype)
        return cls(tokenizer, ImageSynthesis.from_folder(folder / "unclip", device, dtype))

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        return self.tokenizer.config.codebook_size

    def to(self, device: str) -> None:
        """Move the weights."""
        self.tokenizer.to(device)
        self.synthesis.pipeline.to(device)

    @torch.no_grad()
    def encode(self, array: Array) -> Codes:
        """Codes int64 [1, 32] of a picture uint8 [height, width, 3]."""
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
            came = f"{array.dtype} {list(array.shape)}"
            raise InputError(f"{came} came, a picture is uint8 [height, width, 3]; convert it to RGB first.")
        scene = self.tokenizer.config.scene
        if not scene:
            return self._encoded(self.pixels(array))
        slot, grounds, layouts = scene
        seen = look(array.astype(np.uint8, copy=False))
        codes = self._encoded(torch.cat([self.pixels(glance) for glance in seen.glances]))
        whole = codes[:1].copy()
        whole[0, slot : slot + 2] = grounds + seen.ground, layouts + seen.layout
        if len(codes) > 1:
            whole[0, slot + 2 : slot + 4] = codes[1, :2]
        return whole

    def _encoded(self, pixels: Tensor) -> Codes:
        weights = self.tokenizer.query_tokens
        codes: Codes = self.tokenizer.encode(pixels.to(weights.device, weights.dtype)).cpu().numpy()
        return codes

    def pixels(self, array: Array) -> Tensor:
        """What the tokenizer sees of a picture: float32 [1, 3, S, S], resized by PIL's bicubic and normalised."""
        side = self.tokenizer.config.img_size
        square = Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC)
        scaled = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((scaled - mean) / std)[None]

    @torch.no_grad()
    def decode(self, codes: Codes, *, seed: int = 0, voice: NDArray[np.float32] | None = None) -> Array:
        """The picture uint8 [size, size, 3] of codes [1, 32]; the same codes and seed give the same bytes."""
        top = int(codes.max(initial=0)) if codes.min(initial=0) >= 0 else int(codes.min())
        if not 0 <= top < self.cardinality:
            taken = f"0 to {self.cardinality - 1}"
            raise InputError(f"Code {top} came, a picture's codes are {taken}; pass codes, not ids.")
        ids = torch.from_numpy(codes.reshape(1, -1)).to(self.tokenizer.query_tokens.device)
        return self.synthesis.draw(self.tokenizer.decode(ids)[0], seed)
