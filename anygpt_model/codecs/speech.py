"""Speech <-> level-1 codes: a tokenizer names what is said, SoundStorm gives the codes back a voice.

The language model sees level 1 alone. Decoding fills in levels 2 to 8 in the voice of a prompt (at most 3 s of it), or
in the folder's own voice, and turns all levels into samples. Long sounds go in pieces: encoding and the last step of
decoding hear `CONTEXT_SECONDS` on both sides of a piece and drop it again; SoundStorm continues from the end of what
it made, as from a prompt. Knows no vocabulary, no marker and no sound file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import load_tensors
from ..errors import CheckpointError, MediaError
from .frame_codec import FrameCodec, is_frame_codec
from .protocol import Array, Codes
from .soundstorm import SoundStorm, SoundStormConfig
from .speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig

TOKENIZER, STORM = "speechtokenizer", "soundstorm"
TOKENIZER_WEIGHTS = "ckpt.safetensors"
STORM_WEIGHTS = "speechtokenizer_soundstorm_mls.safetensors"
VOICE = "voice.safetensors"
"""The folder's own voice, beside SoundStorm's weights: one tensor "codes" [levels, frames]."""
PIECE_SECONDS = 15.0
"""What the tokenizer codes or decodes at once."""
CONTEXT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Filling:
    """How SoundStorm is used; a folder's config.json may say otherwise.

    steps: rounds for level 2. prompt: frames of a voice that are heard at most. window: frames of prompt and speech
    together that are filled in at once, the longest that training showed. levels: how many levels are turned into
    samples; a SoundStorm that guesses the last ones badly sounds better without them.
    """

    steps: int = 3
    prompt: int = 150
    window: int = 750
    levels: int = 8

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Filling:
        """The fields in a config.json; others are passed over."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})


