"""Where each part of the published models comes from, which of its files are needed, and under which licence.

Knows no network: a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checkpoints import PUBLISHED

EVA_VIT = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
"""SEED's vision tower; its publisher keeps it outside the hub, without a stated hash."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one part comes from. files: patterns within the repository, or "" with a `url`. part: its subfolder.

    strip: leading folder of the repository's paths that the layout doesn't have.
    """

    part: str
    licence: str
    repo: str = ""
    files: tuple[str, ...] = ()
    strip: str = ""
    url: str = ""


_LLM_FILES = ("*.json", "tokenizer.model", "*.safetensors", "pytorch_model*.bin")
_SHARED = (
    Source("seed", "Apache-2.0, parts BSD-3-Clause", "AILab-CVC/seed-tokenizer-2", ("seed_quantizer.pt",)),
    Source("seed", "BSD-3-Clause (LAVIS)", url=EVA_VIT),
    Source(
        "unclip",
        "CreativeML Open RAIL++-M",
        "sd2-community/stable-diffusion-2-1-unclip",
        (
            "model_index.json", "scheduler/*", "image_noising_scheduler/*", "tokenizer/*", "text_encoder/config.json",
            "text_encoder/model.safetensors", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "image_normalizer/*",
        ),
    ),
    Source(
        "speechtokenizer", "Apache-2.0", "fnlp/AnyGPT-speech-modules", ("speechtokenizer/*",), strip="speechtokenizer/"
    ),
    Source("soundstorm", "MIT", "fnlp/AnyGPT-speech-modules", ("soundstorm/*",), strip="soundstorm/"),
    Source("encodec", "CC-BY-NC-4.0 (non-commercial)", "facebook/encodec_32khz", ("config.json", "*.safetensors")),
)  # fmt: skip
_LLAMA = "Apache-2.0 by its card, the LLaMA 2 Community Licence by its README (not permissive)"
SOURCES: dict[str, tuple[Source, ...]] = {
    name: (Source("llm", _LLAMA, repo, _LLM_FILES), *_SHARED)
    for name, repo in zip(PUBLISHED, ("fnlp/AnyGPT-chat", "fnlp/AnyGPT-base"), strict=True)
}
