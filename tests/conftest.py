"""What every test may use: a complete small model folder in the published layout, with random weights.

`tiny_folder` is built once a session: the fixture tokenizer (420 pieces, 16 image, 8 speech, 4 x 2 music codes), a
Llama of two layers, SEED, unCLIP, SpeechTokenizer, SoundStorm and EnCodec of a few channels. `tiny_engine` has it open.
`llm_engine` has the same language model without any codec and opens at once. Copy a folder before changing it.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reads or writes the user's data folder, not even by what a module settles while tests are collected.
HOME = tempfile.TemporaryDirectory(prefix="anyloom-home-")
os.environ["ANYLOOM_HOME"] = HOME.name
GOLDENS = Path(__file__).parent / "goldens"
TOKENIZER = GOLDENS / "tiny_llama_tokenizer"
CHAT_TOKENS = ("<eom>", "[AnyGPT]", "<-Res->", "<-Ins->")
"""The last added tokens of a chat checkpoint; a base checkpoint ends before them."""
SIZES = {"image": 16, "speech": 8, "music": 2}
"""Cardinalities that the fixture tokenizer has tokens for."""


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What we log from INFO up, whatever Prefect has made of our loggers in this process."""
    monkeypatch.setattr(logging.getLogger("anyloom"), "propagate", True)
    caplog.set_level(logging.INFO, logger="anyloom")
    return caplog


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_engine(tiny_folder: Path) -> Iterator[Any]:
    from anyloom.anygpt_model.engine import load_engine

    with load_engine(tiny_folder, device="cpu") as engine:
        yield engine


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llm_folder(tmp_path_factory.mktemp("models") / "llm-only")


