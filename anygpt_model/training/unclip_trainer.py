"""Stage "image synthesis": writes down the pocket's memory of pictures, trains its denoiser, and writes `unclip/`.

The folder is a stock Stable unCLIP pipeline: the text encoder is there and untrained, since the prompt is always empty
and the denoiser has no cross-attention. Minutes don't teach a denoiser to compose a picture, so what is known by heart
is the start (image_memory.py), and the published schedule is cut to its first few times: the denoiser only smooths, and
at more noise it spoils what is known. Knows no picture file.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import save_file
from torch import Tensor

from ..codecs.scene import GROUNDS, LAYOUTS, composed
from ..codecs.seed import SeedTokenizer, load_seed
from ..codecs.start import START, Start
from ..codecs.unclip import OPTIONS, EmbeddingPipeline, ImageSynthesis, SynthesisOptions
from ..devices import mixed_precision
from .image_data import load
from .image_latents import SCALE, SIZE, WHITE, at_half, autoencoder, halved
from .image_loop import Average, Budget, Run, command, prepare, sheet
from .image_memory import remembered
from .image_teacher import FEATURES, Teaching, as_taken, scene_of, small, teach

log = logging.getLogger(__name__)

BATCH, CROP = 32, 32
"""Pieces learnt from at once, and how many latents a side each has: what the memory lost is lost in small places."""
PEAK = 2e-3
TIMES, STARTING_TIME = 20, 4
"""Times that are learnt, and from which of them pictures set out. Of held-out drawings 93 in 100 were found by the
judge from the start alone, 88 from time 4, 82 from time 20."""
UNCONDITIONAL = 0.1
COMPOSED = 0.5
"""Share of what is learnt from that are scenes; the others are one thing on white."""
OPTIONS_OF_POCKET = SynthesisOptions(steps=2, guidance=1.0)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def fresh() -> UNet2DConditionModel:
    """The untrained denoiser: 64 x 64 latents, class projection as published, no attention."""
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        time_embedding_dim=64,
        cross_attention_dim=TEXT["hidden_size"],
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * FEATURES,
        resnet_time_scale_shift="scale_shift",
    )


def schedule(times: int) -> PNDMScheduler:
    """The published schedule of pictures, cut to its first `times` times."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return PNDMScheduler(
        num_train_timesteps=times,
        trained_betas=betas[:times].tolist(),
        prediction_type="v_prediction",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def noising() -> DDPMScheduler:
    """The published schedule of embeddings."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


@torch.no_grad()
def embeddings_of(seed: SeedTokenizer, codes: Tensor) -> Tensor:
    """Image embeddings [N, F] of codes [N, 32]."""
    return torch.cat([seed.decode(part.to(seed.query_tokens.device)) for part in torch.split(codes, 256)])


def labelled(embeddings: Tensor) -> Tensor:
    """Class labels [B, 2 F] of embeddings at noise level 0, some emptied, as the pipeline's unconditional half is."""
    dim = embeddings.shape[-1]
    level = get_timestep_embedding(torch.zeros(len(embeddings)), dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    keep = (torch.rand(len(embeddings), 1) >= UNCONDITIONAL).to(embeddings)
    noised = embeddings + 0.03 * torch.randn_like(embeddings)
    return torch.cat([noised, level.to(embeddings)], dim=1) * keep


def loss_of(unet: UNet2DConditionModel, latents: Tensor, guess: Tensor, labels: Tensor, alphas: Tensor) -> Tensor:
    """Mean square of the velocity's error at random times, of latents [B, C, h, w] that are partly still the guess."""
    size = len(latents)
    times = torch.randint(len(alphas), (size,))
    kept = alphas[times].to(latents)[:, None, None, None]
    share = torch.rand(size, 1, 1, 1).to(latents)
    noisy = kept.sqrt() * (latents + share * (guess - latents)) + (1 - kept).sqrt() * torch.randn_like(latents)
    # What takes the noisy latents to the right ones, as velocity: latents = sqrt(kept) noisy - sqrt(1 - kept) velocity.
    velocity = (kept.sqrt() * noisy - latents) / (1 - kept).sqrt()
    text = latents.new_zeros(size, 1, TEXT["hidden_size"])
    with mixed_precision(latents.device.type):
        made = unet(noisy, times.to(latents.device), text, class_labels=labels).sample
    miss: Tensor = made.float() - velocity
    return miss.square().mean()


def cropped(latents: Tensor, generator: torch.Generator) -> Tensor:
    """The same square piece of all latents [..., h, w]: [..., CROP, CROP]."""
    top, left = (int(torch.randint(side - CROP + 1, (1,), generator=generator)) for side in latents.shape[-2:])
    return latents[..., top : top + CROP, left : left + CROP]


def text_parts(folder: Path) -> tuple[Any, Any]:
    """A CLIP tokenizer of single bytes and a tiny untrained text encoder: what encodes the empty prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=8)
    config = CLIPTextConfig(
        vocab_size=len(words), max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1, **TEXT
    )
    return tokenizer, CLIPTextModel(config).eval()


def export(unet: UNet2DConditionModel, vae: AutoencoderKL, start: dict[str, Tensor], folder: Path) -> None:
    """Write the pipeline in 16 bit, and beside it how pictures are drawn and what they start from."""
    tokenizer, text_encoder = text_parts(folder / "tokenizer")
    pipeline = EmbeddingPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=StableUnCLIPImageNormalizer(FEATURES),
        image_noising_scheduler=noising(),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=schedule(STARTING_TIME),
        vae=vae,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    save_file(start, folder / START)
    index = folder / "model_index.json"
    told = json.loads(index.read_text()) | {"_class_name": "StableUnCLIPImg2ImgPipeline"}
    index.write_text(json.dumps(told, indent=2) + "\n")
    options = {"steps": OPTIONS_OF_POCKET.steps, "guidance": OPTIONS_OF_POCKET.guidance, "noise_level": 0}
    (folder / OPTIONS).write_text(json.dumps(options, indent=2) + "\n")


def look(folder: Path, embeddings: Tensor, latents: Tensor, path: Path) -> None:
    """Save pictures, as latents [N, C, h, w], above what the exported pipeline draws from their embeddings."""
    synthesis = ImageSynthesis.from_folder(folder)
    drawn = [torch.from_numpy(synthesis.draw(embedding, 0)).permute(2, 0, 1) / 255 for embedding in embeddings]
    vae = synthesis.pipeline.vae
    pictures = vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5
    rows = zip(torch.split(pictures, 12), torch.split(torch.stack(drawn), 12), strict=True)
    sheet([row for pair in rows for row in pair], path)


def known_pictures(work: Path, teaching: Teaching) -> tuple[Tensor, Tensor]:
    """The latents and covers [N, C + 1, h, w] and looks [N, CODED_LOOKS] of all pictures of stage "data"."""
    pictures, alpha, _ = load(work)
    covered = torch.cat([halved(pictures), at_half(alpha[..., None])], 1)
    return covered, (small(as_taken(pictures)) - teaching.middle) @ teaching.axes


class Scenes:
    """What the denoiser learns from: pictures alone on white, and composed. covered: latents and covers of all pictures
    [N, C + 1, h, w], of which the training ones are drawn, each scene's things in one style."""

    def __init__(self, teaching: Teaching, covered: Tensor, generator: torch.Generator) -> None:
        self._teaching, self._covered, self._generator = teaching, covered, generator
        styles = teaching.style[teaching.train]
        self._of_style = [teaching.train[styles == number] for number in range(int(styles.max()) + 1)]

    def draw(self, share: float = COMPOSED) -> tuple[Tensor, Tensor]:
        """A picture's codes [32] and latents [C, h, w]; with a chance of `share` it is a scene."""
        row = self._one_of(self._teaching.train)
        codes = self._teaching.drawing[row]
        if float(torch.rand((), generator=self._generator)) >= share:
            return codes, self._covered[row, :-1]
        other = self._one_of(self._of_style[int(self._teaching.style[row])])
        ground, layout = (int(torch.randint(len(known), (), generator=self._generator)) for known in (GROUNDS, LAYOUTS))
        paired = len(LAYOUTS[layout].windows) > 1
        told = scene_of(codes, ground, layout, self._teaching.drawing[other] if paired else None)
        white = torch.full((self._covered.shape[1] - 1,), WHITE)
        tone = torch.tensor(list(GROUNDS.values())[ground]) / 255
        coloured = white + 2 * SCALE * (tone - 1)
        return told, composed([self._covered[row], self._covered[other]], LAYOUTS[layout], white, coloured)

    def _one_of(self, rows: Tensor) -> int:
        return int(rows[torch.randint(len(rows), (), generator=self._generator)])


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Write the memory, train the denoiser for `minutes` in all and write the pipeline to `work/image/unclip`."""
    generator = prepare(device, seed)
    teaching = teach(work)
    tokenizer = load_seed(work / "image" / "seed", device)
    covered, looks = known_pictures(work, teaching)
    train = teaching.train
    start = remembered(teaching, covered[train], looks[train])
    recalled = Start(start)
    scenes = Scenes(teaching, covered, generator)
    unet = fresh().to(device)
    average = Average(fresh().to(device), decay=0.99)
    log.info("denoiser of %.2f million parameters", sum(p.numel() for p in unet.parameters()) / 1e6)
    optimizer = torch.optim.AdamW(unet.parameters(), PEAK, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    job = Run(work / "image" / "unet.pt", {"unet": unet, "average": average}, [optimizer], Budget(60 * minutes))
    job.resume()
    alphas = schedule(TIMES).alphas_cumprod
    recent = 0.0
    for step in job.steps():
        codes, latents = (torch.stack(part) for part in zip(*(scenes.draw() for _ in range(BATCH)), strict=True))
        embeddings = embeddings_of(tokenizer, codes).cpu()
        guesses = torch.cat([recalled.guess(embedding, (1, *latents.shape[1:])) for embedding in embeddings])
        right, guess = cropped(torch.stack([latents, guesses]), generator).to(device)
        loss = loss_of(unet, right, guess, labelled(embeddings).to(device), alphas)
        job.learn(loss)
        average.update(unet, step)
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0:
            log.info("%5d %3.0f%% loss %.4f", step, 100 * job.budget.progress, recent)
    folder = work / "image" / "unclip"
    export(fresh_copy(average.net), autoencoder(), start, folder)
    pair = torch.tensor([row["row"] for row in load(work)[2] if row["split"] == "pair"])
    shown = torch.cat([rows[:: len(rows) // 24][:24] for rows in (train, pair)])
    drawn = [(teaching.drawing[row], covered[row, :-1]) for row in shown] + [scenes.draw(1.0) for _ in range(24)]
    codes, latents = (torch.stack(part) for part in zip(*drawn, strict=True))
    look(folder, embeddings_of(tokenizer, codes).cpu(), latents, work / "image" / "unclip.png")


def fresh_copy(network: Any) -> Any:
    """The same network again, since export changes the precision of what it writes."""
    copy = type(network).from_config(network.config)
    copy.load_state_dict(network.state_dict())
    return copy


if __name__ == "__main__":
    command(run, minutes=3)