class SpeechCodec:
    """The speech codec of a model folder: float32 [samples] at `sample_rate` <-> int64 [1, frames]."""

    def __init__(
        self,
        tokenizer: SpeechTokenizer | FrameCodec,
        storm: SoundStorm,
        device: str = "cpu",
        voice: Tensor | None = None,
        filling: Filling | None = None,
    ) -> None:
        """voice: the codes [levels, frames] of the default voice prompt; None: SoundStorm chooses a voice itself."""
        self._tokenizer, self._storm, self._device = tokenizer, storm, device
        self._filling = filling or Filling()
        self._voice = None if voice is None else voice.long().to(device)
        if storm.config.num_quantizers + 1 != tokenizer.num_codebooks:
            raise CheckpointError(
                f"The speech tokenizer has {tokenizer.num_codebooks} levels and SoundStorm makes "
                f"{storm.config.num_quantizers + 1}; take both from one checkpoint."
            )

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> SpeechCodec:
        """The codec of a model's folder, from its two subfolders. Raises CheckpointError where they can't be used."""
        tokenizer = open_tokenizer(folder / TOKENIZER, device)
        config = _json(folder / STORM / "config.json") if (folder / STORM / "config.json").exists() else {}
        storm = SoundStorm(SoundStormConfig.from_json(config))
        fit(storm, folder / STORM / STORM_WEIGHTS)
        own = folder / STORM / VOICE
        voice = load_tensors(own)["codes"] if own.exists() else None
        return cls(tokenizer, storm.to(device).eval(), device, voice, Filling.from_json(config))

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        return self._tokenizer.cardinality

    @property
    def num_codebooks(self) -> int:
        """Rows of `encode`'s result: level 1 alone."""
        return 1

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self._tokenizer.frame_rate

    @property
    def sample_rate(self) -> int:
        """Samples a second of the sounds taken and made."""
        return self._tokenizer.sample_rate

    def to(self, device: str) -> None:
        """Move the weights and the default voice."""
        self._tokenizer.to(device)
        self._storm.to(device)
        self._voice = None if self._voice is None else self._voice.to(device)
        self._device = device

    def encode(self, array: Array) -> Codes:
        """int64 [1, ceil(samples / frame size)] of float32 [samples]. Raises MediaError where there are none."""
        codes: Codes = self.all_levels(np.asarray(array, np.float32))[:1].cpu().numpy()
        return codes

    def decode(self, codes: Codes, *, seed: int = 0, voice: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """float32 [samples] in -1..1 of level-1 codes [1, frames]; `seed` seeds what SoundStorm draws.

        voice: [samples] whose first seconds (3, published) are imitated; None: the folder's own voice.
        """
        semantic = torch.as_tensor(np.ascontiguousarray(codes[0]), device=self._device).long()
        if not len(semantic):
            return np.zeros(0, np.float32)
        filled = self.fill(semantic, seed, self._prompt(voice))[: self._filling.levels]
        samples: NDArray[np.float32] = self.wave(filled).cpu().numpy()
        return samples

    def all_levels(self, samples: NDArray[np.float32]) -> Tensor:
        """Codes [levels, frames] of samples [T]: what SoundStorm learns from and what a voice prompt is made of."""
        if not len(samples):
            raise MediaError("A sound of no samples came; speech needs at least one, record it again.")
        frame = self._tokenizer.frame_size
        padded = np.pad(samples, (0, -len(samples) % frame))
        wave = torch.from_numpy(np.ascontiguousarray(padded, np.float32)).to(self._device)

        def encoded(start: int, end: int) -> Tensor:
            return self._tokenizer.encode(wave[None, start * frame : end * frame])[0]

        return in_pieces(encoded, len(wave) // frame, *self._sizes(), per_frame=1)

    def wave(self, codes: Tensor) -> Tensor:
        """Samples [frames * frame size] in -1..1 of all levels' codes [levels, frames]."""

        def decoded(start: int, end: int) -> Tensor:
            return self._tokenizer.decode(codes[None, :, start:end])[0]

        made = in_pieces(decoded, codes.shape[1], *self._sizes(), per_frame=self._tokenizer.frame_size)
        return made.float().clamp(-1, 1)

    def fill(self, semantic: Tensor, seed: int, prompt: Tensor | None) -> Tensor:
        """Codes of all levels [levels, frames] for level 1 [frames], in the voice of prompt [levels, heard]."""
        generator = torch.Generator(self._device).manual_seed(seed)
        use = self._filling
        piece = use.window - use.prompt
        made: list[Tensor] = []
        for start in range(0, len(semantic), piece):
            given = None if prompt is None else prompt.t()[None]
            filled = self._storm.generate(semantic[None, start : start + piece], given, use.steps, generator=generator)[
                0
            ].t()
            made.append(filled)
            prompt = filled[:, -use.prompt :]
        return torch.cat(made, dim=1)

    def _prompt(self, voice: NDArray[np.float32] | None) -> Tensor | None:
        if voice is None:
            return self._voice
        return self.all_levels(np.asarray(voice, np.float32)[: self._filling.prompt * self._tokenizer.frame_size])

    def _sizes(self) -> tuple[int, int]:
        return round(PIECE_SECONDS * self.frame_rate), round(CONTEXT_SECONDS * self.frame_rate)


def in_pieces(make: Callable[[int, int], Tensor], frames: int, piece: int, context: int, per_frame: int) -> Tensor:
    """`make(start, end)` for all frames, `piece` at a time, each heard with `context` frames more on both sides.

    per_frame: how long one frame is on the last axis of what `make` gives; what the context made is cut off.
    """
    made = []
    for start in range(0, frames, piece):
        end = min(start + piece, frames)
        first, last = max(0, start - context), min(frames, end + context)
        made.append(make(first, last)[..., (start - first) * per_frame : (end - first) * per_frame])
    return torch.cat(made, dim=-1)


def open_tokenizer(folder: Path, device: str = "cpu") -> SpeechTokenizer | FrameCodec:
    """The tokenizer of a subfolder: a frame codec or a SpeechTokenizer, as its config.json says."""
    config = _json(folder / "config.json")
    if is_frame_codec(config):
        return FrameCodec.from_folder(folder, device)
    tokenizer = SpeechTokenizer(SpeechTokenizerConfig.from_json(config))
    fit(tokenizer, folder / TOKENIZER_WEIGHTS)
    return tokenizer.to(device).eval()


def fit(network: nn.Module, file: Path) -> None:
    """Loads `file` into `network`; names that it has too many are passed over. Raises CheckpointError otherwise."""
    given = load_tensors(file)
    for name, wanted in network.state_dict().items():
        if name not in given:
            raise CheckpointError(f"{file} has no tensor {name}; fetch the checkpoint again.")
        if given[name].shape != wanted.shape:
            raise CheckpointError(
                f"{file} has {name} as {list(given[name].shape)} where its config.json asks for {list(wanted.shape)}; "
                "take both from one checkpoint."
            )
    network.load_state_dict({name: given[name].float() for name in network.state_dict()})


def save_storm(storm: SoundStorm, folder: Path, config: dict[str, Any], voice: Tensor) -> None:
    """Writes SoundStorm (16-bit), its config.json and the default voice's codes [levels, frames] into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().contiguous() for name, tensor in storm.state_dict().items()}
    save_file(state, folder / STORM_WEIGHTS)
    save_file({"codes": voice.to(torch.int16).contiguous()}, folder / VOICE)
    for name in (STORM_WEIGHTS, VOICE):
        (folder / name).chmod(0o644)  # safetensors leaves them to their owner alone
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as unreadable:
        raise CheckpointError(f"{file} can't be read; it gives the sizes of the weights beside it.") from unreadable
    return found