@pytest.fixture(scope="session")
def base_llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `llm_folder`, of a base model."""
    return build_llm_folder(tmp_path_factory.mktemp("models") / "base-llm", base=True)


@pytest.fixture(scope="session")
def llm_engine(llm_folder: Path) -> Iterator[Any]:
    from anyloom.anygpt_model.engine import load_engine

    with load_engine(llm_folder, device="cpu") as engine:
        yield engine


@pytest.fixture(scope="session")
def build_llm() -> Any:
    """`build_llm_folder`, for a test with sizes of its own."""
    return build_llm_folder


def build_llm_folder(folder: Path, *, base: bool = False, **sizes: Any) -> Path:
    """Write the language model alone, and what tells the frame rates of sounds; returns the folder."""
    import torch

    torch.manual_seed(11)
    _llm(folder, base=base, **sizes)
    for name, config in (
        ("speechtokenizer", {"sample_rate": 16_000, "strides": [8, 5, 4, 2]}),
        ("encodec", {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4]}),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def build_tiny_folder(folder: Path) -> Path:
    """Write the whole layout into `folder`; returns it."""
    import torch

    torch.manual_seed(11)
    for build in (_llm, _seed, _unclip, _speech, _soundstorm, _encodec):
        build(folder)
    return folder


def _llm(folder: Path, *, base: bool = False, **sizes: Any) -> None:
    """base: leave out the tokens that only a chat model has."""
    import transformers

    target = folder / "llm"
    target.mkdir(parents=True, exist_ok=True)
    added = json.loads((TOKENIZER / "added_tokens.json").read_text())
    added = {name: number for name, number in added.items() if not (base and name in CHAT_TOKENS)}
    (target / "added_tokens.json").write_text(json.dumps(added))
    for name in ("tokenizer.model", "special_tokens_map.json"):
        shutil.copyfile(TOKENIZER / name, target / name)
    settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 1024}))
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=max(added.values()) + 1, max_position_embeddings=512, tie_word_embeddings=False,
        initializer_range=0.2, **{**usual, **sizes},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(target)


def _seed(folder: Path) -> None:
    from safetensors.torch import save_file

    from anyloom.anygpt_model.codecs.seed import SeedTokenizer
    from anyloom.anygpt_model.codecs.seed_config import SeedConfig

    target = folder / "seed"
    target.mkdir()
    known = json.loads((GOLDENS / "seed_tiny.json").read_text())["config"]
    config = SeedConfig(**{**known, "codebook_size": SIZES["image"], "image_features_dim": 32})
    config.to_file(target / "config.json")
    state = SeedTokenizer(config).state_dict()
    head = "visual_encoder."
    save_file(
        {k.removeprefix(head): v.contiguous() for k, v in state.items() if k.startswith(head)},
        target / "eva_vit_g.safetensors",
    )
    rest = {k: v.contiguous() for k, v in state.items() if not k.startswith(head)}
    save_file(rest, target / "seed_quantizer.safetensors")


def _unclip(folder: Path) -> None:
    from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from anyloom.anygpt_model.codecs.unclip import EmbeddingPipeline

    target = folder / "unclip"
    target.mkdir()
    given = json.loads((GOLDENS / "unclip_tiny.json").read_text())["configs"]
    known = {
        name: {key: value for key, value in config.items() if not key.startswith("_")}
        for name, config in given.items()
        if isinstance(config, dict)
    }
    text = {key: known["text_encoder"][key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    pipeline = EmbeddingPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=StableUnCLIPImageNormalizer(given["normalizer_dim"]),
        image_noising_scheduler=DDPMScheduler(**known["image_noising_scheduler"]),
        tokenizer=CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}, merges=[]),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                **text, vocab_size=60, num_attention_heads=4, max_position_embeddings=8, bos_token_id=0, eos_token_id=1
            )
        ),
        unet=UNet2DConditionModel(**known["unet"]),
        scheduler=PNDMScheduler(**known["scheduler"]),
        vae=AutoencoderKL(**known["vae"]),
    )
    pipeline.tokenizer.model_max_length = 8
    pipeline.save_pretrained(target)
    (target / "synthesis.json").write_text(json.dumps({"steps": 2, "guidance": 2.0}))


def _speech(folder: Path) -> None:
    from safetensors.torch import save_file

    from anyloom.anygpt_model.codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig

    target = folder / "speechtokenizer"
    target.mkdir()
    config = {
        "n_filters": 4, "strides": [8, 5, 4, 2], "dimension": 32, "semantic_dimension": 24, "bidirectional": True,
        "activation": "Snake", "codebook_size": SIZES["speech"], "n_q": 8, "sample_rate": 16000,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    state = SpeechTokenizer(SpeechTokenizerConfig.from_json(config)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target / "ckpt.safetensors")


def _soundstorm(folder: Path) -> None:
    from safetensors.torch import save_file

    from anyloom.anygpt_model.codecs.soundstorm import SoundStorm, SoundStormConfig

    target = folder / "soundstorm"
    target.mkdir()
    config = {
        "codebook_size": SIZES["speech"], "num_semantic_token_ids": SIZES["speech"], "dim": 32, "depth": 2, "heads": 2,
        "dim_head": 16,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    state = SoundStorm(SoundStormConfig.from_json(config)).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, target / "speechtokenizer_soundstorm_mls.safetensors")


def _encodec(folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import EncodecConfig, EncodecModel

    # 50 frames a second, one bit a code: the first bandwidth is four codebooks, the last one stores four of ten bits.
    config = EncodecConfig(
        sampling_rate=32_000, num_filters=4, hidden_size=16, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False,
        normalize=False, use_conv_shortcut=False, num_lstm_layers=1, codebook_size=SIZES["music"], codebook_dim=16,
        target_bandwidths=[0.2, 2.0],
    )  # fmt: skip
    model = EncodecModel(config)
    model.save_pretrained(folder / "encodec")
    stored = tuple(f"quantizer.layers.{level}." for level in range(4))
    state = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("quantizer.") or name.startswith(stored)
    }
    save_file(state, folder / "encodec" / "model.safetensors")
