"""Music <-> codes: EnCodec in the published layout, or the pocket's frame codec, behind the one protocol.

Sounds are coded five seconds at a time, each piece by itself, as the language model was trained on: the codes of a
piece don't depend on what came before it, and a long sound takes no more memory than a short one. Crops are where the
sound starts, never random. Knows no vocabulary and no sound file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CheckpointError
from .encodec import Encodec
from .frame_codec import FrameCodec, is_frame_codec
from .protocol import Array, Codes

PIECE_SECONDS = 5.0
"""What is coded at once; both codecs have a whole number of frames in it."""


class MusicCodec:
    """The music codec of a model folder: float32 [samples] at `sample_rate` <-> int64 [num_codebooks, frames]."""

    def __init__(self, network: Encodec | FrameCodec, device: str = "cpu") -> None:
        self._network, self._device = network, device
        if isinstance(network, Encodec):
            self._cardinality, self._rate = network.config.codebook_size, network.config.sampling_rate
        else:
            self._cardinality, self._rate = network.config.cardinality, network.config.sample_rate

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> MusicCodec:
        """The codec of `folder`; its config.json says which. Raises CheckpointError where it can't be used."""
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError) as unreadable:
            raise CheckpointError(
                f"{folder} has no readable config.json; it says which music codec this is."
            ) from unreadable
        kind: type[Encodec] | type[FrameCodec] = FrameCodec if is_frame_codec(config) else Encodec
        return cls(kind.from_folder(folder, device), device)

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        return self._cardinality

    @property
    def num_codebooks(self) -> int:
        """Rows of `encode`'s result."""
        return self._network.config.num_codebooks

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return float(self._network.config.frame_rate)

    @property
    def sample_rate(self) -> int:
        """Samples a second of the sounds taken and made."""
        return self._rate

    def to(self, device: str) -> None:
        """Move the weights."""
        self._network.to(device)
        self._device = device

    def pieces(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """`samples` in stretches of PIECE_SECONDS from the start, the last one as long as is left, a frame at least."""
        length, frame = round(PIECE_SECONDS * self.sample_rate), self._network.config.frame_size
        for start in range(0, max(1, len(samples)), length):
            piece = samples[start : start + length]
            yield np.pad(piece, (0, max(0, frame - len(piece))))

    def encode(self, array: Array) -> Codes:
        """int64 [num_codebooks, frames] of float32 [samples] at `sample_rate`."""
        made = [self._encoded(piece) for piece in self.pieces(np.asarray(array, np.float32))]
        return np.concatenate(made, axis=1)

    def decode(self, codes: Codes, *, seed: int = 0, voice: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """float32 [samples] in -1..1 of codes [num_codebooks, frames]. Nothing is drawn: seed and voice do nothing."""
        length = round(PIECE_SECONDS * self.frame_rate)
        starts = range(0, codes.shape[1], length)
        made = [self._decoded(codes[:, start : start + length]) for start in starts]
        return np.concatenate(made) if made else np.zeros(0, np.float32)

    def _encoded(self, piece: NDArray[np.float32]) -> Codes:
        wave = torch.from_numpy(np.ascontiguousarray(piece))[None].to(self._device)
        codes: Codes = self._network.encode(wave)[0].cpu().numpy().astype(np.int64)
        return codes

    def _decoded(self, codes: Codes) -> NDArray[np.float32]:
        wave = self._network.decode(torch.from_numpy(np.ascontiguousarray(codes))[None].to(self._device))
        samples: NDArray[np.float32] = wave[0].float().clamp(-1, 1).cpu().numpy()
        return samples
